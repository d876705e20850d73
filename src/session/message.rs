//! The messages of a session, each a capsule on its control channel.

use super::capsule::{self, Overlong};
use super::names::{Name, Published, Transport};
use super::reason::RefuseReason;
use super::varint;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The version of the protocol, in the header `kamei-version` of both ends.
pub const VERSION: u32 = 1;

/// Servers in one message: more than fit into a capsule do not come.
const MOST_SERVERS: usize = 4096;

// Types of capsules. No registry has them: "kam" and a number.
const PUBLISH: u64 = 0x6b61_6d01;
const PUBLISHED: u64 = 0x6b61_6d02;
const CALL: u64 = 0x6b61_6d03;
const ACKNOWLEDGE: u64 = 0x6b61_6d04;
const DECLINE: u64 = 0x6b61_6d05;
const WITHDRAW: u64 = 0x6b61_6d06;
const PROBE: u64 = 0x6b61_6d07;
const ANSWER: u64 = 0x6b61_6d08;
const LEAVE: u64 = 0x6b61_6d09;

/// The number of a published server in its session: the *connection ID* of JP2001-356973 A, paragraph 23. The agent chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u64);

/// The number of one connection of a client. The relay draws it, so that nobody guesses it: 62 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The ID of these bits; of 64, the lower 62 count.
    pub const fn new(bits: u64) -> Self {
        Self(bits & varint::LARGEST)
    }
}

/// As in paths, logs and commands: 16 hexadecimal digits.
impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for ConnectionId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let is_id = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let value = u64::from_str_radix(text, 16).ok().filter(|value| is_id && *value <= varint::LARGEST);
        value.map(Self).ok_or(Malformed("connection ID"))
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConnectionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How the bytes of a connection travel between relay and agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataChannel {
    /// A stream of the session.
    Shared,
    /// A TLS connection of its own.
    Own,
    /// A TCP connection in the clear.
    Plain,
}

/// What a call has to say of its data channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallChannel {
    /// [`DataChannel::Shared`].
    Shared,
    /// [`DataChannel::Own`].
    Own,
    /// [`DataChannel::Plain`], which is known by this.
    Plain(Token),
}

/// What a data channel in the clear shows to be joined to the one call for which the relay has drawn it: 128 random bits, good
/// once.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub [u8; 16]);

/// Shown to nobody.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// As in a request: 32 hexadecimal digits.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl std::str::FromStr for Token {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let is_token = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bits = u128::from_str_radix(text, 16).ok().filter(|_| is_token);
        bits.map(|bits| Self(bits.to_be_bytes())).ok_or(Malformed("token"))
    }
}

/// A client calls a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The number of the connection.
    pub connection: ConnectionId,
    /// The server, as the agent has numbered it.
    pub server: ServerId,
    /// What comes.
    pub channel: CallChannel,
    /// Where the client calls from.
    pub client: SocketAddr,
}

/// A server that an agent publishes in a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its number.
    pub id: ServerId,
    /// Its name and transport.
    pub published: Published,
    /// The port that it really has: at a virtual IP, clients call it there.
    pub port: u16,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Agent to relay: all servers that it publishes; the list replaces the one before.
    Publish(Vec<Offer>),
    /// Relay to agent: what became of each.
    Published(Vec<(ServerId, Result<(), RefuseReason>)>),
    /// Relay to agent: a client calls.
    Call(Call),
    /// Agent to relay: the call is one of its servers', which is being dialled.
    Acknowledge(ConnectionId),
    /// Agent to relay: there will be no data channel for this call.
    Decline(ConnectionId, RefuseReason),
    /// Relay to agent: the client has gone, or the agent was too slow.
    Withdraw(ConnectionId),
    /// Either: is anybody there?
    Probe(u64),
    /// Either: yes; the number is the probe's.
    Answer(u64),
    /// Either: this end is about to leave; nothing new comes, what runs goes on until its end.
    Leave,
}

/// Bytes that are no message of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// Why a session's control channel cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A capsule is too long.
    #[error(transparent)]
    Overlong(#[from] Overlong),
    /// A capsule is no message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Message {
    /// Appends the message as a capsule.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut value = Vec::new();
        let kind = match self {
            Self::Publish(servers) => {
                for Offer { id, published, port } in servers {
                    varint::put(&mut value, id.0);
                    value.push(published.transport.number());
                    value.extend_from_slice(&port.to_be_bytes());
                    let name = published.name.as_str().as_bytes();
                    varint::put(&mut value, name.len() as u64);
                    value.extend_from_slice(name);
                }
                PUBLISH
            }
            Self::Published(results) => {
                for (id, result) in results {
                    varint::put(&mut value, id.0);
                    // Zero is yes; reasons follow, each one up.
                    varint::put(&mut value, result.map_or_else(|reason| reason.number() + 1, |()| 0));
                }
                PUBLISHED
            }
            Self::Call(call) => {
                varint::put(&mut value, call.connection.0);
                varint::put(&mut value, call.server.0);
                match call.channel {
                    CallChannel::Shared => value.push(0),
                    CallChannel::Own => value.push(1),
                    CallChannel::Plain(Token(token)) => {
                        value.push(2);
                        value.extend_from_slice(&token);
                    }
                }
                put_address(&mut value, call.client);
                CALL
            }
            Self::Acknowledge(connection) => {
                varint::put(&mut value, connection.0);
                ACKNOWLEDGE
            }
            Self::Decline(connection, reason) => {
                varint::put(&mut value, connection.0);
                varint::put(&mut value, reason.number());
                DECLINE
            }
            Self::Withdraw(connection) => {
                varint::put(&mut value, connection.0);
                WITHDRAW
            }
            Self::Probe(number) => {
                varint::put(&mut value, *number);
                PROBE
            }
            Self::Answer(number) => {
                varint::put(&mut value, *number);
                ANSWER
            }
            Self::Leave => LEAVE,
        };
        capsule::put(out, kind, &value);
    }

    /// The message of a capsule; `None` for a type that this version does not know, which is skipped (RFC 9297 §3.2).
    pub fn of_capsule(kind: u64, mut value: &[u8]) -> Result<Option<Self>, Malformed> {
        let rest = &mut value;
        let message = match kind {
            PUBLISH => Self::Publish(take_list(rest, take_server).ok_or(Malformed("PUBLISH"))?),
            PUBLISHED => Self::Published(take_list(rest, take_result).ok_or(Malformed("PUBLISHED"))?),
            CALL => Self::Call(take_call(rest).ok_or(Malformed("CALL"))?),
            ACKNOWLEDGE => Self::Acknowledge(take_connection(rest).ok_or(Malformed("ACKNOWLEDGE"))?),
            DECLINE => {
                let connection = take_connection(rest).ok_or(Malformed("DECLINE"))?;
                Self::Decline(connection, RefuseReason::of_number(varint::take(rest).ok_or(Malformed("DECLINE"))?))
            }
            WITHDRAW => Self::Withdraw(take_connection(rest).ok_or(Malformed("WITHDRAW"))?),
            PROBE => Self::Probe(varint::take(rest).ok_or(Malformed("PROBE"))?),
            ANSWER => Self::Answer(varint::take(rest).ok_or(Malformed("ANSWER"))?),
            LEAVE => Self::Leave,
            _ => return Ok(None),
        };
        // Later versions may add fields only with a new type.
        if value.is_empty() { Ok(Some(message)) } else { Err(Malformed("message: bytes after its end")) }
    }
}

fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

fn take_bytes<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (some, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(some)
}

fn take_list<T>(bytes: &mut &[u8], mut take: impl FnMut(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        all.push(take(bytes).filter(|_| all.len() < MOST_SERVERS)?);
    }
    Some(all)
}

fn take_server(bytes: &mut &[u8]) -> Option<Offer> {
    let id = ServerId(varint::take(bytes)?);
    let transport = Transport::of_number(take_byte(bytes)?)?;
    let port = take_port(bytes).filter(|port| *port > 0)?;
    let length = usize::try_from(varint::take(bytes)?).ok()?;
    let name: Name = std::str::from_utf8(take_bytes(bytes, length)?).ok()?.parse().ok()?;
    Some(Offer { id, published: Published { name, transport }, port })
}

fn take_result(bytes: &mut &[u8]) -> Option<(ServerId, Result<(), RefuseReason>)> {
    let id = ServerId(varint::take(bytes)?);
    let result = match varint::take(bytes)? {
        0 => Ok(()),
        reason => Err(RefuseReason::of_number(reason - 1)),
    };
    Some((id, result))
}

fn take_call(bytes: &mut &[u8]) -> Option<Call> {
    let connection = take_connection(bytes)?;
    let server = ServerId(varint::take(bytes)?);
    let channel = match take_byte(bytes)? {
        0 => CallChannel::Shared,
        1 => CallChannel::Own,
        2 => CallChannel::Plain(Token(take_bytes(bytes, 16)?.try_into().ok()?)),
        _ => return None,
    };
    Some(Call { connection, server, channel, client: take_address(bytes)? })
}

fn take_connection(bytes: &mut &[u8]) -> Option<ConnectionId> {
    varint::take(bytes).map(ConnectionId)
}

/// Family (4 or 6), the address, the port.
fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn take_address(bytes: &mut &[u8]) -> Option<SocketAddr> {
    let ip: IpAddr = match take_byte(bytes)? {
        4 => <[u8; 4]>::try_from(take_bytes(bytes, 4)?).ok()?.into(),
        6 => <[u8; 16]>::try_from(take_bytes(bytes, 16)?).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, take_port(bytes)?))
}

fn take_port(bytes: &mut &[u8]) -> Option<u16> {
    take_bytes(bytes, 2)?.try_into().ok().map(u16::from_be_bytes)
}
