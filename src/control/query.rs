//! What a request asks for, from its method, path and query.

use super::drops::DropsRequest;
use super::explain::ExplainRequest;
use super::filter::Filter;
use super::flows::FlowsRequest;
use super::history;
use super::order::{Order, Sort};
use super::parameters::{decode, pairs};
use super::refusal::{Refusal, bad};
use super::watch::Watch;
use crate::nat::{ParseQualifiedError, Qualified};
use crate::store::history::HistoryQuestion;
use hyper::{Method, StatusCode};

/// Contacts of a binding that are shown unless more or fewer are asked for.
const CONTACTS: usize = 1000;
/// The most that can be asked for: some eight megabytes of text.
const MOST_CONTACTS: usize = 65_536;

/// Stands for an address, perhaps with the name of an inside, at the end of a path.
const ADDRESS: &str = "ADDRESS";
/// Every request that there is. README.md in this folder describes each; a test holds the two together.
const ROUTES: [(&str, &str); 15] = [
    ("GET", "/v1/status"),
    ("GET", "/v1/metrics"),
    ("POST", "/v1/reload"),
    ("GET", "/v1/bindings"),
    ("DELETE", "/v1/bindings"),
    ("GET", "/v1/bindings/ADDRESS"),
    ("PUT", "/v1/bindings/ADDRESS"),
    ("PATCH", "/v1/bindings/ADDRESS"),
    ("DELETE", "/v1/bindings/ADDRESS"),
    ("GET", "/v1/history"),
    ("GET", "/v1/trace"),
    ("GET", "/v1/capture"),
    ("GET", "/v1/drops"),
    ("GET", "/v1/flows"),
    ("GET", "/v1/explain"),
];

/// A request that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// `GET /v1/status`
    Status,
    /// `GET /v1/metrics`
    Metrics,
    /// `GET /v1/trace`
    Trace(Watch),
    /// `GET /v1/capture`
    Capture(Watch),
    /// `GET /v1/drops`
    Drops(DropsRequest),
    /// `GET /v1/flows`
    Flows(FlowsRequest),
    /// `GET /v1/explain`
    Explain(ExplainRequest),
    /// `GET /v1/history`
    History(HistoryQuestion),
    /// `GET /v1/bindings`
    List(Filter, Option<Order>),
    /// `GET /v1/bindings/ADDRESS`
    Show {
        /// Which binding.
        which: Qualified,
        /// How many of its contacts to show, at most.
        contacts: usize,
    },
    /// `PUT /v1/bindings/TERMINAL`
    Pin(Qualified),
    /// `PATCH /v1/bindings/ADDRESS`
    SetCallback(Qualified),
    /// `DELETE /v1/bindings/ADDRESS`
    Release(Qualified),
    /// `DELETE /v1/bindings`
    ReleaseAll {
        filter: Filter,
        /// Whether only to say how many those are.
        dry_run: bool,
    },
    /// `POST /v1/reload`
    Reload {
        /// Whether only to say what would change.
        dry_run: bool,
    },
}

impl Query {
    /// Understands a request line.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, Refusal> {
        let path = decode(path).ok_or_else(|| bad("the path is not properly percent-encoded".to_owned()))?;
        let route = route(method, &path)?;
        let query = query.unwrap_or_default();
        let address = path.strip_prefix("/v1/bindings/").unwrap_or_default();
        let named = || address.parse::<Qualified>().map_err(|error: ParseQualifiedError| bad(error.to_string()));
        let plain = |asked| match query {
            "" => Ok(asked),
            _ => Err(bad(format!("{method} {path} takes no parameters"))),
        };
        match route {
            ("GET", "/v1/status") => plain(Self::Status),
            ("GET", "/v1/metrics") => plain(Self::Metrics),
            ("GET", "/v1/trace") => Ok(Self::Trace(Watch::parse(query)?)),
            ("GET", "/v1/capture") => Ok(Self::Capture(Watch::parse(query)?)),
            ("GET", "/v1/drops") => Ok(Self::Drops(DropsRequest::parse(query)?)),
            ("GET", "/v1/flows") => Ok(Self::Flows(FlowsRequest::parse(query)?)),
            ("GET", "/v1/explain") => Ok(Self::Explain(ExplainRequest::parse(query)?)),
            ("GET", "/v1/history") => Ok(Self::History(history::parse(query)?)),
            ("GET", "/v1/bindings") => list(query),
            ("DELETE", "/v1/bindings") => release_all(query),
            ("GET", _) => show(named()?, query),
            ("PUT", _) => plain(Self::Pin(named()?)),
            ("PATCH", _) => plain(Self::SetCallback(named()?)),
            ("DELETE", _) => plain(Self::Release(named()?)),
            _ => reload(query),
        }
    }
}

/// The route that a request takes.
fn route(method: &Method, path: &str) -> Result<(&'static str, &'static str), Refusal> {
    let leads_to = |route: &str| match route.strip_suffix(ADDRESS) {
        Some(folder) => path.starts_with(folder),
        None => path == route,
    };
    let here = || ROUTES.into_iter().filter(|(_, route)| leads_to(route));
    let Some((_, known)) = here().next() else {
        let mut paths: Vec<&str> = ROUTES.into_iter().map(|(_, path)| path).collect();
        paths.dedup();
        let error = format!("no such path; there are {}", listed(&paths, "and"));
        return Err(Refusal::new(StatusCode::NOT_FOUND, error));
    };
    here().find(|(allowed, _)| method == allowed).ok_or_else(|| {
        let allowed: Vec<&str> = here().map(|(method, _)| method).collect();
        let error = format!("{known} takes {}, not {method}", listed(&allowed, "or"));
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error)
    })
}

/// "a, b and c".
fn listed(words: &[&str], and: &str) -> String {
    match words {
        [some @ .., last] if !some.is_empty() => format!("{} {and} {last}", some.join(", ")),
        _ => words.concat(),
    }
}

/// Which binding, and how many of its contacts.
fn show(which: Qualified, query: &str) -> Result<Query, Refusal> {
    let mut contacts = CONTACTS;
    for pair in pairs(query) {
        let (key, value) = pair?;
        if key != "contacts" {
            return Err(bad(format!("no parameter '{key}'; there is contacts")));
        }
        contacts = value.parse().map_err(|_| bad(format!("contacts takes a number, not '{value}'")))?;
    }
    Ok(Query::Show { which, contacts: contacts.min(MOST_CONTACTS) })
}

/// Which bindings, and in which order.
fn list(query: &str) -> Result<Query, Refusal> {
    let is_order = |pair: &&str| matches!(pair.split('=').next(), Some("sort" | "reverse"));
    let (order, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(is_order);
    let filter = Filter::parse(&rest.join("&"))?;
    let (mut by, mut reversed) = (None, false);
    for pair in pairs(&order.join("&")) {
        match pair? {
            ("sort", value) => {
                let names = || Sort::ALL.map(Sort::name).join(", ");
                let wrong = || bad(format!("bindings cannot be sorted by '{value}'; there are {}", names()));
                by = Some(Sort::named(&value).ok_or_else(wrong)?);
            }
            (_, value) if matches!(value.as_str(), "" | "true") => reversed = true,
            (key, value) => return Err(bad(format!("{key} takes no value, not '{value}'"))),
        }
    }
    match by {
        None if reversed => Err(bad("reverse goes with sort".to_owned())),
        by => Ok(Query::List(filter, by.map(|by| Order { by, reversed }))),
    }
}

fn release_all(query: &str) -> Result<Query, Refusal> {
    let (dry, rest): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| *pair == "dry-run");
    let filter = Filter::parse(&rest.join("&"))?;
    if (Filter { limit: None, ..filter.clone() }) == Filter::default() {
        return Err(bad("say which bindings: state, pool, prefix, older-than or unanswered".to_owned()));
    }
    Ok(Query::ReleaseAll { filter, dry_run: !dry.is_empty() })
}

fn reload(query: &str) -> Result<Query, Refusal> {
    match query {
        "" => Ok(Query::Reload { dry_run: false }),
        "dry-run" => Ok(Query::Reload { dry_run: true }),
        other => Err(bad(format!("no parameter '{other}'; there is dry-run"))),
    }
}

/// Whether the answer is who had which virtual IP in the past.
pub fn shows_history(path: &str) -> bool {
    decode(path).is_none_or(|path| path == "/v1/history")
}

/// Whether the answer would be other people's packets.
pub fn shows_packets(path: &str) -> bool {
    decode(path).is_none_or(|path| matches!(path.as_str(), "/v1/trace" | "/v1/capture"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::parameters::encode;
    use crate::nat::BindingState;
    use proptest::prelude::*;
    use std::time::Duration;

    fn get(path: &str) -> Result<Query, StatusCode> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        Query::parse(&Method::GET, path, query).map_err(|failure| failure.status)
    }

    #[test]
    fn requests_that_make_sense() {
        assert_eq!(get("/v1/status"), Ok(Query::Status));
        assert_eq!(get("/v1/metrics"), Ok(Query::Metrics));
        assert_eq!(get("/v1/bindings"), Ok(Query::List(Filter::default(), None)));
        assert_eq!(get("/v1/bindings?"), Ok(Query::List(Filter::default(), None)));
        assert_eq!(
            get("/v1/bindings/2001:db8::1"),
            Ok(Query::Show { which: "2001:db8::1".parse().unwrap(), contacts: CONTACTS })
        );
        let some = Query::Show { which: "2001:db8::1".parse().unwrap(), contacts: 7 };
        assert_eq!(get("/v1/bindings/2001:db8::1?contacts=7"), Ok(some));
        assert_eq!(get("/v1/bindings/2001%3Adb8%3a%3A1"), get("/v1/bindings/2001:db8::1"));
        let filter = Filter {
            state: Some(BindingState::Dormant),
            pool: Some("a b/ü&=".into()),
            prefix: Some("10.0.0.0/24".parse().unwrap()),
            older_than: Some(Duration::from_secs(5400)),
            unanswered: true,
            limit: Some(7),
        };
        let path = format!("/v1/bindings{}", filter.to_query());
        assert_eq!(get(&path), Ok(Query::List(filter.clone(), None)));
        for by in Sort::ALL {
            for reversed in [false, true] {
                let path = format!("{path}&{}", Order { by, reversed }.to_query());
                assert_eq!(get(&path), Ok(Query::List(filter.clone(), Some(Order { by, reversed }))), "{path}");
            }
        }
        let delete = |query: &str| Query::parse(&Method::DELETE, "/v1/bindings", Some(query)).map_err(|no| no.error);
        for (query, dry_run) in [("prefix=10.0.0.9", false), ("dry-run&prefix=10.0.0.9/32", true)] {
            let filter = Filter { prefix: Some("10.0.0.9/32".parse().unwrap()), ..Filter::default() };
            assert_eq!(delete(query), Ok(Query::ReleaseAll { filter, dry_run }));
        }
        for query in ["", "dry-run", "limit=9", "&"] {
            assert!(delete(query).unwrap_err().starts_with("say which bindings"), "{query}");
        }
        let address: Qualified = "192.0.2.1".parse().unwrap();
        assert_eq!(Query::parse(&Method::PUT, "/v1/bindings/192.0.2.1", None).ok(), Some(Query::Pin(address.clone())));
        assert_eq!(Query::parse(&Method::DELETE, "/v1/bindings/192.0.2.1", None).ok(), Some(Query::Release(address)));
    }

    #[test]
    fn requests_that_do_not() {
        for path in [
            "/v1/bindings/x",
            "/v1/bindings/",
            "/v1/bindings/%",
            "/v1/bindings/%zz",
            "/v1/bindings/%ff",
            "/v1/bindings?state=busy",
            "/v1/bindings?limit=-1",
            "/v1/bindings?prefix=10.0.0.0/33",
            "/v1/bindings?older-than=long",
            "/v1/bindings?unanswered=no",
            "/v1/bindings?dry-run",
            "/v1/bindings?sort=colour",
            "/v1/bindings/::1?contacts=all",
            "/v1/bindings/::1?limit=1",
            "/v1/bindings?reverse",
            "/v1/bindings?sort=bytes&reverse=no",
            "/v1/bindings?colour=red",
            "/v1/bindings?pool=%1",
            "/v1/status?limit=1",
        ] {
            assert_eq!(get(path), Err(StatusCode::BAD_REQUEST), "{path}");
        }
        for path in ["/", "", "/v1", "/v2/status", "/v1/status/", "*"] {
            assert_eq!(get(path), Err(StatusCode::NOT_FOUND), "{path}");
        }
        for (method, path, said) in [
            (Method::POST, "/v1/status", "/v1/status takes GET, not POST"),
            (Method::PUT, "/v1/bindings", "/v1/bindings takes GET or DELETE, not PUT"),
            (Method::HEAD, "/v1/bindings/::1", "/v1/bindings/ADDRESS takes GET, PUT, PATCH or DELETE, not HEAD"),
        ] {
            let refusal = Query::parse(&method, path, None).unwrap_err();
            assert_eq!((refusal.status, refusal.error.as_str()), (StatusCode::METHOD_NOT_ALLOWED, said));
        }
    }

    fn methods() -> [Method; 9] {
        let some = [Method::GET, Method::PUT, Method::PATCH, Method::DELETE, Method::POST];
        let [get, put, patch, delete, post] = some;
        [get, put, patch, delete, post, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::CONNECT]
    }

    #[test]
    fn there_are_the_routes_that_are_listed_and_no_others() {
        for (_, path) in ROUTES {
            let path = path.replace(ADDRESS, "192.0.2.1");
            for method in methods() {
                let is_there = ROUTES.iter().any(|(m, p)| method == *m && path == p.replace(ADDRESS, "192.0.2.1"));
                let asked = Query::parse(&method, &path, None);
                let status = asked.err().map(|refusal| refusal.status);
                assert_eq!(status != Some(StatusCode::METHOD_NOT_ALLOWED), is_there, "{method} {path}");
                assert_ne!(status, Some(StatusCode::NOT_FOUND), "{method} {path}");
            }
        }
    }

    #[test]
    fn the_page_describes_every_route_and_every_parameter_and_no_others() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/control/README.md")).unwrap();
        let page = page.split("\n## A relay").next().unwrap_or_default();
        let parts: Vec<(&str, &str)> =
            page.split("\n### `").skip(1).filter_map(|part| part.split_once("`\n")).collect();
        let described: Vec<String> = parts.iter().map(|(title, _)| (*title).to_owned()).collect();
        assert_eq!(described, ROUTES.map(|(method, path)| format!("{method} {path}")));
        for ((method, path), (title, text)) in ROUTES.into_iter().zip(parts) {
            let method: Method = method.parse().unwrap();
            let path = path.replace(ADDRESS, "192.0.2.1");
            let said = Query::parse(&method, &path, Some("no-such-key=1")).unwrap_err().error;
            let known = said.split_once("; there ").map_or("", |(_, keys)| keys);
            let is_of_others = |key: &&str| {
                matches!((*key, title), ("dry-run", "GET /v1/bindings") | ("sort" | "reverse", "DELETE /v1/bindings"))
            };
            let mut known: Vec<&str> = known
                .split([',', ' '])
                .filter(|word| !["", "is", "are", "and", "for", "lists", "releases"].contains(word))
                .filter(|word| !is_of_others(word))
                .collect();
            let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(['`', '=']).next());
            let mut told: Vec<&str> = rows.collect();
            known.sort_unstable();
            told.sort_unstable();
            assert_eq!(told, known, "{title}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_answered_and_any_text_survives_its_encoding(text in any::<String>(), query in any::<Option<String>>()) {
            let _ = Query::parse(&Method::GET, &text, query.as_deref());
            prop_assert_eq!(decode(&encode(&text)), Some(text));
        }
    }
}
