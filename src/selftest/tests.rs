use super::*;

#[test]
fn a_note_says_whose_binding_it_was() {
    let note = Note { terminal: "10.0.0.7".parse().unwrap(), peer: "2001:db8::1".parse().unwrap() };
    let text = serde_json::to_vec(&note).unwrap();
    assert_eq!(serde_json::from_slice::<Note>(&text).unwrap(), note);
    for bad in ["", "{}", "{\"terminal\": \"x\", \"peer\": \"10.0.0.1\"}", "[1]"] {
        assert!(serde_json::from_str::<Note>(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_report_as_programs_read_it() {
    let step = |step, outcome, why: &[&str]| {
        let why = why.iter().map(|why| (*why).to_owned()).collect();
        Step { step, outcome, text: "x".to_owned(), why }
    };
    let steps = vec![step("terminal", Outcome::Ok, &[]), step("call", Outcome::Failed, &["a wall"])];
    let report = Report { passed: false, tests: vec![Test { interface: "eth1".to_owned(), family: "IPv4", steps }] };
    let expected = serde_json::json!({"passed": false, "tests": [{"interface": "eth1", "family": "IPv4", "steps": [
        {"step": "terminal", "outcome": "ok", "text": "x"},
        {"step": "call", "outcome": "failed", "text": "x", "why": ["a wall"]},
    ]}]});
    assert_eq!(serde_json::to_value(&report).unwrap(), expected);
}

#[test]
fn what_the_kernel_says_of_a_packet_that_it_would_not_forward_has_a_meaning() {
    for (words, meaning) in [
        ("No route to host", "forwarding is off at eth1"),
        ("Invalid cross-device link", "reverse-path filter"),
        ("Network is unreachable", "a route to the peers is missing"),
        ("Permission denied", "prohibit"),
        ("Something new", "a route to the peers is missing"),
    ] {
        assert!(not_forwarded(words, "eth1")[0].contains(meaning), "{words}");
    }
}
