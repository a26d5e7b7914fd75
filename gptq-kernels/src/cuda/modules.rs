//! The kernels, as PTX text in the binary: the driver compiles them for the GPU it finds.

/// What `cuda/build.py` made of `cuda/*.cu`.
const SOURCES: [&str; 18] = [
    include_str!("../../cuda/ptx/attention.ptx"),
    include_str!("../../cuda/ptx/attention_tiles.ptx"),
    include_str!("../../cuda/ptx/dense.ptx"),
    include_str!("../../cuda/ptx/dequantize.ptx"),
    include_str!("../../cuda/ptx/draw.ptx"),
    include_str!("../../cuda/ptx/halves.ptx"),
    include_str!("../../cuda/ptx/measure.ptx"),
    include_str!("../../cuda/ptx/norm.ptx"),
    include_str!("../../cuda/ptx/packed_matmul_2.ptx"),
    include_str!("../../cuda/ptx/packed_matmul_3.ptx"),
    include_str!("../../cuda/ptx/packed_matmul_4.ptx"),
    include_str!("../../cuda/ptx/packed_matmul_8.ptx"),
    include_str!("../../cuda/ptx/packed_matvec_2.ptx"),
    include_str!("../../cuda/ptx/packed_matvec_3.ptx"),
    include_str!("../../cuda/ptx/packed_matvec_4.ptx"),
    include_str!("../../cuda/ptx/packed_matvec_8.ptx"),
    include_str!("../../cuda/ptx/pointwise.ptx"),
    include_str!("../../cuda/ptx/rows.ptx"),
];

/// The text that has a kernel of this name.
pub(super) fn source(kernel: &str) -> Option<&'static str> {
    let entry = format!(".entry {kernel}(");
    SOURCES.into_iter().find(|text| text.contains(&entry))
}
