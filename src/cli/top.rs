//! `kamei top`.

mod model;
#[cfg(feature = "relay")]
mod relay;
mod screen;

use super::error::CliError;
use super::show;
use super::which::Which;
use crate::control::{Client, ClientError, Filter, Order, Sort, Status};
use crate::nat::BindingView;
use clap::Args;
use model::{MOST_BINDINGS, Model};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc;
use std::time::Duration;

/// How often the gateway is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How soon an answer is shown.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Keys: q quit, s sort by another column, r reverse, / filter, p pause, arrows and pages scroll.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
    /// Print one screen, with the rates of one second, and end: as large as the terminal, or as COLUMNS and LINES say
    #[arg(long)]
    once: bool,
}

/// What the gateway said, or why it said nothing.
type Answer = Result<(Status, Vec<BindingView>), ClientError>;

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let client = arguments.which.client()?;
    #[cfg(feature = "relay")]
    if client.role() == "relay" {
        return relay::run(&client, arguments.once);
    }
    if arguments.once {
        return print_once(&client);
    }
    if !io::stdout().is_terminal() {
        return Err(CliError::Usage("kamei top needs a terminal; --once prints one screen as text"));
    }
    // A first answer before the screen is taken: what is wrong is said where it can still be read.
    let first = ask(&client)?;
    let mut model = Model::new(show::colours());
    model.take(first.0, first.1, show::now());
    let answers = keep_asking(client);
    let mut terminal = ratatui::try_init()?;
    let shown = run_screen(&mut terminal, &mut model, &answers);
    ratatui::restore();
    Ok(shown?)
}

fn run_screen(
    terminal: &mut ratatui::DefaultTerminal,
    model: &mut Model,
    answers: &mpsc::Receiver<Answer>,
) -> io::Result<()> {
    loop {
        terminal.draw(|frame| screen::draw(model, frame))?;
        if event::poll(LOOK_EVERY)?
            && let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && !press(model, key)
        {
            return Ok(());
        }
        for answer in answers.try_iter() {
            match answer {
                Ok((status, bindings)) => model.take(status, bindings, show::now()),
                Err(error) => model.lose(&error),
            }
        }
    }
}

/// Whether to go on.
fn press(model: &mut Model, key: KeyEvent) -> bool {
    if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
        return false;
    }
    if model.typing {
        match key.code {
            KeyCode::Enter => model.typing = false,
            KeyCode::Esc => (model.typing, model.filter) = (false, String::new()),
            KeyCode::Backspace => drop(model.filter.pop()),
            KeyCode::Char(letter) if !letter.is_control() => model.filter.push(letter),
            _ => {}
        }
        return true;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('s') => model.sort = model.sort.next(),
        KeyCode::Char('r') => model.reversed = !model.reversed,
        KeyCode::Char('p') => model.paused = !model.paused,
        KeyCode::Char('/') => model.typing = true,
        KeyCode::Down | KeyCode::Char('j') => model.first = model.first.saturating_add(1),
        KeyCode::Up | KeyCode::Char('k') => model.first = model.first.saturating_sub(1),
        KeyCode::PageDown => model.first = model.first.saturating_add(10),
        KeyCode::PageUp => model.first = model.first.saturating_sub(10),
        KeyCode::Home => model.first = 0,
        _ => {}
    }
    true
}

/// Asks in a thread of its own, so that keys are heard while the gateway is slow. Ends when nobody listens.
fn keep_asking(client: Client) -> mpsc::Receiver<Answer> {
    let (answers, received) = mpsc::channel();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(ASK_EVERY);
            if answers.send(ask(&client)).is_err() {
                return;
            }
        }
    });
    received
}

fn ask(client: &Client) -> Answer {
    let filter = Filter { limit: Some(MOST_BINDINGS as u64), ..Filter::default() };
    let status = client.status()?;
    let all = status.bindings.active + status.bindings.dormant + status.bindings.quarantined;
    // Putting them in order costs the gateway time.
    let order = (all > MOST_BINDINGS as u64).then_some(Order { by: Sort::LastUsed, reversed: false });
    let bindings = client.bindings_in(&filter, order)?;
    Ok((status, bindings))
}

fn print_once(client: &Client) -> Result<(), CliError> {
    let mut model = Model::new(false);
    for pause in [Duration::ZERO, ASK_EVERY] {
        std::thread::sleep(pause);
        let (status, bindings) = ask(client)?;
        model.take(status, bindings, show::now());
    }
    let told = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let there = ratatui::crossterm::terminal::size().ok().filter(|_| io::stdout().is_terminal());
    let (columns, lines) = there.unwrap_or((80, 24));
    let text = drawn(&model, told("COLUMNS").unwrap_or(columns), told("LINES").unwrap_or(lines))?;
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// A screen as text.
fn drawn(model: &Model, width: u16, height: u16) -> io::Result<String> {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width.clamp(40, 500), height.clamp(10, 500)));
    let Ok(frame) = terminal.draw(|frame| screen::draw(model, frame));
    let mut text = String::new();
    for row in frame.buffer.content.chunks(usize::from(frame.area.width)) {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
