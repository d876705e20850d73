//! What the agent's control socket asks.

use super::error::AgentError;
use super::shared::Agent;
use crate::control::{
    AgentAdmin, AgentRelay, AgentStatus, Listener, PublishedView, Server, SocketSettings, group_number,
};
use std::sync::Arc;
use std::time::Duration;

/// Makes the control socket.
pub fn listen(agent: &Agent) -> Result<Listener, AgentError> {
    let config = &agent.config;
    let group = config.control_group.as_deref().map(group_number).transpose().map_err(AgentError::Group)?;
    let settings = SocketSettings::at(&config.control).of_agent().readable_by(group).with_metrics(config.metrics);
    Ok(Listener::bind(settings)?)
}

/// Answers from now on.
pub fn serve(listener: Listener, agent: &Arc<Agent>) -> Server {
    listener.serve_agent(Arc::new(Asked(Arc::clone(agent))))
}

struct Asked(Arc<Agent>);

impl AgentAdmin for Asked {
    fn status(&self) -> AgentStatus {
        let agent = &self.0;
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let relays = agent.config.relays.iter().zip(&agent.states).map(|(relay, state)| {
            let state = state.look();
            let published = agent.config.publish.iter().map(|publish| PublishedView {
                server: publish.published.clone(),
                target: publish.target.to_string(),
                refused: match (state.connected, state.published.get(&publish.published)) {
                    (None, _) => Some("no session".to_owned()),
                    (_, Some(Err(reason))) => Some(reason.name().to_owned()),
                    (_, None) => Some("no answer yet".to_owned()),
                    (_, Some(Ok(()))) => None,
                },
            });
            AgentRelay {
                relay: relay.to_string(),
                name: agent.relays.lock().name(relay),
                connected_seconds: state.connected.map(|since| (agent.now() - since).as_secs()),
                last_error: state.last_error,
                round_trip_ms: state.round_trip.map(milliseconds),
                connections: state.connections,
                published: published.collect(),
            }
        });
        AgentStatus {
            role: "agent".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: agent.since.elapsed().as_secs(),
            relays: relays.collect(),
        }
    }
}
