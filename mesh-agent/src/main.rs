//! The binary `heddle`. Everything is in the library, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_agent::cli::main()
}
