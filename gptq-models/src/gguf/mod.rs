//! Writing GGUF: a checkpoint folder as the one file that llama.cpp and its relatives open.
//!
//! Quantized linears become blocks that hold the same numbers; see [`gptq_pack::gguf`]. Whatever is
//! dense keeps its type, except norms and biases, which become f32. [`family`] says what tensors
//! are called, [`metadata`] and [`tokenizer`] fill the key-value pairs, [`file`] is the container.

mod family;
mod file;
mod metadata;
mod pre;
mod tensors;
mod tokenizer;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    str::FromStr,
    time::Instant,
};

use gptq_pack::gguf::{BLOCK, BlockType, Loss};
use serde::{Serialize, Serializer};
use serde_json::json;

use crate::{Architecture, Checkpoint, Error, Progress, quantization_config, zero_points};
use family::Family;
use file::{GgufFile, TensorType};
use tensors::{Item, Origin, Source, differs};
use tokenizer::TokenizerFiles;

/// How quantized linears are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GgufType {
    /// For each the smallest block type that loses nothing; an error if there is none.
    #[default]
    Auto,
    /// All in this type. Loses something where it does not fit; the report says what.
    Blocks(BlockType),
    /// All dequantized and rounded to half precision. Fits every layer.
    F16,
}

impl FromStr for GgufType {
    type Err = Error;

    /// `auto`, `q4_0`, `q4_1`, `q5_0`, `q8_0` or `f16`, in any case.
    fn from_str(name: &str) -> Result<Self, Error> {
        let blocks =
            BlockType::ALL.into_iter().find(|ty| ty.to_string().eq_ignore_ascii_case(name));
        match name.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "f16" => Ok(Self::F16),
            _ => blocks.map(Self::Blocks).ok_or_else(|| {
                Error::input(format!(
                    "GGUF type {name:?} is none of auto, q4_0, q4_1, q5_0, q8_0 and f16"
                ))
            }),
        }
    }
}

/// Settings of [`write_gguf`].
#[derive(Clone, Debug, Default)]
pub struct GgufOptions {
    /// How quantized linears are stored.
    pub ty: GgufType,
    /// `general.name`; the folder's name if not given.
    pub name: Option<String>,
    /// `tokenizer.ggml.pre`, llama.cpp's name for the way this tokenizer cuts text into words; by
    /// default it is recognised from `tokenizer.json`.
    pub pre: Option<String>,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct GgufReport {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Every tensor of the file, in its order.
    pub tensors: Vec<GgufTensor>,
    /// Whether every quantized linear, decoded from the file, is what it was, bit for bit.
    pub exact: bool,
    /// What a user should know before using the file.
    pub notices: Vec<String>,
    /// Bytes of the source's tensors.
    pub source_bytes: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// One tensor of a GGUF file.
#[derive(Clone, Debug, Serialize)]
pub struct GgufTensor {
    /// Its name in the file.
    pub name: String,
    /// The tensor or linear of the checkpoint it comes from.
    pub source: String,
    /// Its type, as GGUF calls it.
    pub ty: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Bytes of its data.
    pub bytes: u64,
    /// For a quantized linear: what the file's bytes, read back and decoded, differ by.
    #[serde(serialize_with = "loss_json")]
    pub loss: Option<Loss>,
}

fn loss_json<S: Serializer>(loss: &Option<Loss>, serializer: S) -> Result<S::Ok, S::Error> {
    let json = loss.map(|loss| {
        json!({
            "weights": loss.weights,
            "inexact": loss.inexact,
            "max_steps": loss.max_steps,
            "max": loss.max,
            "rms": loss.rms,
        })
    });
    json.serialize(serializer)
}

/// Writes a checkpoint, dense or quantized, as the GGUF file `out`, which gets its name only when
/// it is whole. Its tokenizer goes with it.
///
/// Every quantized linear is read back from the file, decoded and compared with the layer. Memory:
/// one tensor, decoded. Cost: quantized linears are unpacked twice, since their types stand in
/// front of all data.
///
/// # Errors
/// [`Error::File`] if `out` is there already, or for a tokenizer that GGUF has no model of;
/// [`Error::Config`] for a family or a rotary embedding it cannot say; [`Error::Packed`] for a
/// linear that no block type takes (`desc_act`, or groups that are no multiple of 32), unless
/// [`GgufType::F16`] is asked for; whatever is wrong with the source. Nothing is left under the
/// name `out` then.
///
/// ```no_run
/// use std::path::Path;
///
/// use gptq_models::{Checkpoint, GgufOptions, write_gguf};
///
/// let source = Checkpoint::open(Path::new("my-llama-gptq"))?;
/// let report =
///     write_gguf(&source, Path::new("my-llama.gguf"), &GgufOptions::default(), &mut ())?;
/// assert!(report.exact);
/// # Ok::<(), gptq_models::Error>(())
/// ```
pub fn write_gguf(
    checkpoint: &Checkpoint,
    out: &Path,
    options: &GgufOptions,
    progress: &mut dyn Progress,
) -> Result<GgufReport, Error> {
    let started = Instant::now();
    GgufFile::check(out)?;
    let config_file = checkpoint.config_file();
    let arch = Architecture::of(checkpoint)?;
    let family = Family::of(&arch, config_file.clone())?;
    let factors = metadata::rope_factors(&arch, config_file.clone())?;
    let sizes = family::Sizes::of(&arch);
    let (rotated, head_dim) = (sizes.rope.dim(), sizes.head_dim);
    if rotated != head_dim {
        return Err(Error::Config {
            file: config_file,
            key: "partial_rotary_factor".into(),
            message: format!(
                "rotates {rotated} of {head_dim} channels, but GGUF's {} architecture rotates all",
                family.architecture
            ),
        });
    }
    // Before a table of tokens is made for as many rows as the config says.
    let table = &arch.graph.embed.table;
    checkpoint.check(&table.name, &table.shape)?;
    let mut notices = Vec::new();
    let tokenizer = TokenizerFiles::read(checkpoint.dir(), checkpoint.config())?;
    let tokenizer =
        tokenizer.pairs(arch.config.vocab_size, options.pre.as_deref(), &mut notices)?;

    let quantization = quantization_config(checkpoint)?;
    if let Some(config) = &quantization {
        zero_points::check(checkpoint, config)?;
    }
    let source = Source { checkpoint, quantization, arch: &arch, family };
    let mut plan = |share: f64, what: &str| progress.advance(0.4 * share, what);
    let items = source.items(options.ty, factors, &mut plan)?;
    notices.extend(unused_type(&items, options.ty));
    notices.extend(wider(&items));
    let name = options.name.clone().unwrap_or_else(|| folder_name(checkpoint.dir()));
    let file_type = main_type(&items).file_type();
    let mut pairs = metadata::model(&arch, family, &name, file_type, config_file)?;
    pairs.extend(tokenizer);
    notices.iter().for_each(|notice| progress.notice(notice));

    let headers: Vec<_> = items.iter().map(|item| item.header.clone()).collect();
    let mut file = GgufFile::create(out, &pairs, &headers)?;
    let mut tensors = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        progress.advance(0.4 + 0.6 * i as f64 / items.len() as f64, item.source());
        let loss = source.write(item, &mut file)?;
        if options.ty == GgufType::Auto && loss.is_some_and(|loss| !loss.is_exact()) {
            return Err(differs(item, "a decoded weight is not what the codes stand for"));
        }
        tensors.push(GgufTensor {
            name: item.header.name.clone(),
            source: item.source().to_owned(),
            ty: item.header.ty.to_string(),
            shape: item.header.shape.clone(),
            bytes: item.header.nbytes(),
            loss,
        });
    }
    let bytes = file.bytes();
    file.finish()?;
    progress.advance(1.0, "");
    Ok(GgufReport {
        architecture: family.architecture,
        exact: tensors.iter().filter_map(|t| t.loss).all(|loss| loss.is_exact()),
        tensors,
        notices,
        source_bytes: checkpoint.nbytes(),
        bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The type of most weights.
fn main_type(items: &[Item]) -> TensorType {
    let mut shares: BTreeMap<u32, (usize, TensorType)> = BTreeMap::new();
    for item in items.iter().filter(|item| item.header.shape.len() == 2) {
        let ty = item.header.ty;
        let share = shares.entry(ty.file_type()).or_insert((0, ty));
        share.0 += item.header.shape.iter().product::<usize>();
    }
    shares.values().max_by_key(|(weights, _)| *weights).map_or(TensorType::F32, |(_, ty)| *ty)
}

fn unused_type(items: &[Item], ty: GgufType) -> Option<String> {
    let quantized = items.iter().any(|item| matches!(item.from, Origin::Quantized(..)));
    (ty != GgufType::Auto && !quantized).then(|| {
        "no linear of this folder is quantized; all weights keep their types, whatever type is \
         asked for"
            .to_owned()
    })
}

/// Says once for each width that GGUF takes more room for it than the checkpoint.
fn wider(items: &[Item]) -> BTreeSet<String> {
    let wider = |item: &Item| match (&item.from, item.header.ty) {
        (Origin::Quantized(_, bits), TensorType::Blocks(ty)) => {
            let stored = (8 * ty.block_bytes()) as f64 / BLOCK as f64;
            // A scale for every 32 weights is half a bit for each.
            (stored > f64::from(bits.get()) + 0.5).then(|| {
                format!("{}-bit layers take {stored} bits per weight in {ty} blocks", bits.get())
            })
        }
        _ => None,
    };
    items.iter().filter_map(wider).collect()
}

fn folder_name(dir: &Path) -> String {
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    real.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}
