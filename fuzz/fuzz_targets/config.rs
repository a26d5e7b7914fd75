#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gptq_hostile::config(bytes));
