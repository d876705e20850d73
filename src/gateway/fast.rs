//! The fast path, as the configuration wants it.

use super::GatewayError;
use super::kernel::Kernel;
use crate::config::{Config, FastPathMode};
use crate::control::{FastPathStatus, Taps};
use crate::fastpath::{Common, Entrance, FastPath};
use crate::nat::{Nat, Realm};
use crate::time::Time;
use std::sync::Arc;

/// Prepares it; `None` if it is off, or cannot be had and need not.
pub fn start(config: &Config, now: Time) -> Result<Option<Arc<FastPath>>, GatewayError> {
    if config.fast_path.mode == FastPathMode::Off {
        return Ok(None);
    }
    match FastPath::new(common(config), now) {
        Ok(fast) => Ok(Some(Arc::new(fast))),
        Err(error) if config.fast_path.mode == FastPathMode::Auto => {
            log::warn!("no fast path: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// What the programs have to know.
pub fn common(config: &Config) -> Common {
    Common {
        tun: config.tun.clone(),
        mark: config.fast_path.mark,
        flows: config.fast_path.flows,
        control_ports: config.alg.iter().map(|alg| alg.port).collect(),
        clamps: config.mss.is_some(),
        redirects: config.fast_path.mode == FastPathMode::Redirect,
    }
}

/// Every interface of the gateway that exists.
pub fn entrances(kernel: &Kernel) -> Vec<Entrance> {
    let realm = |inside: Option<usize>| match inside {
        Some(inside) => Realm::Inside(u16::try_from(inside).unwrap_or(u16::MAX)),
        None => Realm::Outside,
    };
    let all = kernel.entrances().into_iter();
    all.map(|(name, index, inside)| Entrance { name, index, realm: realm(inside) }).collect()
}

/// How it is.
pub fn status(fast: Option<&FastPath>, mode: FastPathMode) -> FastPathStatus {
    let Some(fast) = fast else { return FastPathStatus { mode: "off".to_owned(), ..FastPathStatus::default() } };
    let (flows, hits, slow) = fast.view();
    let mode = if mode == FastPathMode::Redirect { "redirect" } else { "tc" };
    FastPathStatus { mode: mode.to_owned(), flows, hits, slow }
}

/// Heeds whoever wants to see all packets, and notes what was carried, so that bindings say what is true now.
pub fn settle(fast: Option<&FastPath>, taps: &Taps, nat: &Nat, now: Time) {
    if let Some(fast) = fast {
        fast.bypass(taps.bypass_fast_path(), nat, now);
        fast.settle(nat, now);
    }
}
