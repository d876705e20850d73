use super::*;
use crate::wire::Address;

const SAME: (&str, &str) = ("10.0.0.5", "10.0.0.5");
const V4: (&str, &str) = ("10.0.0.5", "198.18.200.17");
const V6: (&str, &str) = ("fd5a::1:5", "2001:db8:18::7");

fn ends((own, shown): (&str, &str)) -> Speaker {
    let address = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
    Speaker { own: address(own), shown: address(shown) }
}

/// What goes on of a line; `None` if it is refused.
fn line(from: ConnectionEnd, text: &str, addresses: (&str, &str)) -> Option<String> {
    match Ftp.look(&mut Memory::default(), from, text.as_bytes(), false, &ends(addresses)) {
        Look::Pass(count) => {
            assert_eq!(count, text.len());
            Some(text.to_owned())
        }
        Look::Write { place, text: new, count } => {
            assert_eq!(count, text.len());
            Some([&text[..place.start], std::str::from_utf8(&new).unwrap(), &text[place.end..]].concat())
        }
        Look::Refuse => None,
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn r10_ftp_the_own_address_becomes_the_virtual_ip_and_nothing_else_changes() {
    for (from, addresses, before, after) in [
        (ConnectionEnd::Client, V4, "PORT 10,0,0,5,200,21\r\n", "PORT 198,18,200,17,200,21\r\n"),
        (ConnectionEnd::Client, V4, "port  10,0,0,5,200,21 \n", "port  198,18,200,17,200,21 \n"),
        (ConnectionEnd::Client, V4, "EPRT |1|10.0.0.5|51221|\r\n", "EPRT |1|198.18.200.17|51221|\r\n"),
        (ConnectionEnd::Client, V6, "EPRT |2|fd5a::1:5|51221|\r\n", "EPRT |2|2001:db8:18::7|51221|\r\n"),
        (ConnectionEnd::Client, V6, "eprt !2!FD5A:0::1:5!51221!\r\n", "eprt !2!2001:db8:18::7!51221!\r\n"),
        (
            ConnectionEnd::Server,
            V4,
            "227 Entering Passive Mode (10,0,0,5,200,21).\r\n",
            "227 Entering Passive Mode (198,18,200,17,200,21).\r\n",
        ),
        (ConnectionEnd::Server, V4, "227 At 3, mode =10,0,0,5,200,21\r\n", "227 At 3, mode =198,18,200,17,200,21\r\n"),
        (ConnectionEnd::Server, V6, "229 Go (|2|fd5a::1:5|51221|)\r\n", "229 Go (|2|2001:db8:18::7|51221|)\r\n"),
    ] {
        assert_eq!(line(from, before, addresses).as_deref(), Some(after));
        assert_eq!(line(from, after, addresses).as_deref(), Some(after), "the virtual IP may be announced");
    }
}

#[test]
fn r10_ftp_what_names_no_address_goes_on() {
    for (from, text) in [
        (ConnectionEnd::Client, "PORTER 1,2,3,4,5,6\r\n"),
        (ConnectionEnd::Client, "STOR PORT 1,2,3,4,5,6\r\n"),
        (ConnectionEnd::Client, "EPSV\r\n"),
        (ConnectionEnd::Client, "PORT\r\n"),
        (ConnectionEnd::Client, "227 Entering (1,2,3,4,5,6)\r\n"),
        (ConnectionEnd::Client, "\r\n"),
        (ConnectionEnd::Client, "\n"),
        (ConnectionEnd::Server, "229 Entering Extended Passive Mode (|||51221|)\r\n"),
        (ConnectionEnd::Server, "229 nothing\r\n"),
        (ConnectionEnd::Server, "227 nothing (1,2,3)\r\n"),
        (ConnectionEnd::Server, "227 too large (256,2,3,4,5,6)\r\n"),
        (ConnectionEnd::Server, "220 PORT 1,2,3,4,5,6\r\n"),
        (ConnectionEnd::Server, "PORT 1,2,3,4,5,6\r\n"),
    ] {
        assert_eq!(line(from, text, V4).as_deref(), Some(text));
    }
}

#[test]
fn r10_ftp_no_bounce() {
    for text in [
        "PORT 192,0,2,9,200,21\r\n",
        "PORT 10,0,0,6,200,21\r\n",
        "PORT 10,0,0,5,3,255\r\n",
        "PORT 10,0,0,5,200\r\n",
        "PORT 10,0,0,5,200,21,1\r\n",
        "PORT whatever\r\n",
        "EPRT |1|192.0.2.9|51221|\r\n",
        "EPRT |1|10.0.0.5|25|\r\n",
        "EPRT |2|fd5a::9|51221|\r\n",
        "EPRT |1|10.0.0.5\r\n",
    ] {
        assert_eq!(line(ConnectionEnd::Client, text, V4), None, "{text}");
        assert_eq!(line(ConnectionEnd::Client, text, SAME), None, "{text}, from a peer");
    }
    for text in
        ["227 (10,0,0,6,200,21)\r\n", "227 (10,0,0,5,0,25)\r\n", "229 (|||25|)\r\n", "229 (|1|10.0.0.6|5000|)\r\n"]
    {
        assert_eq!(line(ConnectionEnd::Server, text, V4), None, "{text}");
        assert!(
            line(ConnectionEnd::Server, text, SAME).is_some(),
            "{text}: where a peer leads is for the terminal to judge"
        );
    }
}

#[test]
fn r10_ftp_waits_only_for_lines_that_may_name_an_address() {
    let look = |memory: &mut Memory, text: &[u8]| Ftp.look(memory, ConnectionEnd::Client, text, false, &ends(V4));
    for text in ["P", "por", "EPRT |1|", "PORT 10,0,0,5,200,21", "PORT 10,0,0,5,200,21\r"] {
        assert_eq!(look(&mut Memory::default(), text.as_bytes()), Look::More, "{text}");
    }
    let mut memory = Memory::default();
    assert_eq!(look(&mut memory, b"PO"), Look::More);
    assert_eq!(look(&mut memory, b"POP"), Look::Pass(3));
    assert_eq!(look(&mut memory, b"PORT 10,0,0,5,200,21"), Look::Pass(20), "still the same line");
    assert_eq!(look(&mut memory, b"x\nPORT 1"), Look::Pass(2));
    assert_eq!(look(&mut memory, b"PORT 1"), Look::More);
    let long = ["PORT ", &"1".repeat(MOST_LINE)].concat();
    assert_eq!(look(&mut Memory::default(), long.as_bytes()), Look::Refuse);
    let offer = b"234 Go on\r\n\x16\x03";
    assert_eq!(Ftp.look(&mut Memory::default(), ConnectionEnd::Server, offer, false, &ends(V4)), Look::Opaque);
}
