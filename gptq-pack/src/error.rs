//! What can go wrong between numbers, words and configuration files.

use crate::{Dtype, Format, gguf::BlockType, names::Part};

/// An error of packing, of reading a packed layer, or of reading a quantization config. Messages
/// are clauses; whoever knows the layer's or the file's name puts it in front.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A width or a group size that no checkpoint knows.
    #[error(transparent)]
    Core(#[from] gptq_core::Error),

    /// A tensor holds another kind of number than its role allows.
    #[error("{part} has dtype {found}, but must be {expected}")]
    Dtype {
        /// Which tensor.
        part: Part,
        /// Its dtype.
        found: Dtype,
        /// The dtypes this role allows.
        expected: &'static str,
    },
    /// A tensor does not fit the layer or its siblings.
    #[error("{part} has shape {found:?}, expected {expected:?}: {rule}")]
    Shape {
        /// Which tensor.
        part: Part,
        /// Its shape.
        found: Vec<usize>,
        /// The shape the rule gives.
        expected: Vec<usize>,
        /// Where the expected shape comes from.
        rule: String,
    },
    /// A tensor's bytes are not what its shape and dtype need.
    #[error("{part} has {found} bytes, but shape {shape:?} in {dtype} needs {expected}")]
    Length {
        /// Which tensor.
        part: Part,
        /// Bytes there.
        found: usize,
        /// Bytes needed.
        expected: usize,
        /// Its shape.
        shape: Vec<usize>,
        /// Its dtype.
        dtype: Dtype,
    },
    /// A shape whose size does not fit this machine's addresses.
    #[error("{part} has shape {shape:?}, more than this machine can address")]
    TooLarge {
        /// Which tensor.
        part: Part,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A layer without inputs, outputs or groups.
    #[error(
        "the layer has {out_features} outputs, {in_features} inputs and {groups} groups; each must \
         be at least 1"
    )]
    Empty {
        /// Output rows.
        out_features: usize,
        /// Input columns.
        in_features: usize,
        /// Scales per output row.
        groups: usize,
    },
    /// The config does not state `bits`, and the shapes fit no width or several.
    #[error(
        "bits is not stated and the shapes fit {candidates:?}: qweight has {rows} rows for \
         {in_features} inputs, qzeros {columns} columns for {out_features} outputs; state bits"
    )]
    BitsUnclear {
        /// Every width the shapes fit.
        candidates: Vec<u32>,
        /// Rows of `qweight`.
        rows: usize,
        /// Input columns of the layer.
        in_features: usize,
        /// Columns of `qzeros`.
        columns: usize,
        /// Output rows of the layer.
        out_features: usize,
    },
    /// An entry of `g_idx` names no group.
    #[error("g_idx of input {column} is {found}, but the layer has groups 0 to {}", groups - 1)]
    GroupIndex {
        /// The input.
        column: usize,
        /// Its entry.
        found: i64,
        /// Groups of the layer.
        groups: usize,
    },
    /// A NaN or an infinity.
    #[error("{part} holds {value} at row {row}, column {column}; the layer is damaged")]
    NotFinite {
        /// Which tensor.
        part: Part,
        /// The first offending value.
        value: f32,
        /// Its row in the file's orientation.
        row: usize,
        /// Its column in the file's orientation.
        column: usize,
    },
    /// A number beyond half precision, in which checkpoints store it.
    #[error(
        "{part} holds {value} at row {row}, column {column}, beyond half precision (65504); leave \
         this layer unquantized"
    )]
    HalfOverflow {
        /// Which tensor.
        part: Part,
        /// The first offending value.
        value: f32,
        /// Its row in the file's orientation.
        row: usize,
        /// Its column in the file's orientation.
        column: usize,
    },
    /// A number beyond the largest `BF16`.
    #[error("{part} holds {value} at row {row}, column {column}, beyond BF16 (3.39e38); store F32")]
    Bf16Overflow {
        /// Which tensor.
        part: Part,
        /// The first offending value.
        value: f32,
        /// Its row in the file's orientation.
        row: usize,
        /// Its column in the file's orientation.
        column: usize,
    },
    /// A code or a zero point wider than `bits`; packed, it would spill into its neighbour.
    #[error(
        "{what} at output {row}, column {column} is {value}, but {bits} bits hold at most {maxq}"
    )]
    TooWide {
        /// `code` or `zero point`.
        what: &'static str,
        /// Its output row.
        row: usize,
        /// Its input column, or its group.
        column: usize,
        /// The first offending value.
        value: u8,
        /// The width of the layer.
        bits: u32,
        /// The largest value that fits.
        maxq: u8,
    },
    /// Zero points of 0 in the format that stores them minus one.
    #[error(
        "{count} zero points are 0, first at output {row}, group {group}; format gptq stores zero \
         minus one and readers disagree on a stored -1; write gptq_v2, or quantize with a smallest \
         zero point of 1"
    )]
    ZeroPointAtZero {
        /// How many.
        count: usize,
        /// Output row of the first.
        row: usize,
        /// Group of the first.
        group: usize,
    },

    /// A width that no packed layout has.
    #[error("bits is {bits}, but packed layouts hold codes of 2 to 8 bits")]
    UnsupportedWidth {
        /// The width.
        bits: u32,
    },
    /// A name that is no format's.
    #[error(
        "{found:?} is no format; formats are gptq, gptq_v2, gptq_p, marlin, awq and \
         compressed-tensors"
    )]
    UnknownFormat {
        /// The name.
        found: String,
    },
    /// A layer that a format cannot hold.
    #[error("format {format} cannot hold this layer: {message}")]
    FormatRule {
        /// The format.
        format: Format,
        /// The rule, the numbers and the way out.
        message: String,
    },
    /// A layer that is not what its spec says.
    #[error("{what} is {found}, but was announced as {expected}")]
    SpecMismatch {
        /// Which property.
        what: &'static str,
        /// What the layer has.
        found: String,
        /// What the spec says.
        expected: String,
    },
    /// A tensor without which a layer cannot be read.
    #[error("{part} is missing; a layer of format {format} needs it")]
    MissingPart {
        /// Which tensor.
        part: Part,
        /// The format.
        format: Format,
    },
    /// A tensor that should be a matrix.
    #[error("{part} has shape {found:?}, but must be a matrix")]
    Rank {
        /// Which tensor.
        part: Part,
        /// Its shape.
        found: Vec<usize>,
    },
    /// Rows that no whole number of GGUF blocks covers.
    #[error(
        "the layer has {in_features} inputs, but GGUF blocks are runs of 32; write it as f16, or \
         leave it unquantized"
    )]
    BlockWidth {
        /// Input columns.
        in_features: usize,
    },
    /// A GGUF block with two scales.
    #[error(
        "inputs {first} and {column} are of groups {} and {}, but a GGUF block is 32 neighbours \
         with one scale; quantize with group_size -1 or a multiple of 32 and without desc_act, or \
         write this one as f16",
        groups[0], groups[1]
    )]
    BlockGroups {
        /// First input of the block.
        first: usize,
        /// First input of another group.
        column: usize,
        /// Their groups.
        groups: [u32; 2],
    },
    /// Bytes that are no GGUF blocks of that matrix.
    #[error("{found} bytes are no {out_features} × {in_features} matrix in {ty} blocks")]
    BlockBytes {
        /// The encoding.
        ty: BlockType,
        /// Bytes there.
        found: usize,
        /// Output rows.
        out_features: usize,
        /// Input columns.
        in_features: usize,
    },

    /// The config is not a JSON object.
    #[error("the quantization config is {found}, but must be a JSON object")]
    ConfigNotObject {
        /// The kind of JSON value.
        found: &'static str,
    },
    /// A key that cannot be guessed is absent.
    #[error("the quantization config lacks {key}; state it")]
    ConfigMissing {
        /// The key.
        key: &'static str,
    },
    /// A key's value is of the wrong kind.
    #[error("{key} is {found}, but must be {expected}")]
    ConfigValue {
        /// The key as the file spells it, with the rule of `dynamic` it stands in.
        key: String,
        /// The value, as JSON.
        found: String,
        /// What it must be.
        expected: &'static str,
    },
    /// Two spellings of one key contradict each other.
    #[error("{first}, but {second}; keep one of them")]
    ConfigConflict {
        /// One key as the file spells it, and its value: "bits is 4".
        first: String,
        /// The other.
        second: String,
    },
    /// A checkpoint of another method.
    #[error(
        "{key} is {found:?}, but methods that can be read are gptq, awq, compressed-tensors and \
         auto-round"
    )]
    UnsupportedMethod {
        /// The key that says so.
        key: String,
        /// The method.
        found: String,
    },
    /// A checkpoint in another layout.
    #[error(
        "{key} says that the checkpoint is stored as {found:?}, but only gptq, gptq_v2, gptq_p, \
         marlin, awq and compressed-tensors can be read; convert it with the tool that wrote it"
    )]
    UnsupportedFormat {
        /// The key that says so.
        key: String,
        /// The layout.
        found: String,
    },
    /// A checkpoint of a known method, in a variant that is not read.
    #[error("{key} is {found}, which is not read: {advice}")]
    UnsupportedScheme {
        /// The key that says so.
        key: String,
        /// Its value.
        found: String,
        /// What is read, and the way out.
        advice: &'static str,
    },
    /// A rule of `dynamic` that is no regular expression.
    #[error("dynamic rule {pattern:?} is no regular expression: {message}")]
    RulePattern {
        /// The rule as written.
        pattern: String,
        /// What the regex parser said.
        message: String,
    },
    /// A rule of `dynamic` too costly to decide.
    #[error("dynamic rule {pattern:?} gave up on module {module:?}: {message}; simplify the rule")]
    RuleMatch {
        /// The rule as written.
        pattern: String,
        /// The name it was tried on.
        module: String,
        /// What the regex engine said.
        message: String,
    },
}
