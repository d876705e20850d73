//! What was on a wire: tcpdump writes, the raw bytes are searched.

use crate::crafted::Raw;
use crate::lab::{Background, Host, wait_until};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A running capture of one interface of one host.
pub struct Capture {
    host: Host,
    interface: String,
    path: PathBuf,
    _tcpdump: Background,
}

/// The packets of a capture that has ended.
pub struct Packets(Vec<Vec<u8>>);

const FILE_HEADER: usize = 24; // pcap(5): global header, then 16 bytes before each packet
const PACKET_HEADER: usize = 16;

impl Capture {
    pub fn start(host: &Host, interface: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("netns-captures");
        fs::create_dir_all(&directory).unwrap();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{}-{interface}-{number}.pcap", host.namespace));
        let file = path.to_str().unwrap().to_owned();
        let tcpdump = host.spawn(
            &format!("tcpdump-{number}"),
            &["tcpdump", "--immediate-mode", "-U", "-n", "-Z", "root", "-s", "2048", "-i", interface, "-w", &file],
        );
        wait_until("tcpdump to listen", || tcpdump.output().contains("listening on"));
        Self { host: host.clone(), interface: interface.to_owned(), path, _tcpdump: tcpdump }
    }

    /// Ends the capture, once everything sent before this call is in it.
    pub fn finish(self) -> Packets {
        let marker = format!("end of capture {}", self.path.display());
        let mut raw = Raw::open(&self.host, &self.interface);
        // To everybody, of a type for experiments on a local link (IEEE 802a).
        raw.send_frame(&[&[0xff; 12], &[0x88, 0xb5][..], marker.as_bytes()].concat());
        wait_until("the end marker in the capture", || self.packets().has_bytes(marker.as_bytes()));
        self.packets()
    }

    /// What is in it so far.
    pub fn packets(&self) -> Packets {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let mut packets = Vec::new();
        let mut rest = bytes.get(FILE_HEADER..).unwrap_or_default();
        while let Some((header, after)) = rest.split_at_checked(PACKET_HEADER) {
            let captured = u32::from_ne_bytes(header[8..12].try_into().unwrap()) as usize;
            let Some((packet, after)) = after.split_at_checked(captured) else { break };
            packets.push(packet.to_owned());
            rest = after;
        }
        Packets(packets)
    }
}

/// A capture is kept for the reader of a failed test.
impl Drop for Capture {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("capture of {} on {}: {}", self.interface, self.host.name, self.path.display());
        } else {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Packets {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn has_bytes(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|packet| contains(packet, bytes))
    }

    /// Whether `address` is in any packet, in header or payload, as bytes or as text.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.with_address(address) > 0
    }

    /// In how many packets `address` is, as above.
    pub fn with_address(&self, address: IpAddr) -> usize {
        self.0.iter().filter(|packet| has_address(packet, address)).count()
    }

    /// Every packet behind its Ethernet header, without the padding of short frames.
    pub fn ip(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(|frame| {
            let ip = frame.get(14..)?;
            let length = match frame.get(12..14)? {
                [0x08, 0x00] => usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?])),
                [0x86, 0xdd] => 40 + usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?])),
                _ => return None,
            };
            Some(ip.get(..length).unwrap_or(ip))
        })
    }

    /// IPv4 packets from one address to another, as their bytes behind the Ethernet header.
    pub fn between(&self, from: Ipv4Addr, to: Ipv4Addr) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(move |packet| {
            let ip = packet.get(14..)?;
            let is_v4 = packet.get(12..14)? == [0x08, 0x00];
            (is_v4 && ip.get(12..16)? == from.octets() && ip.get(16..20)? == to.octets()).then_some(ip)
        })
    }

    /// None of these addresses was on the wire.
    #[track_caller]
    pub fn assert_hidden(&self, addresses: &[IpAddr]) {
        assert!(!self.0.is_empty(), "an empty capture shows nothing");
        let found: Vec<String> = addresses
            .iter()
            .filter_map(|address| {
                let packet = self.0.iter().find(|packet| has_address(packet, *address))?;
                Some(format!("{address} in {packet:02x?}"))
            })
            .collect();
        assert!(found.is_empty(), "hidden addresses on the wire:\n{}", found.join("\n"));
    }
}

fn has_address(packet: &[u8], address: IpAddr) -> bool {
    let as_bytes = match address {
        IpAddr::V4(address) => contains(packet, &address.octets()),
        IpAddr::V6(address) => contains(packet, &address.octets()),
    };
    as_bytes || contains(packet, address.to_string().as_bytes())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
