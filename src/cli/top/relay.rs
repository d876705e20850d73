//! `kamei top` of a relay: how it is, its servers and the liveliest connections.

use super::ASK_EVERY;
use crate::cli::error::CliError;
use crate::cli::{relay, show};
use crate::control::{Client, ConnectionView};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::crossterm::terminal;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Instant;

/// Connections that are shown; a screen has room for fewer.
const MOST_CONNECTIONS: usize = 100;

/// Shows it until the operator has seen enough, or one time.
pub fn run(client: &Client, once: bool) -> Result<(), CliError> {
    if once {
        return Ok(io::stdout().write_all(&screen(client)?)?);
    }
    if !io::stdout().is_terminal() {
        return Err(CliError::Usage("kamei top needs a terminal; --once prints one screen as text"));
    }
    // A first answer before the screen is taken: what is wrong is said where it can still be read.
    let mut text = screen(client)?;
    let _raw = Raw::enter()?;
    loop {
        show_screen(&text)?;
        let asked = Instant::now();
        while asked.elapsed() < ASK_EVERY {
            if event::poll(ASK_EVERY.saturating_sub(asked.elapsed()))? && is_enough(&event::read()?) {
                return Ok(());
            }
        }
        text = screen(client).unwrap_or_else(|error| format!("{error}\n").into_bytes());
    }
}

fn is_enough(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    is_interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

/// As many lines as there is room for.
fn show_screen(text: &[u8]) -> io::Result<()> {
    let (_, rows) = terminal::size()?;
    let mut shown = String::from("\u{1b}[H\u{1b}[2J");
    for line in String::from_utf8_lossy(text).lines().take(usize::from(rows.saturating_sub(1))) {
        // Of a raw terminal, a new line does not begin at the left.
        let _ = write!(shown, "{line}\r\n");
    }
    let mut out = io::stdout().lock();
    out.write_all(shown.as_bytes())?;
    out.flush()
}

fn screen(client: &Client) -> Result<Vec<u8>, CliError> {
    let mut text = Vec::new();
    relay::status(client.read("/v1/status")?, &mut text)?;
    writeln!(text)?;
    relay::servers(client.read("/v1/servers")?, &mut text)?;
    writeln!(text)?;
    let all: Vec<ConnectionView> = client.read("/v1/connections")?;
    let number = all.len();
    relay::connections(liveliest(all), &mut text)?;
    if number > MOST_CONNECTIONS {
        writeln!(text, "… of {}", show::number_of(number as u64, "connection"))?;
    }
    Ok(text)
}

/// Those with the most bytes first.
fn liveliest(mut all: Vec<ConnectionView>) -> Vec<ConnectionView> {
    all.sort_by_key(|connection| std::cmp::Reverse(connection.bytes_in + connection.bytes_out));
    all.truncate(MOST_CONNECTIONS);
    all
}

/// A terminal that tells keys at once, until this is dropped.
struct Raw;

impl Raw {
    fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        Ok(Self)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = terminal::disable_raw_mode();
    }
}
