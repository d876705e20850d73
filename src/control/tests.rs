//! A real socket, a real translator; only the gateway around them is missing.

use super::limits::Patience;
use super::*;
use crate::nat::{BindingState, DropReason, EventKind, InsideSettings, PoolSettings, Realm, Settings};
use crate::store::Reading;
use crate::testkit::fuzzed::{Fuzzed, cases};
use crate::wire::Packet;
use etherparse::PacketBuilder;
use parking_lot::{Mutex, RwLock};
use proptest::prelude::*;
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A user and a group that own nothing.
const NOBODY: u32 = 65_534;

/// A gateway without packets.
struct Stub {
    nat: RwLock<Arc<Nat>>,
    events: Mutex<Vec<EventKind>>,
    recorded: Mutex<Vec<IpAddr>>,
    synced: AtomicUsize,
    taps: Arc<Taps>,
}

impl Admin for Stub {
    fn nat(&self) -> RwLockReadGuard<'_, Arc<Nat>> {
        self.nat.read()
    }

    fn status(&self) -> GatewayStatus {
        GatewayStatus { version: "test".into(), ready: true, workers: 2, ..GatewayStatus::default() }
    }

    fn now(&self) -> Time {
        Time::from_secs(1_700_000_000)
    }

    fn moment(&self) -> Moment {
        let wall = Duration::from_secs(1_700_000_000 + 86_400);
        Moment { time: self.now(), reading: Reading { boot: 1, since_boot: wall, wall, is_synchronised: true } }
    }

    fn for_each_flow(&self, _each: &mut dyn FnMut(CarriedFlow)) {}

    fn taps(&self) -> &Arc<Taps> {
        &self.taps
    }

    fn sync_counts(&self) {
        self.synced.fetch_add(1, Ordering::Relaxed);
    }

    fn changed(&self, event: Event) {
        self.events.lock().push(event.kind);
    }

    fn history(&self, _: &HistoryQuestion) -> Result<HistoryAnswer, String> {
        Err("none is kept".to_owned())
    }

    fn change(&self, change: &Change, user: u32) -> Result<Vec<BindingView>, ChangeError> {
        let (bindings, events) = match change {
            Change::Pin { terminal, virtual_ip, force } => {
                let (binding, events) = self.nat().pin_named(terminal, *virtual_ip, *force, self.now())?;
                (vec![binding], events)
            }
            Change::Release(which) => self.nat().release_named(which, self.now())?,
            Change::SetCallback { which, policy } => {
                (self.nat().set_callback(which, policy.as_ref(), self.now())?, Vec::new())
            }
        };
        let virtual_ips: Vec<IpAddr> = bindings.iter().map(|binding| binding.virtual_ip).collect();
        events.into_iter().for_each(|event| self.changed(event));
        self.record(&virtual_ips, Happened::Pinned, user).map_err(ChangeError::NotRecorded)?;
        Ok(bindings)
    }

    fn record(&self, virtual_ips: &[IpAddr], _: Happened, _: u32) -> Result<(), String> {
        self.recorded.lock().extend(virtual_ips);
        Ok(())
    }

    fn reload(&self, dry_run: bool) -> Result<Reloaded, String> {
        match dry_run {
            true => Ok(Reloaded { changes: vec!["pool a comes".to_owned()], ..Reloaded::default() }),
            false => Err("tun can only be changed by a restart".to_owned()),
        }
    }
}

/// A served socket in a directory of its own.
struct Scene {
    directory: tempfile::TempDir,
    stub: Arc<Stub>,
    server: Option<Server>,
}

impl Scene {
    fn new() -> Self {
        Self::with(Patience::default())
    }

    fn with(patience: Patience) -> Self {
        Self::behind(|settings| settings.with_patience(patience))
    }

    fn behind(make: impl FnOnce(SocketSettings) -> SocketSettings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = |name: &str, range: &str| PoolSettings {
            name: name.into(),
            range: range.parse().unwrap(),
            reserved: Vec::new(),
            destinations: Vec::new(),
            callback: None,
            draining: false,
            kind: Default::default(),
        };
        let settings = Settings {
            insides: vec![InsideSettings { name: "inside".into(), sources: vec!["10.0.0.0/8".parse().unwrap()] }],
            pools: vec![pool("small one", "198.18.0.0/24"), pool("large", "100.64.0.0/14")],
            own_outside: Vec::new(),
            hash_key: [7; 16],
            restore_hop: false,
            policy: crate::nat::Policy::default(),
        };
        let stub = Arc::new(Stub {
            nat: RwLock::new(Nat::new(settings).unwrap()),
            events: Mutex::default(),
            recorded: Mutex::default(),
            synced: AtomicUsize::new(0),
            taps: Arc::default(),
        });
        let listener = Listener::bind(make(SocketSettings::at(&directory.path().join("sock")))).unwrap();
        let server = Some(listener.serve(Arc::clone(&stub) as Arc<dyn Admin>));
        Self { directory, stub, server }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("sock")
    }

    fn client(&self) -> Client {
        Client::new(&self.path())
    }

    /// Sends bytes as they are; gives everything that comes back.
    fn send(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.path()).unwrap();
        // The gateway may answer and close before it has read all of it.
        let _ = stream.write_all(bytes);
        read_all(&mut stream)
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: kamei\r\ncontent-length: {length}\r\n\r\n{body}");
        parse(&self.send(request.as_bytes()))
    }

    fn pin(&self, number: u32) {
        let terminal = std::net::Ipv4Addr::from(0x0a00_0000 + number);
        let virtual_ip = std::net::Ipv4Addr::from(0x6440_0000 + number);
        self.stub.nat.read().pin(terminal.into(), virtual_ip.into(), self.stub.now()).unwrap();
    }
}

fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => answer,
    }
}

#[track_caller]
fn parse(answer: &[u8]) -> (u16, Value) {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn status_says_everything() {
    let scene = Scene::new();
    scene.pin(1);
    let (code, status) = scene.ask("GET", "/v1/status", "");
    assert_eq!((code, &status["version"], &status["workers"]), (200, &"test".into(), &2.into()));
    assert_eq!(status["bindings"], serde_json::json!({"active": 1, "dormant": 0, "quarantined": 0}));
    assert_eq!(status["pools"][1]["active"], 1);
    assert_eq!(status["out"], serde_json::json!({"packets": 0, "bytes": 0}));
    assert_eq!(status["in"], status["out"]);
    assert_eq!(status["drops"].as_object().unwrap().len(), DropReason::ALL.len());
    assert_eq!(serde_json::to_value(scene.client().status().unwrap()).unwrap(), status, "the client reads the same");
}

#[test]
fn the_page_names_every_field_of_the_answers() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/control/README.md")).unwrap();
    let scene = Scene::new();
    scene.pin(1);
    for (method, path, fields) in [
        ("GET", "/v1/status", 20),
        ("GET", "/v1/bindings/10.0.0.1", 19),
        ("DELETE", "/v1/bindings?prefix=10.0.0.1&dry-run", 2),
        ("POST", "/v1/reload?dry-run", 4),
        ("GET", "/v1/drops", 7),
        ("GET", "/v1/flows", 5),
        ("GET", "/v1/explain?source=192.0.2.1&destination=100.64.0.1", 4),
        ("GET", "/v1/nothing", 1),
    ] {
        let (_, mut answer) = scene.ask(method, path, "");
        let one = if answer.is_array() { answer[0].take() } else { answer };
        let fields_there = one.as_object().unwrap();
        assert!(fields_there.len() >= fields, "{path}: {one}");
        for field in fields_there.keys() {
            let is_named = page.contains(&format!("`{field}`")) || page.contains(&format!("{{\"{field}\": "));
            assert!(is_named, "src/control/README.md does not name '{field}' of {method} {path}");
        }
    }
}

#[test]
fn bindings_are_pinned_listed_shown_and_released() {
    let scene = Scene::new();
    let client = scene.client();
    let (terminal, virtual_ip) = ("10.0.0.11".parse().unwrap(), "198.18.0.9".parse().unwrap());
    assert_eq!(scene.send(b"GET /v1/bindings HTTP/1.0\r\n\r\n").split(|b| *b == b'\n').rev().nth(1), Some(&b"[]"[..]));
    assert_eq!(client.bindings(&Filter::default()).unwrap(), []);

    let (code, made) = scene.ask("PUT", "/v1/bindings/10.0.0.11", r#"{"virtual_ip": "198.18.0.9"}"#);
    assert_eq!((code, &made["terminal"], &made["pinned"]), (200, &"10.0.0.11".into(), &true.into()));
    for key in [
        "terminal",
        "virtual_ip",
        "pool",
        "state",
        "created",
        "last_used",
        "contacts",
        "packets_out",
        "packets_in",
        "callbacks",
    ] {
        assert!(made.get(key).is_some(), "{key} in {made}");
    }
    assert_eq!(client.pin(&terminal, virtual_ip, false).unwrap().virtual_ip, virtual_ip, "again: no change");
    for address in ["10.0.0.11", "198.18.0.9", "198%2E18.0.9"] {
        assert_eq!(scene.ask("GET", &format!("/v1/bindings/{address}"), "").1[0]["pool"], "small one");
    }
    scene.pin(12);
    let count = |filter: &Filter| client.bindings(filter).unwrap().len();
    assert_eq!(count(&Filter::default()), 2);
    assert_eq!(count(&Filter { pool: Some("small one".into()), ..Filter::default() }), 1);
    for (method, path) in [("GET", "/v1/bindings?pool=none"), ("DELETE", "/v1/bindings?pool=none&dry-run")] {
        let (code, error) = scene.ask(method, path, "");
        assert_eq!(code, 404, "{error}");
        assert!(
            error["error"].as_str().unwrap().starts_with("there is no pool 'none'; there are 'small one'"),
            "{error}"
        );
    }
    assert_eq!(count(&Filter { state: Some(BindingState::Dormant), ..Filter::default() }), 0);
    assert_eq!(count(&Filter { state: Some(BindingState::Active), limit: Some(1), ..Filter::default() }), 1);
    assert_eq!(count(&Filter { limit: Some(0), ..Filter::default() }), 0);
    assert_eq!(count(&Filter { older_than: Some(Duration::from_secs(3600)), ..Filter::default() }), 0);

    let (code, released) = scene.ask("DELETE", "/v1/bindings/198.18.0.9", "");
    assert_eq!((code, &released[0]["terminal"]), (200, &"10.0.0.11".into()));
    assert!(scene.stub.events.lock().contains(&EventKind::Pinned), "the log hears of it");
    assert!(scene.stub.events.lock().contains(&EventKind::Released));
}

#[test]
fn many_bindings_are_counted_and_released_at_once_but_none_that_is_pinned() {
    let scene = Scene::new();
    let client = scene.client();
    scene.pin(999);
    for n in 0..300_u32 {
        let mut bytes = Vec::new();
        let terminal = (10 << 24 | n).to_be_bytes();
        PacketBuilder::ipv4(terminal, [192, 0, 2, 1], 64).udp(1, 2).write(&mut bytes, b"").unwrap();
        let mut translator = scene.stub.nat().translator();
        translator.translate(&mut Packet::new(&mut bytes), Realm::inside(0), scene.stub.now());
    }
    let filter = |prefix: &str| Filter { prefix: Some(prefix.parse().unwrap()), ..Filter::default() };
    let many = Filter { unanswered: true, older_than: Some(Duration::from_secs(3600)), ..filter("10.0.0.0/25") };
    assert_eq!(client.release_all(&many, true).unwrap().bindings, 0, "none is so old");
    let many = Filter { older_than: None, ..many };
    assert_eq!(client.bindings(&many).unwrap().len(), 128);
    let (asked, done) = (client.release_all(&many, true).unwrap(), client.release_all(&many, false).unwrap());
    assert_eq!((asked.bindings, asked.released, done.bindings, done.released), (128, false, 128, true));
    assert_eq!(scene.stub.recorded.lock().len(), 128, "on disk before it is answered");
    let few = Filter { limit: Some(20), ..filter("10.0.0.0/8") };
    assert_eq!(client.release_all(&few, false).unwrap().bindings, 20);
    assert_eq!(client.release_all(&filter("10.0.0.0/8"), false).unwrap().bindings, 300 - 128 - 20);
    assert_eq!(client.bindings(&Filter { state: Some(BindingState::Active), ..Filter::default() }).unwrap().len(), 1);
    assert_eq!(scene.ask("DELETE", "/v1/bindings", "").0, 400);
}

#[test]
fn refusals_are_one_line_of_json() {
    let scene = Scene::new();
    scene.pin(1);
    let pin = |address: &str| format!(r#"{{"virtual_ip": "{address}"}}"#);
    for (method, path, body, code) in [
        ("GET", "/", String::new(), 404),
        ("GET", "/v2/status", String::new(), 404),
        ("GET", "/v1/bindings/10.0.0.99", String::new(), 404),
        ("DELETE", "/v1/bindings/198.18.0.99", String::new(), 404),
        ("PUT", "/v1/bindings/10.0.0.2", pin("192.0.2.1"), 409),
        ("POST", "/v1/status", String::new(), 405),
        ("PUT", "/v1/bindings", String::new(), 405),
        ("GET", "/v1/bindings/terminal1", String::new(), 400),
        ("GET", "/v1/bindings?state=busy", String::new(), 400),
        ("GET", "/v1/status?verbose", String::new(), 400),
        ("PUT", "/v1/bindings/10.0.0.2", String::new(), 400),
        ("PUT", "/v1/bindings/10.0.0.2", "[1, 2".into(), 400),
        ("PUT", "/v1/bindings/10.0.0.2", r#"{"virtual_ip": "198.18.0.9", "colour": 1}"#.into(), 400),
        ("PUT", "/v1/bindings/10.0.0.2", pin("host"), 400),
        ("PUT", "/v1/bindings/10.0.0.2", pin("2001:db8::1"), 400),
        ("PUT", "/v1/bindings/10.0.0.2", pin("100.64.0.1"), 409),
        ("PUT", "/v1/bindings/192.0.2.2", pin("198.18.0.9"), 409),
    ] {
        let (said, answer) = scene.ask(method, path, &body);
        assert_eq!(said, code, "{method} {path} {body}: {answer}");
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{method} {path}: {answer}"));
        assert!(!error.is_empty() && !error.contains('\n'));
    }
    let error = scene.client().show(&"10.0.0.99".parse().unwrap()).unwrap_err();
    assert!(matches!(&error, ClientError::Refused(error) if error.contains("10.0.0.99")), "{error}");
    assert_eq!(scene.client().bindings(&Filter::default()).unwrap().len(), 1, "nothing changed");
}

#[test]
fn too_much_is_refused() {
    let scene = Scene::new();
    let body = "x".repeat(64 * 1024 + 1);
    assert_eq!(scene.ask("PUT", "/v1/bindings/10.0.0.2", &body).0, 413);
    assert_eq!(scene.ask("PUT", "/v1/bindings/10.0.0.2", &"x".repeat(64 * 1024)).0, 400, "read, and no JSON");
    let chunk = format!("1000\r\n{}\r\n", "y".repeat(0x1000)).repeat(32);
    let chunked = format!("PUT /v1/bindings/10.0.0.2 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
    assert_eq!(parse(&scene.send(chunked.as_bytes())).0, 413);
    let announced = "PUT /v1/bindings/10.0.0.2 HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n";
    assert_eq!(parse(&scene.send(announced.as_bytes())).0, 413, "without waiting for it");
    let many = format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    assert_eq!(parse(&scene.send(many.as_bytes())).0, 431);
    let large = format!("GET /v1/status HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(100_000));
    let answer = scene.send(large.as_bytes());
    assert!(answer.is_empty() || parse(&answer).0 == 431, "{}", String::from_utf8_lossy(&answer));
    let path = format!("GET /{} HTTP/1.1\r\n\r\n", "p".repeat(100_000));
    let answer = scene.send(path.as_bytes());
    assert!(answer.is_empty() || [414, 431].contains(&parse(&answer).0));
    assert!(scene.client().status().is_ok());
}

#[test]
fn slow_callers_are_let_go() {
    let (brief, stall) = (Duration::from_millis(500), Duration::from_millis(1500));
    let scene = Scene::with(Patience { head: brief, body: brief, stall });
    let begin = Instant::now();
    let connect = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(scene.path()).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let mut silent = connect(b"");
    let mut half = connect(b"GET /v1/sta");
    let mut waiting = connect(b"PUT /v1/bindings/10.0.0.2 HTTP/1.1\r\ncontent-length: 40\r\n\r\n{");
    assert!(scene.client().status().is_ok(), "others do not wait for them");
    read_all(&mut silent);
    read_all(&mut half);
    assert_eq!(parse(&read_all(&mut waiting)).0, 408);
    assert!(begin.elapsed() >= brief, "{:?}", begin.elapsed());

    // One that asks for much and reads nothing is cut off in the middle.
    (0..8000).for_each(|number| scene.pin(number));
    let mut stalled = connect(b"GET /v1/bindings HTTP/1.1\r\n\r\n");
    std::thread::sleep(2 * stall + brief);
    let got = read_all(&mut stalled);
    assert!(!got.is_empty() && !got.ends_with(b"0\r\n\r\n"), "{} bytes", got.len());
    assert_eq!(scene.client().bindings(&Filter::default()).unwrap().len(), 8000, "others get all of it");
}

#[test]
fn forty_callers_at_once_are_all_served() {
    let scene = Scene::new();
    scene.pin(1);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..40).map(|_| scope.spawn(|| scene.client().bindings(&Filter::default()))).collect();
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap().len(), 1);
        }
    });
}

#[test]
fn callers_who_say_nothing_keep_nobody_out() {
    let brief = Duration::from_secs(4);
    let scene = Scene::with(Patience { head: brief, body: brief, ..Patience::default() });
    let silent: Vec<UnixStream> = (0..70).map(|_| UnixStream::connect(scene.path()).unwrap()).collect();
    assert!(scene.client().status().is_ok());
    drop(silent);
    // Those who have asked keep their places until they have their answers.
    (0..8000).for_each(|number| scene.pin(number));
    let ask = |_| {
        let mut stream = UnixStream::connect(scene.path()).unwrap();
        stream.write_all(b"GET /v1/bindings HTTP/1.1\r\n\r\n").unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        stream
    };
    let slow: Vec<UnixStream> = (0..16).map(ask).collect();
    let error = scene.client().status().unwrap_err();
    assert!(matches!(error, ClientError::Busy(_)), "{error}");
    drop(slow);
    assert!(scene.client().status().is_ok());
}

#[test]
fn readers_take_no_place_from_root() {
    let scene = Scene::behind(|settings| settings.readable_by(Some(NOBODY)));
    let path = scene.path();
    // As nobody, in that group alone: 200 callers who say nothing, and 40 who ask for much and read nothing of it.
    let program = format!(
        "import socket, sys, time\n\
         def call(text):\n    s = socket.socket(socket.AF_UNIX); s.settimeout(1)\n\
         \x20   try: s.connect('{0}'); s.send(text)\n    except OSError: pass\n    return s\n\
         kept = [call(b'GET /v1/bindings HTTP/1.1\\r\\n\\r\\n') for n in range(40)] + [call(b'') for n in range(200)]\n\
         print('there', flush=True)\nsys.stdin.read()\n",
        path.display()
    );
    std::fs::set_permissions(scene.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    (0..8000).for_each(|number| scene.pin(number));
    let mut callers = Command::new("python3")
        .args(["-c", &program])
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut there = [0; 5];
    callers.stdout.as_mut().unwrap().read_exact(&mut there).unwrap();
    for _ in 0..20 {
        scene.client().status().unwrap();
    }
    drop(callers.stdin.take());
    assert!(callers.wait().unwrap().success());
}

#[test]
fn slow_scrapes_keep_nobody_from_the_metrics() {
    let port = free_port();
    let scene = Scene::behind(|settings| settings.with_metrics(Some(port)));
    let scrape = || {
        let mut stream = TcpStream::connect(port).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(port).unwrap()).collect();
    assert!(scrape().unwrap().ends_with("# EOF\n"));
    drop((silent, scene));
}

#[test]
fn a_metrics_port_that_somebody_has_is_taken_when_it_is_free_and_keeps_nothing_from_its_work() {
    let port = free_port();
    let squatter = std::net::TcpListener::bind(port).unwrap();
    let scene = Scene::behind(|settings| settings.with_metrics(Some(port)));
    assert!(scene.client().status().is_ok());
    drop(squatter);
    let answers = || {
        let mut text = String::new();
        let mut stream = TcpStream::connect(port)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n")?;
        stream.read_to_string(&mut text)
    };
    let begin = Instant::now();
    while !answers().is_ok_and(|length| length > 100) {
        assert!(begin.elapsed() < Duration::from_secs(60), "the port is free and not taken");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One that nobody has just now.
fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap()
}

#[test]
fn bindings_are_listed_in_the_order_asked_for() {
    let scene = Scene::new();
    // 10.0.0.3 sends most, 10.0.0.1 least; what is pinned is used by nobody.
    scene.pin(99);
    let mut translator = scene.stub.nat.read().translator();
    for n in 1..=3_u8 {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, n], [192, 0, 2, 1], 64)
            .udp(1, 2)
            .write(&mut bytes, &vec![0; 100 * usize::from(n)])
            .unwrap();
        translator.translate(&mut Packet::new(&mut bytes), Realm::inside(0), scene.stub.now());
    }
    translator.flush(scene.stub.now());
    let list = |by, reversed, limit, unanswered| -> Vec<u8> {
        let filter = Filter { limit: Some(limit), unanswered, ..Filter::default() };
        let listed = scene.client().bindings_in(&filter, Some(Order { by, reversed })).unwrap();
        let last = |binding: &BindingView| match binding.terminal {
            IpAddr::V4(terminal) => terminal.octets()[3],
            IpAddr::V6(_) => 0,
        };
        listed.iter().map(last).collect()
    };
    assert_eq!(list(Sort::Bytes, false, 9, false), [3, 2, 1, 99]);
    assert_eq!(list(Sort::Bytes, false, 2, false), [3, 2]);
    assert_eq!(list(Sort::Bytes, true, 2, true), [1, 2], "the filter comes first");
    assert_eq!(list(Sort::Packets, false, 9, false)[3], 99);
    assert_eq!(list(Sort::Left, false, 9, false)[3], 99, "pinned: never");
    assert_eq!(list(Sort::Age, false, 0, false), [0; 0]);
    let (code, error) = scene.ask("GET", "/v1/bindings?sort=size", "");
    assert_eq!(code, 400);
    assert!(error["error"].as_str().unwrap().contains("by 'size'; there are bytes, packets"), "{error}");
    assert_eq!(scene.ask("DELETE", "/v1/bindings?sort=age&prefix=10.0.0.0/8", "").0, 400, "not a list");
    let order = Some(Order { by: Sort::Bytes, reversed: true });
    assert_eq!(scene.client().bindings_in(&Filter::default(), order).unwrap()[3].bytes_out, 328);
}

#[test]
fn a_hundred_thousand_bindings_come_piece_by_piece() {
    const COUNT: u32 = 100_000;
    let mut scene = Scene::new();
    (0..COUNT).for_each(|number| scene.pin(number));
    let bindings = scene.client().bindings(&Filter::default()).unwrap();
    assert_eq!(bindings.len(), COUNT as usize);
    assert!(bindings.is_sorted_by_key(|binding| binding.virtual_ip));
    let mut text = Vec::new();
    scene.client().copy_bindings(&Filter::default(), None, &mut text).unwrap();
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&text).unwrap().len(), COUNT as usize);
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), COUNT as usize + 2, "one a line");

    // A reader that stops does not stop the others, nor the end.
    let mut stalled = UnixStream::connect(scene.path()).unwrap();
    stalled.write_all(b"GET /v1/bindings HTTP/1.1\r\n\r\n").unwrap();
    stalled.read_exact(&mut [0; 100]).unwrap();
    assert!(scene.client().status().is_ok());
    let begin = Instant::now();
    scene.server.take().unwrap().stop();
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert!(!scene.path().exists());
}

#[test]
fn another_user_is_refused() {
    assert!(rustix::process::geteuid().is_root(), "only root can be somebody else: run the tests as root");
    let scene = Scene::new();
    scene.pin(1);
    let curl = || {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "5", "--unix-socket"]).arg(scene.path()).arg("http://kamei/v1/bindings");
        curl
    };
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    open(scene.directory.path(), 0o755);
    let refused = curl().uid(65_534).gid(65_534).output().expect("curl is installed");
    assert!(!refused.status.success(), "the file's mode keeps others out");
    open(&scene.path(), 0o666);
    let refused = curl().uid(65_534).gid(65_534).output().unwrap();
    let answer = String::from_utf8(refused.stdout).unwrap();
    assert!(answer.contains("only root") && !answer.contains("10.0.0.1"), "{answer}");
    let allowed = curl().output().unwrap();
    assert!(String::from_utf8(allowed.stdout).unwrap().contains("10.0.0.1"));
}

#[test]
fn the_files_are_private_from_their_first_moment_and_gone_at_the_end() {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/sock");
    let listener = Listener::bind(SocketSettings::at(&path)).unwrap();
    rustix::process::umask(umask);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let lock = directory.path().join("made/sock.lock");
    assert_eq!((mode(&path), mode(&lock), mode(path.parent().unwrap())), (0o600, 0o600, 0o755));
    assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());
    for (request, code) in [("/v1/bindings/x", 400), ("/v1/status?x", 400), ("/nowhere", 404), ("/v1/status", 503)] {
        let mut stream = UnixStream::connect(&path).unwrap();
        write!(stream, "GET {request} HTTP/1.1\r\nhost: kamei\r\n\r\n").unwrap();
        assert_eq!(parse(&read_all(&mut stream)).0, code, "{request}");
    }
    let starting = Client::new(&path).status().unwrap_err();
    assert!(matches!(starting, ClientError::Starting(_)), "{starting}");
    drop(listener);
    assert!(!path.exists() && !lock.exists(), "a start that fails leaves nothing");
    let gone = Client::new(&path).status().unwrap_err();
    assert!(matches!(gone, ClientError::NoGateway { .. }) && gone.to_string().contains("sock"), "{gone}");
}

#[test]
fn a_live_socket_is_respected_and_a_dead_one_replaced() {
    let scene = Scene::new();
    let taken = |path: &Path| matches!(Listener::bind(SocketSettings::at(path)), Err(ControlError::InUse(_)));
    assert!(taken(&scene.path()));
    assert!(scene.client().status().is_ok(), "unharmed");

    let path = scene.directory.path().join("other");
    let stranger = UnixListener::bind(&path).unwrap();
    assert!(taken(&path), "also if whoever serves it knows nothing of our lock");
    drop(stranger);
    assert!(path.exists(), "left behind, as after kill -9");
    assert!(matches!(Client::new(&path).status(), Err(ClientError::NoGateway { .. })));
    drop(Listener::bind(SocketSettings::at(&path)).expect("replaced"));

    std::fs::write(&path, "text").unwrap();
    assert!(matches!(Listener::bind(SocketSettings::at(&path)), Err(ControlError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"text");
    assert!(!scene.directory.path().join("other.lock").exists());
    let nowhere = Path::new("/nowhere/at/all.sock");
    let error = Listener::bind(SocketSettings::at(nowhere)).err().unwrap().to_string();
    assert!(error.contains("/nowhere/at") && !error.contains('\n'), "{error}");
    let long = scene.directory.path().join("x".repeat(150));
    assert!(matches!(Listener::bind(SocketSettings::at(&long)), Err(ControlError::Socket { .. })));
    assert!(matches!(Listener::bind(SocketSettings::at(Path::new("/"))), Err(ControlError::NotAFile(_))));
}

#[test]
fn of_many_that_start_at_once_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    for round in 0..20 {
        // What a dead one left, every other time.
        if round % 2 == 0 {
            drop(UnixListener::bind(&path).unwrap());
        }
        let barrier = std::sync::Barrier::new(8);
        let bound: Vec<_> = std::thread::scope(|scope| {
            let starters: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        Listener::bind(SocketSettings::at(&path))
                    })
                })
                .collect();
            starters.into_iter().map(|starter| starter.join().unwrap()).collect()
        });
        assert_eq!(bound.iter().filter(|bound| bound.is_ok()).count(), 1);
        assert!(bound.iter().all(|bound| matches!(bound, Ok(_) | Err(ControlError::InUse(_)))));
        assert!(matches!(Client::new(&path).status(), Err(ClientError::Starting(_))), "the winner answers");
    }
    // Some end while others start: never two at once, and each that says it has the socket does have it.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    match Listener::bind(SocketSettings::at(&path)) {
                        Ok(_held) => {
                            assert!(matches!(Client::new(&path).status(), Err(ClientError::Starting(_))));
                        }
                        Err(ControlError::InUse(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert!(!path.exists());
}

#[test]
fn garbage_is_answered_or_dropped() {
    let (fuzzed, cases) = (Fuzzed::new("control"), cases(500));
    let scene = Scene::new();
    scene.pin(1);
    let text = "(GET|PUT|DELETE|POST|[A-Z]{1,5}) /(v1/(bindings|status))?[ -~]{0,40}( HTTP/1.[01])?\r\n([ -~]{0,30}\r\n){0,4}\r\n";
    let good = prop::sample::select(vec![
        "GET /v1/status HTTP/1.1\r\nHost: kamei\r\n\r\n",
        "GET /v1/bindings?state=active&pool=large&limit=3 HTTP/1.1\r\n\r\n",
        "PUT /v1/bindings/10.0.0.1 HTTP/1.1\r\nContent-Length: 28\r\n\r\n{\"virtual_ip\": \"198.18.0.9\"}",
        "PATCH /v1/bindings/10.0.0.1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n{\"callback\": null}\r\n0\r\n\r\n",
        "DELETE /v1/bindings/10.0.0.1@inside HTTP/1.0\r\n\r\n",
    ]);
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..3_u8);
    let changed = (good, prop::collection::vec(change, 0..6)).prop_map(|(good, changes)| {
        let mut bytes = good.as_bytes().to_vec();
        for (place, byte, how) in changes {
            let place = place.index(bytes.len());
            match how {
                0 => bytes[place] = byte,
                1 => bytes.insert(place, byte),
                _ => bytes.truncate(place.max(1)),
            }
        }
        bytes
    });
    let requests = prop_oneof![
        changed,
        prop::collection::vec(any::<u8>(), 0..400),
        (text, prop::collection::vec(any::<u8>(), 0..64)).prop_map(|(head, body)| [head.into_bytes(), body].concat()),
    ];
    proptest!(ProptestConfig::with_cases(cases), |(request in requests)| {
        fuzzed.case(request.len());
        let mut stream = UnixStream::connect(scene.path()).unwrap();
        let _ = stream.write_all(&request);
        let _ = stream.shutdown(Shutdown::Write);
        let answer = read_all(&mut stream);
        prop_assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    });
    assert!(scene.client().status().is_ok());
}
