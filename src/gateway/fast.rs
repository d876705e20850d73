//! The fast path, as the configuration wants it.

use super::GatewayError;
use super::kernel::{Ethernet, Kernel};
use crate::config::{Config, FastPathMode};
use crate::control::{FastPathStatus, Taps};
use crate::fastpath::{Common, Entrance, FastPath, Site};
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

/// Puts it on the interfaces there are at the start: on all of them, if it was asked for by name.
pub fn take_seats(fast: &FastPath, config: &Config, kernel: &Kernel) -> Result<(), GatewayError> {
    if config.fast_path.mode == FastPathMode::Auto {
        follow(fast, kernel);
        return Ok(());
    }
    fast.follow(&site(kernel)).into_iter().next().map_or(Ok(()), |why| {
        fast.remove();
        Err(why.into())
    })
}

/// Puts it on the interfaces there are now; where it cannot be, packets take the longer way.
pub fn follow(fast: &FastPath, kernel: &Kernel) {
    for why in fast.follow(&site(kernel)) {
        log::warn!("{why}");
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
        redirects: matches!(config.fast_path.mode, FastPathMode::Redirect | FastPathMode::Xdp),
        xdp: config.fast_path.mode == FastPathMode::Xdp,
        hook: config.fast_path.hook,
    }
}

/// The host, as the fast path goes by it: every interface of the gateway that exists, and who leads packets.
fn site(kernel: &Kernel) -> Site {
    let realm = |inside: Option<usize>| match inside {
        Some(inside) => Realm::Inside(u16::try_from(inside).unwrap_or(u16::MAX)),
        None => Realm::Outside,
    };
    let all = kernel.entrances().into_iter();
    let entrances = all.map(|(name, index, inside, Ethernet { hardware, is_local })| Entrance {
        name,
        index,
        realm: realm(inside),
        hardware,
        is_local,
    });
    let (ruled_v4, ruled_v6) = kernel.host().is_ruled_by_others();
    Site { entrances: entrances.collect(), ruled_v4, ruled_v6 }
}

/// How it is.
pub fn status(fast: Option<&FastPath>, mode: FastPathMode) -> FastPathStatus {
    let Some(fast) = fast else { return FastPathStatus { mode: "off".to_owned(), ..FastPathStatus::default() } };
    let (flows, hits, slow) = fast.view();
    let mode = match mode {
        FastPathMode::Redirect => "redirect",
        FastPathMode::Xdp => "xdp",
        FastPathMode::Auto | FastPathMode::Tc | FastPathMode::Off => "tc",
    };
    FastPathStatus { mode: mode.to_owned(), flows, hits, slow }
}

/// Heeds whoever wants to see all packets, and notes what was carried, so that bindings say what is true now.
pub fn settle(fast: Option<&FastPath>, taps: &Taps, nat: &Nat, now: Time) {
    if let Some(fast) = fast {
        fast.bypass(taps.bypass_fast_path(), nat, now);
        fast.settle(nat, now);
    }
}
