//! The hosts of a test: each in a network namespace of its own that has no name and ends with this process, on a wire whose
//! near end is beside the gateway.

#![allow(unsafe_code, reason = "a thread that leaves its network namespace")]

use super::ground::{self, batch};
use crate::fastpath::{Detour, FastPathError, Port};
use crossbeam_channel::Receiver;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// How often something is looked at that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Bytes that a caller sends and wants back.
const WORDS: &[u8; 16] = b"kamei test: hear";

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    #[error("no network namespace can be made: {0}; run it as root, and in a container with CAP_SYS_ADMIN")]
    Namespace(io::Error),
    #[error("its wire cannot be made: {0}")]
    Wire(String),
    #[error("{0}")]
    Program(#[from] FastPathError),
}

/// A network namespace, for as long as this lives.
struct Namespace(File);

/// A host with its wire.
pub struct Host {
    namespace: Namespace,
    near: String,
    _catch: Detour,
    _bring: Detour,
}

impl Namespace {
    fn new() -> io::Result<Self> {
        let made = std::thread::spawn(|| {
            // SAFETY: only this thread leaves, which ends next; files stay shared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net")
        });
        made.join().unwrap_or_else(|_| Err(io::Error::other("a thread ended"))).map(Self)
    }

    /// Runs `work` in a thread that is in the namespace; sockets that it makes stay there.
    fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread ended")))
        })
    }
}

impl Host {
    /// A host with these addresses, at the interface `at`; `near` is to be the name of the near end of its wire.
    pub fn new(near: String, at: &Port, addresses: &[IpAddr]) -> Result<Self, BedError> {
        let namespace = Namespace::new().map_err(BedError::Namespace)?;
        let wire = |error: io::Error| BedError::Wire(error.to_string());
        // Of a test that was killed a moment ago.
        ground::forget_device(&near);
        let lines = far_end(&near, addresses);
        let hardware = namespace.inside(move || {
            // Its link has one speaker: nothing to look for, nobody who advertises routes.
            for (key, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("addr_gen_mode", "1")] {
                let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/default/{key}"), value);
            }
            batch(&lines)?;
            ground::port("eth0").map_err(io::Error::other)
        });
        let hardware = hardware.map_err(wire)?.hardware.unwrap_or_default();
        let host = (|| {
            // No address of its own: what it would say is for nobody.
            batch(&format!("link set dev {near} addrgenmode none\n")).map_err(wire)?;
            let near = ground::port(&near).map_err(BedError::Wire)?;
            let bring = Detour::bring(&near, addresses, at)?;
            batch(&format!("link set dev {} up\n", near.name)).map_err(wire)?;
            Ok((Detour::catch(at, addresses, &near, hardware)?, bring))
        })();
        match host {
            Ok((catch, bring)) => Ok(Self { namespace, near, _catch: catch, _bring: bring }),
            Err(error) => {
                ground::forget_device(&near);
                Err(error)
            }
        }
    }

    /// Of its addresses, this one is what it calls with from now on.
    pub fn call_as(&self, address: IpAddr) -> io::Result<()> {
        let line = format!("route replace {}\n", way_out(address));
        self.namespace.inside(move || batch(&line))
    }

    /// Waits for a caller at this address.
    pub fn listen(&self, at: SocketAddr) -> io::Result<TcpListener> {
        let listener = self.namespace.inside(move || TcpListener::bind(at))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Calls, sends a few bytes, and hears whether they come back; how it went comes by the channel.
    pub fn call(&self, to: SocketAddr, patience: Duration) -> io::Result<Receiver<io::Result<()>>> {
        let namespace = Namespace(self.namespace.0.try_clone()?);
        let (tell, told) = crossbeam_channel::bounded(1);
        // Nobody waits for one who gets no answer.
        std::thread::spawn(move || tell.send(namespace.inside(move || call(to, patience))));
        Ok(told)
    }

    /// TCP segments that have reached it.
    pub fn segments(&self) -> u64 {
        let text = self.namespace.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let at = lines.next().and_then(|names| names.split(' ').position(|name| name == "InSegs"));
        at.and_then(|at| lines.next()?.split(' ').nth(at)?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        ground::forget_device(&self.near);
    }
}

fn call(to: SocketAddr, patience: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(WORDS)?;
    let mut heard = [0; WORDS.len()];
    stream.read_exact(&mut heard)?;
    if heard == *WORDS { Ok(()) } else { Err(io::Error::other("what came back is not what was sent")) }
}

/// Takes one call and gives back what it says. The caller's address as it is seen here; `None` if nobody calls before `stop`
/// says so.
pub fn answer_one(listener: &TcpListener, stop: &dyn Fn() -> bool) -> Option<IpAddr> {
    let end = || -> Option<(TcpStream, SocketAddr)> {
        loop {
            match listener.accept() {
                Ok(caller) => return Some(caller),
                Err(_) if stop() => return None,
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    };
    let (mut stream, from) = end()?;
    let answered = (|| {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut heard = [0; WORDS.len()];
        stream.read_exact(&mut heard)?;
        stream.write_all(&heard)
    })();
    // Who called says whether it heard the answer.
    let _: io::Result<()> = answered;
    Some(from.ip())
}

/// What `ip` is told in the namespace. The router is nobody: who takes the frames addresses them anew.
fn far_end(near: &str, addresses: &[IpAddr]) -> String {
    let mut lines = format!(
        "link set dev lo up\nlink add eth0 type veth peer name {near} netns {}\nlink set dev eth0 up\n",
        std::process::id()
    );
    for address in addresses {
        let (length, plain) = if address.is_ipv4() { (32, "") } else { (128, " nodad") };
        lines.push_str(&format!("address add {address}/{length} dev eth0{plain}\n"));
    }
    if let Some(first) = addresses.first() {
        let router = router(*first);
        lines.push_str(&format!("neighbour replace {router} lladdr 02:00:00:00:00:01 nud permanent dev eth0\n"));
        lines.push_str(&format!("route add {}\n", way_out(*first)));
    }
    lines
}

fn way_out(source: IpAddr) -> String {
    let everywhere = if source.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    format!("{everywhere} via {} dev eth0 onlink src {source}", router(source))
}

fn router(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "169.254.1.1" } else { "fe80::1" }
}
