//! Files by which systemd-networkd would take a gateway's own devices.

use super::keyfile::{is_like, settings};
use crate::doctor::finding::Finding;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where networkd looks (systemd.network(5)); of two files with one name the earlier place's counts.
const PLACES: [&str; 5] = [
    "etc/systemd/network",
    "run/systemd/network",
    "usr/local/lib/systemd/network",
    "usr/lib/systemd/network",
    "lib/systemd/network",
];
/// Bytes of a file that are read.
const LARGEST: u64 = 1 << 16;
/// Keys of the section `Match` that are about the machine: taken for true, not looked at.
const ABOUT_MACHINE: [&str; 8] = [
    "Host",
    "Virtualization",
    "KernelCommandLine",
    "KernelVersion",
    "Version",
    "Credential",
    "Architecture",
    "Firmware",
];
const YES: [&str; 6] = ["1", "yes", "y", "true", "t", "on"];
const NO: [&str; 6] = ["0", "no", "n", "false", "f", "off"];

/// A file with what is put into it from its directory `*.network.d`.
#[derive(Debug)]
struct Network {
    path: PathBuf,
    drop_ins: Vec<PathBuf>,
    text: String,
}

/// Says which files take the devices of the gateway `tun`.
pub fn examine(root: &Path, tun: &str, devices: &[String]) -> Vec<Finding> {
    let networks = networks(root);
    let mut findings: Vec<Finding> = Vec::new();
    for network in devices.iter().filter_map(|device| taker(&networks, device)) {
        let files: Vec<_> =
            std::iter::once(&network.path).chain(&network.drop_ins).map(|path| path.display()).collect();
        let files: Vec<String> = files.iter().map(ToString::to_string).collect();
        let (files, verb) = (files.join(" with "), if files.len() > 1 { "make" } else { "makes" });
        let before = ["00-", "0-"].map(|start| format!("{start}{tun}.network"));
        let name = network.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let before = before.iter().find(|before| **before < name).unwrap_or(&before[1]);
        let text = format!(
            "{files} {verb} systemd-networkd configure the gateway's own devices; put before it \
             /etc/systemd/network/{before} with the lines [Match], Name={tun}-nat {tun}-in* {tun}-tin {tun}-tout, [Link], \
             Unmanaged=yes; then networkctl reload"
        );
        if !findings.iter().any(|finding| finding.text == text) {
            findings.push(Finding::note(text));
        }
    }
    findings
}

/// All of them, in networkd's order.
fn networks(root: &Path) -> Vec<Network> {
    let places: Vec<PathBuf> = PLACES.iter().map(|place| root.join(place)).collect();
    let mut networks = Vec::new();
    for (name, path) in files(&places, ".network") {
        // One that is empty, or a link to /dev/null, masks those of its name, and what would be put into them.
        let Some(mut text) = read(&path).filter(|text| !text.is_empty()) else { continue };
        let directories: Vec<PathBuf> = places.iter().map(|place| place.join(format!("{name}.d"))).collect();
        let mut drop_ins = Vec::new();
        for path in files(&directories, ".conf").into_values() {
            if let Some(more) = read(&path) {
                // What comes before its first section belongs to none.
                text.push_str("\n[]\n");
                text.push_str(&more);
                drop_ins.push(path);
            }
        }
        // A file that networkd cannot read is not one.
        if text.lines().map(str::trim).all(|line| !line.starts_with('[') || line.ends_with(']')) {
            networks.push(Network { path, drop_ins, text });
        }
    }
    networks
}

/// By their names, of the first of the directories that has them.
fn files(directories: &[PathBuf], end: &str) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for file in directories.iter().filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten() {
        if let Ok(name) = file.file_name().into_string()
            && name.ends_with(end)
        {
            found.entry(name).or_insert_with(|| file.path());
        }
    }
    found
}

/// What it says, each setting on one line.
fn read(path: &Path) -> Option<String> {
    let about = std::fs::metadata(path).ok()?;
    let text = (about.is_file() && about.len() <= LARGEST).then(|| std::fs::read_to_string(path).ok())??;
    let mut whole = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.trim_start().starts_with(['#', ';'])) {
        match line.strip_suffix('\\') {
            Some(begun) => whole.extend([begun, " "]),
            None => whole.extend([line, "\n"]),
        }
    }
    Some(whole)
}

/// The first that matches the device counts; none takes it if that one leaves it unmanaged.
fn taker<'a>(networks: &'a [Network], device: &str) -> Option<&'a Network> {
    let first = networks.iter().find(|network| matches(&network.text, device))?;
    let mut is_left = false;
    for (section, key, value) in settings(&first.text) {
        if (section, key) == ("Link", "Unmanaged") {
            let is = |words: &[&str]| words.iter().any(|word| value.eq_ignore_ascii_case(word));
            is_left = is(&YES) || is_left && !is(&NO);
        }
    }
    (!is_left).then_some(first)
}

/// Whether the section `Match` is true for a TAP device of this name.
fn matches(text: &str, device: &str) -> bool {
    let mut lists: BTreeMap<&str, Vec<(&str, bool)>> = BTreeMap::new();
    for (_, key, value) in settings(text).filter(|(section, ..)| *section == "Match") {
        let list = lists.entry(key).or_default();
        // An empty value begins anew; a first `!` is for all words of its line.
        if value.is_empty() {
            list.clear();
        }
        let is_inverted = value.starts_with('!');
        list.extend(value.split_whitespace().map(|word| (word.trim_start_matches('!'), is_inverted)));
    }
    lists.retain(|_, list| !list.is_empty());
    let mut judged = lists.iter().filter_map(|(key, list)| judge(key, list, device)).peekable();
    judged.peek().is_some() && judged.all(|is_true| is_true)
}

/// Of a key that networkd does not know it takes no notice.
fn judge(key: &str, list: &[(&str, bool)], device: &str) -> Option<bool> {
    match key {
        "Name" => Some(is_one(list, Some(device))),
        "Type" => Some(is_one(list, Some("ether"))),
        "Kind" | "Driver" => Some(is_one(list, Some("tun"))),
        // What such a device has none of.
        "Path" | "SSID" | "WLANInterfaceType" => Some(is_one(list, None)),
        "MACAddress" | "PermanentMACAddress" | "BSSID" | "Property" => Some(false),
        key => ABOUT_MACHINE.contains(&key).then_some(true),
    }
}

/// No inverted word may fit, and if there are others, one of them must.
fn is_one(list: &[(&str, bool)], value: Option<&str>) -> bool {
    let fits = |word: &str| value.is_some_and(|value| is_like(word.as_bytes(), value.as_bytes()));
    let (against, others): (Vec<_>, Vec<_>) = list.iter().partition(|(_, is_inverted)| *is_inverted);
    !against.iter().any(|(word, _)| fits(word)) && (others.is_empty() || others.iter().any(|(word, _)| fits(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = include_str!("../../../scripts/packaging/kamei.network");

    /// The name of the file that takes the device, of files with these paths and texts.
    fn takes(files: &[(&str, &str)], device: &str) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match *text {
                "/dev/null" => std::os::unix::fs::symlink(text, path).unwrap(),
                text => std::fs::write(path, text).unwrap(),
            }
        }
        let networks = networks(root.path());
        taker(&networks, device).map(|network| network.path.file_name().unwrap().to_string_lossy().into_owned())
    }

    fn takes_by(text: &str) -> bool {
        takes(&[("etc/systemd/network/a.network", text)], "kamei-nat").is_some()
    }

    #[test]
    fn the_first_file_that_matches_takes_a_device_unless_it_leaves_it_unmanaged() {
        let all = "[Match]\nName=*\n[Network]\nDHCP=yes\n";
        let (first, second) = ("usr/lib/systemd/network/10-a.network", "etc/systemd/network/20-b.network");
        assert_eq!(takes(&[(first, OWN), (second, all)], "kamei-nat"), None);
        assert_eq!(takes(&[(first, OWN), (second, all)], "kamei-in7"), None);
        assert_eq!(takes(&[(first, all), (second, OWN)], "kamei-nat").unwrap(), "10-a.network");
        let other = takes(&[(first, OWN), (second, all)], "second-nat");
        assert_eq!(other.unwrap(), "20-b.network", "the package's file is for one name alone");
        let both = [("lib/systemd/network/a.network", all), ("run/systemd/network/a.network", OWN)];
        assert_eq!(takes(&both, "kamei-nat"), None, "of one name that of run/ counts");
    }

    #[test]
    fn what_is_put_into_a_file_counts_as_if_it_were_written_there() {
        let (take, leave) = ("[Match]\nName=kamei*\n[Network]\nDHCP=yes\n", "[Link]\nUnmanaged=yes\n");
        let main = "etc/systemd/network/90-a.network";
        let put = |place: &str, name: &str| format!("{place}/systemd/network/90-a.network.d/{name}");
        let with = |files: &[(String, &str)]| {
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
            takes(&files, "kamei-nat").is_some()
        };
        let main = |text| (main.to_owned(), text);
        assert!(!with(&[main(take), (put("run", "a.conf"), leave)]));
        assert!(with(&[main(OWN), (put("usr/lib", "a.conf"), "[Link]\nUnmanaged=no\n")]));
        assert!(with(&[main("[Match]\nName=eth0\n"), (put("usr/lib", "a.conf"), "[Match]\nName=kamei*\n")]));
        assert!(!with(&[main(take), (put("usr/local/lib", "a.conf"), "[Match]\nName=\nName=eth0\n")]));
        // By their names; the earlier place's of one name; none of another ending.
        assert!(!with(&[main(OWN), (put("etc", "b.conf"), "[Link]\nUnmanaged=no\n"), (put("run", "c.conf"), leave)]));
        assert!(with(&[main(take), (put("run", "a.conf"), leave), (put("etc", "a.conf"), "/dev/null")]));
        assert!(with(&[main(take), (put("run", "a"), leave)]));
        // A setting before the first section is none; a masked file stays masked.
        assert!(with(&[main(take), (put("run", "a.conf"), "Unmanaged=yes\n")]));
        assert!(!with(&[main("/dev/null"), (put("etc", "a.conf"), take)]));
        assert!(!with(&[main(""), (put("etc", "a.conf"), take)]));
    }

    #[test]
    fn what_to_do_comes_before_the_file_that_takes_the_devices() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("run/systemd/network");
        std::fs::create_dir_all(place.join("00-all.network.d")).unwrap();
        std::fs::write(place.join("00-all.network"), "[Match]\nName=*\n").unwrap();
        let devices = ["second-nat", "second-in0"].map(str::to_owned);
        let said = examine(root.path(), "second", &devices);
        assert_eq!(said.len(), 1);
        assert!(
            said[0].text.contains("00-all.network makes ") && said[0].text.contains("/0-second.network with the lines")
        );
        std::fs::write(place.join("00-all.network.d/x.conf"), "[Network]\n").unwrap();
        std::fs::rename(place.join("00-all.network"), place.join("50-all.network")).unwrap();
        std::fs::rename(place.join("00-all.network.d"), place.join("50-all.network.d")).unwrap();
        let text = examine(root.path(), "second", &devices).remove(0).text;
        assert!(text.contains("/50-all.network.d/x.conf make ") && text.contains("/00-second.network with"), "{text}");
    }

    #[test]
    fn a_match_is_read_as_networkd_reads_it() {
        for yes in [
            "[Match]\nName=eth0 kamei*",
            "[Match]\nName=eth0\nName=kamei-na?",
            "[Match]\nName=kamei-[a-n]at",
            "[Match]\nName=eth0 \\\n kamei*",
            "[Match]\nName=!eth* en*",
            "[Match]\nName=!eth*\nName=kamei*",
            "[Match]\nType=ether",
            "[Match]\nType=!loopback !wlan",
            "[Match]\nKind=tun\nName=*\nPath=!pci*",
            "[Match]\nVirtualization=!wsl\nName=*",
            "[Match]\nNoSuchKey=x\nName=*",
            "[Match]\n Name = *-nat \n[Link]\nUnmanaged=no",
            "[Match]\nName=*\n[Link]\nUnmanaged=perhaps",
        ] {
            assert!(takes_by(yes), "{yes}");
        }
        for no in [
            "",
            "[Match]",
            "[Match]\nName=kamei",
            "[Match]\nName=*\nName=",
            "[Match]\nName=!kamei*",
            "[Match]\nName=eth0\nName=!kamei*",
            "[Match]\nName=eth0\nName=!eth1",
            "[Match]\n#Name=*",
            "[match]\nName=*",
            "[Network]\nName=*",
            "[Match]\nType=wlan",
            "[Match]\nNoSuchKey=x",
            "[Match]\nName=*\n[Link",
            "[Match]\nName=*\nPath=pci*",
            "[Match]\nName=*\nMACAddress=02:00:00:00:00:01",
            "[Match]\nName=*\n[Link]\nUnmanaged=yes",
            "[Match]\nName=*\n[Link]\nUnmanaged=yes\nUnmanaged=",
        ] {
            assert!(!takes_by(no), "{no}");
        }
    }
}
