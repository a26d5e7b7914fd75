//! The models of `fixtures/graphs.json`.

use std::{path::Path, sync::LazyLock};

use gptq_models::{Checkpoint, Model};
use gptq_pack::PackedBackend;
use gptq_tests::{ModelFiles, Stored, Tensors, fixture, read_json};
use ndarray::Array2;
use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

use crate::filler::fill;

static GRAPHS: LazyLock<Value> = LazyLock::new(|| read_json(&fixture("graphs.json")));

/// A key of the fixture as the name of a test.
fn test_name(key: &str) -> String {
    key.replace('-', "_")
}

/// Every model there is, in order.
pub(crate) fn names() -> Vec<String> {
    let mut names: Vec<String> = GRAPHS.as_object().unwrap().keys().map(|k| test_name(k)).collect();
    names.sort();
    names
}

/// One model, and what the reference computes from it.
pub(crate) struct Golden {
    pub(crate) files: ModelFiles,
    /// The tokens the logits below are for.
    pub(crate) ids: Vec<u32>,
    /// Logits after the last token.
    pub(crate) last: Vec<f32>,
    /// Token of the largest logit, by position.
    pub(crate) argmax: Vec<usize>,
    /// Sum of the magnitudes of all logits.
    pub(crate) sum_abs: f64,
    /// The largest of them.
    pub(crate) max_abs: f64,
}

impl Golden {
    pub(crate) fn of(name: &str) -> Self {
        let found = GRAPHS.as_object().unwrap().iter().find(|(key, _)| test_name(key) == name);
        let (_, graph) = found.unwrap_or_else(|| panic!("graphs.json holds no {name}"));
        let numbers = |value: &Value| -> Vec<u64> {
            value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
        };
        let tensor = |(name, shape): (&String, &Value)| {
            let shape: Vec<usize> = numbers(shape).into_iter().map(|n| n as usize).collect();
            let bytes = fill(name, &shape).flat_map(f32::to_le_bytes).collect();
            (name.clone(), Stored { dtype: Dtype::F32, shape, bytes })
        };
        let tensors: Tensors = graph["tensors"].as_object().unwrap().iter().map(tensor).collect();
        let last = graph["last"].as_array().unwrap().iter();
        Self {
            files: ModelFiles { config: graph["config"].clone(), tensors },
            ids: numbers(&graph["input_ids"]).into_iter().map(|id| id as u32).collect(),
            last: last.map(|x| x.as_f64().unwrap() as f32).collect(),
            argmax: numbers(&graph["argmax"]).into_iter().map(|id| id as usize).collect(),
            sum_abs: graph["sum_abs"].as_f64().unwrap(),
            max_abs: graph["max_abs"].as_f64().unwrap(),
        }
    }

    /// The model as a folder that goes away with the value.
    pub(crate) fn folder(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        self.files.write(dir.path());
        dir
    }

    /// The model on a backend.
    pub(crate) fn load<B: PackedBackend>(&self, backend: B) -> Model<B> {
        let dir = self.folder();
        Model::load(&open(dir.path()), backend).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The largest difference of two tables of logits, as a share of the model's largest logit.
    pub(crate) fn gap(&self, a: &Array2<f32>, b: &Array2<f32>) -> f64 {
        assert_eq!(a.dim(), b.dim());
        assert!(a.iter().chain(b).all(|logit| logit.is_finite()), "a logit is not finite");
        let largest = (a - b).fold(0f32, |top, difference| top.max(difference.abs()));
        f64::from(largest) / self.max_abs
    }
}

/// Opens a folder of a model.
pub(crate) fn open(dir: &Path) -> Checkpoint {
    Checkpoint::open(dir).unwrap_or_else(|error| panic!("{error}"))
}

/// Index of the largest logit.
pub(crate) fn argmax(logits: impl IntoIterator<Item = f32>) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, logit) in logits.into_iter().enumerate() {
        if logit > best.1 {
            best = (token, logit);
        }
    }
    best.0
}
