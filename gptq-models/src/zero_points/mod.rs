//! Which convention stored zero points follow, by the data rather than by `checkpoint_format`.
//!
//! `gptq` (v1) stores a zero point minus one, `gptq_v2` stores it, and nothing in a tensor's type or
//! shape tells which. A file under the wrong name runs, and answers nonsense. But its numbers tell:
//!
//! - Symmetric layers store one number everywhere, the middle of the range under v2 and one less
//!   under v1.
//! - Asymmetric layers have weights whose mean is near 0 measured in steps of their grids. Under
//!   the wrong convention the mean of a whole model is a full step off; see [`offset`].

mod damage;
mod offset;

use gptq_pack::{CheckpointConfig, PackedLinearRef, ZeroPointFormat, lane};
use rayon::prelude::*;
use serde::Serialize;

pub(crate) use damage::{Damage, unswap};
pub use offset::Offset;

use crate::{
    Checkpoint, Error,
    quantized::{StoredLayer, packed_names},
};

/// What a checkpoint declares about its zero points, and what its numbers say.
#[derive(Clone, Debug, Serialize)]
pub struct ZeroPoints {
    /// The convention in force: the config's, or the caller's choice.
    pub declared: &'static str,
    /// What the data say; null where they do not tell.
    pub found: Option<&'static str>,
    /// Symmetric layers in which every stored zero point is the middle minus one, as in `gptq`.
    pub layers_gptq: usize,
    /// Symmetric layers in which every stored zero point is the middle, as in `gptq_v2`.
    pub layers_gptq_v2: usize,
    /// Layers whose zero points vary.
    pub layers_asymmetric: usize,
    /// Where the codes of asymmetric layers lie around what is stored.
    pub offset: Option<Offset>,
    /// The first layer that contradicts the declaration by itself.
    pub first_contrary: Option<String>,
    /// Packed layers, all told.
    pub layers: usize,
    /// Words that an old writer destroyed, over all layers.
    #[serde(skip)]
    pub(crate) damage: Damage,
}

/// Layers smaller than this may have equal zero points by chance, unless they are called symmetric.
const CHANCE: usize = 64;

/// Looks at the stored zero points of every packed layer, and at samples of codes where those do
/// not tell. Layers that cannot be read are left to whoever reads them for good.
///
/// Cost: one pass over `qzeros`, `scales` and `g_idx`; at most 2¹⁸ codes of each of at most 64
/// asymmetric layers. `None` for formats that have one convention.
pub(crate) fn zero_points(
    checkpoint: &Checkpoint,
    config: &CheckpointConfig,
) -> Option<ZeroPoints> {
    let declared = config.zero_format()?;
    let names = packed_names(checkpoint, config.format);
    let looks: Vec<Option<Look>> =
        names.par_iter().map(|name| look(checkpoint, config, name)).collect();
    let mut out = ZeroPoints {
        declared: declared.as_str(),
        found: None,
        layers_gptq: 0,
        layers_gptq_v2: 0,
        layers_asymmetric: 0,
        offset: None,
        first_contrary: None,
        layers: names.len(),
        damage: Damage::default(),
    };
    let mut asymmetric = Vec::new();
    for (name, look) in names.iter().zip(looks) {
        let Some(look) = look else { continue };
        match look.uniform {
            Some(ZeroPointFormat::Gptq) => out.layers_gptq += 1,
            Some(ZeroPointFormat::GptqV2) => out.layers_gptq_v2 += 1,
            None => asymmetric.push(*name),
        }
        if look.uniform.is_some_and(|format| format != declared) {
            out.first_contrary.get_or_insert_with(|| (*name).to_owned());
        }
        out.damage.add(name, look.damage);
    }
    out.layers_asymmetric = asymmetric.len();
    out.offset = offset::of_layers(&asymmetric, |name| read(checkpoint, config, name));
    let of_symmetric = match (out.layers_gptq, out.layers_gptq_v2) {
        (0, 0) => None,
        (_, 0) => Some(ZeroPointFormat::Gptq),
        (0, _) => Some(ZeroPointFormat::GptqV2),
        // Layers of both kinds: neither name is right for the whole.
        _ => return Some(out),
    };
    let of_asymmetric = out.offset.as_ref().and_then(Offset::convention);
    out.found = match (of_symmetric, of_asymmetric) {
        (Some(a), Some(b)) if a != b => None,
        (a, b) => a.or(b).map(ZeroPointFormat::as_str),
    };
    Some(out)
}

/// Refuses a checkpoint whose numbers contradict its `checkpoint_format`, or whose zero points an
/// old writer destroyed. A convention that the caller chose is taken as it is.
///
/// # Errors
/// [`Error::ZeroPoints`].
pub(crate) fn check(checkpoint: &Checkpoint, config: &CheckpointConfig) -> Result<(), Error> {
    if checkpoint.zero_points().is_some() {
        return Ok(());
    }
    let Some(found) = zero_points(checkpoint, config) else { return Ok(()) };
    let message = match (found.contradiction(), found.damage.message()) {
        (Some(contradiction), _) => {
            let other = if found.declared == "gptq" { "gptq_v2" } else { "gptq" };
            format!(
                "{contradiction}; read it with --zero-points {other}, or correct checkpoint_format"
            )
        }
        (None, Some(damage)) => format!(
            "{damage}; quantize the original again, or take them as they are with --zero-points \
             gptq"
        ),
        (None, None) => return Ok(()),
    };
    Err(Error::ZeroPoints { folder: checkpoint.dir().display().to_string(), message })
}

impl ZeroPoints {
    /// What was declared, what was found and by what evidence, if these disagree.
    pub fn contradiction(&self) -> Option<String> {
        let declared = self.declared;
        let contrary = match declared {
            "gptq" => self.layers_gptq_v2,
            _ => self.layers_gptq,
        };
        if let (Some(first), true) = (&self.first_contrary, contrary > 0) {
            let (other, all) = match declared {
                "gptq" => ("gptq_v2", "the middle of the range"),
                _ => ("gptq", "the middle of the range minus one"),
            };
            return Some(format!(
                "checkpoint_format says {declared}, but {contrary} of {} layers store zero points \
                 as {other}: every one is {all} (first: {first})",
                self.layers
            ));
        }
        let offset = self.offset.as_ref()?;
        let found = offset.convention()?.as_str();
        (found != declared).then(|| {
            format!(
                "checkpoint_format says {declared}, but the codes of {} of {} layers say {found}: \
                 they lie {:.2} ± {:.2} steps above the stored zero points, where gptq would give \
                 1 and gptq_v2 0",
                offset.layers, self.layers, offset.steps, offset.error
            )
        })
    }
}

/// What one layer's zero points look like.
struct Look {
    /// One number everywhere, and the convention under which that is the middle.
    uniform: Option<ZeroPointFormat>,
    damage: damage::Words,
}

fn read<'a>(
    checkpoint: &'a Checkpoint,
    config: &CheckpointConfig,
    name: &str,
) -> Option<PackedLinearRef<'a>> {
    StoredLayer::named(checkpoint, config, name).ok()?.packed().ok()
}

fn look(checkpoint: &Checkpoint, config: &CheckpointConfig, name: &str) -> Option<Look> {
    let packed = read(checkpoint, config, name)?;
    let sym = config.scheme(name).ok()?.is_some_and(|scheme| scheme.sym);
    let enough = sym || packed.groups() * packed.out_features() >= CHANCE;
    let damage = match packed.zero_format() {
        ZeroPointFormat::Gptq => damage::Words::of(&packed),
        ZeroPointFormat::GptqV2 => damage::Words::default(),
    };
    Some(Look { uniform: uniform(&packed).filter(|_| enough), damage })
}

/// The convention under which every stored zero point is the middle of the range.
pub(crate) fn uniform(packed: &PackedLinearRef<'_>) -> Option<ZeroPointFormat> {
    let (bits, outs) = (packed.bits(), packed.out_features());
    let rows = packed.qzeros().chunks(lane::words(bits, outs));
    let middle = bits.maxq() / 2 + 1;
    [ZeroPointFormat::Gptq, ZeroPointFormat::GptqV2].into_iter().find(|format| {
        let mut row = vec![0; lane::words(bits, outs)];
        format.store(bits, &vec![middle; outs], &mut row);
        let whole = outs * bits.get() as usize / 32;
        let stored = |words: &[u32], n| lane::code_at(bits, words, n);
        rows.clone().all(|words| {
            // Whole words at memory speed; what writers leave after the last field is their affair.
            words[..whole] == row[..whole]
                && (whole * 32 / bits.get() as usize..outs)
                    .all(|n| stored(words, n) == stored(&row, n))
        })
    })
}
