//! Why a command did not succeed, and the exit code that says so.

use std::{fmt, process::ExitCode};

/// A failed command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something in the world is wrong: exit code 1.
    Failed(String),
    /// The command line makes no sense: exit code 2.
    Usage(String),
    /// The work is done and its result is there, but it breaks a rule that was set: exit code 3.
    Policy(String),
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Failure::Failed(message.into())
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::Usage(message.into())
    }

    pub(crate) fn policy(message: impl Into<String>) -> Self {
        Failure::Policy(message.into())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Failed(_) => ExitCode::from(1),
            Failure::Usage(_) => ExitCode::from(2),
            Failure::Policy(_) => ExitCode::from(3),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Failed(message) | Failure::Usage(message) | Failure::Policy(message) => {
                f.write_str(message)
            }
        }
    }
}

impl From<gptq_models::Error> for Failure {
    fn from(error: gptq_models::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

impl From<gptq_core::Error> for Failure {
    fn from(error: gptq_core::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}

impl From<gptq_calib::Error> for Failure {
    fn from(error: gptq_calib::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}
