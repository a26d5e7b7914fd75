//! Examples live in `examples/`; run one with `cargo run -p gptq-examples --example NAME`.
