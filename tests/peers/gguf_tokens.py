"""Does a GGUF file say to llama.cpp what the folder it was made from says to us?

Four questions, each answered by someone who shares no code with the writer:

 weights   the file's tensors, decoded by the `gguf` package, against the folder's, unpacked by `numpy_reader.py`
 tokens    llama.cpp's tokens of each prompt against those of Hugging Face `tokenizers`
 greedy    the tokens that `gptq generate` chooses, one by one, against what llama.cpp finds likeliest at the same place
 logits    those of the prompt and its continuation against `gptq logits`

llama.cpp rounds activations to 8 bits in front of quantized weights and to half precision in front of half-precision
ones, so logits differ a little and near ties may fall the other way: a flip is shown with the distance by which llama.cpp
prefers its own token, as a share of the largest logit in size. Only a file of f32 tensors is computed in f32.

    python gguf_tokens.py --gptq target/release/gptq model.gguf MODEL
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize as decode_blocks
from llama_cpp import Llama, llama_cpp
from tokenizers import Tokenizer

from numpy_reader import Tensors, dequantize, write_tensors

PROMPTS = [
    "The river rose in the night, and",
    "In 1887 the company had 1,250 workers; by 1910 it had",
    "It's what she'd said, wasn't it? They'll see\n\n  that",
    "Der Fluss stieg über die Brücke, naïve café — 東京 🙂",
    "def f(x):\n\treturn x + 1  # the",
    " = Valkyria Chronicles III = \n The game",
]
PARTS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
# Of a logit, as a share of the largest: llama.cpp rounds activations to the type of the weights, to 8 bits for blocks.
TOLERANCE = {"F32": 1e-4, "F16": 5e-3}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def source_name(name):
    if not name.startswith("blk."):
        return WHOLE[name]
    _, block, part = name.split(".")
    return f"model.layers.{block}.{PARTS[part]}"


def halves_together(weight, heads):
    """Rows of each head as Hugging Face has them, from pairs of neighbours."""
    rest = weight.shape[1:]
    return weight.reshape(heads, -1, 2, *rest).swapaxes(1, 2).reshape(weight.shape)


def compare_weights(path, folder):
    config = json.loads((folder / "config.json").read_text())
    tensors = Tensors(folder)
    heads = {"attn_q": config["num_attention_heads"]}
    heads["attn_k"] = config.get("num_key_value_heads", heads["attn_q"])
    worst, count, types, tolerance = 0.0, 0, {}, 0.0
    for tensor in GGUFReader(path).tensors:
        name, kind = tensor.name.rsplit(".", 1)
        types[tensor.tensor_type.name] = types.get(tensor.tensor_type.name, 0) + 1
        tolerance = max(tolerance, TOLERANCE.get(tensor.tensor_type.name, 5e-2))
        if name == "rope_freqs":
            continue
        found = decode_blocks(tensor.data, tensor.tensor_type).reshape([int(n) for n in reversed(tensor.shape)])
        part = name.split(".")[-1]
        if part in heads:
            found = halves_together(found, heads[part])
        module = source_name(name)
        packed = module + ".qweight" in tensors and kind == "weight"
        want = dequantize(tensors, config, module) if packed else tensors[f"{module}.{kind}"].astype(np.float32)
        worst = max(worst, float(np.abs(found - want).max() / np.abs(want).max()))
        count += 1
    print(f"weights  {count} tensors {types}, largest difference {worst:.1e} of the largest weight")
    return worst, tolerance


def open_in_llama_cpp(path):
    """Without the layouts that llama.cpp rearranges weights into: in llama-cpp-python 0.3.36 the one for AMX crashes on
    some machines, on files of its own making too."""
    params = llama_cpp.llama_model_default_params

    def plain_params():
        given = params()
        given.use_extra_bufts = False
        return given

    llama_cpp.llama_model_default_params = plain_params
    # Keys and values in f32, as here.
    return Llama(str(path), n_ctx=0, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False)


def gptq(binary, *args):
    run = subprocess.run([binary, *map(str, args)], check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="GGUF file")
    parser.add_argument("model", type=Path, help="the folder it was made from")
    parser.add_argument("--gptq", required=True, help="the gptq binary")
    parser.add_argument("--tokens", type=int, default=48, help="tokens to generate for each prompt")
    parser.add_argument("--prompt", action="append", help="instead of the prompts built in; may be repeated")
    args = parser.parse_args()

    worst_weight, tolerance = compare_weights(args.file, args.model)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    llama = open_in_llama_cpp(args.file)

    print("tokens   greedy      logits   flips: place, distance as a share of the largest logit")
    same_tokens, flips, worst_logit, total = True, [], 0.0, 0
    for prompt in args.prompt or PROMPTS:
        want = tokenizer.encode(prompt).ids
        # Special tokens that a text spells out are taken for such, as by Hugging Face.
        add_bos = llama.metadata["tokenizer.ggml.add_bos_token"] == "true"
        found = llama.tokenize(prompt.encode(), add_bos=add_bos, special=True)
        same_tokens &= found == want
        made = gptq(args.gptq, "generate", args.model, "--prompt", prompt, "--max-new-tokens", args.tokens, "--json")
        ids = want + made["ids"]
        with tempfile.TemporaryDirectory() as folder:
            there, back = Path(folder) / "ids.safetensors", Path(folder) / "logits.safetensors"
            write_tensors(there, {"input_ids": np.array([ids], np.int32)})
            gptq(args.gptq, "logits", args.model, "--ids", there, "--out", back, "--json")
            ours = Tensors(back)["logits"][0]
        llama.reset()
        llama.eval(ids)
        theirs = np.array(llama.scores[: len(ids)], np.float32)
        top = np.abs(ours).max()
        difference = float(np.abs(ours - theirs).max() / top)
        here = []
        for step, chosen in enumerate(made["ids"]):
            row = theirs[len(want) + step - 1]
            if row.argmax() != chosen:
                here.append((step, float((row.max() - row[chosen]) / top)))
        agree = len(made["ids"]) - len(here)
        shown = ", ".join(f"{step}: {gap:.1e}" for step, gap in here)
        print(f"{'same' if found == want else 'DIFFER':8} {agree:3}/{len(made['ids']):<3}    {difference:9.1e}   {shown}")
        if found != want:
            print(f"         ours {want}\n         theirs {found}")
        flips += here
        total += len(made["ids"])
        worst_logit = max(worst_logit, difference)
    # A flip beyond the difference of the logits themselves is no near tie.
    far = [gap for _, gap in flips if gap > 2 * worst_logit]
    print(f"{total - len(flips)} of {total} next tokens agree; logits within {worst_logit:.1e}; {len(far)} flips are no near ties")
    if not same_tokens or far or worst_logit > tolerance or worst_weight > 1e-3:
        sys.exit("the file and the folder disagree")


if __name__ == "__main__":
    main()
