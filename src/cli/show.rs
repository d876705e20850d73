//! How numbers, ages and words look.

use super::input;
use crate::nat::BindingState;
use crate::time::Time;
use anstyle::{AnsiColor, Style};
use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whether to colour what goes to standard output (<https://no-color.org>, <https://bixense.com/clicolors>).
pub fn colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if set("NO_COLOR") {
        return false;
    }
    if std::env::var_os("CLICOLOR_FORCE").is_some_and(|value| value != "0" && !value.is_empty()) {
        return true;
    }
    std::io::stdout().is_terminal() && std::env::var_os("CLICOLOR").is_none_or(|value| value != "0")
}

/// Columns of the screen; none where nobody looks at one.
pub fn width() -> Option<usize> {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|columns| *columns > 0);
    let asked = || ratatui::crossterm::terminal::size().ok().map(|(columns, _)| usize::from(columns));
    told.or_else(|| asked().filter(|_| std::io::stdout().is_terminal()))
}

/// The text in a colour, if colours are wanted.
pub fn paint(text: &str, colour: AnsiColor) -> String {
    let style = Style::new().fg_color(Some(colour.into()));
    if colours() { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

/// The text in bold, if colours are wanted.
pub fn bold(text: &str) -> String {
    let style = Style::new().bold();
    if colours() { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

/// The time now.
pub fn now() -> Time {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_millis(u64::try_from(wall.as_millis()).unwrap_or(u64::MAX))
}

/// A number of things: `1 packet`, `12.0 k packets`.
pub fn number_of(number: u64, thing: &str) -> String {
    let several = if number == 1 { "" } else { "s" };
    format!("{} {thing}{several}", count(number))
}

/// A state of a binding in a word.
pub fn state_name(state: BindingState) -> &'static str {
    match state {
        BindingState::Active => "active",
        BindingState::Dormant => "dormant",
        BindingState::Quarantined => "quarantined",
    }
}

/// The two largest units of a span: `3m 12s`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A count for people: `12.4 k`.
pub fn count(number: u64) -> String {
    scaled(number, 1000, &["", "k", "M", "G", "T", "P", "E"])
}

/// A number of bytes for people: `1.2 GiB`.
pub fn bytes(number: u64) -> String {
    scaled(number, 1024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn scaled(number: u64, step: u64, units: &[&str]) -> String {
    let mut unit = 0;
    let mut rest = number;
    let mut tenths = 0;
    while rest >= step && unit + 1 < units.len() {
        tenths = rest % step * 10 / step;
        rest /= step;
        unit += 1;
    }
    let name = units.get(unit).copied().unwrap_or_default();
    let text = if unit == 0 || rest >= 100 { rest.to_string() } else { format!("{rest}.{tenths}") };
    if name.is_empty() { text } else { format!("{text} {name}") }
}

/// Says on standard error what is wrong, a line each.
pub fn complain(lines: &str) {
    for line in lines.lines() {
        let _ = writeln!(std::io::stderr(), "kamei: {}", input::plain(&without_numbers(line)));
    }
}

/// Without the numbers that the standard library puts behind what the system says, as in "Is a directory (os error 21)".
pub fn without_numbers(line: &str) -> String {
    let mut parts = line.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let rest = part.trim_start_matches(|letter: char| letter.is_ascii_digit());
        text + rest.strip_prefix(')').unwrap_or(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([count(0), count(999), count(12_400), count(1_000_000)], ["0", "999", "12.4 k", "1.0 M"]);
        assert_eq!([bytes(1023), bytes(1024), bytes(u64::MAX)], ["1023 B", "1.0 KiB", "15.9 EiB"]);
        let spans = [0, 192, 3700, 90_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["0s", "3m 12s", "1h 1m", "1d 1h"]);
    }
}
