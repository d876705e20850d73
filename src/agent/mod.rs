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

use crate::config::{AgentConfig, ConfigSource, Hardening};
use crate::control::Listener;
use crate::host::confine::{Confinement, Profile};
use crate::host::{self, LockFile};
use crate::identity::{Invitation, Keys};
use error::SessionError;
use parking_lot::{Mutex, RwLock};
use relays::Relays;
use shared::Agent;
use state::RelayStateLock;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Runs an agent until SIGTERM or SIGINT; at SIGHUP it reads its configuration anew, from `source`, which reads `file`.
///
/// # Errors
/// What keeps it from starting, and an invitation that the relay refuses: trying again would not help. A relay that is away
/// is tried again for ever.
pub fn run(
    config: AgentConfig,
    source: ConfigSource<AgentConfig>,
    file: Option<&Path>,
    invitation: Option<Invitation>,
) -> Result<(), AgentError> {
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
    let confinement = (config.hardening == Hardening::On).then(|| {
        Confinement::of_role(Profile::AGENT, &config.state_dir, &config.control, config.metrics).reading(file)
    });
    let agent = Arc::new(agent(config, source, (keys, relays, invitation)));
    let control = admin::listen(&agent, confinement.clone())?;
    // Before there are other threads: each hands on what it may.
    confinement.map_or(Ok(()), |confinement| confinement.enter_and_tell())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| AgentError::System { what: "cannot start threads", error })?;
    let served = runtime.block_on(serve(&agent, control));
    runtime.shutdown_background();
    served
}

/// Joins the relay, which spends the invitation: afterwards the agent runs without one. What it is called there.
///
/// # Errors
/// The relay does not answer or refuses. `kamei relay invitations` there tells whether the invitation was spent.
pub fn join(config: AgentConfig, invitation: Invitation) -> Result<String, AgentError> {
    let [relay] = config.relays.as_slice() else {
        return Err(AgentError::OneRelay(config.relays.len()));
    };
    let relay = relay.clone();
    let keys = Keys::open(&config.state_dir)?;
    let relays = Relays::open(&config.state_dir)?;
    let source = Box::new(|| Err("it only joins".to_owned()));
    let agent = agent(config, source, (keys, relays, None));
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

type Kept = (Keys, Relays, Option<Invitation>);

fn agent(config: AgentConfig, source: ConfigSource<AgentConfig>, (keys, relays, invitation): Kept) -> Agent {
    Agent {
        states: config.relays.iter().map(|_| RelayStateLock::default()).collect(),
        in_force: RwLock::new(Arc::new(config)),
        source,
        changed: watch::Sender::new(()),
        keys,
        invitation,
        relays: Mutex::new(relays),
        since: Instant::now(),
    }
}

async fn serve(agent: &Arc<Agent>, control: Listener) -> Result<(), AgentError> {
    let caught = |error| AgentError::System { what: "cannot catch signals", error };
    let mut terminated = signal(SignalKind::terminate()).map_err(caught)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(caught)?;
    let mut hung_up = signal(SignalKind::hangup()).map_err(caught)?;
    let server = admin::serve(control, agent);
    let mut sessions = tokio::task::JoinSet::new();
    for at in 0..agent.states.len() {
        sessions.spawn(keep::keep(Arc::clone(agent), at));
    }
    let manager = host::systemd::Manager::from_environment();
    manager.ready("serving");
    let failed = || AgentError::System { what: "a task has failed", error: std::io::Error::other("see the log") };
    let ended = loop {
        tokio::select! {
            _ = terminated.recv() => break Ok(()),
            _ = interrupted.recv() => break Ok(()),
            _ = hung_up.recv() => {
                let agent = Arc::clone(agent);
                tokio::task::spawn_blocking(move || match admin::reload(&agent, false) {
                    Ok(reloaded) if !reloaded.applied => log::info!("reloaded: nothing has changed"),
                    Ok(_) => {}
                    Err(error) => log::error!("not reloaded: {error}"),
                });
            }
            Some(ended) = sessions.join_next() => break Err(ended.unwrap_or_else(|_| failed())),
        }
    };
    manager.stopping();
    server.stop();
    ended
}
