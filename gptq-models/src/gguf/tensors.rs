//! Every tensor of the file: its header, decided before anything is written, and its bytes.

use gptq_core::{Bits, QuantizedMatrix};
use gptq_pack::{
    CheckpointConfig,
    gguf::{self, BlockType, Loss},
};
use half::f16;
use ndarray::Axis;

use super::{
    GgufType, family,
    family::Family,
    file::{GgufFile, Header, TensorType},
};
use crate::{
    Architecture, Checkpoint, Error, LinearPlace, TensorView,
    graph::{Block, Matrix, NormSpec, Reads, Small},
    quantized::{is_stored, read_quantized},
};

/// A tensor to write, and where it comes from.
pub(super) struct Item {
    pub(super) header: Header,
    pub(super) from: Origin,
    /// Row `i` is the source's row `rows[i]`.
    rows: Option<Vec<usize>>,
}

/// Where a tensor comes from.
pub(super) enum Origin {
    /// A tensor kept as it is.
    Floats(String),
    /// A vector, as f32.
    Row(String),
    /// A linear whose weights are codes of this width.
    Quantized(LinearPlace, Bits),
    /// Numbers of our own making.
    Numbers(Vec<f32>),
}

impl Item {
    /// The tensor or linear it comes from.
    pub(super) fn source(&self) -> &str {
        match &self.from {
            Origin::Floats(name) | Origin::Row(name) => name,
            Origin::Quantized(place, _) => &place.name,
            Origin::Numbers(_) => "config.json",
        }
    }
}

/// How a checkpoint stores a linear.
enum LinearSource<'a> {
    /// The weight, out × in.
    Dense(TensorView<'a>),
    /// Codes, and a bias stored beside them.
    Quantized { weights: QuantizedMatrix, bias: Option<Vec<f32>> },
}

/// Reads a linear, however it is stored.
fn linear_source<'a>(
    checkpoint: &'a Checkpoint,
    quantization: Option<&CheckpointConfig>,
    place: &LinearPlace,
) -> Result<LinearSource<'a>, Error> {
    if let Some((weights, bias)) = read_quantized(checkpoint, quantization, place)? {
        return Ok(LinearSource::Quantized { weights, bias });
    }
    let name = format!("{}.weight", place.name);
    checkpoint.check(&name, &[place.out_features, place.in_features])?;
    Ok(LinearSource::Dense(checkpoint.tensor(&name)?))
}

/// A model to write.
pub(super) struct Source<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) quantization: Option<CheckpointConfig>,
    pub(super) arch: &'a Architecture,
    pub(super) family: &'static Family,
}

impl Source<'_> {
    /// Every tensor, in the order it is written. Reads the codes of every quantized linear.
    pub(super) fn items(
        &self,
        wanted: GgufType,
        factors: Option<Vec<f32>>,
        progress: &mut dyn FnMut(f64, &str),
    ) -> Result<Vec<Item>, Error> {
        let graph = &self.arch.graph;
        let mut out = vec![self.floats(&graph.embed.table, family::EMBED.into())?];
        if let Some(factors) = factors {
            let shape = vec![factors.len()];
            let header = Header { name: family::ROPE_FACTORS.into(), ty: TensorType::F32, shape };
            out.push(Item { header, from: Origin::Numbers(factors), rows: None });
        }
        for (b, block) in graph.blocks.iter().enumerate() {
            progress(b as f64 / graph.blocks.len() as f64, &block.name);
            self.block(b, block, wanted, &mut out)?;
        }
        if let Some(norm) = &graph.final_norm {
            out.extend(self.norm(norm, family::FINAL_NORM.into())?);
        }
        let head = &graph.head;
        let stored = is_stored(self.checkpoint, self.quantization.as_ref(), &head.place.name);
        if !head.tied || stored {
            self.linear(head.place.clone(), family::HEAD.into(), wanted, None, &mut out)?;
        }
        Ok(out)
    }

    fn block(
        &self,
        number: usize,
        block: &Block,
        wanted: GgufType,
        out: &mut Vec<Item>,
    ) -> Result<(), Error> {
        let below = |name: &str| {
            let short = name.strip_prefix(&block.name).and_then(|name| name.strip_prefix('.'));
            self.family.part(number, short.unwrap_or(name))
        };
        for stage in &block.stages {
            if let Reads::Norm(norm) = &stage.reads {
                let name = norm.weight.as_ref().map_or("", Small::key);
                out.extend(self.norm(norm, below(name)?)?);
            }
            for (i, place) in stage.linears.iter().enumerate() {
                // q and k turn; v and all others stay.
                let heads = match (stage.attention(), i) {
                    (Some(attention), 0) => Some((attention.heads, attention.head_dim)),
                    (Some(attention), 1) => Some((attention.kv_heads, attention.head_dim)),
                    _ => None,
                };
                let rows = heads.map(|(heads, dim)| self.family.pairs.rows(heads, dim));
                self.linear(place.clone(), below(&place.name)?, wanted, rows, out)?;
            }
        }
        Ok(())
    }

    fn norm(&self, norm: &NormSpec, theirs: String) -> Result<Option<Item>, Error> {
        let Some(weight) = &norm.weight else { return Ok(None) };
        self.row(weight.key(), weight.columns, theirs, None).map(Some)
    }

    fn floats(&self, matrix: &Matrix, theirs: String) -> Result<Item, Error> {
        self.checkpoint.check(&matrix.name, &matrix.shape)?;
        self.kept(self.checkpoint.tensor(&matrix.name)?, theirs, None)
    }

    /// A float tensor that keeps its type.
    fn kept(
        &self,
        view: TensorView<'_>,
        name: String,
        rows: Option<Vec<usize>>,
    ) -> Result<Item, Error> {
        view.check_finite()?;
        let ty = TensorType::of(view.dtype).ok_or_else(|| Error::Dtype {
            file: view.file.display().to_string(),
            tensor: view.name.to_owned(),
            found: format!("{:?}", view.dtype),
            expected: "F32, F16 or BF16",
        })?;
        let header = Header { name, ty, shape: view.shape.to_vec() };
        Ok(Item { header, from: Origin::Floats(view.name.to_owned()), rows })
    }

    /// Norms and biases: readers want them in f32.
    fn row(
        &self,
        name: &str,
        length: usize,
        theirs: String,
        rows: Option<Vec<usize>>,
    ) -> Result<Item, Error> {
        self.checkpoint.check(name, &[length])?;
        self.checkpoint.tensor(name)?.check_finite()?;
        let header = Header { name: theirs, ty: TensorType::F32, shape: vec![length] };
        Ok(Item { header, from: Origin::Row(name.to_owned()), rows })
    }

    fn linear(
        &self,
        place: LinearPlace,
        theirs: String,
        wanted: GgufType,
        rows: Option<Vec<usize>>,
        out: &mut Vec<Item>,
    ) -> Result<(), Error> {
        let weight = format!("{theirs}.weight");
        let biased = match linear_source(self.checkpoint, self.quantization.as_ref(), &place)? {
            LinearSource::Dense(view) => {
                out.push(self.kept(view, weight, rows.clone())?);
                place.bias
            }
            LinearSource::Quantized { weights, bias } => {
                let ty = choose(&place, &weights, wanted)?;
                let shape = vec![place.out_features, place.in_features];
                let header = Header { name: weight, ty, shape };
                out.push(Item {
                    header,
                    from: Origin::Quantized(place.clone(), weights.bits),
                    rows: rows.clone(),
                });
                // Zeros that some writers store mean that there is none.
                bias.is_some_and(|bias| place.bias || bias.iter().any(|&b| b != 0.0))
            }
        };
        if biased {
            let name = format!("{}.bias", place.name);
            out.push(self.row(&name, place.out_features, format!("{theirs}.bias"), rows)?);
        }
        Ok(())
    }

    /// Writes one tensor and reads it back. What was codes is decoded from the file's bytes and
    /// compared with the layer; anything else must be there byte for byte.
    pub(super) fn write(&self, item: &Item, file: &mut GgufFile) -> Result<Option<Loss>, Error> {
        let name = &item.header.name;
        let rows = item.rows.as_deref();
        if let Origin::Quantized(place, _) = &item.from {
            return self.write_codes(item, place, file).map(Some);
        }
        let bytes: Vec<u8> = match &item.from {
            Origin::Floats(source) => {
                let view = self.checkpoint.tensor(source)?;
                let size = view.bytes.len() / view.shape.first().copied().unwrap_or(1).max(1);
                match rows {
                    None => view.bytes.to_vec(),
                    Some(rows) => rows
                        .iter()
                        .flat_map(|&r| &view.bytes[r * size..][..size])
                        .copied()
                        .collect(),
                }
            }
            Origin::Row(source) => {
                let values = self.checkpoint.row(source, item.header.shape[0])?;
                let values = match rows {
                    None => values,
                    Some(rows) => values.select(Axis(1), rows),
                };
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
            Origin::Numbers(numbers) => numbers.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Origin::Quantized(..) => Vec::new(),
        };
        file.put(name, &bytes)?;
        if file.read_back(name)? != bytes {
            return Err(differs(item, "the bytes are not those that were written"));
        }
        Ok(None)
    }

    fn write_codes(
        &self,
        item: &Item,
        place: &LinearPlace,
        file: &mut GgufFile,
    ) -> Result<Loss, Error> {
        let failed = |source| Error::Packed { layer: place.name.clone(), source };
        let source = linear_source(self.checkpoint, self.quantization.as_ref(), place)?;
        let LinearSource::Quantized { weights, .. } = source else {
            return Err(differs(item, "the source changed while it was read"));
        };
        let weights = match &item.rows {
            None => weights,
            Some(rows) => reorder(weights, rows),
        };
        let name = &item.header.name;
        let TensorType::Blocks(ty) = item.header.ty else {
            file.put(name, &halves(&weights))?;
            let bytes = file.read_back(name)?;
            let size = 2 * weights.in_features();
            return Loss::measure(&weights, |row, out| {
                let halves = bytes[row * size..][..size].as_chunks::<2>().0;
                out.iter_mut().zip(halves).for_each(|(w, h)| *w = f16::from_le_bytes(*h).to_f32());
            })
            .map_err(failed);
        };
        file.put(name, &gguf::encode(&weights, ty).map_err(failed)?)?;
        Loss::of_blocks(&weights, &file.read_back(name)?, ty).map_err(failed)
    }
}

/// What was promised to be exact and is not is damage.
pub(super) fn differs(item: &Item, message: &str) -> Error {
    Error::Verify { layer: item.source().to_owned(), message: message.to_owned() }
}

fn reorder(q: QuantizedMatrix, rows: &[usize]) -> QuantizedMatrix {
    QuantizedMatrix {
        bits: q.bits,
        codes: q.codes.select(Axis(0), rows),
        scales: q.scales.select(Axis(0), rows),
        zeros: q.zeros.select(Axis(0), rows),
        g_idx: q.g_idx,
    }
}

/// The weights in half precision, rounded to nearest. Scales are halves, so nothing overflows that
/// a block could hold; what does is an infinity, and shows as a loss.
fn halves(q: &QuantizedMatrix) -> Vec<u8> {
    q.dequantize().iter().flat_map(|&w| f16::from_f32(w).to_le_bytes()).collect()
}

/// The type for a quantized linear.
fn choose(
    place: &LinearPlace,
    weights: &QuantizedMatrix,
    wanted: GgufType,
) -> Result<TensorType, Error> {
    let failed = |source| Error::Packed { layer: place.name.clone(), source };
    match wanted {
        GgufType::F16 => Ok(TensorType::F16),
        GgufType::Blocks(ty) => Ok(TensorType::Blocks(ty)),
        GgufType::Auto => {
            for ty in BlockType::ALL {
                if gguf::is_exact(weights, ty).map_err(failed)? {
                    return Ok(TensorType::Blocks(ty));
                }
            }
            Err(Error::input(format!(
                "{}: no block type holds its {}-bit codes about their zero points without loss; \
                 choose Q8_0 or F16, and the report says what is lost",
                place.name,
                weights.bits.get()
            )))
        }
    }
}
