//! Which bindings are meant.

use super::parameters::{encode, pairs};
use super::refusal::{Refusal, bad};
use crate::nat::{BindingState, BindingView};
use crate::time::Time;
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

/// Which bindings to list or to release.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// In this state.
    pub state: Option<BindingState>,
    /// Of this pool.
    pub pool: Option<String>,
    /// Whose terminal or virtual IP is in this prefix.
    pub prefix: Option<IpNet>,
    /// Made at least so long ago.
    pub older_than: Option<Duration>,
    /// That nobody has answered yet.
    pub unanswered: bool,
    /// So many at most.
    pub limit: Option<u64>,
}

impl Filter {
    /// As a query string, with its question mark; empty if it lets everything pass.
    pub fn to_query(&self) -> String {
        let state = self.state.map(|state| format!("state={}", name(state)));
        let pool = self.pool.as_ref().map(|pool| format!("pool={}", encode(pool)));
        let limit = self.limit.map(|limit| format!("limit={limit}"));
        let prefix = self.prefix.map(|prefix| format!("prefix={prefix}"));
        let older = |age| format!("older-than={}", encode(&humantime::format_duration(age).to_string()));
        let unanswered = self.unanswered.then(|| "unanswered".to_owned());
        let all: Vec<String> =
            [state, pool, prefix, self.older_than.map(older), unanswered, limit].into_iter().flatten().collect();
        if all.is_empty() { String::new() } else { format!("?{}", all.join("&")) }
    }

    /// Whether a binding is one of those; the limit is for who counts.
    pub fn lets_pass(&self, binding: &BindingView, now: Time) -> bool {
        self.state.is_none_or(|state| state == binding.state)
            && self.pool.as_ref().is_none_or(|pool| *pool == binding.pool)
            && self.prefix.is_none_or(|net| net.contains(&binding.terminal) || net.contains(&binding.virtual_ip))
            && self.older_than.is_none_or(|age| now - binding.created >= age)
            && !(self.unanswered && binding.answered)
    }

    pub(super) fn parse(query: &str) -> Result<Self, Refusal> {
        let mut filter = Self::default();
        for pair in pairs(query) {
            let (key, value) = pair?;
            match key {
                "state" => {
                    let states = [BindingState::Active, BindingState::Dormant, BindingState::Quarantined];
                    let state = states.into_iter().find(|state| name(*state) == value);
                    filter.state = Some(state.ok_or_else(|| {
                        bad(format!("'{value}' is no state; there are active, dormant and quarantined"))
                    })?);
                }
                "pool" => filter.pool = Some(value),
                "prefix" => filter.prefix = Some(parse_prefix(&value).map_err(bad)?),
                "older-than" => {
                    let wrong = |_| bad(format!("older-than takes a time such as 1h, not '{value}'"));
                    filter.older_than = Some(humantime::parse_duration(&value).map_err(wrong)?);
                }
                "unanswered" if matches!(value.as_str(), "" | "true") => filter.unanswered = true,
                "limit" => {
                    filter.limit =
                        Some(value.parse().map_err(|_| bad(format!("limit takes a number, not '{value}'")))?);
                }
                _ => {
                    const KEYS: &str = "state, pool, prefix, older-than, unanswered and limit, sort and reverse for lists, and dry-run for releases";
                    return Err(bad(format!("no parameter '{key}' with '{value}'; there are {KEYS}")));
                }
            }
        }
        Ok(filter)
    }
}

/// A prefix, or an address as one.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from).ok();
    let prefix = text.parse().ok().or_else(address).map(|net: IpNet| net.trunc());
    prefix.ok_or_else(|| format!("'{text}' is no prefix; write it like 10.0.0.0/24"))
}

/// A state as it is written in JSON.
pub fn name(state: BindingState) -> &'static str {
    match state {
        BindingState::Active => "active",
        BindingState::Dormant => "dormant",
        BindingState::Quarantined => "quarantined",
    }
}
