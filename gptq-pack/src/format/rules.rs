//! Rules that several formats share.

use gptq_core::QuantizedMatrix;

use super::{Format, LayerSpec};
use crate::{Error, Width};

/// Refuses a matrix that is not what the spec says of it.
pub(super) fn is_of_spec(q: &QuantizedMatrix, spec: &LayerSpec) -> Result<(), Error> {
    let same = |what, found: usize, expected: usize| match found == expected {
        true => Ok(()),
        false => Err(Error::SpecMismatch {
            what,
            found: found.to_string(),
            expected: expected.to_string(),
        }),
    };
    same("bits", q.bits.get() as usize, spec.width.get() as usize)?;
    same("in_features", q.in_features(), spec.in_features)?;
    same("out_features", q.out_features(), spec.out_features)?;
    same("the number of groups", q.groups(), spec.groups())?;
    let middle = spec.width.middle();
    if spec.sym
        && let Some(((row, group), zero)) = q.zeros.indexed_iter().find(|&(_, &z)| z != middle)
    {
        return Err(Error::SpecMismatch {
            what: "the zero point of a symmetric layer",
            found: format!("{zero} at output {row}, group {group}"),
            expected: middle.to_string(),
        });
    }
    if !spec.scattered && !spec.is_natural(&q.g_idx) {
        return Err(Error::SpecMismatch {
            what: "g_idx",
            found: "scattered".to_owned(),
            expected: format!("i / {}", spec.group_size.columns(spec.in_features)),
        });
    }
    Ok(())
}

/// A rule of a format, in words.
pub(super) fn broken(format: Format, message: String) -> Error {
    Error::FormatRule { format, message }
}

pub(super) fn width(
    format: Format,
    width: Width,
    holds: &[u32],
    instead: &str,
) -> Result<(), Error> {
    if holds.contains(&width.get()) {
        return Ok(());
    }
    let holds: Vec<String> = holds.iter().map(u32::to_string).collect();
    let holds = holds.join(", ");
    Err(broken(
        format,
        format!("it holds codes of {holds} bits, this layer has {width}; {instead}"),
    ))
}

/// `value` must be a multiple of `of`.
pub(super) fn multiple(format: Format, what: &str, value: usize, of: usize) -> Result<(), Error> {
    match value % of {
        0 => Ok(()),
        rest => Err(broken(
            format,
            format!(
                "{what} must be a multiple of {of}, but is {value} ({rest} too many); \
                 compressed-tensors and gptq_v2 hold any size"
            ),
        )),
    }
}

/// Groups of neighbours, all of one size.
pub(super) fn natural_groups(format: Format, spec: &LayerSpec) -> Result<(), Error> {
    if spec.scattered {
        return Err(broken(
            format,
            "it has no place for group indices, but this layer's g_idx is scattered (desc_act); \
             write gptq_v2, or quantize without desc_act"
                .to_owned(),
        ));
    }
    multiple(format, "in_features", spec.in_features, spec.group_size.columns(spec.in_features))
}
