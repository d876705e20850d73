//! The agent: inside, it keeps one connection to each relay, and for each call that comes by it dials the server and opens a
//! data channel outwards.
//!
//! | file | what |
//! | --- | --- |
//! | `keep.rs` | a session with a relay, begun anew for ever |
//! | `dial.rs` | connects to a host by name or address |
//! | `connect.rs` | TCP, TLS and HTTP/2 to a relay |
//! | `via.rs` | through a proxy to the relay |
//! | `enrol.rs` | an invitation becomes a certificate |
//! | `control_channel.rs` | one session's control channel: calls in, answers out |
//! | `session.rs` | what the calls of a session share |
//! | `call.rs` | one connection: dials the server, opens the data channel, carries bytes |
//! | `shared.rs`, `state.rs` | what all tasks share; how it is with each relay |
//! | `relays.rs` | what is known of relays, kept over restarts |

mod admin;
mod call;
mod connect;
mod control_channel;
mod dial;
mod enrol;
mod error;
mod keep;
mod relays;
mod session;
mod shared;
mod state;
mod via;

pub use error::AgentError;

use crate::config::AgentConfig;
use crate::host::{self, LockFile};
use crate::identity::{Invitation, Keys};
use error::SessionError;
use parking_lot::Mutex;
use relays::Relays;
use shared::Agent;
use state::State;
use std::sync::Arc;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};

/// Runs an agent until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting, and an invitation that the relay refuses: trying again would not help. A relay that is away
/// is tried again for ever.
pub fn run(config: AgentConfig, invitation: Option<Invitation>) -> Result<(), AgentError> {
    host::raise_descriptors();
    let keys = Keys::open(&config.state_dir)?;
    let lock = LockFile::take(&config.state_dir.join("lock"));
    let lock = lock.map_err(|error| AgentError::System { what: "cannot lock the state directory", error })?;
    let _lock = lock.ok_or_else(|| AgentError::Locked(config.state_dir.clone()))?;
    let relays = Relays::open(&config.state_dir)?;
    if let Some(relay) = config.relays.iter().find(|relay| relays.fingerprint(relay).is_none())
        && invitation.is_none()
    {
        return Err(AgentError::NoInvitation(relay.clone()));
    }
    let states = config.relays.iter().map(|_| State::default()).collect();
    let agent = Arc::new(Agent { config, keys, invitation, relays: Mutex::new(relays), states, since: Instant::now() });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| AgentError::System { what: "cannot start threads", error })?;
    let served = runtime.block_on(serve(&agent));
    runtime.shutdown_background();
    served
}

/// Joins the relay, which spends the invitation: afterwards the agent runs without one. What it is called there.
///
/// # Errors
/// The relay does not answer or refuses; the invitation is not spent then, or was before.
pub fn join(config: AgentConfig, invitation: Invitation) -> Result<String, AgentError> {
    let [relay] = config.relays.as_slice() else {
        return Err(AgentError::OneRelay(config.relays.len()));
    };
    let relay = relay.clone();
    let keys = Keys::open(&config.state_dir)?;
    let relays = Mutex::new(Relays::open(&config.state_dir)?);
    let states = vec![State::default()];
    let agent = Agent { config, keys, invitation: None, relays, states, since: Instant::now() };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| AgentError::System { what: "cannot start", error })?;
    let joined = runtime.block_on(enrol::enrol(&agent, &relay, &invitation));
    joined.map_err(|error| match error {
        SessionError::NotInvited(text) => AgentError::Refused { relay: relay.clone(), text },
        other => AgentError::NotJoined { relay: relay.clone(), text: other.to_string() },
    })?;
    let name = agent.relays.lock().name(&relay);
    Ok(name.unwrap_or_default())
}

async fn serve(agent: &Arc<Agent>) -> Result<(), AgentError> {
    let control = admin::listen(agent)?;
    let caught = |error| AgentError::System { what: "cannot catch signals", error };
    let mut terminated = signal(SignalKind::terminate()).map_err(caught)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(caught)?;
    let server = admin::serve(control, agent);
    let mut sessions = tokio::task::JoinSet::new();
    for at in 0..agent.config.relays.len() {
        sessions.spawn(keep::keep(Arc::clone(agent), at));
    }
    let manager = host::systemd::Manager::from_environment();
    manager.ready("serving");
    let ended = tokio::select! {
        _ = terminated.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
        Some(ended) = sessions.join_next() => match ended {
            Ok(error) => Err(error),
            Err(_) => Err(AgentError::System { what: "a task has failed", error: std::io::Error::other("see the log") }),
        },
    };
    manager.stopping();
    server.stop();
    ended
}
