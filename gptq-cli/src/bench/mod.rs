//! `gptq bench`: a file per subcommand.

mod decode;
#[cfg(feature = "cuda")]
mod gpu;
mod machine;

use clap::Subcommand;

use crate::failure::Failure;

#[derive(Subcommand, Debug)]
pub(crate) enum BenchCommand {
    /// What this machine can do at most: products of f32, bf16 and bytes, and reading memory; or a GPU:
    /// packed products beside plain ones, and how right they are
    Machine(machine::MachineArgs),
    /// Tokens per second of a model, and the share of the memory's bandwidth that decoding takes
    Decode(decode::DecodeArgs),
}

pub(crate) fn run(command: &BenchCommand, json: bool) -> Result<(), Failure> {
    match command {
        BenchCommand::Machine(args) => machine::run(args, json),
        BenchCommand::Decode(args) => decode::run(args, json),
    }
}
