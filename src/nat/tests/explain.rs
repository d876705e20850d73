//! What is explained is what happens; asking changes nothing.

use super::*;
use proptest::prelude::*;

const TCP: u8 = 6;

fn ask(gateway: &Gateway, realm: Realm, source: &str, destination: &str, opens: bool) -> Explanation {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    gateway.nat.explain(&Question { realm: Some(realm), source, destination, protocol: TCP, opens }, gateway.now)
}

/// New source and destination, or the reason of a drop.
type Outcome = Result<(IpAddr, IpAddr), String>;

fn explained(explanation: &Explanation) -> Outcome {
    match (explanation.source, explanation.destination) {
        (Some(source), Some(destination)) => Ok((source, destination)),
        _ => Err(explanation.reason.clone().unwrap()),
    }
}

fn happened(gateway: &mut Gateway, realm: Realm, source: &str, destination: &str, opens: bool) -> Outcome {
    let mut packet = tcp(source, destination, if opens { Flags::Syn } else { Flags::Ack });
    match gateway.send(&mut packet, realm) {
        Verdict::Forward { .. } => {
            let headers = Headers::parse(&packet).unwrap();
            Ok((headers.source.into(), headers.destination.into()))
        }
        Verdict::Drop(reason) => Err(reason.name().to_owned()),
        Verdict::Refuse(refused) => Err(refused.reason.name().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_explained_is_what_happens_and_asking_changes_nothing() {
    let mut gateway = Gateway::new(settings(vec![
        pool("198.18.0.0/30", &[]),
        pool("198.19.0.0/28", &["192.0.2.128/25"]),
        pool("2001:db8:18::/64", &["2001:db8::/48"]),
    ]));
    let addresses = [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.4",
        "10.0.0.5",
        "11.0.0.1",
        "192.0.2.1",
        "192.0.2.200",
        "198.18.0.0",
        "198.18.0.1",
        "198.18.0.2",
        "198.18.0.3",
        "198.19.0.3",
        "224.0.0.1",
        "127.0.0.1",
        "fd00:1::7",
        "2001:db8::9",
        "2001:db9::9",
        "2001:db8:18::1",
    ];
    let is_v6 = |address: &str| address.contains(':');
    let all = addresses.iter().flat_map(|a| addresses.iter().map(move |b| (*a, *b)));
    let pairs: Vec<(&str, &str)> = all.filter(|(a, b)| is_v6(a) == is_v6(b)).collect();
    for round in 0..2 {
        for opens in [false, true] {
            for &(source, destination) in &pairs {
                for realm in [INSIDE, Realm::Outside] {
                    let before = (gateway.nat.status(), gateway.nat.find(source.parse().unwrap(), gateway.now));
                    let explanation = ask(&gateway, realm, source, destination, opens);
                    let after = (gateway.nat.status(), gateway.nat.find(source.parse().unwrap(), gateway.now));
                    assert_eq!(before, after, "asking about {source} → {destination} changed something");
                    let happened = happened(&mut gateway, realm, source, destination, opens);
                    let what = format!("{round}: {source} → {destination} from {realm:?}: {explanation:?}");
                    assert_eq!(explained(&explanation), happened, "{what}");
                    gateway.translator.flush(gateway.now);
                }
            }
        }
    }
    assert!(gateway.nat.status().created > 6);
}

#[test]
fn a_callback_is_explained_by_policy_and_contact() {
    let mut gateway = Gateway::with_pool("198.18.0.0/24");
    let virtual_ip = gateway.call("10.0.0.1", "192.0.2.9").unwrap().to_string();
    gateway.tick(Duration::from_secs(180));
    let stranger = ask(&gateway, Realm::Outside, "192.0.2.7", &virtual_ip, true);
    assert_eq!(stranger.reason.as_deref(), Some("not_contacted"));
    assert!(stranger.hint.unwrap().contains("kamei bindings callback"));
    let said = stranger.steps.join("\n");
    assert!(said.contains("The general callback policy: only peers that the terminal has called."), "{said}");
    assert!(said.contains("10.0.0.1 has not called 192.0.2.7."), "{said}");
    let peer = ask(&gateway, Realm::Outside, "192.0.2.9", &virtual_ip, true);
    let said = peer.steps.join("\n");
    assert!(said.contains("10.0.0.1 last called 192.0.2.9 3m ago, it has answered; a contact lasts 1day."), "{said}");
    assert_eq!((peer.to.as_deref(), peer.destination), (Some("inside"), "10.0.0.1".parse().ok()));
    gateway.tick(Duration::from_secs(23 * 3600));
    gateway.tick(Duration::from_secs(2 * 3600));
    let late = ask(&gateway, Realm::Outside, "192.0.2.9", &virtual_ip, true);
    assert_eq!(late.reason.as_deref(), Some("dormant"));
    assert!(late.hint.is_some());
    let call = ask(&gateway, INSIDE, "10.0.0.1", "192.0.2.9", true);
    assert!(call.steps.last().unwrap().contains("wake"), "{:?}", call.steps);
}

#[test]
fn the_realm_is_the_one_that_the_source_suggests() {
    let gateway = Gateway::with_pool("198.18.0.0/24");
    let ask = |source: &str, protocol| {
        let (source, destination) = (source.parse().unwrap(), "192.0.2.9".parse().unwrap());
        gateway.nat.explain(&Question { realm: None, source, destination, protocol, opens: true }, gateway.now)
    };
    assert_eq!((ask("10.0.0.1", TCP).from.as_str(), ask("192.0.2.1", TCP).from.as_str()), ("inside", "outside"));
    assert_eq!(ask("10.0.0.1", 51).reason.as_deref(), Some("authentication_header"));
}

#[test]
fn what_is_the_gateway_s_own_is_not_said_to_be_translated() {
    let gateway = Gateway::with_pool("198.18.0.0/24");
    gateway.nat.set_own_inside(vec!["10.0.0.254".parse().unwrap()]);
    gateway.nat.set_own_outside(vec!["192.0.2.254".parse().unwrap(), "198.18.0.9".parse().unwrap()]);
    for (realm, source, destination) in [
        (INSIDE, "10.0.0.1", "10.0.0.254"),
        (INSIDE, "10.0.0.1", "192.0.2.254"),
        (Realm::Outside, "192.0.2.9", "192.0.2.254"),
        (Realm::Outside, "192.0.2.254", "192.0.2.9"),
        (INSIDE, "10.0.0.254", "192.0.2.9"),
    ] {
        let said = ask(&gateway, realm, source, destination, true);
        assert!(said.is_of_this_machine && said.to.is_none() && said.reason.is_none(), "{said:?}");
        assert!(said.steps[0].contains("this machine's own address"), "{said:?}");
    }
    let said = ask(&gateway, Realm::Outside, "192.0.2.9", "198.18.0.9", true);
    assert_eq!((said.is_of_this_machine, said.reason.as_deref()), (false, Some("no_binding")), "{said:?}");
}

/// Terminals, peers, virtual IPs, and addresses that nobody may use, of one family.
const ENDS: [&str; 14] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.0.4",
    "11.0.0.1",
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.200",
    "198.18.0.0",
    "198.18.0.1",
    "198.18.0.2",
    "198.18.0.3",
    "198.19.0.0",
    "224.0.0.1",
];

/// One step of a gateway's life.
#[derive(Clone, Debug)]
enum Step {
    /// A packet between two of [`ENDS`] is first asked about, then sent.
    Send { realm: Realm, source: usize, destination: usize, opens: bool },
    /// Seconds pass, and housekeeping runs.
    Pause(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Calls and callbacks are frequent, so that there are bindings to ask about.
    let ends = prop_oneof![
        4 => (Just(INSIDE), 0usize..4, 5usize..8),
        4 => (Just(Realm::Outside), 5usize..8, 8..ENDS.len()),
        2 => (Just(INSIDE), 0usize..4, 8usize..13),
        1 => (prop_oneof![Just(INSIDE), Just(Realm::Outside)], 0..ENDS.len(), 0..ENDS.len()),
    ];
    let send = (ends, any::<bool>()).prop_map(|((realm, source, destination), opens)| Step::Send {
        realm,
        source,
        destination,
        opens,
    });
    // Longer than a worker trusts a decision; than a binding is active; than a contact lasts; than a dormant one is kept.
    let pause = prop_oneof![Just(5), Just(7_200), Just(90_000), Just(1_300_000)].prop_map(Step::Pause);
    prop::collection::vec(prop_oneof![12 => send, 1 => pause], 1..80)
}

fn policies() -> impl Strategy<Value = (CallbackPolicy, Hairpin, Option<u32>)> {
    let callback = prop_oneof![
        Just(CallbackPolicy::Contacted),
        Just(CallbackPolicy::Answered),
        Just(CallbackPolicy::Anyone),
        Just(CallbackPolicy::Prefixes(vec!["192.0.2.128/25".parse().unwrap()])),
    ];
    let hairpin = prop_oneof![Just(Hairpin::Policy), Just(Hairpin::Anyone), Just(Hairpin::Off)];
    (callback, hairpin, prop_oneof![Just(None), Just(Some(2))])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_whatever_came_before_what_is_explained_is_what_happens((callback, hairpin, quota) in policies(), steps in steps()) {
        let settings = settings(vec![pool("198.18.0.0/30", &[]), pool("198.19.0.0/30", &["192.0.2.128/25"])]);
        let mut gateway = Gateway::new(with_policy(settings, |policy| {
            policy.callback = callback;
            policy.hairpin = hairpin;
            policy.creation.per_prefix = quota;
        }));
        for step in steps {
            let (realm, source, destination, opens) = match step {
                Step::Pause(seconds) => {
                    gateway.tick(Duration::from_secs(seconds));
                    continue;
                }
                Step::Send { realm, source, destination, opens } => (realm, ENDS[source], ENDS[destination], opens),
            };
            let before = gateway.nat.status();
            let explanation = ask(&gateway, realm, source, destination, opens);
            prop_assert_eq!(before, gateway.nat.status(), "asking changed something");
            if explanation.is_of_this_machine {
                continue;
            }
            let happened = happened(&mut gateway, realm, source, destination, opens);
            prop_assert_eq!(explained(&explanation), happened, "{} → {}: {:?}", source, destination, explanation);
            gateway.translator.flush(gateway.now);
        }
    }
}
