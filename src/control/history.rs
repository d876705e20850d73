//! `GET /v1/history`: the question as a query string.

use super::parameters::{encode, pairs};
use super::refusal::{Refusal, bad};
use crate::nat::ParseQualifiedError;
use crate::store::history::HistoryQuestion;

/// Reads a question.
pub fn parse(query: &str) -> Result<HistoryQuestion, Refusal> {
    let mut question = HistoryQuestion::default();
    for pair in pairs(query) {
        let (key, value) = pair?;
        let number = || value.parse().map_err(|_| bad(format!("{key} takes a number, not '{value}'")));
        match key {
            "virtual-ip" => {
                let wrong = |_| bad(format!("virtual-ip takes an address, not '{value}'"));
                question.virtual_ip = Some(value.parse().map_err(wrong)?);
            }
            "terminal" => {
                question.terminal = Some(value.parse().map_err(|error: ParseQualifiedError| bad(error.to_string()))?);
            }
            "at" => question.at = Some(time(key, &value)?),
            "since" => question.since = Some(time(key, &value)?),
            "until" => question.until = Some(time(key, &value)?),
            "before" => question.before = Some(number()?),
            "limit" => question.limit = Some(number()?),
            _ => {
                const KEYS: &str = "virtual-ip, terminal, at, since, until, before and limit";
                return Err(bad(format!("no parameter '{key}' with '{value}'; there are {KEYS}")));
            }
        }
    }
    if question.at.is_some() {
        if question.virtual_ip.is_none() && question.terminal.is_none() {
            return Err(bad("at needs a virtual-ip or a terminal".to_owned()));
        }
        if [question.since, question.until, question.before, question.limit].iter().any(Option::is_some) {
            return Err(bad("at is one time; since, until, before and limit do not go with it".to_owned()));
        }
    }
    Ok(question)
}

/// The same as a query string, with its question mark.
pub fn to_query(question: &HistoryQuestion) -> String {
    let HistoryQuestion { virtual_ip, terminal, at, since, until, before, limit } = question;
    let number = |key: &str, number: &Option<u64>| number.map(|number| format!("{key}={number}"));
    let all = [
        virtual_ip.map(|virtual_ip| format!("virtual-ip={virtual_ip}")),
        terminal.as_ref().map(|terminal| format!("terminal={}", encode(&terminal.to_string()))),
        number("at", at),
        number("since", since),
        number("until", until),
        number("before", before),
        number("limit", limit),
    ];
    format!("?{}", all.into_iter().flatten().collect::<Vec<_>>().join("&"))
}

/// Milliseconds since the Unix epoch, or a time with its offset (RFC 3339).
fn time(key: &str, value: &str) -> Result<u64, Refusal> {
    let millis = || value.parse::<jiff::Timestamp>().ok()?.as_millisecond().try_into().ok();
    value.parse().ok().or_else(millis).ok_or_else(|| {
        bad(format!("{key} takes milliseconds since 1970 or a time such as 2026-11-24T14:00:00Z, not '{value}'"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_its_query_and_nonsense_is_refused() {
        let of = |virtual_ip: &str, terminal: &str| HistoryQuestion {
            virtual_ip: Some(virtual_ip.parse().unwrap()),
            terminal: Some(terminal.parse().unwrap()),
            ..HistoryQuestion::default()
        };
        for question in [
            HistoryQuestion { at: Some(1_700_000_000_000), ..of("198.18.0.1", "10.0.0.1@north") },
            HistoryQuestion {
                since: Some(1),
                until: Some(2),
                before: Some(u64::MAX),
                limit: Some(3),
                ..of("fd00::1", "fd00::2")
            },
            HistoryQuestion::default(),
        ] {
            assert_eq!(parse(&to_query(&question)[1..]), Ok(question));
        }
        let at = parse("virtual-ip=198.18.0.1&at=2026-11-24T14:00:00%2B01:00").unwrap();
        assert_eq!(at.at, Some(1_795_525_200_000));
        for query in [
            "at=5",
            "virtual-ip=x",
            "terminal=",
            "at=now&virtual-ip=::1",
            "at=1&limit=2&virtual-ip=::1",
            "what=1",
            "at=-1",
        ] {
            assert!(parse(query).is_err(), "{query}");
        }
    }
}
