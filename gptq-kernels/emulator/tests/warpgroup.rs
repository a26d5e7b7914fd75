//! Products of a warpgroup: what is right gives exact results, and what is wrong on a device, be
//! it only now and then, is found.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Device, Parameters, noise};
use gptq_ptx_emulator::{Error, Launch, Module};
use half::f16;

const RIGHT: &str = include_str!("kernels/warpgroup.ptx");

/// The text with one thing instead of another that it must hold.
#[track_caller]
fn instead(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no {from:?}");
    text.replace(from, to)
}

/// The right kernels with something in the place of a mark.
fn marked(mark: &str, what: &str) -> String {
    instead(RIGHT, &format!("// MARK {mark}\n"), &format!("{what}\n"))
}

/// Small whole numbers, whose sums are exact.
fn small(seed: u64, count: usize) -> Vec<f32> {
    noise(seed, count).into_iter().map(|bits| (bits % 31) as f32 - 15.0).collect()
}

fn run(ptx: &str, kernel: &str, threads: u32, races: bool) -> Result<Vec<f32>, Error> {
    let bits = |values: Vec<f32>| {
        values.into_iter().map(|x| f16::from_f32(x).to_bits()).collect::<Vec<_>>()
    };
    let mut device = Device::new(ptx);
    let (a, b) = (device.upload(&bits(small(1, 64 * 16))), device.upload(&bits(small(2, 8 * 16))));
    let out = device.empty::<f32>(64 * 8);
    let launch = Launch { dynamic_shared: 4096, races, ..Launch::new([2, 1, 1], [threads, 1, 1]) };
    let parameters = Parameters::default().with(a).with(b).with(out);
    device.try_run(kernel, &launch, parameters)?;
    Ok(device.download(out, 64 * 8))
}

fn expected(value: impl Fn(f32) -> f32) -> Vec<f32> {
    let (a, b) = (small(1, 64 * 16), small(2, 8 * 16));
    let dot = |at: usize| {
        let (row, column) = (at / 8, at % 8);
        (0..16).map(|k| a[row * 16 + k] * b[column * 16 + k]).sum::<f32>()
    };
    (0..64 * 8).map(|at| value(dot(at))).collect()
}

/// Runs a wrong kernel; its fault must say this.
#[track_caller]
fn says(ptx: &str, kernel: &str, part: &str) {
    match run(ptx, kernel, 128, true) {
        Err(Error::Fault(fault)) => {
            let message = fault.to_string();
            assert!(message.contains(part), "no {part:?} in: {message}");
        }
        other => panic!("{kernel} gave {other:?}"),
    }
}

#[test]
fn products() {
    for races in [true, false] {
        let out = run(RIGHT, "by_descriptor", 128, races).unwrap();
        assert_eq!(out, expected(|dot| 1.0 - 3.0 * dot));
        let out = run(RIGHT, "by_registers", 128, races).unwrap();
        assert_eq!(out, expected(|dot| dot));
    }
}

#[test]
fn zeros_may_follow_the_fence() {
    let zeros = (1..5).map(|at| format!("mov.f32 %f{at}, 0f00000000;")).collect::<String>();
    let out = run(&marked("after fence", &zeros), "by_descriptor", 128, true).unwrap();
    assert_eq!(out, expected(|dot| -3.0 * dot));
    // But not once a product has been waited for.
    let again = RIGHT.lines().find(|line| line.contains("wgmma.mma_async")).unwrap();
    let again = format!("mov.f32 %f1, 0f00000000;\n{again}\n");
    says(&marked("waited", &again), "by_descriptor", "the result was changed with no wgmma.fence");
}

#[test]
fn nobody_waits() {
    let what = "nobody waited for this wgmma";
    says(&instead(RIGHT, "wgmma.wait_group.sync.aligned 0;", ""), "by_descriptor", what);
    says(&instead(RIGHT, "wgmma.commit_group.sync.aligned; // last", ""), "by_descriptor", what);
    says(&instead(RIGHT, "aligned 0;", "aligned 1;"), "by_registers", what);
}

#[test]
fn results_show_at_the_wait_only() {
    let early = marked("under way", "mov.f32 %f5, %f1;");
    let early = instead(&early, "// MARK waited\n", "mov.f32 %f1, %f5;\n");
    for kernel in ["by_descriptor", "by_registers"] {
        assert!(run(&early, kernel, 128, true).unwrap()[0].is_nan());
    }
}

#[test]
fn no_fence_of_registers() {
    let what = "no wgmma.fence comes before the first wgmma";
    says(&instead(RIGHT, "wgmma.fence.sync.aligned;", ""), "by_descriptor", what);
    let late = marked("after fence", "mov.f32 %f1, 0f40000000;\nmov.b32 %r25, 7;");
    says(&late, "by_descriptor", "the result was changed with no wgmma.fence since");
    says(&late, "by_registers", "A was changed with no wgmma.fence since");
}

#[test]
fn registers_change_too_early() {
    let what = "the result was changed while a wgmma was under way";
    says(&marked("between products", "mov.f32 %f2, 0f00000000;"), "by_descriptor", what);
    says(&marked("under way", "add.f32 %f3, %f3, %f3;"), "by_descriptor", what);
    says(&marked("under way", "mov.f32 %f3, %f4;"), "by_descriptor", what);
    let what = "A was changed while a wgmma was under way";
    says(&marked("under way", "add.u32 %r27, %r27, 1;"), "by_registers", what);
    let order = instead(
        RIGHT,
        "{%f1, %f2, %f3, %f4}, %rd7, %rd8, %p2, 1,",
        "{%f2, %f1, %f3, %f4}, %rd7, %rd8, %p2, 1,",
    );
    says(&order, "by_descriptor", "in another place or shape");
}

#[test]
fn shared_memory_changes_too_early() {
    let what = "is written while a wgmma that reads it is under way";
    let copy = "cp.async.ca.shared.global [%r10], [%rd2], 16;";
    for write in ["st.shared.u32 [%r10], %r1;", "atom.shared.add.u32 %r30, [%r10], 1;", copy] {
        says(&marked("under way", write), "by_descriptor", what);
        says(&marked("between products", write), "by_descriptor", what);
    }
    // Only this warp has waited.
    let write = "setp.gt.u32 %p3, %r1, 111;\n@%p3 st.shared.u32 [%r10], %r1;";
    says(&marked("waited", write), "by_descriptor", "race:");
    says(&marked("waited", "st.shared.u32 [%r10], %r1;"), "by_descriptor", "race:");
    let ordered = marked("waited", "bar.sync 0;\nst.shared.u32 [%r10], %r1;");
    run(&ordered, "by_descriptor", 128, true).unwrap();
}

#[test]
fn shared_memory_is_not_there_yet() {
    let what = "no fence.proxy.async between";
    says(&instead(RIGHT, "fence.proxy.async.shared::cta;", ""), "by_descriptor", what);
    says(&instead(RIGHT, "fence.proxy.async;", ""), "by_registers", what);
    says(&instead(RIGHT, "fence.proxy.async;", "fence.proxy.async.global;"), "by_registers", what);
    // The writer's own comes too late after the barrier, for other warps.
    let late = instead(RIGHT, "fence.proxy.async;", "@%p1 fence.proxy.async;");
    says(&late, "by_registers", what);
    let late = instead(
        &late,
        "@%p1 fence.proxy.async;",
        "@%p1 fence.proxy.async;\nbar.sync 0;\n@%p1 fence.proxy.async;",
    );
    run(&late, "by_registers", 128, true).unwrap();
    // The reader's fence orders nothing that no barrier has brought before it.
    let early = instead(
        RIGHT,
        "@%p1 st.shared.v4.b32 [%r10],",
        "fence.proxy.async;\n@%p1 st.shared.v4.b32 [%r10],",
    );
    let early = instead(&early, "\tfence.proxy.async;\n\n", "\n");
    says(&early, "by_registers", what);
    says(&instead(RIGHT, "bar.sync 0;", ""), "by_descriptor", "race:");
    says(&instead(RIGHT, "[%r10+2048]", "[%r10+2304]"), "by_descriptor", "never written");
    let copy = "@%p1 cp.async.cg.shared.global [%r10+2048], [%rd6], 16;\ncp.async.commit_group;";
    let copied = |rest: &str| {
        instead(
            RIGHT,
            "@%p1 st.shared.v4.b32 [%r10+2048], {%r15, %r16, %r17, %r18};",
            &format!("{copy}\n{rest}"),
        )
    };
    run(&copied("cp.async.wait_group 0;"), "by_descriptor", 128, true).unwrap();
    says(&copied(""), "by_descriptor", "never written");
    let late = instead(&copied(""), "bar.sync 0;", "cp.async.wait_group 0;\nbar.sync 0;");
    says(&late, "by_descriptor", what);
}

#[test]
fn warps_do_not_agree() {
    let second = RIGHT.lines().find(|line| line.contains("%p2, 1, -1")).unwrap();
    let alone = format!("shr.u32 %r30, %r1, 5;\nsetp.ne.u32 %p3, %r30, 2;\n@%p3 {second}");
    says(&instead(RIGHT, second, &alone), "by_descriptor", "issued different wgmmas");
    let lanes = marked(
        "before fence",
        "and.b32 %r30, %r1, 1;\ncvt.u64.u32 %rd10, %r30;\nadd.u64 %rd7, %rd7, %rd10;",
    );
    says(&lanes, "by_registers", "the descriptor of B differs between lanes");
    match run(RIGHT, "by_registers", 96, true) {
        Err(Error::Fault(fault)) => assert!(fault.to_string().contains("no complete warpgroup")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn descriptors_without_meaning() {
    let bits = |bits: u64| marked("before fence", &format!("or.b64 %rd7, %rd7, {bits};"));
    says(&bits(1 << 49), "by_registers", "base offset");
    says(&bits(1 << 46), "by_registers", "mean nothing");
    says(&bits(1 << 62), "by_registers", "pattern of 1024");
    says(&bits(3 << 62 | 1), "by_registers", "into the next");
    says(&bits(0x3fff), "by_registers", "outside its 4096");
}

#[test]
fn what_is_refused() {
    let refused = |from: &str, to: &str, why: &str| {
        let error = Module::parse(&instead(RIGHT, from, to)).err().unwrap().to_string();
        assert!(error.contains(why), "no {why:?} in: {error}");
    };
    refused(".target sm_90a", ".target sm_90", "needs .target sm_90a");
    refused("1, 1, 0;", "1, 1, 1;", "along M or N");
    refused("1, 1, 0;", "1, 2, 0;", "1 or -1");
    refused("1, 1, 0;", "1, 1, 0, 0;", "operands were expected");
    refused("f32.f16.f16 {", "f32.f16.bf16 {", "unknown combination");
    refused("m64n8k16", "m64n12k16", "unknown shape");
    refused("m64n8k16", "m64n16k16", "another length");
    refused("{%f1, %f2, %f3, %f4}, %rd7", "{%f1, %f2, %f3, %f1}, %rd7", "named twice");
}

#[test]
fn dynamic_memory_begins_where_it_asks_to() {
    // Four bytes of static memory would move it by 16 otherwise, into the middle of a pattern.
    let moved = instead(
        RIGHT,
        "mov.u32 %r2, tiles;",
        ".shared .align 4 .b8 own[4];\nmov.u32 %r30, own;\nmov.u32 %r2, tiles;",
    );
    let shown = instead(&moved, "// MARK waited\n", "cvt.rn.f32.u32 %f1, %r2;\n");
    assert_eq!(run(&shown, "by_descriptor", 128, true).unwrap()[0], 1024.0);
}
