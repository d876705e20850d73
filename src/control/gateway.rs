//! What the gateway answers on its control socket.

use super::Admin;
use super::answer::{self, Answering, RequestContext, Requests, Role};
use super::query::{self, Query};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use std::sync::Arc;

/// What can be asked of a gateway.
pub const REQUESTS: Requests = Requests {
    check: |method, uri| Query::parse(method, uri.path(), uri.query()).map(drop),
    for_root_alone: |path| {
        if query::shows_packets(path) {
            Some("packets are shown to root alone")
        } else if query::shows_history(path) {
            Some("the history is shown to root alone")
        } else {
            None
        }
    },
};

/// The gateway behind its socket.
pub struct GatewayRole(pub Arc<dyn Admin>);

impl Role for GatewayRole {
    fn answer<'a>(&'a self, head: Parts, body: Incoming, context: &'a RequestContext<'a>) -> Answering<'a> {
        Box::pin(async move {
            let query = Query::parse(&head.method, head.uri.path(), head.uri.query())?;
            answer::answer(query, body, &self.0, context).await
        })
    }

    fn metrics(&self) -> Answering<'_> {
        Box::pin(answer::metrics(&self.0))
    }

    fn close(&self) {
        self.0.taps().close();
    }
}
