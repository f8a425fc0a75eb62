//! `--fail-on`: outcomes that make the exit code 1.

use crate::wire::Status;
use clap::ValueEnum;

/// An outcome that somebody may not want to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum FailOn {
    Failed,
    Expired,
    Unknown,
}

impl FailOn {
    pub(super) fn status(self) -> Status {
        match self {
            FailOn::Failed => Status::Failed,
            FailOn::Expired => Status::Expired,
            FailOn::Unknown => Status::Unknown,
        }
    }
}
