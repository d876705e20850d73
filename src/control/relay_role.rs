//! Relay and agent behind their control sockets.

use super::answer::{self, Answering, RequestContext, Requests, Role};
use super::metrics;
use super::parameters::decode;
use super::refusal::{Refusal, bad};
use super::relay::{Admit, AgentAdmin, Invite, Refused, RelayAdmin, Revoked};
use super::server::{Listener, Server, SocketSettings};
use crate::session::ConnectionId;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Uri};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Every request that a relay answers. README.md in this folder describes each.
const RELAY_ROUTES: [(&str, &str); 12] = [
    ("GET", "/v1/status"),
    ("GET", "/v1/metrics"),
    ("POST", "/v1/reload"),
    ("GET", "/v1/agents"),
    ("DELETE", "/v1/agents/NAME"),
    ("GET", "/v1/servers"),
    ("GET", "/v1/connections"),
    ("DELETE", "/v1/connections/ID"),
    ("GET", "/v1/invitations"),
    ("POST", "/v1/invitations"),
    ("GET", "/v1/clients"),
    ("POST", "/v1/clients"),
];

/// Every request that an agent answers.
const AGENT_ROUTES: [(&str, &str); 3] = [("GET", "/v1/status"), ("GET", "/v1/metrics"), ("POST", "/v1/reload")];

/// What can be asked of a relay.
const OF_RELAY: Requests = Requests {
    check: |method, uri| route(method, uri, &RELAY_ROUTES).map(drop),
    // Who calls whom.
    for_root_alone: |path| {
        let is_hidden = decode(path).is_none_or(|path| ["/v1/connections", "/v1/clients"].contains(&path.as_str()));
        is_hidden.then_some("connections and clients are shown to root alone")
    },
};

/// What can be asked of an agent.
const OF_AGENT: Requests =
    Requests { check: |method, uri| route(method, uri, &AGENT_ROUTES).map(drop), for_root_alone: |_| None };

impl SocketSettings {
    /// It is asked what a relay is asked.
    pub fn of_relay(self) -> Self {
        self.asked(OF_RELAY)
    }

    /// It is asked what an agent is asked.
    pub fn of_agent(self) -> Self {
        self.asked(OF_AGENT)
    }
}

struct Relay(Arc<dyn RelayAdmin>);
struct Agent(Arc<dyn AgentAdmin>);

impl Listener {
    /// From now on a relay answers.
    pub fn serve_relay(self, admin: Arc<dyn RelayAdmin>) -> Server {
        self.serve_role(Arc::new(Relay(admin)))
    }

    /// From now on an agent answers.
    pub fn serve_agent(self, admin: Arc<dyn AgentAdmin>) -> Server {
        self.serve_role(Arc::new(Agent(admin)))
    }
}

impl Role for Relay {
    fn answer<'a>(&'a self, head: Parts, body: Incoming, context: &'a RequestContext<'a>) -> Answering<'a> {
        Box::pin(async move {
            let (route, last) = route(&head.method, &head.uri, &RELAY_ROUTES)?;
            let last = last.as_str();
            let unreadable = |error: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error);
            let refused = |refused| match refused {
                Refused::Wrong(error) => Refusal::new(StatusCode::CONFLICT, error),
                Refused::Failed(error) => unreadable(error),
            };
            match route {
                ("GET", "/v1/status") => answer::json(&in_time(&self.0, |admin| admin.status()).await?),
                ("GET", "/v1/agents") => {
                    answer::json(&in_time(&self.0, |admin| admin.agents()).await?.map_err(unreadable)?)
                }
                ("GET", "/v1/servers") => answer::json(&in_time(&self.0, |admin| admin.servers()).await?),
                ("GET", "/v1/connections") => answer::json(&in_time(&self.0, |admin| admin.connections()).await?),
                ("GET", "/v1/invitations") => {
                    answer::json(&in_time(&self.0, |admin| admin.invitations()).await?.map_err(unreadable)?)
                }
                ("POST", "/v1/reload") => {
                    let dry_run = is_dry_run(&head.uri);
                    let done = in_time(&self.0, move |admin| admin.reload(dry_run)).await?;
                    answer::json(&done.map_err(|error| Refusal::new(StatusCode::CONFLICT, error))?)
                }
                ("GET", "/v1/clients") => {
                    answer::json(&in_time(&self.0, |admin| admin.clients()).await?.map_err(unreadable)?)
                }
                ("POST", "/v1/clients") => {
                    let body = answer::whole(body, context.patience.body).await?;
                    let admit: Admit = serde_json::from_slice(&body)
                        .map_err(|error| bad(format!("the body is no client to be let in: {error}")))?;
                    answer::json(&in_time(&self.0, move |admin| admin.admit(admit)).await?.map_err(refused)?)
                }
                ("POST", _) => {
                    let body = answer::whole(body, context.patience.body).await?;
                    let invite: Invite = serde_json::from_slice(&body)
                        .map_err(|error| bad(format!("the body is no invitation to be made: {error}")))?;
                    let Invite { name, servers, seconds } = invite;
                    let invite = Invite::new(name, servers, seconds);
                    let invited = in_time(&self.0, move |admin| admin.invite(&invite)).await?;
                    answer::json(&invited.map_err(refused)?)
                }
                ("DELETE", "/v1/agents/NAME") => {
                    let name = last.to_owned();
                    let ended = in_time(&self.0, move |admin| admin.revoke(&name)).await?.map_err(unreadable)?;
                    let none = || {
                        Refusal::new(
                            StatusCode::NOT_FOUND,
                            format!(
                                "nobody is called '{last}'; `kamei relay agents` and `kamei relay clients` list names"
                            ),
                        )
                    };
                    answer::json(&Revoked { connections: ended.ok_or_else(none)? })
                }
                ("DELETE", _) => {
                    let none = || {
                        Refusal::new(
                            StatusCode::NOT_FOUND,
                            format!("there is no connection '{last}'; `kamei relay connections` lists them"),
                        )
                    };
                    let id: ConnectionId = last.parse().map_err(|_| none())?;
                    let ended = in_time(&self.0, move |admin| admin.close(id)).await?;
                    if ended { answer::json(&serde_json::json!({})) } else { Err(none()) }
                }
                _ => self.metrics().await,
            }
        })
    }

    fn metrics(&self) -> Answering<'_> {
        Box::pin(async { answer::open_metrics(metrics::write_relay(in_time(&self.0, |admin| admin.status()).await?)) })
    }

    fn close(&self) {}
}

impl Role for Agent {
    fn answer<'a>(&'a self, head: Parts, _: Incoming, _: &'a RequestContext<'a>) -> Answering<'a> {
        Box::pin(async move {
            match route(&head.method, &head.uri, &AGENT_ROUTES)?.0 {
                ("GET", "/v1/status") => answer::json(&in_time(&self.0, |admin| admin.status()).await?),
                ("POST", _) => {
                    let dry_run = is_dry_run(&head.uri);
                    let done = in_time(&self.0, move |admin| admin.reload(dry_run)).await?;
                    answer::json(&done.map_err(|error| Refusal::new(StatusCode::CONFLICT, error))?)
                }
                _ => self.metrics().await,
            }
        })
    }

    fn metrics(&self) -> Answering<'_> {
        Box::pin(async { answer::open_metrics(metrics::write_agent(in_time(&self.0, |admin| admin.status()).await?)) })
    }

    fn close(&self) {}
}

/// Not in the thread of the control socket: it may take a moment.
async fn in_time<A: ?Sized + Send + Sync + 'static, T: Send + 'static>(
    admin: &Arc<A>,
    work: impl FnOnce(&A) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let admin = Arc::clone(admin);
    let done = tokio::task::spawn_blocking(move || work(&admin)).await;
    done.map_err(|_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "stopping"))
}

fn is_dry_run(uri: &Uri) -> bool {
    uri.query() == Some("dry-run")
}

/// A method and a path.
type Route = (&'static str, &'static str);

/// The route that a request takes, and the last word of its path; what is in capitals at the end of a route stands for one word.
fn route(method: &Method, uri: &Uri, routes: &'static [Route]) -> Result<(Route, String), Refusal> {
    let path = decode(uri.path()).ok_or_else(|| bad("the path is not properly percent-encoded".to_owned()))?;
    let leads_to = |route: &str| match route.rsplit_once('/') {
        Some((folder, last)) if last.bytes().all(|byte| byte.is_ascii_uppercase()) => {
            path.rsplit_once('/').is_some_and(|(asked, word)| asked == folder && !word.is_empty())
        }
        _ => path == route,
    };
    let here: Vec<Route> = routes.iter().copied().filter(|(_, route)| leads_to(route)).collect();
    if here.is_empty() {
        let paths: BTreeSet<&str> = routes.iter().map(|(_, path)| *path).collect();
        let paths: Vec<&str> = paths.into_iter().collect();
        return Err(Refusal::new(StatusCode::NOT_FOUND, format!("no such path; there are {}", paths.join(", "))));
    }
    let Some(found) = here.iter().copied().find(|(allowed, _)| method == allowed) else {
        let allowed: Vec<&str> = here.iter().map(|(method, _)| *method).collect();
        let error = format!("{path} takes {}, not {method}", allowed.join(" or "));
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error));
    };
    let query = uri.query().unwrap_or_default();
    if found == ("POST", "/v1/reload") && !["", "dry-run"].contains(&query) {
        return Err(bad(format!("no parameter '{query}'; there is dry-run")));
    }
    if found != ("POST", "/v1/reload") && !query.is_empty() {
        return Err(bad(format!("{method} {path} takes no parameters")));
    }
    let last = path.rsplit_once('/').map(|(_, last)| last.to_owned()).unwrap_or_default();
    Ok((found, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_takes_a_route_or_hears_which_there_are() {
        let take = |method: &str, path: &str| route(&method.parse().unwrap(), &path.parse().unwrap(), &RELAY_ROUTES);
        assert_eq!(take("GET", "/v1/agents").unwrap().0, ("GET", "/v1/agents"));
        assert_eq!(take("GET", "/v1/agents?").unwrap().0, ("GET", "/v1/agents"));
        let named = (("DELETE", "/v1/agents/NAME"), "factory-7".to_owned());
        assert_eq!(take("DELETE", "/v1/agents/factory%2D7"), Ok(named));
        for (method, path, status) in [
            ("DELETE", "/v1/agents/", StatusCode::NOT_FOUND),
            ("GET", "/", StatusCode::NOT_FOUND),
            ("PUT", "/v1/agents", StatusCode::METHOD_NOT_ALLOWED),
            ("GET", "/v1/agents?state=here", StatusCode::BAD_REQUEST),
            ("GET", "/v1/agents?%zz", StatusCode::BAD_REQUEST),
            ("GET", "/v1/%zz", StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(take(method, path).unwrap_err().status, status, "{method} {path}");
        }
        assert!(take("GET", "/v1/bindings").unwrap_err().error.contains("/v1/connections/ID"));
        assert_eq!(take("PUT", "/v1/invitations").unwrap_err().error, "/v1/invitations takes GET or POST, not PUT");
    }

    #[test]
    fn the_page_names_every_route() {
        let page = include_str!("README.md").split("\n## A relay").nth(1).unwrap();
        let (relay, agent) = page.split_once("\n## An agent").unwrap();
        for (text, routes) in [(relay, &RELAY_ROUTES[..]), (agent, &AGENT_ROUTES)] {
            for (method, path) in routes {
                assert!(text.contains(&format!("`{method} {path}`")), "{method} {path}");
            }
        }
    }
}
