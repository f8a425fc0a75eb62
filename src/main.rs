//! The binary: everything stands in the library.

use std::process::ExitCode;

/// A sixth of a job's processor time was glibc's: docs/decisions/0008-allocator.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    chakra_sender::cli::main()
}
