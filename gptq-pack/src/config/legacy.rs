//! Settings that old checkpoints hold as tensors.

use gptq_core::GroupSize;

use super::CheckpointConfig;
use crate::{Dtype, Error, RawTensor, Width};

/// Names of tensors of one number that state settings, as text-generation-inference writes them.
/// Its own reader believes them before any JSON.
pub const LEGACY_TENSORS: [&str; 3] = ["gptq_bits", "gptq_groupsize", "gptq_sym"];

impl CheckpointConfig {
    /// Takes over what one of the [`LEGACY_TENSORS`] says.
    ///
    /// # Errors
    /// [`Error::ConfigValue`], [`Error::UnsupportedWidth`] or [`Error::Core`] for a number that
    /// makes no sense, or a tensor that is no number.
    pub fn set_by_tensor(&mut self, name: &str, tensor: &RawTensor<'_>) -> Result<(), Error> {
        let number = number(name, tensor)?;
        let wrong = |expected| Error::ConfigValue {
            key: name.to_owned(),
            found: number.to_string(),
            expected,
        };
        match name {
            "gptq_bits" => {
                let bits = u32::try_from(number).map_err(|_| wrong("2, 3, 4 or 8"))?;
                self.bits = Width::try_from(bits)?;
            }
            "gptq_groupsize" => self.group_size = GroupSize::from_file(number)?,
            "gptq_sym" => {
                self.sym = match number {
                    0 => false,
                    1 => true,
                    _ => return Err(wrong("0 or 1")),
                }
            }
            _ => return Err(wrong("a tensor of settings")),
        }
        Ok(())
    }
}

/// The only number of a tensor: I32, I64, or one byte of any kind.
fn number(name: &str, tensor: &RawTensor<'_>) -> Result<i64, Error> {
    let number = match (tensor.dtype, &tensor.bytes[..]) {
        _ if tensor.shape.iter().any(|&dim| dim != 1) => None,
        (Dtype::I32, bytes) => bytes.try_into().ok().map(|b| i32::from_le_bytes(b).into()),
        (Dtype::I64, bytes) => bytes.try_into().ok().map(i64::from_le_bytes),
        (Dtype::Other, &[byte]) => Some(byte.into()),
        _ => None,
    };
    number.ok_or_else(|| Error::ConfigValue {
        key: name.to_owned(),
        found: format!("{} of shape {:?}", tensor.dtype, tensor.shape),
        expected: "a tensor of one whole number",
    })
}
