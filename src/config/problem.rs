//! What is wrong with a configuration, where, and what to do.

use std::fmt;

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What.
    pub wrong: Wrong,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nowhere: it is missing.
    Missing,
    /// A line of the file, counted from 1.
    Line(usize),
    /// A character of a line, both counted from 1.
    Column(usize, usize),
    /// A flag.
    Flag(&'static str),
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// A value of the wrong kind.
    #[error("{key}: {what}{}", .example.map(|example| format!("; for example: {example}")).unwrap_or_default())]
    Value {
        /// Its key.
        key: String,
        /// What it takes, and what was there.
        what: String,
        /// A line that is right.
        example: Option<&'static str>,
    },
    /// A key without which its section says nothing.
    #[error("the key '{0}' is missing here")]
    MissingKey(String),
    /// A key that does not exist.
    #[error("there is no key '{key}'{}", suggestion(.nearest))]
    UnknownKey {
        /// The key.
        key: String,
        /// One that does exist and looks like it.
        nearest: Option<String>,
    },
    /// No inside interface.
    #[error("no inside interface; name one with --inside IF or `inside = [\"IF\"]`")]
    NoInside,
    /// No outside interface.
    #[error("no outside interface; name one with --outside IF or `outside = [\"IF\"]`")]
    NoOutside,
    /// No pool.
    #[error("no pool; give one with --pool PREFIX or a [[pool]] section")]
    NoPool,
    /// Not a name Linux takes.
    #[error("'{0}' cannot be an interface name: 1 to 15 characters, no slash, colon or space")]
    InterfaceName(String),
    /// The same interface twice.
    #[error("interface {0} is named twice; name it once")]
    InterfaceTwice(String),
    /// An interface in both realms.
    #[error("interface {0} is both inside and outside; it can be only one of them")]
    InterfaceInBoth(String),
    /// An interface in two insides.
    #[error("interface {interface} is in the inside '{first}' already; it can be only in one")]
    InterfaceInTwoInsides {
        /// The interface.
        interface: String,
        /// The inside that has it.
        first: String,
    },
    /// A name no inside can have.
    #[error("'{0}' cannot name an inside: 1 to 32 letters, digits, '-', '_' or '.'")]
    InsideName(String),
    /// Two insides have one name.
    #[error("two insides are named '{0}'; give each its own name")]
    InsideNameTwice(String),
    /// An inside that leads nowhere.
    #[error("the inside '{0}' has no interface; name one with `interfaces = [\"IF\"]`")]
    InsideWithoutInterface(String),
    /// Prefixes of an inside that is not there.
    #[error(
        "inside-prefixes belongs to `inside = [\"IF\"]`; write `prefixes = […]` into the [[inside]] section it is meant for"
    )]
    PrefixesOfNoInside,
    /// A range that cannot be read.
    #[error("pool {0}")]
    Range(#[from] crate::wire::ParseRangeError),
    /// A pool that is too large.
    #[error("pool {range} is absurdly large; the largest are an IPv4 /8 and an IPv6 /32")]
    PoolTooLarge {
        /// The pool.
        range: String,
    },
    /// Addresses that no host can have.
    #[error("pool {range} contains {what}, which no host can have; leave it out")]
    PoolSpecial {
        /// The pool.
        range: String,
        /// What.
        what: &'static str,
    },
    /// Two pools share addresses.
    #[error("pool {0} overlaps pool {1}; make them disjoint")]
    PoolsOverlap(String, String),
    /// Two pools have one name.
    #[error("two pools are named '{0}'; give each its own name")]
    PoolNameTwice(String),
    /// Two pools for the same peers, and for others as well.
    #[error("destination {prefix} is named by pool '{first}' already; a destination has one pool")]
    DestinationTwice {
        /// The destination.
        prefix: String,
        /// The pool that has it.
        first: String,
    },
    /// A prefix that cannot be read.
    #[error("'{0}' is not a prefix such as 203.0.113.0/24 or 2001:db8::/32")]
    Prefix(String),
    /// A prefix with host bits.
    #[error("'{0}' has host bits set; did you mean {1}?")]
    HostBits(String, String),
    /// Families differ.
    #[error("destination {prefix} and pool {range} are of different address families; a pool is for peers of its own")]
    DestinationFamily {
        /// The destination.
        prefix: String,
        /// The pool.
        range: String,
    },
    /// A reserved address outside its pool.
    #[error("reserved address {0} is not in its pool; leave it out")]
    ReservedElsewhere(String),
    /// A pair of prefixes that cannot stand for each other.
    #[error("pool {range} cannot translate '{prefix}': both must be IPv6 prefixes of at most 64 bits (RFC 6296)")]
    Translates {
        /// The terminals' prefix.
        prefix: String,
        /// The pool.
        range: String,
    },
    /// All addresses reserved.
    #[error("pool {0} has no address left to give; reserve fewer")]
    PoolEmpty(String),
    /// An inside prefix that is a pool.
    #[error("inside prefix {prefix} overlaps pool {range}; virtual IPs must not be inside addresses")]
    InsideIsPool {
        /// The prefix.
        prefix: String,
        /// The pool.
        range: String,
    },
    /// An exemption that is a pool.
    #[error("exempt prefix {prefix} overlaps pool {range}; a virtual IP cannot go untranslated")]
    ExemptIsPool {
        /// The prefix.
        prefix: String,
        /// The pool.
        range: String,
    },
    /// An exemption from everything, where there is a pool.
    #[error("exempt prefix {0} is everybody; nothing would be translated, but there is a pool for it")]
    ExemptAll(String),
    /// A policy that cannot be read.
    #[error("callback '{0}' is neither contacted, answered, anyone nor a list of prefixes")]
    Callback(String),
    /// An application that nobody knows.
    #[error("alg '{0}' is unknown; it can be ftp, alone or with a port, such as ftp:2121")]
    Alg(String),
    /// Two applications on one port.
    #[error("port {0} is named twice for alg; name it once")]
    AlgPortTwice(u16),
    /// Metrics for others than this machine.
    #[error("metrics '{0}' is not a loopback address with a port, such as 127.0.0.1:9101 or [::1]:9101")]
    Metrics(String),
    /// A time that cannot be read.
    #[error("{key} '{value}' is not a time such as 24h, 14d or 7440s")]
    Duration {
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
    },
    /// A sync interval that makes no sense.
    #[error("sync-interval '{0}' is not a time from 1ms to 60s, such as 100ms")]
    SyncInterval(String),
    /// A time that no history is kept for.
    #[error("history '{0}' is not a time from 1h to 3650d, such as 180d, or 0 for none")]
    History(String),
    /// A time that is too short.
    #[error("{key} is {value}, but at least {least} is needed ({source_})")]
    TooShort {
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
        /// The least.
        least: String,
        /// Why.
        source_: &'static str,
    },
    /// A time that is too long.
    #[error("{key} is {value}, but {most} is the most that makes sense")]
    TooLong {
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
        /// The most.
        most: String,
    },
    /// No processor to stay on.
    #[error("pin names no processor; write pin = false to let workers move")]
    PinToNone,
    /// A number out of range.
    #[error("{key} is {value}; it must be from {least} to {most}")]
    OutOfRange {
        /// The key or flag.
        key: &'static str,
        /// What was written.
        value: i64,
        /// The least.
        least: i64,
        /// The most.
        most: i64,
    },
    /// A name the TUN devices cannot have.
    #[error("'{0}' cannot name the TUN devices: 1 to 10 letters, digits, '-', '_' or '.'")]
    TunName(String),
    /// A name that no group has.
    #[error("'{0}' cannot be the name of a group; give one that is in /etc/group, or its number in quotes")]
    GroupName(String),
    /// A path that no socket can have (unix(7)).
    #[error("control '{0}' is longer than the 107 bytes that the path of a socket can have; choose a shorter one")]
    SocketPath(String),
    /// A path that is not absolute.
    #[error("{key} '{value}' is not an absolute path; begin it with '/'")]
    RelativePath {
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
    },
}

impl Wrong {
    /// Whether it is about a key that is there with another value or name.
    pub(super) fn is_of(&self, key: &str) -> bool {
        match self {
            Wrong::Value { key: wrong, .. } => wrong == key,
            Wrong::UnknownKey { nearest, .. } => nearest.as_deref() == Some(key),
            _ => false,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Missing => write!(f, "{}", self.wrong),
            Place::Line(line) => write!(f, "line {line}: {}", self.wrong),
            Place::Column(line, column) => write!(f, "line {line}, column {column}: {}", self.wrong),
            Place::Flag(flag) => write!(f, "{flag}: {}", self.wrong),
        }
    }
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |nearest| format!("; did you mean '{nearest}'?"))
}
