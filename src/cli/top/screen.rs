//! Drawing. 80 columns by 24 lines are enough; more show more.

use super::model::{MOST_BINDINGS, Model, Row};
use crate::cli::show;
use crate::nat::{BindingState, PoolView};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{self, Block, Borders, Cell, Paragraph};
use std::time::Duration;

/// Lines for pools and drops, with their title.
const MIDDLE: u16 = 5;
/// Length of the bar that shows how full a pool is.
const BAR: usize = 10;

/// One screen.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let [head, middle, list, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(MIDDLE),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [pools, drops] = Layout::horizontal([Constraint::Percentage(50), Constraint::Percentage(50)]).areas(middle);
    frame.render_widget(Paragraph::new(head_lines(model)), head);
    draw_pools(model, frame, pools);
    draw_drops(model, frame, drops);
    draw_bindings(model, frame, list);
    frame.render_widget(Paragraph::new(foot_line(model)), foot);
}

fn head_lines(model: &Model) -> Vec<Line<'static>> {
    let Some(status) = &model.status else { return Vec::new() };
    let gateway = &status.gateway;
    let up = show::span(Duration::from_secs(gateway.uptime_seconds));
    let (insides, outsides) = (gateway.insides.join(", "), gateway.outsides.join(", "));
    let state = match &model.lost {
        Some(why) => Span::styled(why.clone(), colour(model, Color::Red)),
        None if model.paused => Span::styled("paused", colour(model, Color::Yellow)),
        None => Span::styled("ready", colour(model, Color::Green)),
    };
    let rates = &model.rates;
    vec![
        Line::from(vec![
            Span::styled(format!("kamei {}", gateway.version), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!("  {insides} → {outsides}  up {up}  {} workers  ", gateway.workers)),
            state,
        ]),
        Line::from(format!(
            "out {:>7}/s {:>11}   in {:>7}/s {:>11}   drops {:>6}/s",
            number(rates.packets_out),
            bits(rates.bytes_out),
            number(rates.packets_in),
            bits(rates.bytes_in),
            number(rates.drops.iter().map(|(_, rate, _)| rate).sum()),
        )),
        Line::from(format!(
            "bindings {} active, {} dormant, {} quarantined; made {}/s, callbacks {}/s",
            show::count(status.bindings.active),
            show::count(status.bindings.dormant),
            show::count(status.bindings.quarantined),
            number(rates.created),
            number(rates.callbacks),
        )),
    ]
}

fn draw_pools(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let pools = model.status.as_ref().map(|status| status.nat.pools.as_slice()).unwrap_or_default();
    let block = titled("pools", pools.len(), area);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    // The fullest first: they are why one looks.
    let mut pools: Vec<&PoolView> = pools.iter().collect();
    pools.sort_by(|a, b| share(b).total_cmp(&share(a)));
    let width = usize::from(inner.width).saturating_sub(BAR + 9);
    let lines = pools.into_iter().map(|pool| {
        let used = share(pool);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 10")]
        let filled = ((used * BAR as f64).ceil() as usize).min(BAR);
        let tone = if used >= 0.9 { Color::Red } else { Color::Green };
        let name = if pool.draining { format!("draining: {}", pool.name) } else { pool.name.clone() };
        Line::from(vec![
            Span::raw(format!("{:<width$} ", cut(&name, width))),
            Span::styled(format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled)), colour(model, tone)),
            Span::raw(format!(" {:>4.0} %", used * 100.0)),
        ])
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), inner);
}

fn draw_drops(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let drops = &model.rates.drops;
    let block = titled("dropped", drops.len(), area);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let width = usize::from(inner.width).saturating_sub(18);
    let line = |(reason, rate, total): &(String, f64, u64)| {
        Line::from(format!("{:<width$} {:>6}/s {:>7}", cut(reason, width), number(*rate), show::count(*total)))
    };
    let lines = match drops.is_empty() {
        true => vec![Line::from("nothing")],
        false => drops.iter().map(line).collect(),
    };
    frame.render_widget(Paragraph::new(lines), inner);
}

fn draw_bindings(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let shown = model.shown();
    let height = usize::from(area.height.saturating_sub(2));
    let first = model.first.min(shown.len().saturating_sub(height));
    let of =
        if model.rows.len() >= MOST_BINDINGS { format!(" of the {MOST_BINDINGS} used last") } else { String::new() };
    let title = match shown.len() {
        0 => " no bindings ".to_owned(),
        all => format!(" bindings {} to {} of {all}{of} ", first + 1, (first + height).min(all)),
    };
    let rows: Vec<&Row> = shown.into_iter().skip(first).take(height).collect();
    let columns = columns(model, &rows, area.width.into());
    let line = |row: &&Row| {
        let cell = |column: &Column<'_>| {
            let cell = Cell::from(column.aligned(&(column.text)(row)));
            if column.name == "STATE" { cell.style(colour(model, tone(row.binding.state))) } else { cell }
        };
        widgets::Row::new(columns.iter().map(cell))
    };
    let names = columns.iter().map(|column| column.aligned(column.name));
    let widths = columns.iter().map(|column| Constraint::Length(u16::try_from(column.width).unwrap_or(u16::MAX)));
    let table = widgets::Table::new(rows.iter().map(line), widths)
        .header(widgets::Row::new(names).style(Style::new().add_modifier(Modifier::BOLD)))
        .block(Block::new().borders(Borders::TOP).title(title));
    frame.render_widget(table, area);
}

/// A column of the list.
struct Column<'a> {
    name: &'static str,
    width: usize,
    right: bool,
    /// Those that a narrow screen does without have a number: the lower, the sooner there is room for it.
    spared: Option<u8>,
    text: Box<dyn Fn(&Row) -> String + 'a>,
}

impl Column<'_> {
    fn aligned(&self, text: &str) -> String {
        let (text, width) = (cut(text, self.width), self.width);
        if self.right { format!("{text:>width$}") } else { format!("{text:<width$}") }
    }
}

/// The columns that fit, as wide as what is in them; where even the addresses do not, they are cut.
fn columns<'a>(model: &'a Model, rows: &[&Row], width: usize) -> Vec<Column<'a>> {
    let column = |name: &'static str, width: usize, spared, text: Box<dyn Fn(&Row) -> String + 'a>| {
        let text_width = |row: &&Row| text(row).chars().count();
        let right = width > 0 && name != "STATE" && name != "IDLE";
        // A width of 0: that of the longest.
        let width = if width > 0 { width } else { rows.iter().map(text_width).chain([name.len()]).max().unwrap_or(0) };
        Column { name, width, right, spared, text }
    };
    let mut all = vec![
        column("TERMINAL", 0, None, Box::new(|row| row.binding.terminal.to_string())),
        column("VIRTUAL IP", 0, None, Box::new(|row| row.binding.virtual_ip.to_string())),
        column("STATE", 11, None, Box::new(|row| show::state_name(row.binding.state).to_owned())),
        column("LEFT", 7, Some(6), Box::new(|row| left(row.binding.seconds_left))),
        column("OUT bit/s", 9, None, Box::new(|row| number(row.bytes_out * 8.0))),
        column("IN bit/s", 9, None, Box::new(|row| number(row.bytes_in * 8.0))),
        column("OUT/s", 7, Some(3), Box::new(|row| number(row.packets_out))),
        column("IN/s", 7, Some(4), Box::new(|row| number(row.packets_in))),
        column(
            "BYTES",
            8,
            None,
            Box::new(|row| show::bytes(row.binding.bytes_out.saturating_add(row.binding.bytes_in))),
        ),
        column("CALLBACKS", 9, Some(2), Box::new(|row| show::count(row.binding.callbacks.into()))),
        column("CONTACTS", 8, Some(5), Box::new(|row| row.binding.contacts.to_string())),
        column("IDLE", 7, None, Box::new(|row| show::span(model.taken - row.binding.last_used))),
        column("POOL", 0, Some(1), Box::new(|row| row.binding.pool.clone())),
    ];
    // A blank before each but the first.
    let taken: usize = all.iter().filter(|column| column.spared.is_none()).map(|column| column.width + 1).sum();
    let mut room = (width + 1).saturating_sub(taken);
    let mut spared: Vec<(u8, usize)> =
        all.iter().filter_map(|column| Some((column.spared?, column.width + 1))).collect();
    spared.sort_unstable();
    let mut fit = Vec::new();
    for (number, needs) in spared {
        if needs <= room {
            room -= needs;
            fit.push(number);
        }
    }
    all.retain(|column| column.spared.is_none_or(|number| fit.contains(&number)));
    let excess = taken.saturating_sub(width + 1);
    for column in all.iter_mut().take(2) {
        column.width = column.width.saturating_sub(excess.div_ceil(2)).max(1);
    }
    all
}

fn left(seconds: Option<u64>) -> String {
    seconds.map(|seconds| show::span(Duration::from_secs(seconds))).unwrap_or_default()
}

fn tone(state: BindingState) -> Color {
    match state {
        BindingState::Active => Color::Green,
        BindingState::Dormant => Color::Yellow,
        BindingState::Quarantined => Color::Red,
    }
}

fn foot_line(model: &Model) -> Line<'static> {
    if model.typing {
        return Line::from(format!("filter: {}▏ Enter keeps it, Esc takes it away", model.filter));
    }
    let filter = if model.filter.is_empty() { String::new() } else { format!(" ({})", model.filter) };
    let reversed = if model.reversed { ", reversed" } else { "" };
    let text =
        format!("q quit  s sort: {}{reversed}  r reverse  / filter{filter}  p pause  ↑↓ scroll", model.sort.name());
    Line::styled(text, Style::new().add_modifier(Modifier::DIM))
}

/// A title that tells how many there are, when not all of them fit.
fn titled(name: &str, number: usize, area: Rect) -> Block<'static> {
    let fit = usize::from(area.height.saturating_sub(1));
    let title = if number > fit { format!(" {name}, {fit} of {number} ") } else { format!(" {name} ") };
    Block::new().borders(Borders::TOP).title(title)
}

fn share(pool: &PoolView) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "for eyes")]
    let share = pool.capacity.saturating_sub(pool.free) as f64 / pool.capacity.max(1) as f64;
    share
}

fn colour(model: &Model, colour: Color) -> Style {
    if model.colours { Style::new().fg(colour) } else { Style::new() }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        text.to_owned()
    } else {
        text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
    }
}

fn number(rate: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are not negative")]
    show::count(rate.round() as u64)
}

fn bits(bytes: f64) -> String {
    format!("{}bit/s", with_blank(&number(bytes * 8.0)))
}

/// Units follow a blank, as in `12.4 Mbit/s`.
fn with_blank(number: &str) -> String {
    if number.contains(' ') { number.to_owned() } else { format!("{number} ") }
}
