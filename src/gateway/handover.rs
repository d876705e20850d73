//! A restart without a gap: the queues of the TUN devices outlive the process.
//!
//! systemd keeps them (`FDSTORE`, sd_notify(3)) and hands them to the next process (`LISTEN_FDS`, sd_listen_fds(3)).
//! What arrives in between waits in the queues. Routes and rules stay, for they lead to the same devices.

use crate::config;
use crate::device::tap::{self, Devices, HandedQueue, Offload};
use crate::host::net_dev;
use crate::host::systemd::Manager;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// The first descriptor that is handed over (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// How long systemd may take to give up descriptors.
const VANISH_WITHIN: Duration = Duration::from_secs(2);

/// The queues that a gateway before has left. To be called once, before anything else is opened.
pub fn inherited() -> Vec<HandedQueue> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    if variable("LISTEN_PID") != std::process::id().to_string() {
        return Vec::new();
    }
    let count: RawFd = variable("LISTEN_FDS").parse().unwrap_or_default();
    let names = variable("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let mut queues = Vec::new();
    for number in 0..count.clamp(0, 4096) {
        // SAFETY: the manager that started this process says that it has these descriptors and that they are this
        // process's to use (sd_listen_fds(3)); nothing else here has them, for this is called once and first.
        #[allow(unsafe_code, reason = "a descriptor that is inherited has no other owner")]
        let descriptor = unsafe { OwnedFd::from_raw_fd(FIRST + number) };
        let _ = rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC);
        let name = names.next().unwrap_or_default();
        match parse(name) {
            Some((device, number, offload)) => queues.push(HandedQueue { device, number, offload, descriptor }),
            None => log::warn!("the descriptor '{name}' that was handed over is none of this gateway's; closing it"),
        }
    }
    queues
}

/// Goes on with the devices that were handed over, if they are the ones that are needed; gives up the others.
pub fn take_over(
    names: &[String],
    queues: usize,
    ask: config::Offload,
    mut handed: Vec<HandedQueue>,
    manager: &Manager,
) -> Option<Devices> {
    let given: Vec<String> = handed.iter().map(|queue| name(&queue.device, queue.number, queue.offload)).collect();
    let adopted = tap::take_over(names, queues, ask, &mut handed);
    if adopted.is_some() || given.is_empty() {
        return adopted;
    }
    log::info!("the devices that were handed over are not those of this configuration; making new ones");
    let stale: Vec<String> = handed.iter().map(|queue| queue.device.clone()).collect();
    drop(handed);
    given.iter().for_each(|name| manager.forget(name));
    // They vanish with their last descriptor, once systemd has heard.
    let deadline = Instant::now() + VANISH_WITHIN;
    while stale.iter().any(|device| net_dev::exists(device)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Has systemd keep the queues of devices that were made now.
pub fn store(names: &[String], (devices, offload): &Devices, manager: &Manager) {
    for (device, queues) in names.iter().zip(devices) {
        for (number, queue) in queues.iter().enumerate() {
            manager.keep(&name(device, number, *offload), queue);
        }
    }
}

fn name(device: &str, number: usize, offload: Offload) -> String {
    format!("{device}.{number}.{}", word(offload))
}

fn parse(name: &str) -> Option<(String, usize, Offload)> {
    let mut parts = name.rsplitn(3, '.');
    let (last, number, device) = (parts.next()?, parts.next()?, parts.next()?);
    let offload = [Offload::Full, Offload::Tcp, Offload::None].into_iter().find(|offload| word(*offload) == last)?;
    Some((device.to_owned(), number.parse().ok()?, offload))
}

fn word(offload: Offload) -> &'static str {
    match offload {
        Offload::Full => "full",
        Offload::Tcp => "tcp",
        Offload::None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_queue_it_is() {
        assert_eq!(parse(&name("kamei-in0", 3, Offload::Full)), Some(("kamei-in0".to_owned(), 3, Offload::Full)));
        assert_eq!(parse("a.b-out.0.none"), Some(("a.b-out".to_owned(), 0, Offload::None)));
        for wrong in ["", "full", "0.full", "kamei-out.x.full", "kamei-out.0.most", "kamei-out.0"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
