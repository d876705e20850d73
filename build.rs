//! Compiles the eBPF program of the fast path with clang: Rust's own eBPF target needs a nightly toolchain.

use std::path::PathBuf;
use std::process::{Command, exit};

const SOURCE: &str = "src/fastpath/kamei.bpf.c";
const INCLUDED: [&str; 3] = ["src/fastpath/flows.h", "src/fastpath/onlookers.h", "src/fastpath/xdp.h"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for source in [SOURCE].iter().chain(&INCLUDED) {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    if variable("CARGO_FEATURE_FAST_PATH").is_empty() {
        return;
    }
    let object = PathBuf::from(variable("OUT_DIR")).join("kamei.bpf.o");
    let mut clang = std::env::var_os("CLANG").unwrap_or_default();
    if clang.is_empty() {
        clang = "clang".into();
    }
    let mut command = Command::new(&clang);
    // v3: 32-bit registers and jumps (Linux 5.1); -g: the maps are described in BTF.
    command.args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-c", SOURCE, "-o"]);
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
    eprintln!("The eBPF program of the fast path cannot be compiled. It needs clang and the headers of libbpf:");
    eprintln!("    apt-get install clang libbpf-dev linux-libc-dev");
    eprintln!("Or build kamei without it:  cargo build --no-default-features --features gateway");
    exit(1);
}
