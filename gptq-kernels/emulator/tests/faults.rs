//! What a kernel must not do is found, and the message says where.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::{Device, Parameters};
use gptq_ptx_emulator::{Error, Fault, Launch, Module};

const WRONG: &str = include_str!("kernels/wrong.ptx");

fn fault(kernel: &str, threads: u32) -> Fault {
    let mut device = Device::new(WRONG);
    let out = device.empty::<i32>(threads as usize);
    let launch = Launch::new([1, 1, 1], [threads, 1, 1]);
    device.fault(kernel, &launch, Parameters::default().with(out))
}

#[track_caller]
fn says(fault: &Fault, parts: &[&str]) {
    let message = fault.to_string();
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

#[test]
fn outside_an_allocation() {
    let fault = fault("outside", 64);
    assert_eq!((fault.thread, fault.block), ([63, 0, 0], [0; 3]));
    says(&fault, &["kernel outside", "st.global", "no allocation", "256 bytes", "at 256 of it"]);
}

#[test]
fn misaligned() {
    let fault = fault("misaligned", 8);
    assert_eq!(fault.thread, [3, 0, 0]);
    says(&fault, &["misaligned", "st.global"]);
}

#[test]
fn race_between_warps() {
    says(&fault("race", 64), &["race:", "ld.shared", "thread 31 wrote it"]);
}

#[test]
fn race_between_lanes() {
    says(&fault("warp_race", 32), &["race:", "ld.shared", "thread 0 wrote it"]);
}

#[test]
fn race_with_the_next_round() {
    let mut device = Device::new(WRONG);
    let (x, out) = (device.upload(&[1i32; 64]), device.empty::<i32>(64));
    let launch = Launch::new([1, 1, 1], [64, 1, 1]);
    let parameters = || Parameters::default().with(x).with(out);
    says(
        &device.fault("late_race", &launch, parameters()),
        &["race:", "ld.shared", "thread 31 wrote it"],
    );
    // Unless races are not looked for.
    let launch = Launch { races: false, ..launch };
    device.try_run("late_race", &launch, parameters()).unwrap();
}

#[test]
fn unwritten_shared_memory() {
    let fault = fault("unwritten", 64);
    assert_eq!(fault.thread, [0, 0, 0]);
    says(&fault, &["never written", "ld.shared"]);
}

#[test]
fn missed_barrier() {
    let fault = fault("missed_barrier", 64);
    says(&fault, &["deadlock", "bar.sync", "40 threads, 0 to 39", "24 have ended"]);
}

#[test]
fn missed_shuffle() {
    says(&fault("missed_shuffle", 32), &["deadlock", "shfl.sync", "16 threads, 16 to 31"]);
}

#[test]
fn copy_without_wait() {
    let mut device = Device::new(WRONG);
    let (x, out) = (device.upload(&[1f32; 128]), device.empty::<f32>(32));
    let launch = Launch::new([1, 1, 1], [32, 1, 1]);
    let parameters = Parameters::default().with(x).with(out);
    says(&device.fault("no_wait", &launch, parameters), &["ld.shared", "never written"]);
}

#[test]
fn outside_shared_memory() {
    let mut device = Device::new(WRONG);
    let out = device.empty::<i32>(32);
    let launch = Launch { dynamic_shared: 128, ..Launch::new([1, 1, 1], [32, 1, 1]) };
    let parameters = |n: i32| Parameters::default().with(out).with(n);
    device.try_run("shared_outside", &launch, parameters(1)).unwrap();
    let fault = device.fault("shared_outside", &launch, parameters(2));
    assert_eq!(fault.thread, [16, 0, 0]);
    says(&fault, &["shared memory at 0x80", "outside its 128"]);
}

#[test]
fn wrong_launches() {
    let mut device = Device::new(WRONG);
    let mut refused = |kernel: &str, threads, parameters| {
        let launch = Launch::new([1, 1, 1], [threads, 1, 1]);
        match device.try_run(kernel, &launch, parameters) {
            Err(Error::Launch(message)) => message,
            other => panic!("{other:?}"),
        }
    };
    let one = || Parameters::default().with(0u64);
    assert!(refused("nothing", 32, one()).contains("no kernel"));
    assert!(refused("race", 1025, one()).contains("1024"));
    assert!(refused("race", 32, Parameters::default()).contains("8 are declared"));
}

#[test]
fn unknown_instructions() {
    let ptx = ".version 8.4\n.target sm_80\n.visible .entry k()\n{\n.reg .b32 %r<2>;\n\
        wgmma.fence.sync.aligned;\nret;\n}\n";
    let error = Module::parse(ptx).err().unwrap().to_string();
    assert!(error.contains("line 6") && error.contains("wgmma.fence"), "{error}");
}
