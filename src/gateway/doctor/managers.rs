//! Files by which systemd-networkd would take a gateway's own devices.

use super::Finding;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where networkd looks (systemd.network(5)); of two files with one name the earlier place's counts.
const PLACES: [&str; 4] =
    ["/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network", "/usr/lib/systemd/network"];
/// Bytes of a file that are read.
const LARGEST: u64 = 1 << 16;

/// Says which file takes the devices of the gateway `tun`.
pub fn examine(tun: &str) -> Vec<Finding> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for place in PLACES {
        for file in std::fs::read_dir(place).into_iter().flatten().flatten() {
            if let Ok(name) = file.file_name().into_string()
                && name.ends_with(".network")
            {
                files.entry(name).or_insert_with(|| file.path());
            }
        }
    }
    let read = |path: &Path| {
        // A link to /dev/null masks a file.
        let about = std::fs::metadata(path).ok()?;
        (about.is_file() && about.len() <= LARGEST).then(|| std::fs::read_to_string(path).ok())?
    };
    let texts: Vec<(PathBuf, String)> =
        files.into_values().filter_map(|path| read(&path).map(|text| (path, text))).collect();
    let mut findings: Vec<Finding> = Vec::new();
    for device in ["nat", "in0"].map(|end| format!("{tun}-{end}")) {
        let Some((path, _)) = taker(&texts, &device) else { continue };
        let text = format!(
            "{} makes systemd-networkd configure the gateway's own devices; put before it \
             /etc/systemd/network/00-{tun}.network with the lines [Match], Name={tun}-nat {tun}-in*, [Link], \
             Unmanaged=yes; then networkctl reload",
            path.display()
        );
        if !findings.iter().any(|finding| finding.text == text) {
            findings.push(Finding::note(text));
        }
    }
    findings
}

/// The first file that matches the device counts; none takes it if that one leaves it unmanaged.
fn taker<'a>(texts: &'a [(PathBuf, String)], device: &str) -> Option<&'a (PathBuf, String)> {
    let first = texts.iter().find(|(_, text)| matches(text, device))?;
    let is_left = settings(&first.1, "Link").filter(|(key, _)| *key == "Unmanaged").last();
    let is_left = is_left.is_some_and(|(_, value)| {
        ["1", "yes", "y", "true", "t", "on"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
    });
    (!is_left).then_some(first)
}

/// Whether the section `Match` is true for a TAP device of this name. A key that such a device lacks, or that cannot be
/// judged, is not.
fn matches(text: &str, device: &str) -> bool {
    let mut lists: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (key, value) in settings(text, "Match") {
        let list = lists.entry(key).or_default();
        // An empty value begins anew.
        if value.is_empty() {
            list.clear();
        }
        list.extend(value.split_whitespace());
    }
    lists.retain(|_, list| !list.is_empty());
    let is_one = |list: &[&str], value: &str| {
        let (list, inverted): (Vec<&str>, bool) = match list.split_first() {
            Some((first, rest)) if first.starts_with('!') => {
                (std::iter::once(first.trim_start_matches('!')).chain(rest.iter().copied()).collect(), true)
            }
            _ => (list.to_vec(), false),
        };
        list.iter().any(|pattern| is_like(pattern.as_bytes(), value.as_bytes())) != inverted
    };
    !lists.is_empty()
        && lists.iter().all(|(key, list)| match *key {
            "Name" => is_one(list, device),
            "Type" => is_one(list, "ether"),
            "Kind" | "Driver" => is_one(list, "tun"),
            _ => false,
        })
}

/// The settings of a section, in order.
fn settings<'a>(text: &'a str, section: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut is_here = false;
    text.lines().map(str::trim).filter_map(move |line| {
        if let Some(name) = line.strip_prefix('[') {
            is_here = name.strip_suffix(']') == Some(section);
            return None;
        }
        let (key, value) = line.split_once('=').filter(|_| is_here && !line.starts_with(['#', ';']))?;
        Some((key.trim(), value.trim()))
    })
}

/// Shell patterns, of which names of interfaces need `*` and `?`; in time of their lengths' product.
fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(seen) {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                at = place + 1;
                seen = taken + 1;
            }
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(files: &[&str], device: &str) -> Option<usize> {
        let texts: Vec<_> =
            files.iter().enumerate().map(|(at, text)| (PathBuf::from(at.to_string()), (*text).to_owned())).collect();
        taker(&texts, device).map(|(path, _)| path.to_str().unwrap().parse().unwrap())
    }

    #[test]
    fn the_first_file_that_matches_takes_a_device_unless_it_leaves_it_unmanaged() {
        let own = include_str!("../../../scripts/packaging/kamei.network");
        let all = "[Match]\nName=*\n[Network]\nDHCP=yes\n";
        assert_eq!(takes(&[own, all], "kamei-nat"), None);
        assert_eq!(takes(&[own, all], "kamei-in7"), None);
        assert_eq!(takes(&[all, own], "kamei-nat"), Some(0));
        assert_eq!(takes(&[own, all], "second-nat"), Some(1), "the package's file is for one name alone");
        assert_eq!(takes(&["[Match]\nName=eth* en?\n", "# [Match]\n"], "kamei-nat"), None);
    }

    #[test]
    fn a_match_is_read_as_networkd_reads_it() {
        for yes in [
            "[Match]\nName=eth0 kamei*",
            "[Match]\nName=eth0\nName=kamei-na?",
            "[Match]\nName=!eth* en*",
            "[Match]\nType=ether",
            "[Match]\nKind=tun\nName=*",
            "[Match]\n Name = *-nat \n[Link]\nUnmanaged=no",
        ] {
            assert_eq!(takes(&[yes], "kamei-nat"), Some(0), "{yes}");
        }
        for no in [
            "",
            "[Match]",
            "[Match]\nName=kamei",
            "[Match]\nName=*\nName=",
            "[Match]\nName=!kamei*",
            "[Match]\n#Name=*",
            "[Network]\nName=*",
            "[Match]\nType=wlan",
            "[Match]\nName=*\nMACAddress=02:00:00:00:00:01",
            "[Match]\nName=*\n[Link]\nUnmanaged=yes",
        ] {
            assert_eq!(takes(&[no], "kamei-nat"), None, "{no}");
        }
        assert!(!is_like(&b"*a".repeat(200), &b"b".repeat(200)));
    }
}
