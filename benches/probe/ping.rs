//! Round-trip times of small datagrams, one at a time.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// A datagram that takes longer is lost.
const LOST_AFTER: Duration = Duration::from_millis(200);
/// Answers not counted at the start: bindings, caches, clocks.
const WARM_UP: usize = 200;

/// Answers every datagram by itself.
pub fn echo(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let socket = UdpSocket::bind(address)?;
    let mut datagram = [0; 64];
    loop {
        let (len, from) = socket.recv_from(&mut datagram)?;
        socket.send_to(datagram.get(..len).unwrap_or_default(), from)?;
    }
}

/// Prints the median and the 99th percentile, in microseconds.
pub fn ping(address: SocketAddr, seconds: f64) -> Result<(), Box<dyn Error>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(LOST_AFTER))?;
    let start = Instant::now();
    let (mut times, mut lost, mut number) = (Vec::new(), 0_u32, 0_u64);
    let mut datagram = [0; 16];
    while start.elapsed().as_secs_f64() < seconds {
        number += 1;
        let sent = Instant::now();
        socket.send(&number.to_ne_bytes())?;
        loop {
            match socket.recv(&mut datagram) {
                Ok(_) if datagram.first_chunk() == Some(&number.to_ne_bytes()) => break times.push(sent.elapsed()),
                Ok(_) => {} // late: counted as lost already
                Err(_) => break lost += 1,
            }
        }
    }
    let mut times = times.split_off(WARM_UP.min(times.len()));
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).map(|time| time.as_secs_f64() * 1e6);
    println!("{}", serde_json::json!({ "p50": at(50), "p99": at(99), "count": times.len(), "lost": lost }));
    Ok(())
}
