//! What the agent's control socket asks.

use super::error::AgentError;
use super::shared::Agent;
use crate::control::{
    AgentAdmin, AgentRelay, AgentStatus, Listener, PublishedView, Reloaded, Server, SocketSettings, group_number,
};
use crate::host::confine::Confinement;
use std::sync::Arc;
use std::time::Duration;

/// Makes the control socket.
pub fn listen(agent: &Agent, confinement: Option<Confinement>) -> Result<Listener, AgentError> {
    let config = agent.config();
    let group = config.control_group.as_deref().map(group_number).transpose().map_err(AgentError::Group)?;
    let settings = SocketSettings::at(&config.control).of_agent().readable_by(group).with_metrics(config.metrics);
    Ok(Listener::bind(settings.confined_by(confinement))?)
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
        let config = agent.config();
        let relays = config.relays.iter().zip(&agent.states).map(|(relay, state)| {
            let state = state.look();
            let published = config.publish.iter().map(|publish| PublishedView {
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

    fn reload(&self, dry_run: bool) -> Result<Reloaded, String> {
        reload(&self.0, dry_run)
    }
}

/// Reads the configuration anew and changes over to it, or only says what that would change. Connections to servers that are
/// published no more end.
///
/// # Errors
/// A line or more; nothing has changed then.
pub fn reload(agent: &Agent, dry_run: bool) -> Result<Reloaded, String> {
    let after = (agent.source)()?;
    let mut in_force = agent.in_force.write();
    let planned = Reloaded::planned(in_force.difference(&after), dry_run)?;
    if dry_run || **in_force == after {
        return Ok(planned);
    }
    *in_force = Arc::new(after);
    drop(in_force);
    agent.changed.send_replace(());
    log::info!("reloaded: {}", planned.changes.join(", "));
    Ok(Reloaded { applied: true, ..planned })
}
