//! The kernels, as PTX text in the binary: the driver compiles them for the GPU it finds.

macro_rules! texts {
    ($($name:literal),*) => {
        &[$(include_str!(concat!("../../cuda/ptx/", $name, ".ptx"))),*]
    };
}

/// What `cuda/build.py` made of `cuda/*.cu`.
const TEXTS: &[&str] = texts![
    "attention",
    "attention_step",
    "attention_tiles",
    "dense",
    "dequantize",
    "draw",
    "halves",
    "measure",
    "norm",
    "packed_matmul_2",
    "packed_matmul_3",
    "packed_matmul_4",
    "packed_matmul_8",
    "packed_matvec_2",
    "packed_matvec_3",
    "packed_matvec_4",
    "packed_matvec_8",
    "pointwise",
    "rows"
];

/// Those of a step of generating text once more, such that they begin while the kernels before them
/// still run, and those that are for Hopper alone.
const EARLY: &[&str] = texts![
    "attention_early",
    "attention_step_early",
    "dense_early",
    "draw_early",
    "halves_early",
    "norm_early",
    "packed_matmul_2_early",
    "packed_matmul_3_early",
    "packed_matmul_4_early",
    "packed_matmul_8_early",
    "packed_matvec_2_early",
    "packed_matvec_3_early",
    "packed_matvec_4_early",
    "packed_matvec_8_early",
    "packed_wgmma_4_sym_f16",
    "packed_wgmma_4_sym_bf16",
    "packed_wgmma_4_asym_f16",
    "packed_wgmma_4_asym_bf16",
    "packed_wgmma_8_asym_f16",
    "packed_wgmma_8_asym_bf16",
    "pointwise_early",
    "rows_early"
];

/// The text that has a kernel of this name.
pub(super) fn source(kernel: &str) -> Option<&'static str> {
    find(TEXTS, kernel)
}

/// The same kernel for GPUs on which it may begin early, if it is one that does.
pub(super) fn early(kernel: &str) -> Option<&'static str> {
    find(EARLY, kernel)
}

fn find(texts: &[&'static str], kernel: &str) -> Option<&'static str> {
    let entry = format!(".entry {kernel}(");
    texts.iter().find(|text| text.contains(&entry)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What begins early lets the next kernel begin and waits for those before, in every kernel of
    /// its text; no other does, which older GPUs could not take.
    #[test]
    fn kernels_begin_early_where_they_may() {
        let count = |text: &str, what: &str| text.matches(what).count();
        for text in EARLY {
            let kernels = count(text, ".entry ");
            assert_eq!(count(text, "griddepcontrol.wait"), kernels);
            assert_eq!(count(text, "griddepcontrol.launch_dependents"), kernels);
        }
        assert!(TEXTS.iter().all(|text| !text.contains("griddepcontrol")));
    }
}
