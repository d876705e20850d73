//! Compiles the eBPF programs of the fast path with clang: Rust's own eBPF target needs a nightly toolchain.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, exit};

const SOURCES: [&str; 3] = ["src/fastpath/kamei.bpf.c", "src/fastpath/guard.bpf.c", "src/fastpath/detour.bpf.c"];
const INCLUDED: [&str; 4] =
    ["src/fastpath/flows.h", "src/fastpath/divert.h", "src/fastpath/redirect.h", "src/fastpath/xdp.h"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES.iter().chain(&INCLUDED) {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    if !variable("CARGO_FEATURE_GATEWAY").is_empty() {
        SOURCES.iter().for_each(|source| compile(source));
    }
}

fn variable(name: &str) -> OsString {
    std::env::var_os(name).unwrap_or_default()
}

/// Makes the object file of a source file, with its name.
fn compile(source: &str) {
    let object = Path::new(source).with_extension("o");
    let object = Path::new(&variable("OUT_DIR")).join(object.file_name().unwrap_or_default());
    let mut clang = variable("CLANG");
    if clang.is_empty() {
        clang = "clang".into();
    }
    let mut command = Command::new(&clang);
    // v3: 32-bit registers and jumps (Linux 5.1); -g: the maps are described in BTF.
    command.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-c", source, "-o"]);
    command.arg(&object);
    // Debian keeps <asm/…> in a directory of the machine's architecture, which clang does not search for this target.
    let machine = variable("CARGO_CFG_TARGET_ARCH").into_string().unwrap_or_default();
    command.arg(format!("-I/usr/include/{machine}-linux-gnu"));
    let why = match command.output() {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => format!("{}: {error}\n", clang.to_string_lossy()),
    };
    eprintln!("{why}");
    eprintln!("The eBPF programs of the fast path cannot be compiled. They need clang and the headers of libbpf:");
    eprintln!("    apt-get install clang libbpf-dev linux-libc-dev");
    exit(1);
}
