//! The import rule of src/README.md, as a test: who may use whom, and what the pure rooms must not touch.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each room, from left to right, with the rooms to its left that it may use. A new room gets a line here and in the
/// table of README.md in this folder.
const ROOMS: &[(&str, &[&str])] = &[
    ("time", &[]),
    ("wire", &[]),
    ("nat", &["time", "wire"]),
    ("session", &["time"]),
    ("config", &["time", "wire", "nat", "session"]),
    ("host", &["time", "wire", "nat", "session", "config"]),
    ("store", &["time", "wire", "nat", "session", "config", "host"]),
    ("control", &["time", "wire", "nat", "session", "config", "host", "store"]),
    ("device", &["time", "wire", "nat", "session", "config", "host"]),
    ("fastpath", &["time", "wire", "nat", "session", "config", "host"]),
    ("splice", &[]),
    ("identity", &["time", "wire", "nat", "session", "config", "host", "store"]),
    ("doctor", &["time", "wire", "nat", "session", "config", "host", "device", "fastpath"]),
    ("gateway", &["time", "wire", "nat", "session", "config", "host", "store", "control", "device", "fastpath"]),
    ("relay", &["time", "wire", "nat", "session", "config", "host", "store", "control", "splice", "identity"]),
    ("agent", &["time", "wire", "nat", "session", "config", "host", "store", "control", "splice", "identity"]),
    (
        "selftest",
        &["time", "wire", "nat", "session", "config", "host", "store", "control", "device", "fastpath", "doctor"],
    ),
    (
        "cli",
        &[
            "time", "wire", "nat", "session", "config", "host", "store", "control", "device", "fastpath", "splice",
            "identity", "doctor", "gateway", "relay", "agent", "selftest",
        ],
    ),
];

/// The rooms that are told the time and handed bytes, and reach for nothing themselves.
const PURE: &[&str] = &["time", "wire", "nat", "session"];

/// What a pure room must not name outside its tests.
const REACHES_OUT: &[&str] = &[
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "std::fs",
    "std::env",
    "std::io",
    "std::os",
    "libc::",
    "std::process",
    "std::thread",
    "std::path",
    // Groups would hide the names above from this test.
    "std::{",
    "unsafe ",
    "println!",
    "eprintln!",
    "dbg!",
];

/// Crates that do I/O, by whichever crate they come in; besides all that the feature `gateway` names.
const DO_IO: &[&str] = &["tokio", "mio", "socket2", "nix", "rustix", "getrandom", "polling", "async-io", "memmap2"];

#[test]
fn a_room_uses_only_the_rooms_to_its_left() {
    let mut wrong = Vec::new();
    for (file, room) in sources() {
        let Some((_, may_use)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{}: the room '{room}' is not in the import rule", file.display()));
            continue;
        };
        let text = without_tests_and_comments(&file);
        for used in rooms_used(&text) {
            if used != room && !may_use.contains(&used.as_str()) {
                wrong.push(format!("{}: '{room}' uses '{used}'", file.display()));
            }
        }
        if text.contains("super::super::") {
            wrong.push(format!("{}: says 'super::super', which hides a room; say 'crate'", file.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_map_has_every_room_in_this_order() {
    let page = fs::read_to_string(root().join("src/README.md")).unwrap();
    let (_, map) = page.split_once("| module |").unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let rooms = ROOMS.iter().map(|(room, _)| *room);
    assert!(rows.take(ROOMS.len()).eq(rooms), "the rows of src/README.md are not the rooms");
}

#[test]
fn the_pure_rooms_read_no_clock_no_file_no_socket_and_no_environment() {
    let mut wrong = Vec::new();
    for (file, room) in sources() {
        if !PURE.contains(&room.as_str()) {
            continue;
        }
        let text = without_tests_and_comments(&file);
        let found = REACHES_OUT.iter().filter(|name| text.contains(**name));
        wrong.extend(found.map(|name| format!("{}: '{name}'", file.display())));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    for room in ["src/wire/mod.rs", "src/nat/mod.rs"] {
        let text = fs::read_to_string(root().join(room)).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{room} must forbid unsafe code");
    }
}

#[test]
fn the_pure_build_brings_in_no_crate_that_does_io() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree = Command::new(cargo)
        .current_dir(root())
        .args(["tree", "--offline", "--locked", "--no-default-features", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(crates.contains("kamei") && crates.contains("parking_lot"), "not a tree: {tree}");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    // libc is declarations: parking_lot waits by them, and nothing in the pure rooms names it.
    let of_the_edges =
        manifest.split("\"dep:").skip(1).filter_map(|rest| rest.split('"').next()).filter(|name| *name != "libc");
    let do_io = |name: &&str| DO_IO.contains(name) || name.starts_with("netlink-");
    let wrong: BTreeSet<&str> =
        of_the_edges.filter(|name| crates.contains(name)).chain(crates.iter().copied().filter(do_io)).collect();
    assert!(wrong.is_empty(), "the build without features has {wrong:?}");
}

#[test]
fn the_rule_itself_is_read_right() {
    let text =
        "use crate::wire::{self, Address};\nuse crate::{time::Time, nat::{Nat, Realm}};\nlet x = crate::cli::run();";
    assert!(rooms_used(text).into_iter().eq(["cli", "nat", "time", "wire"].map(str::to_owned)));
    for (n, (_, may_use)) in ROOMS.iter().enumerate() {
        let left: Vec<&str> = ROOMS[..n].iter().map(|(name, _)| *name).collect();
        assert!(may_use.iter().all(|name| left.contains(name)));
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file that is not a test, with the room it is in.
pub(super) fn sources() -> Vec<(PathBuf, String)> {
    let src = root().join("src");
    let (mut files, mut folders) = (Vec::new(), vec![src.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                if name != "tests" {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests" {
                let inside = path.strip_prefix(&src).unwrap();
                let room = inside.components().next().unwrap().as_os_str().to_str().unwrap();
                let room = room.trim_end_matches(".rs").to_owned();
                if !["lib", "main", "testkit"].contains(&room.as_str()) {
                    files.push((path, room));
                }
            }
        }
    }
    assert!(files.len() > 20, "only {} sources found", files.len());
    files
}

/// The text up to the tests at its end, without comments.
pub(super) fn without_tests_and_comments(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The rooms that a text names as `crate::room` or in a group `crate::{room, ...}`.
fn rooms_used(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    let name = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    for rest in text.split("crate::").skip(1) {
        let Some(group) = rest.strip_prefix('{') else {
            rooms.insert(name(rest));
            continue;
        };
        let (mut depth, mut at_start) = (1, true);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => at_start = true,
                c if at_start && !c.is_whitespace() => {
                    rooms.insert(name(&group[at..]));
                    at_start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    rooms
}
