//! A GGUF reader of the test's own: container and blocks, written from the format's description.

use std::{collections::BTreeMap, path::Path};

use half::{bf16, f16};

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

impl Value {
    pub(crate) fn list(&self) -> &[Value] {
        match self {
            Value::List(list) => list,
            other => panic!("{other:?} is no list"),
        }
    }

    pub(crate) fn text(&self) -> &str {
        match self {
            Value::Text(text) => text,
            other => panic!("{other:?} is no text"),
        }
    }
}

/// A tensor as it lies in the file.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    /// Outermost first.
    pub(crate) shape: Vec<usize>,
    pub(crate) ty: u32,
    pub(crate) bytes: Vec<u8>,
}

/// A whole file.
#[derive(Debug)]
pub(crate) struct Gguf {
    pub(crate) pairs: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, Tensor>,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().unwrap()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> usize {
        u64::from_le_bytes(self.take()) as usize
    }

    fn text(&mut self) -> String {
        let length = self.u64();
        self.at += length;
        String::from_utf8(self.bytes[self.at - length..self.at].to_vec()).unwrap()
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 | 5 => Value::U32(self.u32()),
            6 => Value::F32(f32::from_le_bytes(self.take())),
            7 => Value::Bool(self.take::<1>() == [1]),
            8 => Value::Text(self.text()),
            9 => {
                let item = self.u32();
                let length = self.u64();
                Value::List((0..length).map(|_| self.value(item)).collect())
            }
            other => panic!("value type {other}"),
        }
    }
}

impl Gguf {
    /// Reads a file and checks what the format demands: tensors follow each other at multiples of
    /// 32, in the order of their headers, up to the end of the file.
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let mut cursor = Cursor { bytes: &bytes, at: 0 };
        assert_eq!(&cursor.take(), b"GGUF");
        assert_eq!(cursor.u32(), 3);
        let (tensor_count, pair_count) = (cursor.u64(), cursor.u64());
        let mut pairs = BTreeMap::new();
        for _ in 0..pair_count {
            let key = cursor.text();
            let kind = cursor.u32();
            let value = cursor.value(kind);
            assert!(pairs.insert(key.clone(), value).is_none(), "{key} stands twice");
        }
        let mut headers = Vec::new();
        for _ in 0..tensor_count {
            let name = cursor.text();
            let dims = cursor.u32();
            let mut shape: Vec<usize> = (0..dims).map(|_| cursor.u64()).collect();
            shape.reverse();
            headers.push((name, shape, cursor.u32(), cursor.u64()));
        }
        let data = cursor.at.next_multiple_of(32);
        assert!(bytes[cursor.at..data].iter().all(|&b| b == 0));
        let (mut tensors, mut expected) = (BTreeMap::new(), 0);
        for (name, shape, ty, offset) in headers {
            assert_eq!(offset, expected, "{name}");
            let length = nbytes(ty, &shape);
            expected = (offset + length).next_multiple_of(32);
            let bytes = bytes[data + offset..][..length].to_vec();
            assert!(tensors.insert(name.clone(), Tensor { shape, ty, bytes }).is_none(), "{name}");
        }
        assert_eq!(bytes.len(), data + expected);
        Gguf { pairs, tensors }
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    pub(crate) fn value(&self, key: &str) -> &Value {
        self.pairs.get(key).unwrap_or_else(|| panic!("no key {key}"))
    }
}

/// Weights and bytes of a block, by type number.
fn block(ty: u32) -> (usize, usize) {
    match ty {
        0 => (1, 4),
        1 | 30 => (1, 2),
        2 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        8 => (32, 34),
        other => panic!("tensor type {other}"),
    }
}

fn nbytes(ty: u32, shape: &[usize]) -> usize {
    let (weights, bytes) = block(ty);
    assert_eq!(shape.last().unwrap() % weights, 0);
    shape.iter().product::<usize>() / weights * bytes
}

impl Tensor {
    /// All numbers, row-major.
    pub(crate) fn floats(&self) -> Vec<f32> {
        self.bytes.chunks(block(self.ty).1).flat_map(|bytes| decode(self.ty, bytes)).collect()
    }

    /// All numbers, with the rows of each head as checkpoints have them: neighbours here are half
    /// a head apart there.
    pub(crate) fn unpaired(&self, heads: usize) -> Vec<f32> {
        let (rows, columns) = (self.shape[0], self.shape.get(1).copied().unwrap_or(1));
        let (floats, size) = (self.floats(), rows / heads);
        let mut out = vec![f32::NAN; floats.len()];
        for head in 0..heads {
            for i in 0..size {
                let from = head * size + i;
                let to = head * size + if i % 2 == 0 { i / 2 } else { size / 2 + i / 2 };
                out[to * columns..][..columns]
                    .copy_from_slice(&floats[from * columns..][..columns]);
            }
        }
        out
    }
}

fn decode(ty: u32, b: &[u8]) -> Vec<f32> {
    let half = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let nibbles = |at: usize| {
        let low = b[at..].iter().map(|byte| f32::from(byte % 16));
        low.chain(b[at..].iter().map(|byte| f32::from(byte / 16))).collect::<Vec<f32>>()
    };
    match ty {
        0 => vec![f32::from_le_bytes([b[0], b[1], b[2], b[3]])],
        1 => vec![half(0)],
        30 => vec![bf16::from_le_bytes([b[0], b[1]]).to_f32()],
        2 => nibbles(2).into_iter().map(|q| half(0) * (q - 8.0)).collect(),
        3 => nibbles(4).into_iter().map(|q| half(0) * q + half(2)).collect(),
        6 => {
            let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
            let fifth = |j: usize| if high & 1 << j != 0 { 16.0 } else { 0.0 };
            let q = nibbles(6).into_iter().enumerate();
            q.map(|(j, q)| half(0) * (q + fifth(j) - 16.0)).collect()
        }
        8 => b[2..].iter().map(|&q| half(0) * f32::from(q as i8)).collect(),
        other => panic!("tensor type {other}"),
    }
}
