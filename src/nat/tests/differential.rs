//! The real translator against the reference: generated packets of every kind, and mutated ones; same verdict, same bytes.
//!
//! `KAMEI_CASES=1000000 cargo test --release differential` (or `scripts/fuzz`) for as long as you like.

use super::*;
use crate::testkit::fuzzed::{Fuzzed, cases};
use crate::testkit::packets::{Spec, error_about, spec};
use crate::testkit::reference::{Expected, Reference};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// What one step sends.
#[derive(Clone, Debug)]
struct Step {
    from: usize,
    to: usize,
    v4: bool,
    realm: u8,
    spec: Spec,
    shape: Shape,
    mutation: Option<(u16, u8)>,
    cut: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    Plain,
    FirstFragment,
    LaterFragment,
    /// An ICMP error about the packet, from this one of the addresses.
    Error {
        sender: usize,
        keep: u16,
    },
}

/// Terminals, peers, virtual IPs (given and not), the gateway's own, and addresses that nobody may use.
const V4: &[&str] = &[
    "10.0.0.5",
    "10.0.0.6",
    "10.0.0.7",
    "10.1.2.3",
    "192.0.2.1",
    "192.0.2.2",
    "203.0.113.9",
    "198.51.100.7",
    "198.18.0.1",
    "198.18.0.2",
    "198.18.0.3",
    "198.19.0.1",
    "198.19.0.2",
    "203.0.113.1",
    "10.0.0.1",
    "172.16.0.9",
    "127.0.0.1",
    "224.0.0.5",
    "0.0.0.0",
    "169.254.1.1",
];
const V6: &[&str] = &[
    "fd00:1::5",
    "fd00:1::6",
    "fd00:1::7",
    "fd00:1::8",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:9::1",
    "2001:db8:9::2",
    "fd00:2::1",
    "fd00:2::2",
    "fd00:2::3",
    "fd00:2::4",
    "2001:db8::fe",
    "fd00:1::fe",
    "fd00:77::1",
    "::1",
    "ff02::1",
    "::",
    "fe80::1",
    "::ffff:10.0.0.5",
];

fn differential_settings(callback: CallbackPolicy, hairpin: Hairpin) -> Settings {
    let pools = vec![
        pool("198.18.0.0/30", &[]),
        pool("198.18.1.0/30", &[]),
        pool("198.19.0.0/30", &["203.0.113.0/24"]),
        pool("fd00:2::/126", &[]),
    ];
    let mut settings = settings(pools);
    settings.own_outside.push("2001:db8::fe".parse().unwrap());
    settings.policy.creation.burst = u32::MAX;
    with_policy(settings, |policy| {
        policy.callback = callback;
        policy.hairpin = hairpin;
        policy.exhausted = Exhausted::Silent;
    })
}

fn step() -> impl Strategy<Value = Step> {
    let shape = prop_oneof![
        6 => Just(Shape::Plain),
        1 => Just(Shape::FirstFragment),
        1 => Just(Shape::LaterFragment),
        3 => (0..V4.len(), any::<u16>()).prop_map(|(sender, keep)| Shape::Error { sender, keep }),
    ];
    let mutation = prop_oneof![5 => Just(None), 1 => (any::<u16>(), 1u8..).prop_map(Some)];
    let cut = prop_oneof![12 => Just(None), 1 => any::<u16>().prop_map(Some)];
    // Terminals call peers often, so that there are bindings to speak of.
    let ends = prop_oneof![
        3 => (0usize..4, 4usize..8),
        3 => (4usize..8, 8usize..13),
        1 => (0usize..4, 8usize..13),
        2 => (0..V4.len(), 0..V4.len()),
    ];
    (ends, any::<bool>(), 0u8..4, spec(), shape, mutation, cut).prop_map(
        |((from, to), v4, realm, spec, shape, mutation, cut)| Step { from, to, v4, realm, spec, shape, mutation, cut },
    )
}

impl Step {
    fn address(&self, number: usize) -> IpAddr {
        let list = if self.v4 { V4 } else { V6 };
        list[number].parse().unwrap()
    }

    fn bytes(&self) -> (Vec<u8>, Option<usize>) {
        let built = self.spec.build(self.address(self.from), self.address(self.to));
        let partial =
            self.spec.sum == crate::testkit::packets::Sum::Partial && built.checksum.is_some() && built.protocol != 1;
        let start = partial.then_some(built.transport);
        let mut bytes = match self.shape {
            Shape::Plain => built.bytes.clone(),
            Shape::FirstFragment => built.in_fragments().map_or(built.bytes.clone(), |[first, _]| first),
            Shape::LaterFragment => built.in_fragments().map_or(built.bytes.clone(), |[_, later]| later),
            Shape::Error { sender, keep } => {
                // About a packet that went the other way.
                let keep = usize::from(keep) % (built.bytes.len() + 20);
                let quote = &built.bytes[..keep.clamp(1, built.bytes.len())];
                error_about(quote, self.address(sender), self.address(self.from), &[])
            }
        };
        if let Some((at, by)) = self.mutation {
            let at = usize::from(at) % bytes.len();
            bytes[at] ^= by;
        }
        if let Some(cut) = self.cut {
            bytes.truncate(usize::from(cut) % (bytes.len() + 1));
        }
        let is_plain = matches!(self.shape, Shape::Plain);
        (bytes, start.filter(|_| is_plain && self.mutation.is_none() && self.cut.is_none()))
    }

    fn realm(&self) -> Realm {
        // Mostly from the side that the sender is on.
        match (self.realm, self.shape) {
            (0, _) => Realm::Outside,
            (1, _) => INSIDE,
            (_, Shape::Error { sender, .. }) => {
                if sender < 4 {
                    INSIDE
                } else {
                    Realm::Outside
                }
            }
            _ => {
                if self.from < 4 {
                    INSIDE
                } else {
                    Realm::Outside
                }
            }
        }
    }
}

fn compare(callback: CallbackPolicy, hairpin: Hairpin, steps: &[Step]) -> Result<(), TestCaseError> {
    let settings = differential_settings(callback, hairpin);
    let own_inside: Vec<IpAddr> = ["10.0.0.1", "fd00:1::fe"].map(|own| own.parse().unwrap()).to_vec();
    let mut gateway = Gateway::new(settings.clone());
    gateway.nat.set_own_inside(own_inside.clone());
    let mut reference = Reference::new(settings, own_inside);
    for step in steps {
        let (before, checksum_start) = step.bytes();
        let mut bytes = before.clone();
        let mut packet = Packet { bytes: &mut bytes, checksum_start };
        let verdict = gateway.translator.translate(&mut packet, step.realm(), gateway.now);
        let chosen = match &verdict {
            Verdict::Forward { event: Some(event), .. } => Some(event.virtual_ip.into()),
            // A call that policy refuses has its binding all the same; look it up.
            _ if before.len() >= 40 || before.first().is_some_and(|b| b >> 4 == 4 && before.len() >= 20) => {
                let source = crate::testkit::packets::addresses(&before).0;
                gateway.nat.find(source, gateway.now).iter().find(|view| view.terminal == source).map(|v| v.virtual_ip)
            }
            _ => None,
        };
        let expected = reference.judge(&before, checksum_start.is_some(), step.realm(), chosen);
        match (&verdict, &expected) {
            (Verdict::Drop(reason), Expected::Drop(wanted)) => prop_assert_eq!(reason, wanted),
            (Verdict::Refuse(refused), Expected::Drop(wanted)) => prop_assert_eq!(refused.reason, *wanted),
            (Verdict::Forward { to, .. }, Expected::Forward { to: wanted, bytes: right, wrong }) => {
                prop_assert_eq!(to, wanted);
                let mut right = right.clone();
                for at in wrong {
                    right[*at..at + 2].copy_from_slice(&bytes[*at..at + 2]);
                }
                prop_assert_eq!(&bytes, &right, "from {:?}", step.realm());
            }
            _ => prop_assert!(
                false,
                "{:?} but expected {:?} of {:02x?} from {:?}",
                verdict,
                expected,
                before,
                step.realm()
            ),
        }
    }
    Ok(())
}

#[test]
fn s_the_real_translator_does_as_the_reference_does() {
    let fuzzed = Fuzzed::new("translator");
    let config = Config { cases: cases(400), max_shrink_iters: 2_000, failure_persistence: None, ..Config::default() };
    let callback = prop_oneof![
        2 => Just(CallbackPolicy::Contacted),
        2 => Just(CallbackPolicy::Answered),
        1 => Just(CallbackPolicy::Anyone),
        1 => Just(CallbackPolicy::Prefixes(vec!["192.0.2.0/31".parse().unwrap(), "2001:db8::/64".parse().unwrap()])),
    ];
    let hairpin = prop_oneof![Just(Hairpin::Policy), Just(Hairpin::Anyone), Just(Hairpin::Off)];
    let strategy = (callback, hairpin, prop::collection::vec(step(), 1..60));
    let run = TestRunner::new(config).run(&strategy, |(callback, hairpin, steps)| {
        fuzzed.case(steps.iter().map(|step| step.bytes().0.len()).sum());
        compare(callback, hairpin, &steps)
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}
