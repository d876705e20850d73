//! The ledger of requirements, CONFORMANCE.md, and the tests say the same. Needs no root.
//!
//! A row of the ledger is `| ID | what is asked for | what kamei does | tests |`. A test belongs to a row by its name:
//! `n5_…` to N5, `i4_i5_…` to I4 and I5, `s_…` to some row `S-…`, `o_…` to some row `O-…`, `rfc6296_…` to some row
//! `RFC6296…`. A test listed there stands for its twin with the suffix `_v6` as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Every requirement that has a row of its own; rows with other names may be added freely.
const REQUIREMENTS: &str = "N1 N2 N3 N4 N5 N6 N7 N8 N9 N10 N11 N12 \
    R1 R2 R3 R5 R6 R7 R8 R9 R10 R11 R12 R13 R14 T2 T4 T5 T9 T10 I1 I3 I4 I5 I6 I7 I8 I10 \
    RFC7857-refresh RFC7857-reset RFC7857-fields C3 C4 C5 C6 C8 C10 C11 C12 C13 V6 V6-extensions V6-icmp V6-nd RFC6296 \
    O-udp-lite RFC5597 O-sctp O-gre O-esp O-ah O-unknown \
    S-exhausted S-same-terminal S-no-first-fragment S-large S-runts S-checksums S-two-workers S-reordering \
    S-second-process S-no-offload S-expired S-reload S-interface S-outside-lan S-spoofed S-own-services S-eviction \
    S-options S-ttl P1 P2 P3 P4 P5";

struct Row {
    id: String,
    shown_by: Vec<String>,
    not_yet: bool,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn ledger() -> String {
    fs::read_to_string(root().join("netns-tests/CONFORMANCE.md")).unwrap()
}

fn rows(text: &str) -> Vec<Row> {
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id ")) {
        let cells = cells(line);
        if line.starts_with("| --- ") {
            continue;
        }
        assert!(cells.len() == 6, "a row has four cells: {line}");
        let quoted = cells[4].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        rows.push(Row { id: cells[1].clone(), shown_by: quoted, not_yet: cells[4].contains("not yet") });
    }
    rows
}

/// The names of all test functions in the sources.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for directory in ["src", "netns-tests", "benches"] {
        collect(&root().join(directory), &mut found);
    }
    found
}

fn collect(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(test_names(&fs::read_to_string(path).unwrap()));
        }
    }
}

/// The functions behind `#[test]`, with other attributes and comments between.
fn test_names(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        if line == "#[test]" {
            is_test = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
            names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            is_test = false;
        } else if !(line.is_empty() || line.starts_with("#[") || line.starts_with("//")) {
            is_test = false;
        }
    }
    names
}

/// The rows a test claims by its name: those with this ID, or those whose ID starts like this.
#[derive(Debug, PartialEq)]
enum Claim {
    Row(String),
    RowsLike(String),
}

fn claims(test: &str) -> Vec<Claim> {
    let mut claims = Vec::new();
    for word in test.split('_') {
        let (letters, digits) = word.split_at(word.find(|c: char| c.is_ascii_digit()).unwrap_or(word.len()));
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        match letters {
            "n" | "r" | "t" | "i" | "c" | "p" | "rc" | "rh" if is_number => {
                claims.push(Claim::Row(word.to_uppercase()))
            }
            "rfc" if is_number => claims.push(Claim::RowsLike(word.to_uppercase())),
            "s" | "o" if word.len() == 1 && claims.is_empty() => {
                claims.push(Claim::RowsLike(format!("{}-", word.to_uppercase())));
            }
            _ => break,
        }
    }
    claims
}

#[test]
fn a_name_claims_its_rows() {
    let rows = |names: &[&str]| names.iter().map(|name| Claim::Row((*name).to_owned())).collect::<Vec<_>>();
    assert_eq!(claims("n5_peer_opens_a_new_connection"), rows(&["N5"]));
    assert_eq!(claims("i4_i5_t9_errors"), rows(&["I4", "I5", "T9"]));
    assert_eq!(claims("rfc6296_there_and_back"), [Claim::RowsLike("RFC6296".to_owned())]);
    assert_eq!(claims("s_second_thread"), [Claim::RowsLike("S-".to_owned())]);
    assert_eq!(claims("tcp_bulk_v6"), []);
    assert_eq!(claims("rfc_1624_section_4_example"), []);
    assert_eq!(
        test_names("#[test]\n// why\n#[ignore]\nfn one() {\n}\nfn two() {}\n#[test]\nfn three(x in 0..1) {"),
        ["one", "three"]
    );
}

#[test]
fn every_requirement_has_one_row() {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows(&ledger()) {
        *count.entry(row.id).or_default() += 1;
    }
    let missing: Vec<&str> = REQUIREMENTS.split_whitespace().filter(|id| !count.contains_key(*id)).collect();
    assert!(missing.is_empty(), "no row in CONFORMANCE.md for {missing:?}");
    let doubled: Vec<&String> = count.iter().filter(|(_, count)| **count > 1).map(|(id, _)| id).collect();
    assert!(doubled.is_empty(), "more than one row for {doubled:?}");
}

#[test]
fn every_test_in_the_ledger_exists() {
    let tests = tests();
    let gone: Vec<String> = rows(&ledger())
        .into_iter()
        .flat_map(|row| row.shown_by.into_iter().map(move |test| (row.id.clone(), test)))
        .filter(|(_, test)| !tests.contains(test))
        .map(|(id, test)| format!("{id}: {test}"))
        .collect();
    assert!(gone.is_empty(), "CONFORMANCE.md names tests that do not exist:\n{}", gone.join("\n"));
}

#[test]
fn every_test_named_after_a_requirement_is_in_the_ledger() {
    let rows = rows(&ledger());
    let tests = tests();
    let lists = |row: &Row, test: &str| {
        let twin = test.strip_suffix("_v6").filter(|twin| tests.contains(*twin));
        row.shown_by.iter().any(|shown| shown == test || Some(shown.as_str()) == twin)
    };
    let mut missing = Vec::new();
    for test in &tests {
        for claim in claims(test) {
            let found = match &claim {
                Claim::Row(id) => rows.iter().any(|row| row.id == *id && lists(row, test)),
                Claim::RowsLike(start) => rows.iter().any(|row| row.id.starts_with(start) && lists(row, test)),
            };
            if !found {
                missing.push(format!("{claim:?}: {test}"));
            }
        }
    }
    assert!(missing.is_empty(), "CONFORMANCE.md does not list, in the row that the name says:\n{}", missing.join("\n"));
}

/// What no test shows yet is said in the ledger's first lines, so that a gap is seen and does not grow unnoticed.
#[test]
fn the_gaps_are_counted_in_the_open() {
    let text = ledger();
    let open: Vec<String> = rows(&text).into_iter().filter(|row| row.not_yet).map(|row| row.id).collect();
    let empty: Vec<String> =
        rows(&text).into_iter().filter(|row| row.shown_by.is_empty() && !row.not_yet).map(|row| row.id).collect();
    assert!(empty.is_empty(), "neither a test nor 'not yet': {empty:?}");
    let said = match open.len() {
        0 => "Every row is shown by a test.".to_owned(),
        count => format!("Rows that no test shows yet: {count} ({}).", open.join(", ")),
    };
    assert!(text.contains(&said), "CONFORMANCE.md must say: {said}");
}

/// A test fails where a program is missing, and names the package: `scripts/setup` has to install that on every machine, also
/// for tests that this kernel cannot run.
#[test]
fn every_package_that_a_test_needs_is_installed_by_setup() {
    let setup = fs::read_to_string(root().join("scripts/setup")).unwrap();
    let list = setup.split_once("packages=(").and_then(|(_, rest)| rest.split_once(')')).unwrap().0;
    let listed: BTreeSet<&str> = list.split_whitespace().collect();
    let mut needed = BTreeSet::new();
    for entry in fs::read_dir(root().join("netns-tests")).unwrap().map(Result::unwrap) {
        let text = fs::read_to_string(entry.path()).unwrap();
        let calls = text.split("need(\"").skip(1).filter_map(|call| call.split('"').nth(2).map(str::to_owned));
        needed.extend(calls);
    }
    assert!(needed.contains("wireguard-tools") && needed.len() > 3, "{needed:?}");
    let missing: Vec<_> = needed.iter().filter(|package| !listed.contains(package.as_str())).collect();
    assert!(missing.is_empty(), "scripts/setup does not install {missing:?}");
}
