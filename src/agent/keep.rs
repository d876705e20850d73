//! A session with a relay, begun anew for ever.

use super::error::{AgentError, SessionError};
use super::shared::Agent;
use super::state::RelayState;
use super::{control_channel, enrol};
use std::sync::Arc;
use std::time::Duration;

/// Time until the first new try; it doubles up to the other.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A session that has lived for so long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// Keeps a session with the relay at this place of the configuration. Ends only where trying again would not help.
pub async fn keep(agent: Arc<Agent>, at: usize) -> AgentError {
    let config = agent.config();
    let (Some(relay), Some(state)) = (config.relays.get(at), agent.states.get(at)) else {
        return AgentError::System { what: "no such relay", error: std::io::ErrorKind::NotFound.into() };
    };
    let mut wait = TRY_AGAIN.0;
    loop {
        let known = agent.relays.lock().fingerprint(relay);
        let ended = match (known, &agent.invitation) {
            (Some(key), _) => control_channel::run(&agent, relay, key, state).await,
            (None, Some(invitation)) => match enrol::enrol(&agent, relay, invitation).await {
                Ok(()) => continue,
                Err(error) => error,
            },
            (None, None) => return AgentError::NoInvitation(relay.clone()),
        };
        if let SessionError::NotInvited(text) = ended {
            return AgentError::Refused { relay: relay.clone(), text };
        }
        let was_good = state.look().connected.is_some_and(|since| agent.now() - since >= GOOD);
        state.change(|state| {
            *state = RelayState {
                last_error: Some(ended.to_string()),
                published: state.published.clone(),
                ..RelayState::default()
            };
        });
        if was_good || matches!(ended, SessionError::Leaving) {
            wait = TRY_AGAIN.0;
        }
        let pause = jitter(wait);
        log::warn!("{relay}: {ended}; trying again in {:.1} s", pause.as_secs_f32());
        tokio::time::sleep(pause).await;
        wait = (wait * 2).min(TRY_AGAIN.1);
    }
}

/// Between half of it and all of it: agents that have lost their relay at one moment do not come back at one moment.
fn jitter(wait: Duration) -> Duration {
    let drawn = getrandom::u32().unwrap_or(0);
    wait / 2 + wait.mul_f64(f64::from(drawn) / f64::from(u32::MAX) / 2.0)
}
