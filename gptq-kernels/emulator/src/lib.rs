//! Runs PTX on the CPU, so that kernels and the host code around them are tested without a GPU.
//!
//! [`Module`] reads the text and runs its kernels one block after the other. It is strict where a
//! device is lenient: an access outside an allocation, a race in shared memory, a read of what
//! nobody wrote or a barrier that some thread misses is an error that names its instruction.
//! Products of a warpgroup give their results at the wait and not before, and until then nothing
//! that they may read or write must change.
//!
//! The shared library built from this crate stands in for the CUDA driver: opened before the
//! program looks for the driver, it is what the program finds. What its device is like is set by
//! the environment:
//!
//! | variable | meaning | if not set |
//! | --- | --- | --- |
//! | `PTX_EMULATOR_NO_DEVICE` | `1`: there is no device | there is one |
//! | `PTX_EMULATOR_CAPABILITY` | compute capability | `8.0` |
//! | `PTX_EMULATOR_MEMORY` | bytes of device memory | 4 GiB |
//! | `PTX_EMULATOR_SMS` | multiprocessors | `4` |
//! | `PTX_EMULATOR_ORDER` | `forward`, `reverse`, or a seed that shuffles the blocks | `forward` |
//! | `PTX_EMULATOR_LOSE` | the launch, from 1, at which the device is lost | never |
//! | `PTX_EMULATOR_RACES` | `0`: races are not looked for | they are |

mod alias;
mod block;
mod builder;
mod decode;
mod driver;
mod error;
mod exec;
mod inst;
mod kernel;
mod memory;
mod module;
mod number;
mod operand;
mod scope;
mod text;
mod types;
mod variable;

pub use alias::alias_library;
pub use error::{Error, Fault};
pub use exec::order::Order;
pub use exec::{Launch, Stats};
pub use kernel::Parameter;
pub use memory::Memory;
pub use module::Module;
