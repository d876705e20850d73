//! Files of one room that use each other in a circle, found by their `use` lines and paths. There are none.
//!
//! What a file names through a module that only hands it on counts for the file that defines it.

use super::import_rule::{sources, without_tests_and_comments};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module by its names from the root of the crate.
type Module = Vec<String>;

/// What a file says of others.
struct Names {
    /// Paths of `use` lines, and whether they are handed on (`pub use`).
    used: Vec<(bool, Module)>,
    /// Other paths.
    named: Vec<Module>,
}

#[test]
fn no_files_of_a_room_use_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let names: BTreeMap<Module, Names> = sources()
        .into_iter()
        .map(|(file, _)| (module_of(file.strip_prefix(&root).unwrap()), names(&without_tests_and_comments(&file))))
        .collect();
    let uses: BTreeMap<&Module, BTreeSet<Module>> =
        names.keys().map(|module| (module, used_by(module, &names))).collect();
    let circles: Vec<String> = uses.keys().filter_map(|module| circle(module, &uses)).collect();
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let text = |text: &str| names(text);
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Module>();
    let names: BTreeMap<Module, Names> = [
        (module("room"), text("mod a; pub use a::A; mod b;")),
        (module("room::a"), text("use super::b::{self, B};\npub struct A;")),
        (module("room::b"), text("fn f() { crate::room::A; }")),
        (module("room::c"), text("use super::A;")),
    ]
    .into_iter()
    .collect();
    let uses: BTreeMap<&Module, BTreeSet<Module>> =
        names.keys().map(|module| (module, used_by(module, &names))).collect();
    let found = |path: &str| circle(&module(path), &uses);
    assert_eq!(found("room::a").as_deref(), Some("room::a -> room::b -> room::a"));
    assert_eq!((found("room"), found("room::c")), (None, None));
}

fn module_of(file: &Path) -> Module {
    let names = file.with_extension("");
    let names = names.components().map(|part| part.as_os_str().to_str().unwrap().to_owned());
    names.filter(|name| name != "mod").collect()
}

fn names(text: &str) -> Names {
    let (mut used, mut named, mut rest) = (Vec::new(), Vec::new(), String::new());
    for statement in text.split_inclusive(';') {
        let Some((before, tree)) = statement.rsplit_once("use ").filter(|(before, _)| is_start_of_use(before)) else {
            rest.push_str(statement);
            continue;
        };
        let is_handed_on = before.lines().next_back().is_some_and(|line| line.trim_start().starts_with("pub"));
        expand(&mut Vec::new(), tree.trim_end_matches(';'), &mut |path| used.push((is_handed_on, path)));
        rest.push_str(before);
    }
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in rest.match_indices(start) {
            let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
            if !rest[..at].ends_with(|letter: char| is_word(letter) || letter == ':') {
                let path: String = rest[at..].chars().take_while(|letter| is_word(*letter) || *letter == ':').collect();
                named.push(path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect());
            }
        }
    }
    Names { used, named }
}

/// Whether what stands before `use ` ends a line, or is its visibility.
fn is_start_of_use(before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or_default().trim();
    line.is_empty() || line == "pub" || line.starts_with("pub(") && line.ends_with(')')
}

/// The paths of a tree such as `a::{b, c::{self, D}}`.
fn expand(before: &mut Module, tree: &str, each: &mut dyn FnMut(Module)) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let names = path.split("::").map(str::trim).filter(|name| !name.is_empty() && *name != "*");
        let path: Module = before.iter().cloned().chain(names.map(str::to_owned)).collect();
        let is_the_module = path.len() > 1 && path.last().is_some_and(|name| name == "self");
        each(path[..path.len() - usize::from(is_the_module)].to_vec());
        return;
    };
    let depth = before.len();
    before.extend(head.split("::").map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned));
    let (mut open, mut start) = (0, 0);
    let group = group.trim_end().strip_suffix('}').unwrap_or(group);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => open += 1,
            '}' => open -= 1,
            ',' if open == 0 => {
                expand(before, &group[start..at], each);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !group[start..].trim().is_empty() {
        expand(before, &group[start..], each);
    }
    before.truncate(depth);
}

/// The other files of the room that a module uses.
fn used_by(module: &Module, all: &BTreeMap<Module, Names>) -> BTreeSet<Module> {
    let Some(names) = all.get(module) else { return BTreeSet::new() };
    let is_own = |path: &Module| path.len() > module.len() && path.starts_with(module);
    let used = names.used.iter().filter_map(|(is_handed_on, path)| {
        let path = absolute(module, path, all)?;
        (!(*is_handed_on && is_own(&path))).then_some(path)
    });
    let named = names.named.iter().filter_map(|path| absolute(module, path, all));
    let found = used.chain(named).filter_map(|path| defining(&path, all, 0));
    found.filter(|found| found != module && found.first() == module.first()).collect()
}

fn absolute(module: &Module, path: &[String], all: &BTreeMap<Module, Names>) -> Option<Module> {
    let below = |rest: &[String]| module.iter().chain(rest).cloned().collect::<Module>();
    match path {
        [first, rest @ ..] if first == "crate" => Some(rest.to_vec()),
        [first, rest @ ..] if first == "self" => Some(below(rest)),
        [first, ..] if first == "super" => {
            let up = path.iter().take_while(|name| *name == "super").count();
            let parent = module.get(..module.len().checked_sub(up)?)?;
            Some(parent.iter().chain(&path[up..]).cloned().collect())
        }
        [first, ..] if all.contains_key(&below(std::slice::from_ref(first))) => Some(below(path)),
        _ => None,
    }
}

/// The file that defines what a path names.
fn defining(path: &[String], all: &BTreeMap<Module, Names>, depth: usize) -> Option<Module> {
    let length = (1..=path.len()).rev().find(|length| all.contains_key(&path[..*length]))?;
    let module = path[..length].to_vec();
    let Some(name) = path.get(length).filter(|_| depth < 8) else { return Some(module) };
    let handed_on = all[&module].used.iter().filter(|(_, used)| used.last() == Some(name));
    let further = handed_on.filter_map(|(_, used)| absolute(&module, used, all)).find(|used| used != path);
    further.and_then(|further| defining(&further, all, depth + 1)).or(Some(module))
}

/// The shortest way from a module back to itself, in words.
fn circle(module: &Module, uses: &BTreeMap<&Module, BTreeSet<Module>>) -> Option<String> {
    let mut ways = vec![vec![module.clone()]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut next = Vec::new();
        for way in ways {
            for used in uses.get(way.last()?).into_iter().flatten() {
                let mut further = way.clone();
                further.push(used.clone());
                if used == module {
                    let words: Vec<String> = further.iter().map(|module| module.join("::")).collect();
                    return Some(words.join(" -> "));
                }
                if seen.insert(used.clone()) {
                    next.push(further);
                }
            }
        }
        ways = next;
    }
    None
}
