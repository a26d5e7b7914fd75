//! The kernels, as PTX text in the binary: the driver compiles them for the GPU it finds. Those for
//! Hopper alone are there as machine code too, which nothing has to compile.

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
    "packed_sums",
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
    "packed_sums_early",
    "packed_wgmma_4_sym_f16",
    "packed_wgmma_4_sym_bf16",
    "packed_wgmma_4_asym_f16",
    "packed_wgmma_4_asym_bf16",
    "packed_wgmma_8_asym_f16",
    "packed_wgmma_8_asym_bf16",
    "pointwise_early",
    "rows_early"
];

macro_rules! codes {
    ($($name:literal),*) => {
        &[$(($name, include_bytes!(concat!("../../cuda/cubin/", $name, ".cubin")))),*]
    };
}

/// For compute capability 9.0; names are how those of its kernels begin.
const HOPPER: &[(&str, &[u8])] = codes![
    "packed_wgmma_4_sym_f16",
    "packed_wgmma_4_sym_bf16",
    "packed_wgmma_4_asym_f16",
    "packed_wgmma_4_asym_bf16",
    "packed_wgmma_8_asym_f16",
    "packed_wgmma_8_asym_bf16"
];

/// The machine code that has a kernel of this name, on Hopper.
pub(super) fn machine_code(kernel: &str) -> Option<&'static [u8]> {
    let found = HOPPER
        .iter()
        .find(|(name, _)| kernel.strip_prefix(name).is_some_and(|rest| rest.starts_with('_')));
    found.map(|&(_, code)| code)
}

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

    /// What is in machine code is in a text as well, which other GPUs and tests take.
    #[test]
    fn machine_code_has_the_kernels_of_its_text() {
        for (name, code) in HOPPER {
            assert!(code.starts_with(b"\x7fELF"), "{name}");
            for tokens in ["8", "16"] {
                let kernel = format!("{name}_{tokens}");
                assert_eq!(machine_code(&kernel), Some(*code));
                assert!(early(&kernel).is_some(), "{kernel}");
                let is_named = code.windows(kernel.len()).any(|part| part == kernel.as_bytes());
                assert!(is_named, "{kernel}");
            }
        }
        assert_eq!(machine_code("packed_matmul_4_sym_f16_8"), None);
    }
}
