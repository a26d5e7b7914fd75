//! [`Adapter`]: what a folder in PEFT layout adds to the linears of a model.
//!
//! `adapter_config.json` says that it is a LoRA and how strong; `adapter_model.safetensors` holds two
//! thin matrices per linear:
//!
//! ```text
//! base_model.model.{linear}.lora_A.weight   r × in
//! base_model.model.{linear}.lora_B.weight   out × r
//!
//! y = x · Wᵀ + bias + (x · Aᵀ) · Bᵀ · lora_alpha / r
//! ```
//!
//! EoRA adapters, which make up for quantization, and those that others trained look the same.

mod config;
mod read;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use gptq_pack::PackedBackend;
use ndarray::Array2;

pub(crate) use write::AdapterWriter;

use crate::{Error, LinearPlace, Model, weights::Linear};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Stands before every linear's name in the file.
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";

/// What to add to the linears of one model.
#[derive(Clone, Debug)]
pub struct Adapter {
    dir: String,
    /// By linear, as the file spells it.
    modules: BTreeMap<String, Module>,
}

/// What to add to one linear.
#[derive(Clone, Debug)]
struct Module {
    /// r × in.
    a: Array2<f32>,
    /// out × r, `lora_alpha / r` included.
    b: Array2<f32>,
}

/// Adapters to compute along with a quantization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EoraOptions {
    /// Rank of each adapter; less where a linear is smaller than that.
    pub rank: usize,
    /// The folder to write; `None` takes `eora` in the output folder.
    pub out: Option<PathBuf>,
}

impl Adapter {
    /// The linears it changes, as the file spells them.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Some writers spell names in lower case.
    fn module(&self, name: &str) -> Option<(&String, &Module)> {
        let found = self.modules.get_key_value(name);
        found.or_else(|| self.modules.get_key_value(&name.to_lowercase()))
    }

    fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::File { path: self.dir.clone(), message: message.to_string() }
    }

    /// The linear with what is added to it, if anything is.
    fn attach<T: PackedBackend>(
        &self,
        backend: &T,
        place: &LinearPlace,
        linear: Linear<T>,
        used: &mut BTreeSet<String>,
    ) -> Result<Linear<T>, Error> {
        let Some((name, module)) = self.module(&place.name) else { return Ok(linear) };
        let found = [module.b.nrows(), module.a.ncols()];
        let expected = [place.out_features, place.in_features];
        if found != expected {
            return Err(self.error(format!(
                "adapts {name} as a linear of {} × {}, but the model's is {} × {}; the adapter \
                 belongs to another model",
                found[0], found[1], expected[0], expected[1]
            )));
        }
        used.insert(name.clone());
        let (a, b) = (backend.upload(module.a.view())?, backend.upload(module.b.view())?);
        Ok(Linear::Adapted { base: Box::new(linear), a, b })
    }
}

impl<T: PackedBackend> Model<T> {
    /// The model with an adapter on top of its linears, dense or packed.
    ///
    /// # Errors
    /// [`Error::File`] naming a linear that the model does not have or that has another shape.
    pub fn with_adapter(self, adapter: &Adapter) -> Result<Self, Error> {
        let mut used = BTreeSet::new();
        let model = self.map_linears(|backend, place, linear| {
            adapter.attach(backend, place, linear, &mut used)
        })?;
        match adapter.modules().find(|name| !used.contains(*name)) {
            None => Ok(model),
            Some(unknown) => Err(adapter.error(format!(
                "adapts {unknown}, which is no linear of this model; the adapter belongs to \
                 another one"
            ))),
        }
    }
}
