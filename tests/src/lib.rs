//! What the tests of the whole workspace share: fixtures, model folders that can be taken apart
//! and put together wrongly, and seeded token ids.
//!
//! Nothing here goes through the crates under test. Files are read and written with the
//! `safetensors` crate alone, so that a mistake of ours cannot hide itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use ndarray::Array2;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

/// Tokens the models of `fixtures/arch` know.
pub const VOCABULARY: usize = 320;

/// A file or folder of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A tensor as a file holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Little-endian elements, row-major.
    pub bytes: Vec<u8>,
}

impl Stored {
    /// Overwrites one two-byte element.
    pub fn set_half(&mut self, index: usize, bits: u16) {
        self.bytes[2 * index..2 * index + 2].copy_from_slice(&bits.to_le_bytes());
    }
}

/// The tensors of a file, by name.
pub type Tensors = BTreeMap<String, Stored>;

/// Everything a safetensors file holds.
pub fn read_tensors(path: &Path) -> Tensors {
    let bytes = fs::read(path).unwrap();
    let stored = |view: TensorView<'_>| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        bytes: view.data().to_vec(),
    };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

/// Writes a safetensors file.
pub fn write_tensors(path: &Path, tensors: &Tensors) {
    let view = |(name, t)| (name, view(t));
    fs::write(path, safetensors::serialize(tensors.iter().map(view), None).unwrap()).unwrap();
}

fn view(stored: &Stored) -> TensorView<'_> {
    TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes).unwrap()
}

/// A safetensors file of any header, however false, and any data.
pub fn write_raw(path: &Path, header: &Value, data: &[u8]) {
    let header = header.to_string().into_bytes();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, data].concat();
    fs::write(path, bytes).unwrap();
}

/// Parses a JSON file.
pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The files of a folder, by name.
pub fn file_names(dir: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let names = fs::read_dir(dir).unwrap().map(name);
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Copies the files of a folder into another, which is made.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in file_names(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// The sound model `fixtures/{name}` in memory, to be changed before it is written.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// `config.json`.
    pub config: Value,
    /// `model.safetensors`.
    pub tensors: Tensors,
}

impl ModelFiles {
    /// Reads a fixture.
    pub fn of(name: &str) -> Self {
        let dir = fixture(name);
        Self {
            config: read_json(&dir.join("config.json")),
            tensors: read_tensors(&dir.join("model.safetensors")),
        }
    }

    /// One tensor, to be changed.
    pub fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.get_mut(name).unwrap_or_else(|| panic!("no tensor {name} to change"))
    }

    /// Writes both files into a folder that is there.
    pub fn write(&self, dir: &Path) {
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        write_tensors(&dir.join("model.safetensors"), &self.tensors);
    }

    /// Writes the tensors as two shards, split before the tensor called `second`, with an index.
    pub fn write_sharded(&self, dir: &Path, second: &str) {
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        let mut tensors = self.tensors.clone();
        let rest = tensors.split_off(second);
        let mut map = serde_json::Map::new();
        for (file, tensors) in [(SHARDS[0], tensors), (SHARDS[1], rest)] {
            map.extend(tensors.keys().map(|name| (name.clone(), json!(file))));
            write_tensors(&dir.join(file), &tensors);
        }
        let index = json!({"metadata": {}, "weight_map": map});
        fs::write(dir.join(INDEX), index.to_string()).unwrap();
    }
}

/// The shards of [`ModelFiles::write_sharded`].
pub const SHARDS: [&str; 2] =
    ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// The index beside shards.
pub const INDEX: &str = "model.safetensors.index.json";

/// Token ids that are the same on every machine: `count` lists of `length`, below [`VOCABULARY`].
pub fn random_tokens(seed: u64, count: usize, length: usize) -> Vec<Vec<u32>> {
    // SplitMix64.
    let mut state = seed;
    let mut token = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % VOCABULARY as u64) as u32
    };
    (0..count).map(|_| (0..length).map(|_| token()).collect()).collect()
}

/// The largest difference of two matrices, as a share of the largest entry of the second.
pub fn largest_difference(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    let largest = |m: &Array2<f32>| m.fold(0f32, |top, v| top.max(v.abs()));
    assert!(a.iter().all(|v| v.is_finite()), "a value is not finite");
    largest(&(a - b)) / largest(b)
}

/// Asserts that a message contains every one of the words.
pub fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}
