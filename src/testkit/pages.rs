//! What is written for readers, as a test: the first page stays one page, and links lead somewhere.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of README.md: what a stranger reads before the first cup is empty.
const LARGEST_FIRST_PAGE: u64 = 10_000;
/// What the package installs for operators, beside each other in one folder.
const OF_THE_PACKAGE: &str = "scripts/packaging/doc";

#[test]
fn the_first_page_stays_one_page() {
    let bytes = fs::metadata(root().join("README.md")).unwrap().len();
    assert!(bytes <= LARGEST_FIRST_PAGE, "README.md has {bytes} bytes; move what is not for everybody, and link it");
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_of_it() {
    let mut wrong = Vec::new();
    let mut links = 0;
    for page in pages() {
        for link in links_of(&fs::read_to_string(&page).unwrap()) {
            links += 1;
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let text = fs::read_to_string(&target).unwrap_or_default();
            let is_there = if heading.is_empty() { target.exists() } else { has_heading(&text, heading) };
            if !is_there {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
    assert!(links > 20, "only {links} links found");
}

#[test]
fn the_first_page_leads_to_every_page_of_the_package() {
    let first = fs::read_to_string(root().join("README.md")).unwrap();
    for page in
        pages().iter().filter_map(|page| page.strip_prefix(root()).ok()).filter(|page| page.starts_with(OF_THE_PACKAGE))
    {
        let link = format!("({}", page.display());
        assert!(first.contains(&link), "README.md has no link to {}", page.display());
    }
}

/// Installed, they have nothing beside them but each other and the page of the control socket, which scripts/package brings.
#[test]
fn pages_of_the_package_link_to_what_is_installed_with_them() {
    const CONTROL: &str = "../../../src/control/README.md";
    for page in pages().into_iter().filter(|page| page.parent().is_some_and(|folder| folder.ends_with(OF_THE_PACKAGE)))
    {
        for link in links_of(&fs::read_to_string(&page).unwrap()) {
            let is_installed = !link.contains('/') || link.split('#').next() == Some(CONTROL);
            assert!(is_installed, "{}: {link} is not installed", page.display());
        }
    }
}

#[test]
fn links_and_headings_are_read_right() {
    let text = "# On a `real` router, *now*\n[a](b.md) and [c](https://example.org/) ![d](e.svg)\n```\n[f](g)\n# h\n```\n[i](#j)\n`[k](l)`";
    assert_eq!(links_of(text), ["b.md", "e.svg", "#j"]);
    assert!(has_heading(text, "on-a-real-router-now"));
    assert!(!has_heading(text, "h") && !has_heading(text, "on-a"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page there is, but those of what was built or installed here.
fn pages() -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().to_owned()]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 5, "only {} pages found", found.len());
    found
}

/// The lines that are no examples.
fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    let mut is_example = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_example ^= is_fence;
        !is_fence && !is_example
    })
}

/// Where a page leads to, as it says it, but for other hosts.
fn links_of(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in lines_of(text) {
        // What stands between backquotes is code.
        let prose: Vec<&str> = line.split('`').step_by(2).collect();
        let prose = prose.join("`");
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        links.extend(targets.filter(|target| !target.contains("://")).map(str::to_owned));
    }
    links
}

/// Whether a page has a heading with this name, as those who show such pages make it of its words.
fn has_heading(text: &str, name: &str) -> bool {
    lines_of(text).filter_map(|line| line.strip_prefix('#')).any(|title| {
        let title = title.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).eq(name.chars())
    })
}
