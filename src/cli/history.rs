//! `kamei history`.

use super::error::CliError;
use super::socket::Socket;
use super::table::{Cell, Table};
use super::{input, show};
use crate::config::{DEFAULT_STATE_DIR, DEFAULT_TUN};
use crate::control::{Client, ClientError};
use crate::nat::{BindingState, Qualified};
use crate::store::history::{self, ClockState, Entry, HistoryAnswer, HistoryQuestion, MOST_ENTRIES, Owner, Ownership};
use anstyle::AnsiColor;
use clap::Args;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

/// Entries that are shown unless told otherwise.
const NEWEST: u64 = 100;

#[derive(Args)]
#[command(after_help = "\
Times are local unless they end with Z or an offset: '2026-11-24 14:00', 2026-11-24, 2026-11-24T14:00Z, \
'2026-11-24 14:00+01:00'; 2h is two hours ago. A time with a ? behind it was told by a clock that nobody vouched for.

Who had it?
  kamei history 198.18.1.22 --at '2026-11-24 14:00'")]
pub struct Arguments {
    #[command(flatten)]
    socket: Socket,
    /// Only of this virtual IP
    #[arg(value_name = "VIRTUAL")]
    virtual_ip: Option<IpAddr>,
    /// Only of this terminal (ADDRESS@INSIDE where several insides have it)
    #[arg(long, value_name = "ADDRESS")]
    terminal: Option<Qualified>,
    /// Say who had the virtual IP then, or which virtual IPs the terminal had
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with_all = ["since", "until", "before", "limit"])]
    at: Option<Timestamp>,
    /// Only what happened then or later
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Only what happened before
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Only entries before the one with this number: the next page, going back
    #[arg(long, value_name = "ID")]
    before: Option<u64>,
    /// So many at most, the newest
    #[arg(long, value_name = "N", default_value_t = NEWEST, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Directory of the history, where no gateway runs
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Base name of the gateway's TUN devices, which is the name of its history, where no gateway runs
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TUN)]
    tun: String,
}

/// Runs the subcommand.
pub fn run(arguments: &Arguments) -> Result<(), CliError> {
    let question = question(arguments)?;
    let client = Client::new(&arguments.socket.control);
    let mut answer = ask(&client, arguments, &question)?;
    // More than the gateway gives at once.
    while let Some(before) = answer.more
        && question.at.is_none()
        && (answer.entries.len() as u64) < arguments.limit
    {
        let limit = Some((arguments.limit - answer.entries.len() as u64).min(MOST_ENTRIES));
        let page = ask(&client, arguments, &HistoryQuestion { before: Some(before), limit, ..question.clone() })?;
        answer.damaged += page.damaged;
        answer.more = page.more;
        answer.entries.splice(0..0, page.entries);
    }
    // The clock of a machine that has just started may be far behind what the history knows.
    if let Some(at) = arguments.at.filter(|at| *at > Timestamp::now() && at_millis(*at) > answer.until) {
        return Err(CliError::Question(format!("{} is still to come", local(at_millis(at)))));
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &answer).map_err(std::io::Error::from)?;
        writeln!(out)?;
    } else if arguments.at.is_some() {
        say_owners(&answer, &question, &mut out)?;
    } else {
        list(&answer, &mut out)?;
    }
    if answer.left_out {
        show::complain("these are not all: the terminal has had too many virtual IPs, or the clock was set too often");
    }
    if answer.damaged > 0 {
        show::complain(&format!("{} entries are not what was written, and left out", answer.damaged));
    }
    Ok(())
}

fn question(arguments: &Arguments) -> Result<HistoryQuestion, CliError> {
    let millis = |time: Option<Timestamp>| time.map(|time| u64::try_from(time.as_millisecond()).unwrap_or(0));
    let (virtual_ip, terminal) = (arguments.virtual_ip, arguments.terminal.clone());
    if arguments.at.is_some() && virtual_ip.is_none() && terminal.is_none() {
        let what = "--at needs a virtual IP, or --terminal: `kamei history 198.18.1.22 --at '2026-11-24 14:00'`";
        return Err(CliError::Question(what.to_owned()));
    }
    if arguments.since.zip(arguments.until).is_some_and(|(since, until)| since >= until) {
        return Err(CliError::Question("--since is not before --until".to_owned()));
    }
    Ok(HistoryQuestion {
        virtual_ip,
        terminal,
        at: millis(arguments.at),
        since: millis(arguments.since),
        until: millis(arguments.until),
        before: arguments.before,
        limit: arguments.at.is_none().then_some(arguments.limit.min(MOST_ENTRIES)),
    })
}

/// The gateway, or the file where none runs.
fn ask(client: &Client, arguments: &Arguments, question: &HistoryQuestion) -> Result<HistoryAnswer, CliError> {
    match client.history(question) {
        Err(ClientError::NoGateway { .. }) => {
            history::look(&arguments.state_dir, &arguments.tun, question).map_err(|error| {
                CliError::NoHistory(format!(
                    "no gateway answers on {}, and {error}",
                    arguments.socket.control.display()
                ))
            })
        }
        Err(ClientError::Refused(what)) if what.starts_with("no such path") => {
            let what = "the gateway that runs is of an older version and keeps no history; restart it";
            Err(ClientError::Refused(what.to_owned()).into())
        }
        asked => Ok(asked?),
    }
}

/// A time as people write it. Local, unless it says how far it is from UTC.
fn time(text: &str) -> Result<Timestamp, String> {
    time_in(text, &TimeZone::system())
}

fn time_in(text: &str, zone: &TimeZone) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        return Timestamp::now().checked_sub(ago).map_err(|_| format!("'{text}' ago is too long ago"));
    }
    let civil = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(|date| date.at(0, 0, 0, 0)));
    let civil = civil.map_err(|_| {
        format!("'{text}' is no time; write '2026-11-24 14:00' (local), 2026-11-24T14:00Z, or 2h for two hours ago")
    })?;
    let moment = zone.to_ambiguous_zoned(civil);
    match moment.offset() {
        AmbiguousOffset::Unambiguous { .. } => {}
        AmbiguousOffset::Gap { .. } => {
            return Err(format!("the local clock was set over '{text}' (summer time began); add Z or an offset"));
        }
        AmbiguousOffset::Fold { before, after } => {
            let of =
                |offset: Offset| offset.to_timestamp(civil).map(|time| time.display_with_offset(offset).to_string());
            let (first, second) = (of(before).unwrap_or_default(), of(after).unwrap_or_default());
            return Err(format!("'{text}' was twice on the local clock (summer time ended): {first} or {second}"));
        }
    }
    moment.unambiguous().map(|zoned| zoned.timestamp()).map_err(|error| error.to_string())
}

fn at_millis(time: Timestamp) -> u64 {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
}

fn say_owners(answer: &HistoryAnswer, question: &HistoryQuestion, out: &mut dyn Write) -> std::io::Result<()> {
    let at = local(question.at.unwrap_or(0));
    if answer.owners.is_empty() {
        let named = question.terminal.as_ref().map_or_else(String::new, ToString::to_string);
        writeln!(out, "{named} had no virtual IP at {at}")?;
        let whole = local(answer.whole_since);
        return if question.at.is_some_and(|at| at < answer.whole_since) {
            writeln!(out, "  not certain: the history is whole since {whole} only")
        } else {
            Ok(())
        };
    }
    if answer.owners.iter().any(|owner| owner.clock != answer.owners[0].clock) || is_several(&answer.owners) {
        writeln!(out, "the clock was set, and showed {at} more than once; each time is told")?;
    }
    answer.owners.iter().try_for_each(|owner| say_owner(owner, answer, &at, out))
}

/// Whether a virtual IP is told of more than once.
fn is_several(owners: &[Owner]) -> bool {
    owners
        .iter()
        .enumerate()
        .any(|(n, owner)| owners.iter().skip(n + 1).any(|other| other.virtual_ip == owner.virtual_ip))
}

fn say_owner(owner: &Owner, answer: &HistoryAnswer, at: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let virtual_ip = owner.virtual_ip;
    match &owner.owner {
        Some(Ownership { terminal, realm, state, since, since_clock, until, ended_by, ended_by_uid }) => {
            let state = match state {
                Some(BindingState::Dormant) => ", dormant (reserved, not in use)",
                _ => "",
            };
            let terminal = show::bold(&format!("{terminal}@{realm}"));
            writeln!(out, "{virtual_ip} at {at}: {terminal}{state}")?;
            let until = match until {
                Some(until) => format!("until {}", local(*until)),
                None => "and has it still".to_owned(),
            };
            let by =
                ended_by.as_ref().map_or_else(String::new, |by| format!(", ended by {}", by_whom(by, *ended_by_uid)));
            writeln!(out, "  since {}{}, {until}{by}", local(*since), mark(*since_clock))?;
        }
        None if owner.certain => writeln!(out, "{virtual_ip} at {at}: {}", show::bold("nobody"))?,
        None => {
            writeln!(out, "{virtual_ip} at {at}: {}", show::paint("not known", AnsiColor::Red))?;
            let (whole, answered) = (local(answer.whole_since), local(answer.answered_whole_since));
            writeln!(
                out,
                "  the history is whole since {whole}, that of terminals which were answered since {answered}"
            )?;
        }
    }
    if owner.owner.is_none() {
        for (word, entry) in [("before", &owner.last), ("after", &owner.next)] {
            if let Some(entry) = entry {
                let (what, by) = (entry.event.name(), by_whom(&entry.by, entry.uid));
                let (terminal, time) = (entry.terminal, local(entry.at));
                writeln!(out, "  {word}: {terminal}@{}, {what} {time} by {by}", entry.realm)?;
            }
        }
    }
    match owner.clock {
        ClockState::Synchronised => Ok(()),
        ClockState::SetLater => {
            writeln!(out, "  the clock was set right after that; times are what it would have shown")
        }
        ClockState::Unsynchronised => {
            writeln!(out, "  nobody vouched for this machine's clock then (it was not synchronised)")
        }
        ClockState::PassedOver => {
            writeln!(
                out,
                "  the clock never showed that time: it was set over it, or the machine was off; this is right after"
            )
        }
    }
}

fn list(answer: &HistoryAnswer, out: &mut dyn Write) -> std::io::Result<()> {
    if answer.entries.is_empty() {
        writeln!(out, "no entries; the history is whole since {}", local(answer.whole_since))?;
    } else {
        table(&answer.entries, &TimeZone::system()).write(show::colours(), out)?;
    }
    let unvouched = answer.entries.iter().any(|entry| entry.clock == ClockState::Unsynchronised);
    if unvouched {
        show::complain("?: this machine's clock was not synchronised then");
    }
    if let Some(more) = answer.more {
        show::complain(&format!("there are older entries: --before {more}, or a larger --limit"));
    }
    Ok(())
}

/// Nothing in it can be spared: where a line is too long for the screen, it goes on in the next.
fn table(entries: &[Entry], zone: &TimeZone) -> Table<5> {
    // The same address in several insides is several terminals.
    let is_plain = entries.iter().all(|entry| entry.realm == entries[0].realm);
    let mut table = Table::new(["TIME", "EVENT", "VIRTUAL IP", "TERMINAL", "BY"]);
    entries.iter().for_each(|entry| table.row(row(entry, is_plain, zone)));
    table
}

fn row(entry: &Entry, is_plain: bool, zone: &TimeZone) -> [Cell; 5] {
    let event = match (&entry.callback, entry.event) {
        (policy, history::Happened::Callback) => format!("callback {}", policy.as_deref().unwrap_or("pool")),
        (_, event) => event.name().to_owned(),
    };
    let terminal = if is_plain { entry.terminal.to_string() } else { format!("{}@{}", entry.terminal, entry.realm) };
    [
        // With the offset, which is another in summer.
        (zoned(entry.at, zone).strftime("%F %T%:::z").to_string() + mark(entry.clock)).into(),
        input::plain(&event).into(),
        entry.virtual_ip.to_string().into(),
        input::plain(&terminal).into(),
        by_whom(&entry.by, entry.uid).into(),
    ]
}

fn by_whom(by: &str, uid: Option<u32>) -> String {
    match uid {
        Some(uid) => format!("{by} (uid {uid})"),
        None => by.to_owned(),
    }
}

fn mark(clock: ClockState) -> &'static str {
    if clock == ClockState::Unsynchronised { "?" } else { "" }
}

fn zoned(millis: u64, zone: &TimeZone) -> jiff::Zoned {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX).to_zoned(zone.clone())
}

fn local(millis: u64) -> String {
    zoned(millis, &TimeZone::system()).strftime("%F %T%:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_local_unless_they_say_otherwise() {
        let of = |text: &str| time(text).map(|time| time.to_string());
        for utc in ["2026-11-24T14:00:00Z", "2026-11-24 14:00Z", "2026-11-24T15:00+01:00", "2026-11-24 15:00+01"] {
            assert_eq!(of(utc).as_deref(), Ok("2026-11-24T14:00:00Z"), "{utc}");
        }
        let here = "2026-11-24 14:00".parse::<DateTime>().unwrap().to_zoned(TimeZone::system()).unwrap().timestamp();
        assert_eq!((time("2026-11-24 14:00"), time("2026-11-24T14:00:00")), (Ok(here), Ok(here)));
        assert!(time("2026-11-24").unwrap() < here);
        let ago = Timestamp::now() - time("2h").unwrap();
        let two_hours = Duration::from_secs(7200);
        let ago = Duration::try_from(ago).unwrap();
        assert!(ago > two_hours - Duration::from_secs(60) && ago < two_hours + Duration::from_secs(60), "{ago:?}");
        for wrong in ["", "tuesday", "2026-13-01", "25:00", "2026-11-24 14:00 CET"] {
            assert!(time(wrong).unwrap_err().contains("is no time"), "{wrong}");
        }
    }

    /// The rule of central Europe.
    fn europe() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn an_hour_that_summer_time_shows_twice_or_never_is_asked_for_again() {
        let of = |text: &str| time_in(text, &europe()).map(|time| time.to_string());
        let twice = of("2026-10-25 02:30").unwrap_err();
        for offset in ["2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00"] {
            assert!(twice.contains(offset) && of(offset).is_ok(), "{twice}");
        }
        let never = of("2026-03-29 02:30").unwrap_err();
        assert!(never.contains("set over"), "{never}");
        assert_eq!(of("2026-10-25 03:00").as_deref(), Ok("2026-10-25T02:00:00Z"));
        assert_eq!(of("2027-01-01 00:00").as_deref(), Ok("2026-12-31T23:00:00Z"), "the year begins where the clock is");
        // A leap second is on no clock of a computer.
        assert!(of("2016-12-31T23:59:60Z").is_ok_and(|time| time.starts_with("2016-12-31T23:59:59")));
    }

    fn entry(at: &str, virtual_ip: &str, terminal: &str, realm: &str) -> Entry {
        Entry {
            id: 1,
            at: at_millis(at.parse().unwrap()),
            clock: ClockState::Unsynchronised,
            event: history::Happened::KeptAside,
            by: "command".to_owned(),
            uid: Some(1000),
            virtual_ip: virtual_ip.parse().unwrap(),
            terminal: terminal.parse().unwrap(),
            realm: realm.to_owned(),
            created: 0,
            callback: None,
            answered: true,
        }
    }

    fn text(entries: &[Entry]) -> String {
        let mut text = Vec::new();
        table(entries, &europe()).write(false, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn an_entry_says_which_of_two_equal_hours_it_was() {
        let of = |at| entry(at, "198.18.1.22", "10.0.0.11", "inside");
        let text = text(&[of("2026-10-25T00:30:00Z"), of("2026-10-25T01:30:00Z")]);
        assert!(text.contains("02:30:00+02?") && text.contains("02:30:00+01?"), "{text}");
        assert!(!text.contains('@') && text.lines().all(|line| line.len() <= 98), "{text}");
    }

    #[test]
    fn terminals_of_several_insides_are_told_apart_and_long_addresses_are_whole() {
        let (virtual_ip, terminal) = ("fd00:2:3333:4444:5555:6666:7777:8888", "fd00:1:3333:4444:5555:6666:7777:9999");
        let of = |realm| entry("2026-11-24T14:00:00Z", virtual_ip, terminal, realm);
        let text = text(&[of("north"), of("south")]);
        for part in [virtual_ip, &format!("{terminal}@north"), &format!("{terminal}@south"), "(uid 1000)"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
