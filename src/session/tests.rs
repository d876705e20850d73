use super::*;
use crate::time::Time;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

fn published(name: &str) -> Published {
    Published { name: name.parse().unwrap(), transport: Transport::Tcp }
}

fn at_80(name: &str) -> (Published, u16) {
    (published(name), 80)
}

fn limits() -> Limits {
    let seconds = Duration::from_secs;
    Limits { servers: 3, of_server: 4, of_agent: 6, acknowledge: seconds(5), channel: seconds(10) }
}

fn read_all(bytes: &[u8], piece: usize) -> Result<Vec<Message>, Unreadable> {
    let (mut decoder, mut all) = (Decoder::default(), Vec::new());
    for part in bytes.chunks(piece.max(1)) {
        decoder.read(part, |kind, value| -> Result<(), Unreadable> {
            all.extend(Message::of_capsule(kind, value)?);
            Ok(())
        })?;
    }
    Ok(all)
}

fn some_message() -> impl Strategy<Value = Message> {
    let reason = proptest::sample::select(RefuseReason::ALL);
    let id = any::<u64>().prop_map(ConnectionId::new);
    let server = (0_u64..1 << 40).prop_map(ServerId);
    let name = "[a-z]([a-z0-9-]{0,61}[a-z0-9])?";
    let entry = (server.clone(), name, any::<bool>(), 1_u16..).prop_map(|(id, name, is_udp, port)| {
        let transport = if is_udp { Transport::Udp } else { Transport::Tcp };
        Offer { id, published: Published { name: name.parse().unwrap(), transport }, port }
    });
    let result = (server.clone(), proptest::option::of(reason.clone()));
    let result = result.prop_map(|(id, refused)| (id, refused.map_or(Ok(()), Err)));
    let plain = any::<[u8; 16]>().prop_map(|token| CallChannel::Plain(Token(token)));
    let channel = prop_oneof![Just(CallChannel::Shared), Just(CallChannel::Own), plain];
    let call = (id.clone(), server, channel, any::<(std::net::IpAddr, u16)>());
    let call = call.prop_map(|(connection, server, channel, client)| Call {
        connection,
        server,
        channel,
        client: SocketAddr::from(client),
    });
    prop_oneof![
        proptest::collection::vec(entry, 0..5).prop_map(Message::Publish),
        proptest::collection::vec(result, 0..5).prop_map(Message::Published),
        call.prop_map(Message::Call),
        id.clone().prop_map(Message::Acknowledge),
        (id.clone(), reason).prop_map(|(id, reason)| Message::Decline(id, reason)),
        id.prop_map(Message::Withdraw),
        (0_u64..1 << 62).prop_map(Message::Probe),
        (0_u64..1 << 62).prop_map(Message::Answer),
        Just(Message::Leave),
    ]
}

proptest! {
    #[test]
    fn what_is_said_is_heard_in_pieces_of_any_size(messages in proptest::collection::vec(some_message(), 0..8), piece in 1_usize..40) {
        let mut bytes = Vec::new();
        for message in &messages {
            message.put(&mut bytes);
        }
        prop_assert_eq!(read_all(&bytes, piece), Ok(messages));
    }

    #[test]
    fn anything_is_a_message_or_an_error(bytes: Vec<u8>, piece in 1_usize..40) {
        let _ = read_all(&bytes, piece);
    }

    #[test]
    fn a_message_that_was_changed_is_a_message_or_an_error(message in some_message(), at: usize, to: u8) {
        let mut bytes = Vec::new();
        message.put(&mut bytes);
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = read_all(&bytes, 7);
    }
}

#[test]
fn what_a_later_version_says_is_skipped_and_what_is_too_long_ends_the_session() {
    let mut bytes = vec![0x21, 0x03, 1, 2, 3];
    Message::Leave.put(&mut bytes);
    assert_eq!(read_all(&bytes, 1), Ok(vec![Message::Leave]));
    let endless = [0x21, 0x80, 0x01, 0x00, 0x01];
    assert_eq!(read_all(&endless, 1), Err(Unreadable::Overlong(Overlong(65_537))));
}

#[test]
fn rc4_what_may_not_be_published_is_told_apart_from_what_may() {
    let mut agent = AgentSide::new(9);
    let mut relay = RelaySide::new(limits());
    let list = agent.publish(["a", "b", "c", "d", "e"].map(at_80));
    let mut judge = |published: &Published| match published.name.as_str() {
        "b" => Err(RefuseReason::NotPermitted),
        _ => Ok(()),
    };
    let outcome = relay.read(list, Time::from_secs(9), &mut judge).unwrap();
    let Outcome::Published { reply, new, gone } = outcome else { panic!("{outcome:?}") };
    assert_eq!((new, gone), (["a", "c", "d"].map(published).to_vec(), Vec::new()));
    let Taken::Results(results) = agent.read(reply).unwrap() else { panic!() };
    let refused: Vec<_> = results.into_iter().filter_map(|(which, result)| Some((which, result.err()?))).collect();
    assert_eq!(refused, [(published("b"), RefuseReason::NotPermitted), (published("e"), RefuseReason::TooManyServers)]);
    // One goes, one is new: it has a number that none had.
    let Message::Publish(second) = agent.publish(["a", "f"].map(at_80)) else { panic!() };
    assert!(second.iter().any(|offer| offer.id.0 > 5 && offer.published == published("f")), "{second:?}");
}

#[test]
fn a_token_is_32_digits_and_shown_to_nobody() {
    let token = Token([0xa; 16]);
    assert_eq!(token.to_string(), "0a".repeat(16));
    assert_eq!(token.to_string().parse(), Ok(token));
    for wrong in ["", "0a", &"0A".repeat(16), &"0a".repeat(17), &format!("+{}", "0".repeat(31))] {
        assert!(wrong.parse::<Token>().is_err(), "{wrong}");
    }
    assert_eq!(format!("{token:?}"), "Token(…)");
}

#[test]
fn rc8_no_match_opens_nothing_and_the_relay_joins_no_other_channel() {
    let now = Time::from_secs(9);
    let mut agent = AgentSide::new(9);
    let mut relay = RelaySide::new(limits());
    relay.read(agent.publish([at_80("web")]), now, &mut |_| Ok(())).unwrap();
    let client = ("192.0.2.1:4000".parse().unwrap(), CallChannel::Shared);
    let (one, two) = (ConnectionId::new(1), ConnectionId::new(2));
    assert_eq!(relay.call(&published("ssh"), one, client, now), Err(RefuseReason::NoServer));
    let call = relay.call(&published("web"), one, client, now).unwrap();
    assert_eq!((relay.join(one), relay.join(two)), (Joining::Early, Joining::Unwanted));
    let Taken::Dial(acknowledged, ..) = agent.read(call.clone()).unwrap() else { panic!() };
    assert_eq!(agent.read(call), Err(Violation("two calls with one connection ID")));
    relay.read(acknowledged.clone(), now, &mut |_| Ok(())).unwrap();
    assert_eq!((relay.join(one), relay.join(one)), (Joining::Joined, Joining::Unwanted));
    assert!(relay.read(acknowledged, now, &mut |_| Ok(())).is_err());
    let other =
        Message::Call(Call { connection: two, server: ServerId(77), channel: CallChannel::Own, client: client.0 });
    assert_eq!(agent.read(other), Ok(Taken::Reply(Message::Decline(two, RefuseReason::NoServer))));
}

#[test]
fn calls_are_bounded_and_time_out_by_stage() {
    let at = |seconds: u64| Time::from_secs(1000 + seconds);
    let mut relay = RelaySide::new(limits());
    let servers = ["a", "b"].map(published).into_iter().enumerate();
    let offer = |(id, published)| Offer { id: ServerId(id as u64), published, port: 80 };
    let list = Message::Publish(servers.map(offer).collect());
    relay.read(list, at(0), &mut |_| Ok(())).unwrap();
    let client = ("192.0.2.1:4000".parse().unwrap(), CallChannel::Own);
    for id in 0..4 {
        relay.call(&published("a"), ConnectionId::new(id), client, at(0)).unwrap();
    }
    assert_eq!(relay.call(&published("a"), ConnectionId::new(9), client, at(0)), Err(RefuseReason::ServerFull));
    relay.call(&published("b"), ConnectionId::new(4), client, at(0)).unwrap();
    relay.call(&published("b"), ConnectionId::new(5), client, at(0)).unwrap();
    assert_eq!(relay.call(&published("b"), ConnectionId::new(9), client, at(0)), Err(RefuseReason::AgentFull));
    relay.read(Message::Acknowledge(ConnectionId::new(0)), at(1), &mut |_| Ok(())).unwrap();
    let silent = |id| (ConnectionId::new(id), RefuseReason::AgentSilent);
    assert_eq!(relay.expired(at(5)), [1, 2, 3, 4, 5].map(silent));
    for id in 1..6 {
        assert_eq!(relay.end(ConnectionId::new(id)), Some(Message::Withdraw(ConnectionId::new(id))));
    }
    assert_eq!(relay.expired(at(11)), [(ConnectionId::new(0), RefuseReason::NoDataChannel)]);
    relay.end(ConnectionId::new(0));
    assert_eq!((relay.connections(), relay.end(ConnectionId::new(0))), (0, None));
    relay.call(&published("a"), ConnectionId::new(10), client, at(11)).unwrap();
    relay.read(Message::Leave, at(12), &mut |_| Ok(())).unwrap();
    assert_eq!(relay.call(&published("a"), ConnectionId::new(11), client, at(12)), Err(RefuseReason::AgentAway));
}

/// What happens to the two ends, in any order.
#[derive(Clone, Debug)]
enum Step {
    Call,
    ClientGoes(usize),
    RelayReads,
    AgentReads,
    Dialled(usize),
    DialFails(usize),
    Closes(usize),
    TimePasses(u64),
    Publishes(bool),
}

fn some_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Call),
        1 => any::<usize>().prop_map(Step::ClientGoes),
        4 => Just(Step::RelayReads),
        4 => Just(Step::AgentReads),
        2 => any::<usize>().prop_map(Step::Dialled),
        1 => any::<usize>().prop_map(Step::DialFails),
        1 => any::<usize>().prop_map(Step::Closes),
        1 => (0_u64..8).prop_map(Step::TimePasses),
        1 => any::<bool>().prop_map(Step::Publishes),
    ]
}

/// Both ends, and what is on its way between them.
struct Pair {
    relay: RelaySide,
    agent: AgentSide,
    to_agent: VecDeque<Message>,
    to_relay: VecDeque<Message>,
    /// The relay's calls that have not ended, and whether each is joined.
    calls: BTreeMap<ConnectionId, bool>,
    /// Connections that the agent dials or has open.
    dialled: Vec<ConnectionId>,
    drawn: u64,
    now: Time,
}

impl Pair {
    fn pick<T: Copy>(all: &[T], at: usize) -> Option<T> {
        (!all.is_empty()).then(|| all[at % all.len()])
    }

    fn relay_ends(&mut self, id: ConnectionId) {
        self.to_agent.extend(self.relay.end(id));
        self.calls.remove(&id);
    }

    fn agent_ends(&mut self, id: ConnectionId) {
        self.agent.end(id);
        self.dialled.retain(|there| *there != id);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Call => {
                let client = ("192.0.2.1:4000".parse().unwrap(), CallChannel::Shared);
                self.drawn += 1;
                let id = ConnectionId::new(self.drawn);
                if let Ok(call) = self.relay.call(&published("web"), id, client, self.now) {
                    self.to_agent.push_back(call);
                    self.calls.insert(id, false);
                }
            }
            Step::ClientGoes(at) => {
                let waiting: Vec<_> = self.calls.iter().filter(|(_, joined)| !**joined).map(|(id, _)| *id).collect();
                if let Some(id) = Self::pick(&waiting, at) {
                    self.relay_ends(id);
                }
            }
            Step::RelayReads => {
                let Some(message) = self.to_relay.pop_front() else { return };
                match self.relay.read(message, self.now, &mut |_| Ok(())).unwrap() {
                    Outcome::Declined(id, _) => drop(self.calls.remove(&id)),
                    Outcome::Published { reply, .. } | Outcome::Reply(reply) => self.to_agent.push_back(reply),
                    Outcome::Acknowledged(_) | Outcome::Answered(_) | Outcome::Leaving | Outcome::Late => {}
                }
            }
            Step::AgentReads => {
                let Some(message) = self.to_agent.pop_front() else { return };
                match self.agent.read(message).unwrap() {
                    Taken::Dial(reply, call, _) => {
                        self.to_relay.push_back(reply);
                        self.dialled.push(call.connection);
                    }
                    Taken::Reply(reply) => self.to_relay.push_back(reply),
                    Taken::Withdrawn(id) => self.agent_ends(id),
                    Taken::Results(_) | Taken::Answered(_) | Taken::Leaving => {}
                }
            }
            // The data channel comes behind what was said before on the control channel.
            Step::Dialled(at) => {
                let Some(id) = Self::pick(&self.dialled, at) else { return };
                while !self.to_relay.is_empty() {
                    self.step(Step::RelayReads);
                }
                if self.relay.join(id) == Joining::Joined {
                    self.calls.insert(id, true);
                } else if self.calls.get(&id) != Some(&true) {
                    self.agent_ends(id);
                }
            }
            Step::DialFails(at) => {
                let waiting: Vec<_> =
                    self.dialled.iter().copied().filter(|id| self.calls.get(id) != Some(&true)).collect();
                if let Some(id) = Self::pick(&waiting, at) {
                    self.to_relay.push_back(Message::Decline(id, RefuseReason::ServerRefused));
                    self.agent_ends(id);
                }
            }
            Step::Closes(at) => {
                let joined: Vec<_> = self.calls.iter().filter(|(_, joined)| **joined).map(|(id, _)| *id).collect();
                if let Some(id) = Self::pick(&joined, at) {
                    self.relay_ends(id);
                    self.agent_ends(id);
                }
            }
            Step::TimePasses(seconds) => {
                self.now = self.now + Duration::from_secs(seconds);
                for (id, _) in self.relay.expired(self.now) {
                    self.relay_ends(id);
                }
            }
            Step::Publishes(both) => {
                let servers = if both { vec![at_80("web"), at_80("ssh")] } else { vec![at_80("ssh")] };
                let list = self.agent.publish(servers);
                self.to_relay.push_back(list);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens in which order: when all that was said is heard and time has passed, both ends agree on what is open,
    /// and when that has closed nothing stays.
    #[test]
    fn no_order_of_events_leaves_anything_open(steps in proptest::collection::vec(some_step(), 0..120)) {
        let mut pair = Pair {
            relay: RelaySide::new(limits()),
            agent: AgentSide::new(5),
            to_agent: VecDeque::new(),
            to_relay: VecDeque::new(),
            calls: BTreeMap::new(),
            dialled: Vec::new(),
            drawn: 0,
            now: Time::from_secs(1000),
        };
        pair.step(Step::Publishes(true));
        for step in steps {
            pair.step(step);
            prop_assert!(pair.relay.connections() <= limits().of_agent && pair.agent.connections() <= 5);
            prop_assert_eq!(pair.relay.connections(), pair.calls.len());
            prop_assert_eq!(pair.agent.connections(), pair.dialled.len());
        }
        for _ in 0..2 {
            while !pair.to_agent.is_empty() || !pair.to_relay.is_empty() {
                pair.step(Step::AgentReads);
                pair.step(Step::RelayReads);
            }
            pair.step(Step::TimePasses(60));
        }
        let open: Vec<ConnectionId> = pair.calls.keys().copied().collect();
        let mut dialled = pair.dialled.clone();
        dialled.sort();
        prop_assert_eq!(&open, &dialled);
        for _ in open {
            pair.step(Step::Closes(0));
        }
        prop_assert_eq!((pair.relay.connections(), pair.agent.connections()), (0, 0));
    }
}

#[test]
fn the_page_of_the_protocol_has_every_reason_with_its_number() {
    let page = include_str!("PROTOCOL.md");
    for reason in RefuseReason::ALL {
        let row = format!("| {} | {} |", reason.number(), reason.name());
        assert!(page.contains(&row), "{row}");
    }
}
