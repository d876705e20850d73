use super::*;
use crate::nat::PoolKind;
use crate::nat::{CallbackPolicy, CreationLimit, Hairpin, InboundRefresh, Unsolicited};
use proptest::prelude::*;

const GOOD: &str = r#"
inside = ["gi", "gi2"]
inside-prefixes = ["10.0.0.0/8"]
outside = ["go"]
callback = ["203.0.113.0/24", "2001:db8::/32"]
control = "/run/kamei/test.sock"
workers = 2

[[pool]]
range = "198.18.0.0/16"

[[pool]]
name = "for the bank"
range = "198.19.0.10-198.19.0.50"
destinations = ["192.0.2.0/24"]
reserved = ["198.19.0.11"]
callback = "anyone"

[[pool]]
range = "fd00:2::/64"

[lifetimes]
hold = "8h"
contacts-per-binding = 16

[creation]
per-second = 5
"#;

fn problems(text: &str) -> Vec<String> {
    Config::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

/// What is wrong with the good file after one change.
fn after(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    problems(&GOOD.replacen(old, new, 1)).join(" | ")
}

#[test]
fn a_good_file_says_what_it_says() {
    let config = Config::parse(GOOD).unwrap();
    assert_eq!(config.insides[0].interfaces, ["gi", "gi2"]);
    assert_eq!((config.outsides, config.workers), (vec!["go".to_owned()], NonZeroUsize::new(2)));
    assert_eq!(
        config.pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>(),
        ["198.18.0.0/16", "for the bank", "fd00:2::/64"]
    );
    assert_eq!(config.pools[1].callback, Some(CallbackPolicy::Anyone));
    assert_eq!((config.policy.lifetimes.hold.as_secs(), config.policy.lifetimes.contacts_per_binding), (8 * 3600, 16));
    assert_eq!((config.policy.creation.per_second, config.policy.creation.burst), (5, CreationLimit::default().burst));
    assert_eq!((config.control_group, config.hardening), (None, Hardening::On));
    assert_eq!((config.tun.as_str(), config.state_dir), (DEFAULT_TUN, PathBuf::from(DEFAULT_STATE_DIR)));
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_nearest() {
    assert_eq!(after("workers", "wokers"), "line 7: there is no key 'wokers'; did you mean 'workers'?");
    assert_eq!(after("hold =", "hodl ="), "line 23: there is no key 'hodl'; did you mean 'hold'?");
    assert_eq!(after("workers", "colour"), "line 7: there is no key 'colour'");
}

#[test]
fn every_kind_of_nonsense_has_its_line() {
    for (old, new, expected) in [
        ("[\"gi\", \"gi2\"]", "[]", "no inside interface"),
        ("\"gi2\"", "\"gi\"", "line 2: interface gi is named twice"),
        ("\"gi2\"", "\"go\"", "line 4: interface go is both inside and outside"),
        ("\"gi2\"", "\"a/b\"", "line 2: 'a/b' cannot be an interface name"),
        ("198.18.0.0/16", "0.0.0.0/0", "line 10: pool 0.0.0.0/0 is absurdly large"),
        ("198.18.0.0/16", "127.0.0.0/24", "line 10: pool 127.0.0.0/24 contains loopback"),
        ("198.18.0.0/16", "224.1.0.0/24", "line 10: pool 224.1.0.0/24 contains multicast"),
        (
            "198.18.0.0/16",
            "198.18.0.1/16",
            "line 10: pool '198.18.0.1/16' has host bits set; did you mean 198.18.0.0/16?",
        ),
        ("198.18.0.0/16", "198.19.0.0/24", "line 14: pool 198.19.0.10-198.19.0.50 overlaps pool 198.19.0.0/24"),
        ("198.18.0.0/16", "10.1.0.0/16", "line 3: inside prefix 10.0.0.0/8 overlaps pool 10.1.0.0/16"),
        ("198.18.0.0/16", "many", "line 10: pool 'many' is neither a prefix"),
        (
            "198.19.0.10-198.19.0.50",
            "198.19.0.50-198.19.0.10",
            "line 14: pool '198.19.0.50-198.19.0.10' ends before it starts",
        ),
        ("fd00:2::/64", "2000::/3", "line 20: pool 2000::/3 is absurdly large"),
        ("fd00:2::/64", "fe80::/64", "line 20: pool fe80::/64 contains link-local"),
        ("192.0.2.0/24", "2001:db8::/64", "line 15: destination 2001:db8::/64 and pool"),
        ("192.0.2.0/24", "192.0.2.1/24", "line 15: '192.0.2.1/24' has host bits set"),
        ("198.19.0.11", "198.20.0.1", "line 16: reserved address 198.20.0.1 is not in its pool"),
        ("\"anyone\"", "\"everybody\"", "line 17: callback 'everybody' is neither"),
        ("workers = 2", "workers = 0", "line 7: workers is 0; it must be from 1 to 256"),
        (
            "workers = 2",
            "workers = \"two\"",
            "line 7: workers: takes a whole number, not \"two\"; for example: workers = 2",
        ),
        ("workers = 2", "sync-interval = \"2h\"", "line 7: sync-interval '2h' is not a time from 1ms to 60s"),
        ("workers = 2", "history = \"ever\"", "line 7: history 'ever' is not a time from 1h to 3650d"),
        ("workers = 2", "history-entries = 5", "line 7: history-entries is 5; it must be from 1000 to 1000000000"),
        (
            "workers = 2",
            "durability = \"hope\"",
            "line 7: durability: \"hope\" is none of \"process\", \"strict\"; for example: durability = \"process\"",
        ),
        ("8h", "2h", "line 23: hold is 2h, but at least 2h 4m is needed (RFC 5382 REQ-5)"),
        ("8h", "soon", "line 23: hold 'soon' is not a time"),
        ("/run/kamei/test.sock", "test.sock", "line 6: control 'test.sock' is not an absolute path"),
        ("workers = 2", "busy-poll = \"1s\"", "line 7: busy-poll is 1s, but 10ms is the most"),
        ("workers = 2", "busy-poll = \"often\"", "line 7: busy-poll 'often' is not a time"),
        ("workers = 2", "pin = []", "line 7: pin names no processor"),
        ("workers = 2", "pin = [1024]", "line 7: pin is 1024; it must be from 0 to 1023"),
        ("workers = 2", "pin = \"yes\"", "line 7: pin: true, false or a list of processors"),
        ("workers = 2", "tun = \"much-too-long\"", "line 7: 'much-too-long' cannot name the TUN devices"),
    ] {
        let said = after(old, new);
        assert!(said.contains(expected), "{new}: {said}");
    }
    assert!(problems("").len() == 3, "{:?}", problems(""));
    assert!(problems("inside = [").join("").starts_with("line 1, column 11: "));
    assert!(problems("# ü\nmss = @\n").join("").starts_with("line 2, column 7: "), "{:?}", problems("# ü\nmss = @\n"));
}

#[test]
fn every_mistake_is_said_at_once() {
    let text = "inside = \"gi\"\noutsid = [\"go\"]\noutside = [\"go\"]\nmss = \"big\"\nworkers = 0\n[[pool]]\nrange = 7\ndraining = \"no\"\n\
                [[pool]]\nrange = \"198.18.1.0/33\"\nnme = \"x\"\n[lifetimes]\nhold = 24\n[creation]\nburst = true\nhold = \"3h\"\n";
    let said = problems(text);
    let expected = [
        "line 1: inside: takes a list, not \"gi\"; for example: inside = [\"eth1\"]",
        "line 2: there is no key 'outsid'; did you mean 'outside'?",
        "line 4: mss: takes a whole number, not \"big\"; for example: mss = 1360",
        "line 5: workers is 0",
        "line 7: range: ",
        "line 8: draining: takes true or false, not \"no\"",
        "line 11: there is no key 'nme'",
        "line 13: hold: takes text in quotes, not 24; for example: hold = \"24h\"",
        "line 15: burst: takes a whole number, not ",
        "line 16: there is no key 'hold'",
    ];
    for words in expected {
        assert!(said.iter().any(|line| line.starts_with(words)), "{words}: {said:#?}");
    }
    let many = "x = 1\n".to_owned() + &(0..500).map(|n| format!("y{n} = 1\n")).collect::<String>();
    assert!((10..=60).contains(&problems(&many).len()), "{:?}", problems(&many).len());
    // Sections go whole.
    let sections = "inside = [\"gi\"]\noutside = [\"go\"]\n[[pools]]\nrange = \"198.18.0.0/16\"\n[pool]\nrange = \"198.18.0.0/16\"\n\
                    [lifetims]\nhold = 3\n[creation]\nburst = \"x\"\n";
    let said = problems(sections);
    let expected = [
        "line 3: there is no key 'pools'; did you mean 'pool'?",
        "line 5: pool: takes a list, not a section; for example: [[pool]]",
        "line 7: there is no key 'lifetims'; did you mean 'lifetimes'?",
        "line 10: burst: takes a whole number",
    ];
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    assert!(said.iter().zip(expected).all(|(said, expected)| said.starts_with(expected)), "{said:#?}");
    assert_eq!(
        problems("inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nname = \"x\"\n"),
        ["line 3: the key 'range' is missing here"]
    );
    assert_eq!(problems("inside = [\"gi\"\noutside = 7\n").len(), 1);
    // Inline tables lose what is wrong in them, and the comma beside it.
    for table in
        ["rnage = 1, range = \"198.18.0.0/33\"", "range = \"198.18.0.0/33\", rnage = 1", "range = \"198.18.0.0/33\""]
    {
        let text = format!("inside = \"gi\"\noutside = [\"go\"]\npool = [{{ {table} }}]\nmss = \"x\"\n");
        let said = problems(&text);
        let is_said = |words: &str| said.iter().any(|line| line.contains(words));
        assert!(
            is_said("198.18.0.0/33") && is_said("inside: takes a list") && is_said("mss: takes"),
            "{table}: {said:#?}"
        );
        assert!(is_said("did you mean 'range'") == table.contains("rnage"), "{table}: {said:#?}");
    }
    let said = problems("inside = [\"gi\"]\noutside = [\"go\"]\npool = \"198.18.0.0/16\"\n");
    assert_eq!(said, ["line 3: pool: takes a list, not \"198.18.0.0/16\"; for example: [[pool]]"]);
}

const TWINS: &str = r#"
outside = ["go"]
exempt = ["10.9.0.0/16", "2001:db8:9::/48"]

[[inside]]
name = "north"
interfaces = ["gn", "gn2"]
prefixes = ["10.0.0.0/8"]

[[inside]]
name = "south"
interfaces = ["gs"]
prefixes = ["10.0.0.0/8"]

[[pool]]
range = "198.18.0.0/16"
"#;

#[test]
fn r7_two_insides_with_the_same_prefix_are_two_realms() {
    let config = Config::parse(TWINS).unwrap();
    let realms: Vec<(&str, usize)> =
        config.insides.iter().map(|inside| (inside.name.as_str(), inside.interfaces.len())).collect();
    assert_eq!(realms, [("north", 2), ("south", 1)]);
    assert_eq!(config.insides[0].prefixes, config.insides[1].prefixes);
    assert_eq!(config.exempt.len(), 2);
    let inline = "inside = [{ name = \"a\", interfaces = [\"i\"] }, \"j\"]\noutside = [\"o\"]\n\
                  [[pool]]\nrange = \"198.18.0.0/24\"\n";
    let names: Vec<String> = Config::parse(inline).unwrap().insides.into_iter().map(|inside| inside.name).collect();
    assert_eq!(names, ["inside", "a"]);
}

#[test]
fn nonsense_about_insides_and_exemptions_has_its_line() {
    for (old, new, expected) in [
        ("\"south\"", "\"north\"", "line 11: two insides are named 'north'"),
        ("\"south\"", "\"so@th\"", "line 11: 'so@th' cannot name an inside"),
        ("[\"gs\"]", "[\"gn2\"]", "line 12: interface gn2 is in the inside 'north' already"),
        ("[\"gs\"]", "[\"go\"]", "line 2: interface go is both inside and outside"),
        ("[\"gs\"]", "[]", "line 11: the inside 'south' has no interface"),
        ("interfaces = [\"gs\"]", "interface = [\"gs\"]", "there is no key 'interface'; did you mean 'interfaces'?"),
        ("10.9.0.0/16", "198.18.9.0/24", "line 3: exempt prefix 198.18.9.0/24 overlaps pool 198.18.0.0/16"),
        ("10.9.0.0/16", "0.0.0.0/0", "line 3: exempt prefix 0.0.0.0/0 is everybody"),
        ("10.9.0.0/16", "10.9.0.1/16", "line 3: '10.9.0.1/16' has host bits set"),
        ("exempt =", "inside-prefixes =", "line 3: inside-prefixes belongs to"),
    ] {
        assert!(TWINS.contains(old), "{old}");
        let said = problems(&TWINS.replacen(old, new, 1)).join(" | ");
        assert!(said.contains(expected), "{new}: {said}");
    }
    let said = problems("inside = [3]\noutside = [\"o\"]\n").join("");
    assert!(said.starts_with("line 1: ") && said.contains("[[inside]] section"), "{said}");
}

#[test]
fn large_pools_that_are_not_absurd_are_taken() {
    for range in ["11.0.0.0/8", "2001:db8::/32", "fd00::/48", "198.18.0.1"] {
        let text = format!("inside = [\"a\"]\noutside = [\"b\"]\n[[pool]]\nrange = \"{range}\"\n");
        assert!(Config::parse(&text).is_ok(), "{range}");
    }
}

/// RFC 6888 REQ-3.
#[test]
fn c3_a_pool_may_have_several_ranges() {
    let pool = |rest: &str| format!("inside = [\"a\"]\noutside = [\"b\"]\n[[pool]]\n{rest}\n");
    let config = Config::parse(&pool(
        "name = \"x\"\nrange = [\"198.18.0.0/24\", \"198.18.4.1-198.18.4.9\"]\n\
         destinations = [\"192.0.2.0/24\"]\nreserved = [\"198.18.4.5\"]",
    ))
    .unwrap();
    let said: Vec<String> = config.pools.iter().map(|pool| format!("{} {}", pool.name, pool.range)).collect();
    assert_eq!(said, ["x-1 198.18.0.0/24", "x-2 198.18.4.1-198.18.4.9"]);
    assert_eq!(config.pools[0].destinations, config.pools[1].destinations);
    assert_eq!((config.pools[0].reserved.len(), config.pools[1].reserved.len()), (0, 1));
    let config = Config::parse(&pool("range = [\"198.18.0.0/24\"]")).unwrap();
    assert_eq!((config.pools.len(), config.pools[0].name.as_str()), (1, "198.18.0.0/24"));
    for (wrong, words) in [
        ("range = []", "line 4: pool"),
        ("range = 7", "a range or a list of ranges"),
        ("range = [\"198.18.0.0/24\", \"198.18.0.9\"]", "overlaps"),
        ("range = [\"198.18.0.0/24\", \"198.18.1\"]", "line 4: pool"),
        ("range = [\"198.18.0.0/24\", \"198.18.1.0/24\"]\nreserved = [\"198.18.2.1\"]", "not in its pool"),
    ] {
        let said = problems(&pool(wrong)).join("; ");
        assert!(said.contains(words), "{wrong}: {said}");
    }
}

#[test]
fn addresses_that_look_like_a_network_s_own_can_be_left_out() {
    const PLAIN: &str = "inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nskip-network-addresses = true\n";
    let reserved = |lines: &str| {
        let config = Config::parse(&format!("{PLAIN}{lines}"));
        config.map(|config| config.pools.iter().flat_map(|pool| pool.reserved.clone()).collect::<Vec<_>>())
    };
    for (lines, expected) in [
        ("range = \"198.18.0.0/24\"", &["198.18.0.0", "198.18.0.255"][..]),
        (
            "range = [\"198.18.0.9-198.18.2.4\", \"198.18.4.7\"]",
            &["198.18.0.255", "198.18.1.0", "198.18.1.255", "198.18.2.0"],
        ),
        ("range = \"198.18.0.0/30\"\nreserved = [\"198.18.0.0\", \"198.18.0.3\"]", &["198.18.0.0", "198.18.0.3"]),
        ("range = \"fd00:2::/64\"", &[]),
    ] {
        let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(reserved(lines).unwrap(), expected, "{lines}");
    }
    let said = reserved("range = \"198.18.4.0\"").unwrap_err();
    assert!(said[0].to_string().contains("198.18.4.0"), "a pool of that one alone is empty: {said:?}");
}

#[test]
fn workers_may_poll_and_stay_where_they_are_put() {
    let config = |line: &str| Config::parse(&GOOD.replace("workers = 2", line)).unwrap();
    let (default, other) = (config("workers = 2"), config("busy-poll = \"50us\"\npin = [0, 1]"));
    assert_eq!((default.busy_poll, default.pin), (Duration::ZERO, Pinning::Each));
    assert_eq!((other.busy_poll, other.pin), (Duration::from_micros(50), Pinning::To(vec![0, 1])));
    assert_eq!((config("pin = true").pin, config("pin = false").pin), (Pinning::Each, Pinning::No));
}

#[test]
fn what_is_off_by_default_has_a_key_each() {
    let text = GOOD
        .replace("workers = 2", "hairpin = \"anyone\"\ninbound-refresh = true\nunsolicited = \"reset\"\nmss = 1360");
    let text =
        text.replace("range = \"fd00:2::/64\"", "range = \"2001:db8:1::/48\"\ntranslates = \"fd01:203:405::/48\"");
    let config = Config::parse(&text).unwrap();
    assert_eq!((config.policy.hairpin, config.policy.inbound_refresh), (Hairpin::Anyone, InboundRefresh::Refreshes));
    assert_eq!((config.policy.unsolicited, config.policy.mss), (Unsolicited::Reset, Some(1360)));
    assert!(config.policy.alg.is_empty());
    let with_alg = |alg: &str| text.replace("mss = 1360", &format!("alg = {alg}"));
    let config = Config::parse(&with_alg("[\"ftp\", \"ftp:2121\"]")).unwrap();
    assert_eq!(config.policy.alg.iter().map(|alg| alg.port).collect::<Vec<_>>(), [21, 2121]);
    for (alg, said) in [
        ("[\"tftp\"]", "alg 'tftp' is unknown"),
        ("[\"ftp:0\"]", "alg 'ftp:0' is"),
        ("[\"ftp\", \"ftp:21\"]", "port 21"),
    ] {
        assert!(problems(&with_alg(alg)).join("").contains(said), "{alg}");
    }
    let internal = "fd01:203:405::/48".parse().unwrap();
    assert_eq!(config.pools[2].kind, PoolKind::Prefix { internal, inside: Default::default() });
    let said = problems(&text.replace("fd01:203:405::/48", "10.0.0.0/8")).join("");
    assert!(said.contains("pool 2001:db8:1::/48 cannot translate '10.0.0.0/8'"), "{said}");
}

#[test]
fn a_flag_replaces_what_the_file_says() {
    let flag = |value: &str| Located { value: value.to_owned(), place: Place::Flag("--inside") };
    let flags = Draft { inside: vec![flag("lan0")], tun: Some(flag("t")), ..Draft::default() };
    let config = Draft::parse(GOOD).unwrap().overridden_by(flags).check().unwrap();
    assert_eq!((config.insides[0].interfaces.as_slice(), config.tun.as_str()), (&["lan0".to_owned()][..], "t"));
    assert_eq!(config.pools.len(), 3);
    let flags = Draft { inside: vec![flag("go")], ..Draft::default() };
    let problems = Draft::parse(GOOD).unwrap().overridden_by(flags).check().unwrap_err();
    assert_eq!(problems[0].to_string(), "line 4: interface go is both inside and outside; it can be only one of them");
}

proptest! {
    #[test]
    fn hostile_text_never_panics(text in "\\PC{0,200}") {
        let _ = Config::parse(&text);
    }

    #[test]
    fn a_mutated_file_never_panics(at in 0..GOOD.len(), length in 0usize..12, put in "[\\x00-\\x7f]{0,6}") {
        let end = (at + length).min(GOOD.len());
        let _ = Config::parse(&format!("{}{put}{}", &GOOD[..at], &GOOD[end..]));
    }
}

#[test]
fn metrics_are_for_this_machine_only() {
    for good in ["127.0.0.1:9101", "[::1]:9101", "127.9.9.9:1"] {
        let config = Config::parse(&format!("metrics = \"{good}\"\n{GOOD}")).unwrap();
        assert_eq!(config.metrics, good.parse().ok());
    }
    for bad in ["0.0.0.0:9101", "[::]:9101", "192.0.2.1:9101", "127.0.0.1", "127.0.0.1:0", "localhost:9101", ""] {
        let said = problems(&format!("metrics = \"{bad}\"\n{GOOD}")).join(" | ");
        assert!(said.starts_with(&format!("line 1: metrics '{bad}' is not a loopback address")), "{said}");
    }
}

#[test]
fn a_control_group_is_a_name_or_a_number() {
    let with = |group: &str| GOOD.replacen("workers = 2", &format!("workers = 2\ncontrol-group = \"{group}\""), 1);
    for group in ["kamei", "net-admin", "4711"] {
        assert_eq!(Config::parse(&with(group)).unwrap().control_group.as_deref(), Some(group));
    }
    for group in ["", "-x", "a:b", "two words"] {
        let said = problems(&with(group)).join(" | ");
        assert!(said.starts_with(&format!("line 8: '{group}' cannot be the name of a group")), "{said}");
    }
}

/// The example that packages install.
const EXAMPLE: &str = include_str!("../../scripts/packaging/gateway.toml");

#[test]
fn the_example_is_right_and_its_defaults_are_the_defaults() {
    let config = Config::parse(EXAMPLE).unwrap();
    let is_key = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let (mut defaults, mut examples) = (0, 0);
    for (number, line) in EXAMPLE.lines().enumerate() {
        let with = |said: &str| {
            let lines = EXAMPLE.lines().enumerate().map(|(n, line)| if n == number { said } else { line });
            Config::parse(&lines.collect::<Vec<_>>().join("\n"))
        };
        match (line.strip_prefix('#'), line.strip_prefix("# ")) {
            (_, Some(example)) if is_key(example) => {
                examples += 1;
                if let Err(problems) = with(example) {
                    // Keys of a section that is itself an example, or that need another pool beside this one.
                    let known = ["name = \"north\"", "interfaces = ", "prefixes = ", "translates = "];
                    assert!(known.iter().any(|key| example.starts_with(key)), "{line}: {problems:?}");
                }
            }
            (Some(default), None) if is_key(default) => {
                defaults += 1;
                assert_eq!(with(default).as_ref(), Ok(&config), "line {}: {line}", number + 1);
            }
            _ => {}
        }
    }
    assert!(defaults > 15 && examples > 10, "{defaults} {examples}");
}

/// Whether the example says that a key needs a restart.
fn needs_a_restart(key: &str) -> bool {
    let is_it =
        |line: &str| line.trim_start_matches(['#', ' ']).strip_prefix(key).is_some_and(|rest| rest.starts_with(" = "));
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    let number = lines.iter().position(|line| is_it(line)).unwrap();
    lines[number - 1].ends_with("Needs a restart.")
}

#[test]
fn the_example_says_of_each_key_whether_it_needs_a_restart() {
    const BASE: &str = "inside = [\"gi\"]\noutside = [\"go\"]\n[[pool]]\nrange = \"198.18.0.0/24\"\n";
    let others = [
        ("inside", "[\"gj\"]"),
        ("inside-prefixes", "[\"10.9.0.0/16\"]"),
        ("outside", "[\"gp\"]"),
        ("callback", "\"anyone\""),
        ("hairpin", "\"off\""),
        ("unsolicited", "\"reset\""),
        ("exhausted", "\"silent\""),
        ("inbound-refresh", "true"),
        ("exempt", "[\"192.0.2.0/24\"]"),
        ("alg", "[\"ftp\"]"),
        ("mss", "1360"),
        ("mptcp", "\"pass\""),
        ("tun", "\"other\""),
        ("workers", "3"),
        ("busy-poll", "\"1ms\""),
        ("pin", "false"),
        ("fast-path", "\"off\""),
        ("fast-path-hook", "\"clsact\""),
        ("fast-path-flows", "1024"),
        ("offload", "\"off\""),
        ("hardening", "\"off\""),
        ("on-stop", "\"leave\""),
        ("state-dir", "\"/var/lib/other\""),
        ("durability", "\"strict\""),
        ("sync-interval", "\"1s\""),
        ("when-disk-fails", "\"allow\""),
        ("history", "\"30d\""),
        ("history-entries", "5000"),
        ("control", "\"/run/other.sock\""),
        ("control-group", "\"adm\""),
        ("metrics", "\"127.0.0.1:9101\""),
        ("log-format", "\"json\""),
        ("log-terminals", "\"hash\""),
    ];
    let before = Config::parse(BASE).unwrap();
    for (key, value) in others {
        let kept = BASE.lines().filter(|line| !line.starts_with(&format!("{key} = ")));
        let text: Vec<String> = std::iter::once(format!("{key} = {value}")).chain(kept.map(str::to_owned)).collect();
        let difference = before.difference(&Config::parse(&text.join("\n")).unwrap());
        assert!(!difference.is_empty(), "{key}");
        assert_eq!(!difference.restart.is_empty(), needs_a_restart(key), "{key}");
    }
    let tried = others.map(|(key, _)| key);
    let sections = ["pool", "lifetimes", "creation"];
    let known = draft::keys_known("no-such-key = 1");
    let untried: Vec<&String> =
        known.iter().filter(|key| !tried.iter().chain(&sections).any(|tried| tried == key)).collect();
    assert!(untried.is_empty(), "whether a reload changes {untried:?} is not tried");
}

#[test]
fn the_example_explains_every_key() {
    for section in ["", "[lifetimes]", "[creation]", "[[pool]]", "[[inside]]"] {
        let said = draft::keys_known(&format!("{section}\nno-such-key = 1"));
        assert!(said.len() > 2, "{section}: {said:?}");
        for key in said {
            let explained = EXAMPLE.lines().any(|line| {
                let line = line.trim_start_matches(['#', ' ']);
                line.strip_prefix(&key).is_some_and(|rest| rest.starts_with(" = "))
                    || [format!("[{key}]"), format!("[[{key}]]")].contains(&line.to_owned())
            });
            assert!(explained, "scripts/packaging/gateway.toml does not explain the key '{key}'");
        }
    }
}
