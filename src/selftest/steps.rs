//! The steps of one test, each said as it is done, up to the first that fails.

use super::bed::{self, Host};
use super::ground::{self};
use super::scene::{Cast, Outcome, SPARE, Scene, Step, Test, TestError};
use super::why;
use crate::control::{Line, PacketLine, Watch};
use crate::nat::{BindingState, BindingView, Explanation, Qualified};
use parking_lot::Mutex;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the gateway has to say that it shows packets.
const BEGIN_TIME: Duration = Duration::from_secs(5);

/// How long a line may be on its way.
const LINE_TIME: Duration = Duration::from_millis(500);

/// Says steps.
struct Teller<'a> {
    scene: &'a Scene<'a>,
    test: &'a mut Test,
    said: &'a mut dyn FnMut(&Test, &Step),
}

/// The test has ended: nothing more is to be said.
struct Stopped;

impl Teller<'_> {
    fn say(&mut self, step: &'static str, outcome: Outcome, text: String, why: Vec<String>) {
        self.test.steps.push(Step { step, outcome, text, why });
        if let Some(step) = self.test.steps.last() {
            (self.said)(self.test, step);
        }
    }

    fn ok(&mut self, step: &'static str, text: String) {
        self.say(step, Outcome::Ok, text, Vec::new());
    }

    fn stop<T>(&mut self, step: &'static str, text: String, why: Vec<String>) -> Result<T, Stopped> {
        if self.scene.is_stopped() {
            self.say(step, Outcome::Failed, "interrupted".to_owned(), Vec::new());
        } else {
            self.say(step, Outcome::Failed, text, why);
        }
        Err(Stopped)
    }
}

/// Runs one test.
pub fn run(
    scene: &Scene<'_>,
    is_v4: bool,
    test: &mut Test,
    said: &mut dyn FnMut(&Test, &Step),
) -> Result<(), TestError> {
    let interface = test.interface.clone();
    let mut teller = Teller { scene, test, said };
    let Ok(cast) = cast(scene, &interface, is_v4, &mut teller) else { return Ok(()) };
    scene.note(cast.terminal, cast.peer)?;
    let went = play(scene, &interface, &cast, &mut teller);
    ground::forget_neighbour(cast.terminal, &interface);
    for host in [cast.peer, cast.stranger] {
        ground::forget_neighbour(host, &cast.way.interface);
    }
    let released = release(scene, &cast);
    if released.is_ok() {
        let _ = std::fs::remove_file(&scene.note);
    }
    match (went, released) {
        (Ok(()), Ok(Some(binding))) => {
            let text = format!("{} is released; it is nobody's until its quarantine is over", binding.virtual_ip);
            teller.ok("released", text);
        }
        (_, Err(error)) => {
            let why = vec![format!("kamei bindings release {}", cast.terminal)];
            teller.say("released", Outcome::Failed, format!("the binding of the test stays: {error}"), why);
        }
        _ => {}
    }
    Ok(())
}

/// Finds addresses for all who take part, and asks the gateway beforehand what it would do.
fn cast(scene: &Scene<'_>, interface: &str, is_v4: bool, teller: &mut Teller<'_>) -> Result<Cast, Stopped> {
    let given = |all: &[IpAddr]| all.iter().copied().find(|address| address.is_ipv4() == is_v4);
    // One that has ended, of the test before, is nobody's.
    let has_none = |address: IpAddr| {
        let found = scene.client.show(&Qualified { address, inside: None });
        found.map_or(true, |found| found.iter().all(|binding| binding.state == BindingState::Quarantined))
    };
    let terminal = match given(&scene.request.address) {
        Some(address) if has_none(address) => Some(address),
        Some(address) => {
            let why = vec!["name an address that no host has had a binding with".to_owned()];
            return teller.stop("terminal", format!("{address} has a binding: it is a host's"), why);
        }
        None => ground::free_behind(interface, is_v4, &mut |address| has_none(address)),
    };
    let Some(terminal) = terminal else {
        let text = format!("no address behind {interface} is free for a terminal of the test");
        return teller.stop("terminal", text, why::no_address(interface, is_v4));
    };
    let mut refused = None;
    let is_outside = |address| {
        let way = ground::way(terminal, address, interface);
        way.is_ok_and(|way| scene.status.gateway.outsides.contains(&way.interface))
    };
    for [peer, stranger] in peers(scene, is_v4, &is_outside) {
        let way = match ground::way(terminal, peer, interface) {
            Ok(way) if scene.status.gateway.outsides.contains(&way.interface) => way,
            Ok(way) => {
                let text =
                    format!("a packet from {interface} to {peer} would go by {}, no outside interface", way.interface);
                refused.get_or_insert((text, vec![why::NO_ROUTE.to_owned()]));
                continue;
            }
            Err(words) => {
                let text = format!("the kernel forwards nothing from {interface} to {peer}: {words}");
                refused.get_or_insert((text, why::not_forwarded(&words, interface)));
                continue;
            }
        };
        let is_taken = |address| way.router.is_none() && ground::is_answered(address, &way.interface);
        if given(&scene.request.peer).is_none() && (is_taken(peer) || is_taken(stranger)) {
            continue;
        }
        let explanation = match scene.client.explain(&scene.question(terminal, peer, None)) {
            Ok(explanation) => explanation,
            Err(error) => return teller.stop("terminal", error.to_string(), Vec::new()),
        };
        if let Some(wrong) = unfit(scene, &explanation) {
            refused = Some(wrong);
            continue;
        }
        teller.ok(
            "terminal",
            format!("{terminal} behind {interface} ({}); peer {peer} by {}", explanation.from, way.interface),
        );
        let dropped = why::dropped(&scene.status);
        return Ok(Cast { terminal, peer, stranger, way, dropped });
    }
    let (text, why) =
        refused.unwrap_or_else(|| ("no address outside is free for a peer of the test".to_owned(), why::no_peer()));
    teller.stop("terminal", text, why)
}

/// Addresses for peer and stranger, those that are nobody's first. None is this machine's own: it would answer for itself,
/// and the host that had it too would not answer this machine.
fn peers<'a>(
    scene: &'a Scene<'_>,
    is_v4: bool,
    is_outside: &dyn Fn(IpAddr) -> bool,
) -> Box<dyn Iterator<Item = [IpAddr; 2]> + 'a> {
    if let Some(peer) = scene.request.peer.iter().find(|address| address.is_ipv4() == is_v4) {
        // Where the peer itself is not, nobody beside it is either, and the kernel says why.
        let stranger = ground::beside(*peer).find(|address| is_outside(*address)).unwrap_or(*peer);
        return Box::new(std::iter::once([*peer, stranger]));
    }
    let own = ground::own_addresses();
    let neighbours = scene.status.gateway.outsides.iter().filter_map(move |outside| {
        let peer = ground::free_behind(outside, is_v4, &mut |_| true)?;
        Some([peer, ground::free_behind(outside, is_v4, &mut |address| address != peer)?])
    });
    Box::new(ground::nobodys(is_v4, own).chain(neighbours))
}

/// Why the gateway would not translate the call, or the test should not have it do so.
fn unfit(scene: &Scene<'_>, explanation: &Explanation) -> Option<(String, Vec<String>)> {
    if let Some(reason) = &explanation.reason {
        let steps = explanation.steps.last().cloned().unwrap_or_default();
        let why = explanation.hint.iter().map(|hint| format!("{hint}.")).collect();
        return Some((format!("the gateway would drop the call ({reason}): {steps}"), why));
    }
    if explanation.to.as_deref() != Some("outside") {
        return Some(("the call would not leave by an outside interface".to_owned(), why::no_peer()));
    }
    let virtual_ip = explanation.source?;
    let pool = scene.status.nat.pools.iter().find(|pool| pool.range.contains(virtual_ip.into()));
    let Some(pool) = pool else {
        let text = format!("the gateway would let the call out untranslated, as {virtual_ip}");
        return Some((text, vec!["the peer is an exempt destination; choose another with --peer".to_owned()]));
    };
    if pool.capacity > 0 && pool.free < SPARE {
        let text =
            format!("pool {} has {} virtual IPs left: the test takes none from the terminals", pool.name, pool.free);
        return Some((text, vec!["a larger pool, or: kamei bindings release --prefix … --older-than …".to_owned()]));
    }
    None
}

fn play(scene: &Scene<'_>, interface: &str, cast: &Cast, teller: &mut Teller<'_>) -> Result<(), Stopped> {
    let host = |suffix: &str, at: &str, addresses: &[IpAddr]| {
        let near = format!("{}-{suffix}", scene.status.gateway.tun);
        let at = ground::port(at)?;
        Host::new(near, &at, addresses).map_err(|error| error.to_string())
    };
    let made = host("tin", interface, &[cast.terminal])
        .and_then(|terminal| Ok((terminal, host("tout", &cast.way.interface, &[cast.peer, cast.stranger])?)));
    let (terminal, peer) = match made {
        Ok(made) => made,
        Err(error) => return teller.stop("call", format!("terminal and peer cannot be made: {error}"), Vec::new()),
    };
    let watched = [cast.peer, cast.stranger].map(|address| Watched::start(scene, address));
    let [by_peer, by_stranger] = watched;
    let (by_peer, by_stranger) = match (by_peer, by_stranger) {
        (Ok(one), Ok(other)) => (one, other),
        (Err(error), _) | (_, Err(error)) => {
            return teller.stop("call", format!("the gateway shows no packets: {error}"), Vec::new());
        }
    };
    let play = Play { scene, interface, cast, terminal: &terminal, peer: &peer };
    let virtual_ip = call(&play, &by_peer, teller)?;
    callback(&play, virtual_ip, &by_peer, teller)?;
    stranger(&play, virtual_ip, &by_stranger, teller)
}

/// Who plays, and where.
struct Play<'a> {
    scene: &'a Scene<'a>,
    interface: &'a str,
    cast: &'a Cast,
    terminal: &'a Host,
    peer: &'a Host,
}

/// The terminal calls the peer. The virtual IP.
fn call(play: &Play<'_>, watched: &Watched, teller: &mut Teller<'_>) -> Result<IpAddr, Stopped> {
    let Play { scene, interface, cast, terminal, peer } = *play;
    let to = SocketAddr::new(cast.peer, scene.request.port);
    let is_dropped = || scene.is_stopped() || watched.lines().iter().any(|line| line.reason.is_some());
    let (called, seen_as) = exchange((terminal, peer), (to, to), scene.request.patience, &is_dropped);
    let lines = watched.lines_at_last();
    let sent = lines.iter().find(|line| line.from != "outside");
    let has_left = seen_as.is_some() || peer.segments() > 0;
    if sent.is_none() && !has_left {
        let text = format!("the call from {interface} has not come to the gateway at {}", cast.way.interface);
        return teller.stop("call", text, why::not_arrived(scene, cast, interface));
    }
    teller.ok("call", format!("TCP port {} of {}: its packet has come to the gateway", to.port(), cast.peer));
    if let Some(reason) = lines.iter().find_map(|line| line.reason.as_ref().filter(|_| line.from != "outside")) {
        return teller.stop("binding", format!("the gateway drops the call: {}", why::reason(reason)), Vec::new());
    }
    let binding = binding(scene, cast);
    match (&binding, seen_as) {
        (Some(binding), _) => {
            let text =
                format!("{} ({}) ↔ {} of pool {}", cast.terminal, binding.realm, binding.virtual_ip, binding.pool);
            teller.ok("binding", text);
        }
        (None, Some(seen_as)) if seen_as != cast.terminal => {
            teller.say("binding", Outcome::Skipped, "none: the pool translates without memory".to_owned(), Vec::new());
        }
        _ => return teller.stop("binding", "the gateway has made no binding".to_owned(), Vec::new()),
    }
    if !has_left {
        let text = format!("it is translated, but has not come out of {}", cast.way.interface);
        return teller.stop("left", text, why::not_left(scene, &cast.way.interface));
    }
    let virtual_ip = seen_as.or(binding.map(|binding| binding.virtual_ip)).unwrap_or(cast.terminal);
    if virtual_ip == cast.terminal {
        let text = format!("{} has left {} UNTRANSLATED", cast.terminal, cast.way.interface);
        return teller.stop("left", text, why::findings(scene));
    }
    teller.ok("left", format!("by {} with virtual IP {virtual_ip}", cast.way.interface));
    match called {
        Ok(()) => {
            teller.ok("answer", format!("from {} to {virtual_ip}, translated back to {}", cast.peer, cast.terminal))
        }
        Err(error) => {
            let text = format!("the peer's answer to {virtual_ip} has not come to the terminal ({error})");
            return teller.stop("answer", text, why::not_inside(scene, cast, interface, &watched.lines()));
        }
    }
    Ok(virtual_ip)
}

/// The peer calls back, by a connection of its own.
fn callback(play: &Play<'_>, virtual_ip: IpAddr, watched: &Watched, teller: &mut Teller<'_>) -> Result<(), Stopped> {
    let Play { scene, cast, terminal, peer, .. } = *play;
    let at = SocketAddr::new(cast.terminal, scene.request.port);
    let to = SocketAddr::new(virtual_ip, scene.request.port);
    let before = watched.lines().len();
    let is_dropped = || scene.is_stopped() || watched.lines().iter().skip(before).any(|line| line.reason.is_some());
    let (called, seen_as) = exchange((peer, terminal), (at, to), scene.request.patience, &is_dropped);
    match (called, seen_as) {
        (Ok(()), Some(from)) if from == cast.peer => {
            teller.ok(
                "callback",
                format!("a new connection of {} to {virtual_ip} is let in, to {}", cast.peer, cast.terminal),
            );
            Ok(())
        }
        (Ok(()), Some(from)) => {
            let text = format!("the callback of {} comes to the terminal as one of {from}", cast.peer);
            teller.stop("callback", text, why::findings(scene))
        }
        (called, _) => {
            let words = called.err().map(|error| format!(" ({error})")).unwrap_or_default();
            let text = format!("a new connection of {} to {virtual_ip} has not come to the terminal{words}", cast.peer);
            let lines = watched.lines();
            let lines = lines.get(before..).unwrap_or_default();
            teller.stop("callback", text, why::no_callback(scene, cast, virtual_ip, lines))
        }
    }
}

/// A peer that the terminal has never called calls it.
fn stranger(play: &Play<'_>, virtual_ip: IpAddr, watched: &Watched, teller: &mut Teller<'_>) -> Result<(), Stopped> {
    let Play { scene, cast, terminal, peer, .. } = *play;
    let explained = scene.client.explain(&scene.question(cast.stranger, virtual_ip, Some("outside")));
    if explained.is_ok_and(|explanation| explanation.reason.is_none()) {
        let text =
            format!("{} may call {virtual_ip} without having been called: so the callback policy says", cast.stranger);
        teller.say("stranger", Outcome::Skipped, text, Vec::new());
        return Ok(());
    }
    if let Err(error) = peer.call_as(cast.stranger) {
        return teller.stop("stranger", format!("the peer cannot have another address: {error}"), Vec::new());
    }
    let at = SocketAddr::new(cast.terminal, scene.request.port);
    let to = SocketAddr::new(virtual_ip, scene.request.port);
    let is_refused = || scene.is_stopped() || watched.lines().iter().any(|line| line.reason.is_some());
    let (_, seen_as) = exchange((peer, terminal), (at, to), scene.request.patience, &is_refused);
    if let Some(from) = seen_as {
        let text = format!("{from}, whom the terminal has not called, has come through to it by {virtual_ip}");
        return teller.stop("stranger", text, why::findings(scene));
    }
    match watched.lines().iter().find_map(|line| line.reason.clone()) {
        Some(reason) => {
            teller.ok("stranger", format!("{}, which was not called, is refused ({reason})", cast.stranger));
            Ok(())
        }
        None => {
            let text = format!("nothing of {} has come to the gateway", cast.stranger);
            teller.stop("stranger", text, why::findings(scene))
        }
    }
}

/// One calls the other, who is at `at`, by the address `to`; who it was as the other has seen it. Ends early when there is
/// `enough` to be seen.
fn exchange(
    (caller, called): (&Host, &Host),
    (at, to): (SocketAddr, SocketAddr),
    patience: Duration,
    enough: &dyn Fn() -> bool,
) -> (io::Result<()>, Option<IpAddr>) {
    let listener = match called.listen(at) {
        Ok(listener) => listener,
        Err(error) => return (Err(error), None),
    };
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| bed::answer_one(&listener, &|| ended.load(Ordering::Relaxed)));
        let went = caller.call(to, patience).and_then(|told| {
            let mut went = None;
            ground::wait_until(patience, || {
                went = told.try_recv().ok();
                went.is_some() || enough()
            });
            went.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
        });
        ended.store(true, Ordering::Relaxed);
        (went, answering.join().ok().flatten())
    })
}

/// The binding that the call has made, beside what may be left of one that has ended.
fn binding(scene: &Scene<'_>, cast: &Cast) -> Option<BindingView> {
    let found = scene.client.show(&named(cast)).ok()?;
    found.into_iter().find(|binding| binding.state != BindingState::Quarantined)
}

fn release(scene: &Scene<'_>, cast: &Cast) -> Result<Option<BindingView>, crate::control::ClientError> {
    match binding(scene, cast) {
        Some(binding) => scene.client.release(&named(cast)).map(|_| Some(binding)),
        None => Ok(None),
    }
}

fn named(cast: &Cast) -> Qualified {
    // No inside has had one for it before.
    Qualified { address: cast.terminal, inside: None }
}

/// What becomes of packets of one peer, as the gateway tells it.
struct Watched {
    lines: Arc<Mutex<Vec<PacketLine>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watched {
    fn start(scene: &Scene<'_>, peer: IpAddr) -> Result<Self, String> {
        let (client, watch) = (scene.client.clone(), Watch { peer: Some(peer), ..Watch::default() });
        let (lines, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, stopped) = (Arc::clone(&lines), Arc::clone(&stop));
        let (begun, has_begun) = crossbeam_channel::bounded(1);
        let thread = std::thread::spawn(move || {
            let mut unfinished = Vec::new();
            let mut each = |piece: &[u8]| {
                unfinished.extend_from_slice(piece);
                let whole = unfinished.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                let text: Vec<u8> = unfinished.drain(..whole).collect();
                let read = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
                kept.lock().extend(read.filter_map(|line| match line {
                    Line::Packet(packet) => Some(*packet),
                    Line::LeftOut { .. } => None,
                }));
                Ok(())
            };
            let ended = client.trace(&watch, &stopped, &mut || drop(begun.try_send(Ok(()))), &mut each);
            if let Err(error) = ended {
                let _ = begun.try_send(Err(error.to_string()));
            }
        });
        let watched = Self { lines, stop, thread: Some(thread) };
        match has_begun.recv_timeout(BEGIN_TIME) {
            Ok(begun) => begun.map(|()| watched),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    fn lines(&self) -> Vec<PacketLine> {
        self.lines.lock().clone()
    }

    /// The same, when those that are on their way have come.
    fn lines_at_last(&self) -> Vec<PacketLine> {
        ground::wait_until(LINE_TIME, || !self.lines.lock().is_empty());
        self.lines()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
