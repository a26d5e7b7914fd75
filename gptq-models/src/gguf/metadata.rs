//! The keys that describe the model.

use super::{
    family::{Family, Sizes},
    file::Value,
};
use crate::{Architecture, Error, rope::Rope};

/// Keys in the order they are written.
pub(super) fn model(
    arch: &Architecture,
    family: &Family,
    name: &str,
    file_type: u32,
    config_file: String,
) -> Result<Vec<(String, Value)>, Error> {
    let (c, sizes) = (&arch.config, Sizes::of(arch));
    let mut out = vec![
        ("general.architecture".to_owned(), Value::Text(family.architecture.into())),
        ("general.type".to_owned(), Value::Text("model".into())),
        ("general.name".to_owned(), Value::Text(name.to_owned())),
        ("general.file_type".to_owned(), Value::U32(file_type)),
        ("general.quantization_version".to_owned(), Value::U32(2)),
    ];
    let numbers = [
        ("vocab_size", c.vocab_size),
        ("context_length", c.max_position_embeddings),
        ("embedding_length", c.hidden_size),
        ("block_count", c.layers),
        ("feed_forward_length", sizes.inner),
        ("attention.head_count", sizes.heads),
        ("attention.head_count_kv", sizes.kv_heads),
        ("attention.key_length", sizes.head_dim),
        ("attention.value_length", sizes.head_dim),
        ("rope.dimension_count", sizes.rope.dim()),
    ];
    let key = |key: &str| format!("{}.{key}", family.architecture);
    for (name, number) in numbers {
        let number = u32::try_from(number).map_err(|_| Error::Config {
            file: config_file.clone(),
            key: name.to_owned(),
            message: format!("is {number}, more than GGUF can say"),
        })?;
        out.push((key(name), Value::U32(number)));
    }
    out.push((key("attention.layer_norm_rms_epsilon"), Value::F32(sizes.eps)));
    out.push((key("rope.freq_base"), Value::F32(sizes.rope.theta() as f32)));
    let attention = sizes.rope.attention_factor();
    if attention != 1.0 {
        out.push((key("rope.scaling.attn_factor"), Value::F32(attention)));
    }
    Ok(out)
}

/// What each channel pair's frequency is divided by; `None` if nothing is stretched. Linear,
/// llama3 and yarn scaling are all of this form, so one tensor says them exactly, and dynamic
/// scaling changes nothing within the model's context.
///
/// # Errors
/// [`Error::Config`] for frequencies that change with the length of the text (longrope).
pub(super) fn rope_factors(
    arch: &Architecture,
    config_file: String,
) -> Result<Option<Vec<f32>>, Error> {
    let rope = Sizes::of(arch).rope;
    let stretched = rope.inv_freq(1);
    if stretched != rope.inv_freq(arch.config.max_position_embeddings) {
        return Err(Error::Config {
            file: config_file,
            key: "rope_scaling".into(),
            message:
                "changes with the length of the text within the model's context, which cannot \
                      be written as GGUF"
                    .into(),
        });
    }
    let plain = Rope::plain(rope.theta(), rope.dim()).inv_freq(1);
    let factors = plain.iter().zip(&stretched).map(|(plain, stretched)| plain / stretched);
    Ok((plain != stretched).then(|| factors.collect()))
}
