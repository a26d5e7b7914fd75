//! `gptq demo`: the main job on a model that is built into the binary.

use std::{fs, ops::ControlFlow, path::Path};

use gptq_calib::{CalibrationSet, Corpus, SampleSpec, Tokenizer};
use gptq_core::{Bits, QuantConfig};
use gptq_kernels::CpuBackend;
use gptq_models::{
    Checkpoint, Evaluation, Method, Model, QuantizeOptions, Sampling, Window, evaluate, generate,
    quantize,
};
use serde_json::{Value, json};

use crate::{
    args::DemoArgs,
    eval,
    failure::Failure,
    model_dir,
    terminal::{self, Meter, Table, bytes},
};

/// A 1.3M-parameter LLaMA trained on WikiText-2 and public-domain English.
const MODEL: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../assets/mini-llama/config.json")),
    ("generation_config.json", include_bytes!("../assets/mini-llama/generation_config.json")),
    ("model.safetensors", include_bytes!("../assets/mini-llama/model.safetensors")),
    ("tokenizer.json", include_bytes!("../assets/mini-llama/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../assets/mini-llama/tokenizer_config.json")),
];
const CALIBRATION: &str = include_str!("../assets/demo/calibration.txt");
const EVALUATION: &str = include_str!("../assets/demo/evaluation.txt");
const PROMPT: &str = "I do not know what";

const SEQLEN: usize = 256;
const SAMPLES: SampleSpec = SampleSpec { n_samples: 64, seq_len: SEQLEN, seed: 0 };

pub(crate) fn run(args: &DemoArgs, json: bool) -> Result<(), Failure> {
    match &args.keep {
        Some(folder) => {
            if folder.exists() {
                let name = folder.display();
                return Err(Failure::failed(format!("{name} already exists; name a new folder")));
            }
            Demo::new(folder)?.run(json)
        }
        None => {
            let folder = tempfile::Builder::new().prefix("gptq-demo-").tempdir();
            let folder = folder
                .map_err(|e| Failure::failed(format!("cannot make a temporary folder: {e}")))?;
            Demo::new(folder.path())?.run(json)
        }
    }
}

struct Demo<'a> {
    folder: &'a Path,
    tokenizer: Tokenizer,
    samples: CalibrationSet,
    ids: Vec<u32>,
    windows: Vec<Window>,
}

/// One line of the table.
struct Row {
    name: String,
    bytes: u64,
    result: Evaluation,
}

impl<'a> Demo<'a> {
    fn new(folder: &'a Path) -> Result<Self, Failure> {
        let source = folder.join("original");
        let failed = |e| Failure::failed(format!("cannot write to {}: {e}", source.display()));
        fs::create_dir_all(&source).map_err(failed)?;
        for (name, contents) in MODEL {
            fs::write(source.join(name), contents).map_err(failed)?;
        }
        let tokenizer = model_dir::tokenizer(&source)?;
        let samples = CalibrationSet::from_text(
            "built-in calibration text",
            CALIBRATION,
            &tokenizer,
            &SAMPLES,
        )?;
        let ids = Corpus::from_text("built-in evaluation text", EVALUATION, &tokenizer)?.ids;
        let windows = eval::windows(&ids, SEQLEN, None)?;
        Ok(Self { folder, tokenizer, samples, ids, windows })
    }

    fn run(&self, json: bool) -> Result<(), Failure> {
        let backend = CpuBackend::new();
        let source = Checkpoint::open(&self.folder.join("original"))?;
        let original = Model::load(&source, backend)?;
        let mut meter = Meter::new("demo");
        let jobs: Vec<(Bits, Method)> = [Bits::B4, Bits::B3, Bits::B2]
            .into_iter()
            .flat_map(|bits| [(bits, Method::Rtn), (bits, Method::Gptq)])
            .collect();
        let mut rows = vec![Row {
            name: "original".into(),
            bytes: source.nbytes(),
            result: self.evaluate(&original, None)?,
        }];
        let mut texts = vec![("original".to_owned(), self.continue_prompt(&original)?)];
        for (done, &(bits, method)) in jobs.iter().enumerate() {
            let name = match method {
                Method::Rtn => format!("RTN {}-bit", bits.get()),
                Method::Gptq => format!("GPTQ {}-bit", bits.get()),
            };
            meter.set(done as f64 / jobs.len() as f64, &name);
            let (model, bytes) = self.quantize(&source, &name, bits, method)?;
            let result = self.evaluate(&model, Some(&original))?;
            if bits == Bits::B4 && method == Method::Gptq {
                texts.push((name.clone(), self.continue_prompt(&model)?));
            }
            rows.push(Row { name, bytes, result });
        }
        meter.finish();
        if json {
            terminal::json(&self.to_json(&rows, &texts))?;
        } else {
            terminal::print(&self.table(&rows, &texts));
        }
        Ok(())
    }

    fn quantize(
        &self,
        source: &Checkpoint,
        name: &str,
        bits: Bits,
        method: Method,
    ) -> Result<(Model<CpuBackend>, u64), Failure> {
        let calibration = serde_json::to_value(&self.samples.provenance)
            .map_err(|e| Failure::failed(format!("calibration record: {e}")))?;
        let options = QuantizeOptions {
            method,
            config: QuantConfig { bits, ..QuantConfig::default() },
            calibration,
            ..QuantizeOptions::default()
        };
        let out = self.folder.join(name.to_lowercase().replace(' ', "-"));
        let backend = CpuBackend::new();
        quantize(source, &self.samples.samples, &backend, &options, &out, &mut ())?;
        let checkpoint = Checkpoint::open(&out)?;
        Ok((Model::load(&checkpoint, backend)?, checkpoint.nbytes()))
    }

    fn evaluate(
        &self,
        model: &Model<CpuBackend>,
        reference: Option<&Model<CpuBackend>>,
    ) -> Result<Evaluation, Failure> {
        Ok(evaluate(model, reference, &self.ids, &self.windows, |_| ())?)
    }

    fn continue_prompt(&self, model: &Model<CpuBackend>) -> Result<String, Failure> {
        let prompt = self.tokenizer.encode(PROMPT, true)?;
        let go_on = |_| ControlFlow::Continue(());
        let out = generate(model, &prompt, 32, Sampling::Greedy, go_on)?;
        let text = self.tokenizer.decode(&[prompt, out.ids].concat(), true)?;
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    fn table(&self, rows: &[Row], texts: &[(String, String)]) -> String {
        let mut table = Table::new(&["model", "size", "perplexity", "KL to original", "top-1"]);
        for row in rows {
            let optional = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.4}"));
            table.row([
                row.name.clone(),
                bytes(row.bytes),
                format!("{:.2}", row.result.ppl),
                optional(row.result.kl),
                optional(row.result.top1),
            ]);
        }
        let p = &self.samples.provenance;
        let mut out = format!(
            "A LLaMA of 1.3M parameters, calibrated on {} windows of {} tokens, evaluated on {} \
             other tokens.\nKL is how far each model's predictions have moved from the original's: the \
             figure to trust here.\n(On a text unlike its training data, a small model's \
             perplexity can even fall by accident.)\n\n",
            p.n_samples, p.seq_len, rows[0].result.tokens
        );
        out += &table.render();
        out += "\n";
        for (name, text) in texts {
            out += &format!("{name}: {text}\n");
        }
        out
    }

    fn to_json(&self, rows: &[Row], texts: &[(String, String)]) -> Value {
        let row = |row: &Row| json!({"name": row.name, "bytes": row.bytes, "eval": row.result});
        let text = |(name, text): &(String, String)| json!({"name": name, "text": text});
        json!({
            "calibration": self.samples.provenance,
            "models": rows.iter().map(row).collect::<Vec<_>>(),
            "texts": texts.iter().map(text).collect::<Vec<_>>(),
        })
    }
}
