//! Servers and clients: stock programs where the requirement asks for them, plain sockets where bytes are counted.

use crate::lab::{Background, Host, need, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

/// nginx on a host. It answers `/` with "CLIENT PORT": who called it, as it saw it, and the port that was called.
pub struct Web {
    access_log: PathBuf,
    _nginx: Background,
}

impl Web {
    #[track_caller]
    pub fn start(host: &Host, port: u16) -> Self {
        need("nginx", "nginx-light");
        need("curl", "curl");
        let dir = host.dir.join(format!("{}-nginx-{port}", host.name));
        fs::create_dir(&dir).unwrap();
        let d = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {d}/{kind};\n"))
            .concat();
        let text = format!(
            "daemon off; master_process off; pid {d}/pid; error_log {d}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n{temporary}access_log {d}/access.log; keepalive_timeout 0;\n\
             server {{ listen {port} backlog=1024; listen [::]:{port} backlog=1024;\n\
             location / {{ default_type text/plain; return 200 \"$remote_addr $server_port\"; }}\n\
             location /me {{ default_type text/plain; return 200 \"$server_addr\"; }} }} }}\n"
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, text).unwrap();
        let nginx =
            host.spawn(&format!("nginx-{port}"), &["nginx", "-c", file.to_str().unwrap(), "-p", dir.to_str().unwrap()]);
        wait_until("nginx to listen", || !host.run(&format!("ss -Hltn 'sport = {port}'")).ok().trim().is_empty());
        Self { access_log: dir.join("access.log"), _nginx: nginx }
    }

    pub fn access_log(&self) -> String {
        fs::read_to_string(&self.access_log).unwrap_or_default()
    }
}

/// `curl` from a host: what the server answered.
#[track_caller]
pub fn curl(from: &Host, to: IpAddr, port: u16) -> String {
    from.run(&format!("exec curl -sS --max-time 20 {}", url(to, port, ""))).ok()
}

/// `curl` from a host that must get no answer within a second.
#[track_caller]
pub fn curl_in_vain(from: &Host, to: IpAddr, port: u16) {
    let ran = from.run(&format!("exec curl -sS --max-time 1 {}", url(to, port, "")));
    assert!(!ran.succeeded(), "{} reached {to}: {}", from.name, ran.stdout);
}

pub fn url(to: IpAddr, port: u16, path: &str) -> String {
    format!("'http://{}/{path}'", SocketAddr::new(to, port))
}

/// No TCP connection of this host with `peer` is left, but one that only waits for stray segments.
#[track_caller]
pub fn wait_until_closed(host: &Host, peer: IpAddr) {
    wait_until("the connections to be closed", || {
        !host.run("ss -Htan state connected exclude time-wait").ok().contains(&peer.to_string())
    });
}

/// Sends one datagram and gives the answer, or `None` if none comes in time.
pub fn ask_udp(from: &Host, to: SocketAddr, bytes: &[u8], patience: Duration) -> Option<Vec<u8>> {
    from.inside(|| {
        let socket = udp_socket(to, 0);
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.send(bytes).unwrap();
        let mut answer = vec![0; 65_536];
        let length = socket.recv(&mut answer).ok()?;
        answer.truncate(length);
        Some(answer)
    })
}

/// A UDP socket of the family of `peer`, made in the current namespace.
pub fn udp_socket(peer: SocketAddr, port: u16) -> UdpSocket {
    let any: IpAddr = if peer.is_ipv4() { IpAddr::V4([0; 4].into()) } else { IpAddr::V6([0; 16].into()) };
    UdpSocket::bind((any, port)).unwrap()
}

/// Answers datagrams on a host with what they said, until dropped.
pub struct Echo {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    pub fn start(host: &Host, port: u16) -> Self {
        let socket = host.inside(|| UdpSocket::bind(("::", port)).unwrap()); // both families
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A listening TCP socket in a host.
pub fn listen(host: &Host, port: u16) -> TcpListener {
    host.inside(|| TcpListener::bind(("::", port)).unwrap())
}

/// A TCP connection made in a host; reading and writing give up after a while instead of hanging the test.
#[track_caller]
pub fn connect(from: &Host, to: SocketAddr) -> TcpStream {
    let stream = from.inside(|| TcpStream::connect_timeout(&to, crate::lab::DEADLINE)).unwrap();
    impatient(stream)
}

/// Accepts a connection; see [`connect`].
pub fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    let (stream, peer) = listener.accept().unwrap();
    let address = peer.ip().to_canonical();
    (impatient(stream), address)
}

fn impatient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(crate::lab::DEADLINE)).unwrap();
    stream.set_write_timeout(Some(crate::lab::DEADLINE)).unwrap();
    stream
}

/// Byte `i` of a stream that never repeats within a window of TCP: a lost, doubled or swapped byte shows.
pub struct Pattern(u64);

impl Pattern {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            // xorshift64 (Marsaglia 2003)
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
    }
}

const BLOCK: usize = 1 << 16;

/// Sends `blocks` blocks of 64 KiB.
pub fn send_pattern(mut stream: TcpStream, seed: u64, blocks: usize) {
    let (mut pattern, mut buffer) = (Pattern::new(seed), vec![0; BLOCK]);
    for _ in 0..blocks {
        pattern.fill(&mut buffer);
        stream.write_all(&buffer).unwrap();
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
}

/// Receives exactly that and the end of the stream.
pub fn expect_pattern(mut stream: &TcpStream, seed: u64, blocks: usize) {
    let (mut pattern, mut expected, mut buffer) = (Pattern::new(seed), vec![0; BLOCK], vec![0; BLOCK]);
    for block in 0..blocks {
        pattern.fill(&mut expected);
        stream.read_exact(&mut buffer).unwrap();
        assert!(buffer == expected, "block {block} differs");
    }
    assert_eq!(stream.read(&mut buffer).unwrap(), 0, "more bytes than were sent");
}
