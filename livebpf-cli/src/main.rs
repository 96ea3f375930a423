//! The `livebpf` command: see the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    livebpf_cli::main()
}
