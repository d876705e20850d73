//! What the screen shows: two answers of the gateway and the time between them.

use crate::cli::show;
use crate::control::{ClientError, Status};
use crate::nat::BindingView;
use crate::time::Time;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::net::IpAddr;

/// Bindings that are asked for; of more the screen shows those used last.
pub const MOST_BINDINGS: usize = 10_000;

/// What is known for one screen.
pub struct Model {
    /// The last answer.
    pub status: Option<Status>,
    /// What has changed in a second.
    pub rates: Rates,
    /// The bindings of the last answer.
    pub rows: Vec<Row>,
    /// Why there is no newer answer.
    pub lost: Option<String>,
    /// What to sort by.
    pub sort: Sort,
    /// The other way round.
    pub reversed: bool,
    /// Only bindings that have this somewhere.
    pub filter: String,
    /// Keys go into the filter.
    pub typing: bool,
    /// Answers are not shown.
    pub paused: bool,
    /// The first row shown.
    pub first: usize,
    /// Whether to use colours.
    pub colours: bool,
    /// When the last answer came.
    pub taken: Time,
    counted: HashMap<(IpAddr, u64), [u64; 4]>,
}

/// Numbers a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    pub packets_out: f64,
    pub bytes_out: f64,
    pub packets_in: f64,
    pub bytes_in: f64,
    pub callbacks: f64,
    pub created: f64,
    /// Each reason that has ever dropped a packet: how many a second, how many in all; the liveliest first.
    pub drops: Vec<(String, f64, u64)>,
}

/// A binding.
#[derive(Clone, Debug)]
pub struct Row {
    pub binding: BindingView,
    pub packets_out: f64,
    pub packets_in: f64,
    pub bytes_out: f64,
    pub bytes_in: f64,
}

/// What to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Bits,
    Out,
    In,
    Bytes,
    Callbacks,
    LastUsed,
    Terminal,
}

impl Model {
    /// Nothing known yet.
    pub fn new(colours: bool) -> Self {
        Self {
            status: None,
            rates: Rates::default(),
            rows: Vec::new(),
            lost: None,
            sort: Sort::Bits,
            reversed: false,
            filter: String::new(),
            typing: false,
            paused: false,
            first: 0,
            colours,
            taken: Time::default(),
            counted: HashMap::new(),
        }
    }

    /// An answer that came at `at`.
    pub fn take(&mut self, status: Status, bindings: Vec<BindingView>, at: Time) {
        self.lost = None;
        if self.paused {
            return;
        }
        let seconds = (at - self.taken).as_secs_f64();
        // Counters that went back are those of another process.
        let before = self.status.take().filter(|before| before.gateway.uptime_seconds <= status.gateway.uptime_seconds);
        if before.is_none() {
            self.counted.clear();
        }
        self.rates =
            before.map_or_else(|| Rates::standing(&status), |before| Rates::between(&before, &status, seconds));
        let key = |binding: &BindingView| (binding.virtual_ip, binding.created.as_millis());
        let row = |binding: BindingView| {
            let now = counters(&binding);
            let was = self.counted.get(&key(&binding)).copied().unwrap_or(now);
            let mut rates = was.iter().zip(now).map(|(was, now)| rate(*was, now, seconds));
            let [packets_out, packets_in, bytes_out, bytes_in] =
                std::array::from_fn(|_| rates.next().unwrap_or_default());
            Row { binding, packets_out, packets_in, bytes_out, bytes_in }
        };
        self.rows = bindings.into_iter().map(row).collect();
        let count = |row: &Row| (key(&row.binding), counters(&row.binding));
        self.counted = self.rows.iter().map(count).collect();
        (self.status, self.taken) = (Some(status), at);
    }

    /// The gateway does not answer any more.
    pub fn lose(&mut self, error: &ClientError) {
        self.lost = Some(match error {
            ClientError::NoGateway { .. } => "no gateway answers; asking again".to_owned(),
            ClientError::Starting(_) => "the gateway is starting".to_owned(),
            ClientError::Busy(_) => "the gateway is busy; asking again".to_owned(),
            other => other.to_string(),
        });
    }

    /// The rows to show, in order.
    pub fn shown(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().filter(|row| self.passes(&row.binding)).collect();
        let total = |row: &Row| row.binding.bytes_out.saturating_add(row.binding.bytes_in);
        let order = |a: &&Row, b: &&Row| {
            let order = match self.sort {
                Sort::Bits => (b.bytes_out + b.bytes_in).total_cmp(&(a.bytes_out + a.bytes_in)),
                Sort::Bytes => total(b).cmp(&total(a)),
                Sort::Out => b.packets_out.total_cmp(&a.packets_out),
                Sort::In => b.packets_in.total_cmp(&a.packets_in),
                Sort::Callbacks => b.binding.callbacks.cmp(&a.binding.callbacks),
                Sort::LastUsed => b.binding.last_used.cmp(&a.binding.last_used),
                Sort::Terminal => Ordering::Equal,
            };
            let order = order.then_with(|| a.binding.terminal.cmp(&b.binding.terminal));
            if self.reversed { order.reverse() } else { order }
        };
        rows.sort_by(order);
        rows
    }

    fn passes(&self, binding: &BindingView) -> bool {
        let has = |text: &str| text.contains(&self.filter);
        self.filter.is_empty()
            || has(&binding.terminal.to_string())
            || has(&binding.virtual_ip.to_string())
            || has(&binding.pool)
            || has(&binding.realm)
            || has(show::state_name(binding.state))
    }
}

impl Rates {
    fn standing(status: &Status) -> Self {
        Self::between(status, status, 1.0)
    }

    fn between(before: &Status, after: &Status, seconds: f64) -> Self {
        let (old, new) = (&before.nat, &after.nat);
        let drop_of = |(reason, total): (&String, &u64)| {
            let was = old.drops.get(reason).copied().unwrap_or(0);
            (reason.clone(), rate(was, *total, seconds), *total)
        };
        let mut drops: Vec<(String, f64, u64)> =
            new.drops.iter().filter(|(_, total)| **total > 0).map(drop_of).collect();
        drops.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.2.cmp(&a.2)));
        Self {
            packets_out: rate(old.out.packets, new.out.packets, seconds),
            bytes_out: rate(old.out.bytes, new.out.bytes, seconds),
            packets_in: rate(old.inward.packets, new.inward.packets, seconds),
            bytes_in: rate(old.inward.bytes, new.inward.bytes, seconds),
            callbacks: rate(old.callbacks, new.callbacks, seconds),
            created: rate(old.created, new.created, seconds),
            drops,
        }
    }
}

impl Sort {
    /// The next one.
    pub fn next(self) -> Self {
        match self {
            Sort::Bits => Sort::Out,
            Sort::Out => Sort::In,
            Sort::In => Sort::Bytes,
            Sort::Bytes => Sort::Callbacks,
            Sort::Callbacks => Sort::LastUsed,
            Sort::LastUsed => Sort::Terminal,
            Sort::Terminal => Sort::Bits,
        }
    }

    /// As the help line names it.
    pub fn name(self) -> &'static str {
        match self {
            Sort::Bits => "bit/s",
            Sort::Out => "out/s",
            Sort::In => "in/s",
            Sort::Bytes => "bytes",
            Sort::Callbacks => "callbacks",
            Sort::LastUsed => "last used",
            Sort::Terminal => "terminal",
        }
    }
}

fn counters(binding: &BindingView) -> [u64; 4] {
    [binding.packets_out, binding.packets_in, binding.bytes_out, binding.bytes_in]
}

fn rate(before: u64, after: u64, seconds: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "for eyes")]
    let more = after.saturating_sub(before) as f64;
    if seconds > 0.0 { more / seconds } else { 0.0 }
}
