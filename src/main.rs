//! The binary: everything stands in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    chakra_sender::cli::main()
}
