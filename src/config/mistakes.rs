//! Every mistake of a file that can be told apart: a key that does not exist or has a value of another kind is taken out, and
//! what is left is read again.

use super::problem::{Place, Problem, Wrong};
use serde::de::DeserializeOwned;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// Mistakes told of one file; each costs another reading.
const MOST: usize = 50;

/// What is left of a text without what is wrong in it, and what that is. There is nothing left where it is no TOML. `example` is
/// the file with every key explained; what it shows of a key is the example that a mistake is told with.
pub fn read<T: DeserializeOwned>(text: &str, example: &'static str) -> (Option<T>, Vec<Problem>) {
    let (mut rest, mut problems) = (text.to_owned(), Vec::new());
    loop {
        let error = match toml::from_str(&rest) {
            Ok(read) => return (Some(read), problems),
            Err(error) => error,
        };
        let parsed = DeTable::parse(&rest);
        // What stands where a mistake stood before is no mistake of the file.
        if parsed.is_err() && !problems.is_empty() {
            return (None, problems);
        }
        let entry = parsed
            .ok()
            .zip(error.span())
            .and_then(|(table, span)| entry_at(table.get_ref(), "", &span).or_else(|| section_at(&rest, span.start)));
        let problem = problem(&error, entry.as_ref(), (text, example));
        // A key that is missing may be one that was taken out.
        let is_known =
            matches!(&problem.wrong, Wrong::MissingKey(key) if problems.iter().any(|known| known.wrong.is_of(key)));
        if !is_known {
            problems.push(problem);
        }
        match entry {
            Some(entry) if problems.len() < MOST => take_out(&mut rest, entry.range),
            _ => return (None, problems),
        }
    }
}

/// The line of a place in a text.
pub fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// A key with its value.
struct Entry {
    /// The section it is in; empty: none.
    section: String,
    key: String,
    range: Range<usize>,
}

/// The innermost key of which a place is, by itself or in its value.
fn entry_at(table: &DeTable<'_>, section: &str, place: &Range<usize>) -> Option<Entry> {
    for (key, value) in table {
        let name = key.get_ref();
        let within = match value.get_ref() {
            DeValue::Table(table) => entry_at(table, name, place),
            DeValue::Array(items) => {
                let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                tables.filter_map(|table| entry_at(table, name, place)).next()
            }
            _ => None,
        };
        let range = key.span().start..value.span().end.max(key.span().end);
        let is_section = match value.get_ref() {
            DeValue::Table(_) => true,
            DeValue::Array(items) => items.iter().any(|item| item.get_ref().is_table() && !item.span().is_empty()),
            _ => false,
        };
        let is_here = range.contains(&place.start) && !is_section;
        let own = || is_here.then(|| Entry { section: section.to_owned(), key: name.to_string(), range });
        if let Some(entry) = within.or_else(own) {
            return Some(entry);
        }
    }
    None
}

/// The section whose header is at a place, with all that it has.
fn section_at(text: &str, place: usize) -> Option<Entry> {
    let start = text.get(..place)?.rfind('\n').map_or(0, |end| end + 1);
    let header = text.get(start..)?.lines().next()?.trim();
    let key = header.strip_prefix('[')?.split(']').next()?.trim_start_matches('[').trim().to_owned();
    let end = text.get(place..)?.find("\n[").map_or(text.len(), |length| place + length);
    Some(Entry { section: String::new(), key, range: start..end })
}

/// Blanks, so that every other place stays what it is; with the comma that a key of an inline table has before or after it.
fn take_out(text: &mut String, range: Range<usize>) {
    let blank_at = |text: &mut String, place: usize| text.replace_range(place..=place, " ");
    let after = text.get(range.end..).unwrap_or_default();
    let before = text.get(..range.start).unwrap_or_default();
    let next = after.find(|letter: char| !letter.is_whitespace()).map(|offset| range.end + offset);
    let last = before.rfind(|letter: char| !letter.is_whitespace());
    let is =
        |text: &str, place: Option<usize>, letter| place.filter(|place| text.as_bytes().get(*place) == Some(&letter));
    if let Some(comma) = is(text, next, b',') {
        blank_at(text, comma);
    } else if let (Some(_), Some(comma)) = (is(text, next, b'}'), is(text, last, b',')) {
        blank_at(text, comma);
    }
    let blank = |letter: char| if letter == '\n' { "\n".to_owned() } else { " ".repeat(letter.len_utf8()) };
    if let Some(part) = text.get(range.clone()) {
        let blank: String = part.chars().map(blank).collect();
        text.replace_range(range, &blank);
    }
}

fn problem(error: &toml::de::Error, entry: Option<&Entry>, (text, whole): (&str, &'static str)) -> Problem {
    let place = error.span().map_or(Place::Missing, |span| Place::Line(line_of(text, span.start)));
    let message = error.message().lines().collect::<Vec<_>>().join(" ");
    let wrong = match entry {
        _ if message.starts_with("unknown field") => unknown_key(&message),
        _ if message.starts_with("missing field") => {
            message.split('`').nth(1).map(|key| Wrong::MissingKey(key.to_owned()))
        }
        Some(entry) => Some(Wrong::Value {
            key: entry.key.clone(),
            what: in_plain_words(&message),
            example: example(whole, &entry.section, &entry.key),
        }),
        None => None,
    };
    match (wrong, error.span()) {
        (Some(wrong), _) => Problem { place, wrong },
        (None, Some(span)) => {
            let before = text.get(..span.start).unwrap_or(text);
            let column = 1 + before.chars().rev().take_while(|letter| *letter != '\n').count();
            let place = Place::Column(line_of(text, span.start), column);
            Problem { place, wrong: Wrong::Syntax(message) }
        }
        (None, None) => Problem { place, wrong: Wrong::Syntax(message) },
    }
}

/// Serde says "unknown field `x`, expected one of `a`, `b`": say the nearest instead of all.
fn unknown_key(message: &str) -> Option<Wrong> {
    let mut quoted = message.strip_prefix("unknown field `")?.split('`');
    let key = quoted.next()?.to_owned();
    let known = quoted.skip(1).step_by(2);
    let nearest = known
        .map(|candidate| (strsim::damerau_levenshtein(&key, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().max(4) / 2)
        .map(|(_, candidate)| candidate.to_owned());
    Some(Wrong::UnknownKey { key, nearest })
}

/// What serde and TOML say of types, for those who know neither.
fn in_plain_words(message: &str) -> String {
    if let Some((found, known)) = message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once('`')) {
        let known: Vec<String> = known.split('`').skip(1).step_by(2).map(|word| format!("\"{word}\"")).collect();
        return format!("\"{found}\" is none of {}", known.join(", "));
    }
    let kinds = [
        ("a sequence", "a list"),
        ("a string", "text in quotes"),
        ("a boolean", "true or false"),
        ("boolean ", ""),
        ("i64", "a whole number"),
        ("usize", "a whole number"),
        ("u32", "a whole number"),
        ("a map", "a section"),
        ("integer ", ""),
        ("string ", ""),
        ("floating point ", ""),
        ("sequence", "a list"),
        ("map", "a section"),
        ("`", ""),
    ];
    match message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        Some((found, expected)) => {
            let plain = |text: &str| kinds.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
            format!("takes {}, not {}", plain(expected), plain(found))
        }
        None => message.to_owned(),
    }
}

/// The line of the example that shows a key.
fn example(whole: &'static str, section: &str, key: &str) -> Option<&'static str> {
    let mut here = "";
    whole.lines().find_map(|line| {
        let line = line.trim_start_matches(['#', ' ']);
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            here = header.trim_matches(['[', ']']);
        }
        let shows = line.strip_prefix(key).is_some_and(|rest| rest.starts_with(" = "));
        let is_header = section.is_empty() && here == key && line.starts_with('[');
        ((here == section && shows) || is_header).then_some(line)
    })
}
