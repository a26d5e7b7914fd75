//! Every packed layout: words worked out from its own definition, round trips, rules, and tensors
//! that lie.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

mod cases;
mod hostile;
mod marlin;
mod roundtrip;
mod rules;
mod words;
