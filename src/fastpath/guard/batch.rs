//! A change of nf_tables as one batch of netlink messages: all of it takes place in one instant, or nothing does.
//!
//! Numbers and names are those of linux/netfilter/nf_tables.h and linux/netfilter/nfnetlink.h; numbers in attributes are
//! big-endian, what packets are compared with is as the packet or the kernel has it.

use crate::host::netlink_socket::{attribute, half, number};
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::Timeout;
use std::io;
use std::time::Duration;

/// `NFNL_SUBSYS_NFTABLES`, as a message's type has it.
const NF_TABLES: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// Asks for the table of a name.
pub const GET_TABLE: u16 = NF_TABLES | 1;
/// Asks for rules.
pub const GET_RULE: u16 = NF_TABLES | 7;
const NEW_TABLE: u16 = NF_TABLES;
const DELETE_TABLE: u16 = NF_TABLES | 2;
const NEW_CHAIN: u16 = NF_TABLES | 3;
const NEW_RULE: u16 = NF_TABLES | 6;
const DELETE_RULE: u16 = NF_TABLES | 8;
const NEW_SET: u16 = NF_TABLES | 9;
const NEW_ELEMENTS: u16 = NF_TABLES | 12;
/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NFTA_LIST_ELEM`.
const ELEMENT: u16 = 1 | NESTED;
/// An attribute has at most 64 KiB (its length has 16 bits), an IPv6 element 36 bytes.
const ELEMENTS_A_MESSAGE: usize = 1024;
/// `NFT_REG_1`.
const REGISTER: u32 = 1;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
/// Bytes of answers that are read at once.
const BUFFER: usize = 64 * 1024;
/// The kernel answers before sending returns. This is for what nobody has thought of.
const WITHIN: Duration = Duration::from_secs(10);

/// The socket that changes are sent by. A table that it owns is out of others' reach while it is open.
pub struct Sender {
    socket: Socket,
    sequence: u32,
}

impl Sender {
    /// For the network namespace of this thread.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Answers without what is answered; they are short, and there is room for many. The first one counts, so that none
        // is missed when there is no more room.
        socket.set_cap_ack(true)?;
        socket.set_no_enobufs(true)?;
        rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(WITHIN))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Has the kernel make a change, and waits until it is made.
    ///
    /// # Errors
    /// The first that the kernel answers; nothing is changed then.
    pub fn send(&mut self, batch: Batch) -> io::Result<()> {
        let (first, bytes) = (self.sequence.wrapping_add(1), batch.finish(self.sequence));
        let last = first.wrapping_add(bytes.count);
        self.sequence = last;
        // The kernel copies what is sent, and refuses what is longer than half of the buffer.
        if bytes.messages.len() > BUFFER {
            rustix::net::sockopt::set_socket_send_buffer_size_force(&self.socket, bytes.messages.len() * 2)?;
        }
        // What the kernel refuses it answers for each message: those of a batch before, of which the first was enough, would
        // leave no room for an answer to this one.
        let mut buffer = Vec::with_capacity(BUFFER);
        while self.socket.recv(&mut buffer, libc::MSG_DONTWAIT).is_ok() {
            buffer.clear();
        }
        self.socket.send(&bytes.messages, 0)?;
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                received => received?,
            };
            let mut rest = buffer.as_slice();
            while let Some((kind, sequence, body)) = message(&mut rest) {
                if kind != NLMSG_ERROR || sequence.wrapping_sub(first) > bytes.count {
                    continue;
                }
                match number(body) {
                    Some(error) if error != 0 => {
                        return Err(io::Error::from_raw_os_error(error.cast_signed().wrapping_neg()));
                    }
                    _ if sequence == last.wrapping_sub(1) => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

/// The next message of a datagram: kind, sequence number, body.
fn message<'a>(bytes: &mut &'a [u8]) -> Option<(u16, u32, &'a [u8])> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let message = bytes.get(..length)?;
    *bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((half(message.get(4..)?)?, number(message.get(8..)?)?, message.get(HEADER..)?))
}

/// What a packet is compared with: the type that `nft` shows it by (datatype.h of nftables), and its length in bytes.
#[derive(Clone, Copy)]
pub struct Type {
    number: u32,
    length: u32,
    /// `BYTEORDER_HOST_ENDIAN` or `BYTEORDER_BIG_ENDIAN` of nftables.
    order: u32,
    /// Whether elements are the first of an interval and the first behind it, in turn.
    is_interval: bool,
}

impl Type {
    /// An interface by its index.
    pub const INTERFACE: Self = Self { number: 20, length: 4, order: 1, is_interval: false };
    /// An IPv6 address.
    pub const ADDRESS_V6: Self = Self { number: 8, length: 16, order: 2, is_interval: false };
    /// Ranges of IPv4 addresses.
    pub const RANGES_V4: Self = Self { number: 7, length: 4, order: 2, is_interval: true };
    /// Ranges of IPv6 addresses.
    pub const RANGES_V6: Self = Self { is_interval: true, ..Self::ADDRESS_V6 };
}

/// An element of a set: its key, and whether it is the first key behind an interval.
pub type Element = (Vec<u8>, bool);

/// What a packet is asked for (`enum nft_meta_keys`).
#[derive(Clone, Copy)]
pub enum Meta {
    /// The interface it came in by.
    In = 4,
    /// The interface it leaves by.
    Out = 5,
    /// Its address family.
    Family = 15,
}

/// How a packet ends (`NF_DROP`, `NF_ACCEPT`).
#[derive(Clone, Copy)]
pub enum Verdict {
    /// Here.
    Drop = 0,
    /// Not in this table.
    Accept = 1,
}

/// Messages that change one table.
pub struct Batch {
    messages: Vec<(u16, u16, Vec<u8>)>,
    table: Vec<u8>,
    chain: Vec<u8>,
    sets: u32,
}

/// A batch as it is sent.
struct Bytes {
    messages: Vec<u8>,
    /// Messages besides the first.
    count: u32,
}

impl Batch {
    /// About the table of this name and one chain in it.
    pub fn new(table: &str, chain: &str) -> Self {
        Self { messages: Vec::new(), table: name(table), chain: name(chain), sets: 0 }
    }

    /// Makes the table unless it is there; in either case it has these flags then (`NFT_TABLE_F_*`), if any are given.
    pub fn table(&mut self, flags: Option<u32>) {
        let mut body = attribute(1, &self.table);
        body.extend(flags.iter().flat_map(|flags| attribute(2, &flags.to_be_bytes())));
        self.push(NEW_TABLE, NLM_F_CREATE, body);
    }

    /// Deletes the table.
    pub fn delete_table(&mut self) {
        self.push(DELETE_TABLE, 0, attribute(1, &self.table));
    }

    /// Makes the chain, unless it is there: a filter that accepts whatever no rule of it drops.
    pub fn filter_chain(&mut self, hook: u32, priority: i32) {
        let hook = [attribute(1, &hook.to_be_bytes()), attribute(2, &priority.to_be_bytes())].concat();
        let body = [
            attribute(1, &self.table),
            attribute(3, &self.chain),
            attribute(4 | NESTED, &hook),
            attribute(5, &(Verdict::Accept as u32).to_be_bytes()),
            attribute(7, &name("filter")),
        ];
        self.push(NEW_CHAIN, NLM_F_CREATE, body.concat());
    }

    /// Deletes the rules of the chain, with the sets that only they use.
    pub fn flush(&mut self) {
        self.push(DELETE_RULE, 0, [attribute(1, &self.table), attribute(2, &self.chain)].concat());
    }

    /// A rule at the end of the chain; `nft` shows the comment.
    pub fn rule(&mut self, expressions: &[Vec<u8>], comment: Option<&str>) {
        let list: Vec<u8> = expressions.iter().flat_map(|expression| attribute(ELEMENT, expression)).collect();
        let mut body = [attribute(1, &self.table), attribute(2, &self.chain), attribute(4 | NESTED, &list)].concat();
        if let Some(comment) = comment {
            body.extend(attribute(7, &comment_data(comment)));
        }
        self.push(NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, body);
    }

    /// Whether what was loaded last is one of these; the set has no name and goes with the rule.
    pub fn is_among(&mut self, of: Type, elements: &[Element]) -> Vec<u8> {
        self.lookup(of, elements, false)
    }

    /// Whether it is none of these.
    pub fn is_not_among(&mut self, of: Type, elements: &[Element]) -> Vec<u8> {
        self.lookup(of, elements, true)
    }

    fn lookup(&mut self, of: Type, elements: &[Element], inverted: bool) -> Vec<u8> {
        if let ([(key, _)], false) = (elements, of.is_interval) {
            return compare(key, inverted);
        }
        self.sets += 1;
        let (id, unnamed) = (self.sets.to_be_bytes(), name("__set%d"));
        self.new_set(of, elements);
        for elements in elements.chunks(ELEMENTS_A_MESSAGE) {
            let list: Vec<u8> = elements.iter().flat_map(element).collect();
            let body =
                [attribute(1, &self.table), attribute(2, &unnamed), attribute(3 | NESTED, &list), attribute(4, &id)];
            self.push(NEW_ELEMENTS, NLM_F_CREATE, body.concat());
        }
        let mut data = [attribute(1, &unnamed), attribute(2, &REGISTER.to_be_bytes()), attribute(4, &id)].concat();
        if inverted {
            data.extend(attribute(5, &1_u32.to_be_bytes())); // NFT_LOOKUP_F_INV
        }
        expression("lookup", &data)
    }

    fn new_set(&mut self, of: Type, elements: &[Element]) {
        // NFT_SET_ANONYMOUS | NFT_SET_CONSTANT, NFT_SET_INTERVAL
        let flags: u32 = if of.is_interval { 7 } else { 3 };
        let size = u32::try_from(elements.len()).unwrap_or(u32::MAX);
        // NFTNL_UDATA_SET_KEYBYTEORDER of libnftnl
        let order = [&[0, 4][..], &of.order.to_ne_bytes()].concat();
        let body = [
            attribute(1, &self.table),
            attribute(2, &name("__set%d")),
            attribute(3, &flags.to_be_bytes()),
            attribute(4, &of.number.to_be_bytes()),
            attribute(5, &of.length.to_be_bytes()),
            attribute(9 | NESTED, &attribute(1, &size.to_be_bytes())),
            attribute(10, &self.sets.to_be_bytes()),
            attribute(13, &order),
        ];
        self.push(NEW_SET, NLM_F_CREATE, body.concat());
    }

    fn push(&mut self, kind: u16, flags: u16, body: Vec<u8>) {
        self.messages.push((kind, flags, [header(INET, 0), body].concat()));
    }

    /// Numbers the messages from `sequence + 1` on. The kernel answers the last change, and whatever it refuses.
    fn finish(mut self, sequence: u32) -> Bytes {
        if let Some((_, flags, _)) = self.messages.last_mut() {
            *flags |= NLM_F_ACK;
        }
        let edge = |kind| (kind, 0, header(0, NF_TABLES >> 8));
        let all = std::iter::once(edge(BATCH_BEGIN)).chain(self.messages).chain([edge(BATCH_END)]);
        let (mut messages, mut count) = (Vec::new(), 0_u32);
        for (kind, flags, body) in all {
            count += 1;
            messages.extend(u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX).to_ne_bytes());
            messages.extend(kind.to_ne_bytes());
            messages.extend((NLM_F_REQUEST | flags).to_ne_bytes());
            messages.extend(sequence.wrapping_add(count).to_ne_bytes());
            messages.extend([0; 4]);
            messages.extend(body);
        }
        Bytes { messages, count: count - 1 }
    }
}

/// Asks for a table, or for the rules of one.
pub fn question(table: &str) -> Vec<u8> {
    [header(INET, 0), attribute(1, &name(table))].concat()
}

/// The user data of a rule that has a comment (`NFTNL_UDATA_RULE_COMMENT` of libnftnl).
pub fn comment_data(comment: &str) -> Vec<u8> {
    let text = name(comment);
    [vec![0, u8::try_from(text.len()).unwrap_or(u8::MAX)], text].concat()
}

/// Loads what the packet is asked for.
pub fn meta(of: Meta) -> Vec<u8> {
    expression("meta", &[attribute(1, &REGISTER.to_be_bytes()), attribute(2, &(of as u32).to_be_bytes())].concat())
}

/// Loads bytes of the packet's network header.
pub fn network_header(offset: u32, length: u32) -> Vec<u8> {
    let data = [
        attribute(1, &REGISTER.to_be_bytes()),
        attribute(2, &1_u32.to_be_bytes()), // NFT_PAYLOAD_NETWORK_HEADER
        attribute(3, &offset.to_be_bytes()),
        attribute(4, &length.to_be_bytes()),
    ];
    expression("payload", &data.concat())
}

/// Loads whether IPsec is about to transform the packet (`NFT_RT_XFRM`).
pub fn ipsec() -> Vec<u8> {
    expression("rt", &[attribute(1, &REGISTER.to_be_bytes()), attribute(2, &4_u32.to_be_bytes())].concat())
}

/// Whether what was loaded last is this, or is not.
pub fn compare(with: &[u8], inverted: bool) -> Vec<u8> {
    let data = [
        attribute(1, &REGISTER.to_be_bytes()),
        attribute(2, &u32::from(inverted).to_be_bytes()), // NFT_CMP_EQ, NFT_CMP_NEQ
        attribute(3 | NESTED, &attribute(1, with)),
    ];
    expression("cmp", &data.concat())
}

/// Counts the packets that come so far.
pub fn counter() -> Vec<u8> {
    expression("counter", &[attribute(1, &[0; 8]), attribute(2, &[0; 8])].concat())
}

/// Ends the packet's way through the chain.
pub fn verdict(verdict: Verdict) -> Vec<u8> {
    let code = attribute(2 | NESTED, &attribute(1, &(verdict as u32).to_be_bytes()));
    expression("immediate", &[attribute(1, &0_u32.to_be_bytes()), attribute(2 | NESTED, &code)].concat())
}

fn expression(kind: &str, data: &[u8]) -> Vec<u8> {
    [attribute(1, &name(kind)), attribute(2 | NESTED, data)].concat()
}

fn element((key, is_end): &Element) -> Vec<u8> {
    let mut body = attribute(1 | NESTED, &attribute(1, key));
    if *is_end {
        body.extend(attribute(3, &1_u32.to_be_bytes())); // NFT_SET_ELEM_INTERVAL_END
    }
    attribute(ELEMENT, &body)
}

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> Vec<u8> {
    [[family, 0], resource.to_be_bytes()].concat()
}

fn name(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}
