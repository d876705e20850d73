//! `kamei bindings`.

use super::error::CliError;
use super::show;
use super::socket::Socket;
use super::table::{Cell, Table};
use crate::control::{Client, ClientError, Filter, MOST_SORTED, Order, Sort, parse_prefix};
use crate::nat::{BindingState, BindingView, ContactView, Direction, Qualified};
use crate::time::Time;
use anstyle::AnsiColor;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

/// Columns that a narrow screen does without, the first ones first.
const SPARED: [&str; 10] =
    ["PACKETS OUT", "PACKETS IN", "CONTACTS", "AGE", "POOL", "CALLBACKS", "LEFT", "LAST USED", "BYTES IN", "BYTES OUT"];

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    filter: Filters,
    /// In this order: the most, the latest, the oldest, the soonest to change first
    #[arg(long, value_name = "COLUMN", value_parser = sort_parser())]
    sort: Option<Sort>,
    /// The other way round
    #[arg(long, requires = "sort")]
    reverse: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

/// Which bindings; to a subcommand other than `release` it means nothing.
#[derive(Args)]
struct Filters {
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_enum)]
    state: Option<State>,
    /// Only those of the pool with this name
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Only those whose terminal or virtual IP is in this prefix
    #[arg(long, value_name = "CIDR", value_parser = parse_prefix)]
    prefix: Option<IpNet>,
    /// Only those made at least so long ago (1h)
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Only those that nobody has answered yet
    #[arg(long)]
    unanswered: bool,
    /// So many at most
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    Active,
    Dormant,
    Quarantined,
}

#[derive(Subcommand)]
enum Action {
    /// Show the bindings with this terminal or virtual IP, with who may call it and since when
    ///
    /// Of each peer that the terminal has called, SINCE says when it first did, without having forgotten it since ("?" where
    /// an earlier kamei did not write that down), LAST CALLED when it last sent it a packet, and DIRECTION whether only the
    /// terminal has called, or the peer has called back: has opened a TCP connection to the virtual IP since. With --json
    /// these are `since` and `last_called`, in milliseconds since the Unix epoch, and `direction`, `called` or `called_back`.
    Show {
        /// Address of a terminal (10.0.0.5, or 10.0.0.5@INSIDE where several insides have it), or a virtual IP
        address: Qualified,
        /// So many of the peers that the terminal has called, the latest first [default: 20; with --json 1000]
        #[arg(long, value_name = "N")]
        contacts: Option<usize>,
    },
    /// Tie a terminal to a virtual IP until it is released
    Pin {
        /// Address of the terminal (ADDRESS@INSIDE where several insides have it)
        terminal: Qualified,
        /// The virtual IP it shall have
        #[arg(value_name = "VIRTUAL")]
        virtual_ip: IpAddr,
        /// Even if it is in quarantine after another terminal's use: who still calls that one reaches this
        #[arg(long)]
        force: bool,
    },
    /// Let others call the bindings with this terminal or virtual IP than their pool lets
    Callback {
        /// Address of a terminal (ADDRESS@INSIDE where several insides have it), or a virtual IP
        address: Qualified,
        /// Who may call; `pool`: whoever the pool lets
        #[arg(value_name = "contacted|answered|anyone|pool|CIDR,…", value_delimiter = ',', required = true)]
        policy: Vec<String>,
    },
    /// End the bindings with this terminal or virtual IP, or all that the options name but those pinned; the virtual IPs are
    /// quarantined
    Release {
        /// Address of a terminal (10.0.0.5, or 10.0.0.5@INSIDE where several insides have it), or a virtual IP
        #[arg(required_unless_present_any = ["state", "pool", "prefix", "older_than", "unanswered"],
              conflicts_with_all = ["state", "pool", "prefix", "older_than", "unanswered", "limit"])]
        address: Option<Qualified>,
        #[command(flatten)]
        filter: Filters,
        /// Release all that the options name; without it, only say how many those are
        #[arg(long, conflicts_with = "address")]
        yes: bool,
    },
}

/// Runs the subcommand.
pub fn run(arguments: Arguments) -> Result<(), CliError> {
    let client = Client::new(&arguments.socket.control);
    let json = arguments.json;
    let filter = arguments.filter.filter();
    let order = arguments.sort.map(|by| Order { by, reversed: arguments.reverse });
    if arguments.action.is_some() && (filter != Filter::default() || order.is_some()) {
        return Err(CliError::Usage(
            "what is to be listed is not for a subcommand; `release` has its options behind it",
        ));
    }
    match arguments.action {
        None if json => copy(&client, &filter, order),
        None => list(&client.bindings_in(&filter, order)?, &filter, order),
        Some(Action::Show { address, contacts }) => {
            let most = contacts.unwrap_or(if json { 1000 } else { 20 });
            print(&client.show_contacts(&address, most)?, json, detail)
        }
        Some(Action::Pin { terminal, virtual_ip, force }) => {
            let view = client.pin(&terminal, virtual_ip, force)?;
            print(&[view], json, |views, out| {
                views.iter().try_for_each(|view| writeln!(out, "pinned: {} is {}", view.terminal, view.virtual_ip))
            })
        }
        Some(Action::Callback { address, policy }) => {
            let words = policy.join(", ");
            let policy = Some(policy).filter(|policy| *policy != ["pool"]);
            print(&client.set_callback(&address, policy)?, json, |views, out| {
                views.iter().try_for_each(|view| writeln!(out, "who may call {}: {words}", view.virtual_ip))
            })
        }
        Some(Action::Release { address: None, filter, yes }) => {
            let done = client.release_all(&filter.filter(), !yes)?;
            let mut out = std::io::stdout().lock();
            if json {
                return Ok(writeln!(out, "{}", serde_json::to_string(&done).map_err(std::io::Error::from)?)?);
            }
            let what = if done.bindings == 1 { "binding" } else { "bindings" };
            let did = if yes { "released" } else { "would be released; --yes does it" };
            Ok(writeln!(out, "{} {what} {did}", done.bindings)?)
        }
        Some(Action::Release { address: Some(address), .. }) => {
            print(&client.release(&address)?, json, |views, out| {
                views.iter().try_for_each(|view| writeln!(out, "released: {} was {}", view.terminal, view.virtual_ip))
            })
        }
    }
}

fn sort_parser() -> impl TypedValueParser<Value = Sort> {
    PossibleValuesParser::new(Sort::ALL.map(Sort::name)).try_map(|name| Sort::named(&name).ok_or("no such order"))
}

impl Filters {
    fn filter(self) -> Filter {
        let state = self.state.map(|state| match state {
            State::Active => BindingState::Active,
            State::Dormant => BindingState::Dormant,
            State::Quarantined => BindingState::Quarantined,
        });
        let Self { pool, prefix, older_than, unanswered, limit, .. } = self;
        Filter { state, pool, prefix, older_than, unanswered, limit }
    }
}

fn print(
    views: &[BindingView],
    json: bool,
    words: impl Fn(&[BindingView], &mut dyn Write) -> std::io::Result<()>,
) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer_pretty(&mut out, views).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else {
        words(views, &mut out)?;
    }
    Ok(())
}

/// As it comes: a million bindings need not fit into memory.
fn copy(client: &Client, filter: &Filter, order: Option<Order>) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match client.copy_bindings(filter, order, &mut out) {
        Err(ClientError::Output(error)) => Err(error.into()),
        result => Ok(result?),
    }
}

fn list(views: &[BindingView], filter: &Filter, order: Option<Order>) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    if views.is_empty() {
        let hint = match *filter == Filter::default() {
            false => "no such bindings",
            true => "no bindings yet: one is made when a terminal first calls out",
        };
        return Ok(writeln!(out, "{hint}")?);
    }
    let now = show::now();
    // Where there is one inside only, its name says nothing.
    let several = views.iter().any(|view| views.first().is_some_and(|first| first.realm != view.realm));
    let terminal = |view: &BindingView| match several {
        true => format!("{}@{}", view.terminal, view.realm),
        false => view.terminal.to_string(),
    };
    let mut table = Table::new([
        "TERMINAL",
        "VIRTUAL IP",
        "STATE",
        "LEFT",
        ">AGE",
        ">LAST USED",
        ">CONTACTS",
        ">PACKETS OUT",
        ">PACKETS IN",
        ">BYTES OUT",
        ">BYTES IN",
        ">CALLBACKS",
        "MAY CALL",
        "POOL",
    ]);
    for view in views {
        table.row([
            terminal(view).into(),
            Cell::styled(view.virtual_ip.to_string(), AnsiColor::Cyan.on_default()),
            state(view),
            left(view).into(),
            show::span(now - view.created).into(),
            format!("{} ago", show::span(now - view.last_used)).into(),
            show::count(view.contacts.into()).into(),
            show::count(view.packets_out).into(),
            show::count(view.packets_in).into(),
            show::bytes(view.bytes_out).into(),
            show::bytes(view.bytes_in).into(),
            show::count(view.callbacks.into()).into(),
            own_policy(view).into(),
            view.pool.as_str().into(),
        ]);
    }
    if views.iter().all(|view| view.policy.is_none()) {
        table.leave_out("MAY CALL");
    }
    table.fit(show::width(), &SPARED);
    table.write(show::colours(), &mut out)?;
    if order.is_some() && views.len() == MOST_SORTED && filter.limit.is_none_or(|limit| limit > MOST_SORTED as u64) {
        writeln!(out, "the first {MOST_SORTED}: a sorted list has no more")?;
    }
    Ok(())
}

fn detail(views: &[BindingView], out: &mut dyn Write) -> std::io::Result<()> {
    let now = show::now();
    for (number, view) in views.iter().enumerate() {
        if number > 0 {
            writeln!(out)?;
        }
        let pinned = if view.pinned { ", pinned" } else { "" };
        let unanswered = if view.answered { "" } else { ", not answered yet" };
        let forgotten = match view.contacts_forgotten {
            0 => String::new(),
            number => format!("; {number} more are forgotten (contacts-per-binding)"),
        };
        for (name, value) in [
            ("terminal", format!("{} ({})", view.terminal, view.realm)),
            ("virtual IP", view.virtual_ip.to_string()),
            ("pool", view.pool.clone()),
            ("state", format!("{}{pinned}{unanswered}{}", show::state_name(view.state), next(view))),
            ("created", format!("{} ({} ago)", point(view.created), show::span(now - view.created))),
            ("last used", format!("{} ({} ago)", point(view.last_used), show::span(now - view.last_used))),
            ("contacts", format!("{}, {} of them have answered{forgotten}", view.contacts, view.contacts_answered)),
            ("may call", view.callback.clone().unwrap_or_default()),
            ("packets out", view.packets_out.to_string()),
            ("packets in", view.packets_in.to_string()),
            ("bytes out", view.bytes_out.to_string()),
            ("bytes in", view.bytes_in.to_string()),
            ("callbacks", view.callbacks.to_string()),
        ] {
            writeln!(out, "{name:<12} {value}")?;
        }
        contacts(view, now, out)?;
    }
    Ok(())
}

/// The peers that the terminal has called.
fn contacts(view: &BindingView, now: Time, out: &mut dyn Write) -> std::io::Result<()> {
    let Some(list) = view.contact_list.as_ref().filter(|list| !list.is_empty()) else { return Ok(()) };
    let columns = ["PEER", ">SINCE", ">LAST CALLED", "DIRECTION", ">FORGOTTEN IN", "HAS ANSWERED", "MAY CALL"];
    let mut table = Table::new(columns);
    let word = |is: bool| if is { "yes" } else { "no" };
    let ago = |time: Time| format!("{} ago", show::span(now - time));
    for contact in list {
        table.row([
            contact.peer.to_string().into(),
            contact.since.map_or_else(|| "?".to_owned(), ago).into(),
            ago(contact.last_called).into(),
            direction(contact).into(),
            show::span(Duration::from_secs(contact.seconds_left)).into(),
            word(contact.answered).into(),
            word(contact.may_call).into(),
        ]);
    }
    writeln!(out)?;
    table.write(show::colours(), out)?;
    match (view.contacts as usize).saturating_sub(list.len()) {
        0 => Ok(()),
        more => writeln!(out, "{more} more, called earlier: --contacts {} shows them", view.contacts),
    }
}

fn direction(contact: &ContactView) -> &'static str {
    match contact.direction {
        Direction::Called => "called",
        Direction::CalledBack => "called back",
    }
}

/// Who may call by a policy of the binding's own, in few words.
fn own_policy(view: &BindingView) -> String {
    match view.policy.as_ref().map(|policy| policy.callback.as_slice()) {
        None => String::new(),
        Some([one]) => one.clone(),
        Some(prefixes) => format!("{} prefixes", prefixes.len()),
    }
}

fn state(view: &BindingView) -> Cell {
    let colour = match view.state {
        BindingState::Active => AnsiColor::Green,
        BindingState::Dormant => AnsiColor::Yellow,
        BindingState::Quarantined => AnsiColor::Red,
    };
    let name = show::state_name(view.state);
    let text = if view.pinned { format!("{name} (pinned)") } else { name.to_owned() };
    Cell::styled(text, colour.on_default())
}

/// How long a binding stays in its state, if nothing uses it.
fn left(view: &BindingView) -> String {
    view.seconds_left.map(|seconds| show::span(Duration::from_secs(seconds))).unwrap_or_default()
}

/// What comes then.
fn next(view: &BindingView) -> String {
    let comes = match view.state {
        BindingState::Active => "dormant if idle for",
        BindingState::Dormant => "released in",
        BindingState::Quarantined => "free in",
    };
    view.seconds_left.map_or_else(String::new, |_| format!("; {comes} {}", left(view)))
}

/// In UTC, to the second.
fn point(time: Time) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| "?".to_owned(), |at| at.strftime("%F %T UTC").to_string())
}
