//! The `kamei` program: see `kamei --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    kamei::cli::main()
}
