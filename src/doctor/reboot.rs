//! What a reboot would do: whether something starts the gateway, whether its state is still there, whether its interfaces are
//! there that early, and whether the inside is open until it comes.

use super::finding::Finding;
use crate::config::Config;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes of a file that are looked at.
const LARGEST: u64 = 1 << 20;
/// Files of a directory that are looked at.
const MOST: usize = 512;

/// Of file systems in memory (linux/magic.h), and of the one that lies over another.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
const OVERLAY: i64 = 0x794c_7630;

/// Where systemd looks for units that an operator writes.
const UNITS: [&str; 3] = ["etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system"];
/// Where settings are that are made at the start, the most important first (sysctl.d(5)).
const SETTINGS: [&str; 4] = ["etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d"];
/// Scripts of machines without systemd.
const SCRIPTS: [&str; 6] = ["etc/init.d", "etc/local.d", "etc/sv/kamei", "etc/service/kamei", "etc/cron.d", "etc/rc.d"];

/// Findings that begin with "after a reboot"; at least one. `file` is the configuration's.
pub fn examine(config: &Config, file: Option<&Path>) -> Vec<Finding> {
    let root = Path::new("/");
    let starter = if root.join("run/systemd/system").is_dir() {
        unit(root, file, &|unit| is_enabled(unit).unwrap_or_default())
    } else {
        script(root)
    };
    let names: Vec<&String> =
        config.insides.iter().flat_map(|inside| &inside.interfaces).chain(&config.outsides).collect();
    let mut wrong = Vec::new();
    wrong.extend(starter.as_ref().err().cloned());
    wrong.extend(state(&config.state_dir));
    wrong.extend(names.iter().filter_map(|name| interface(root, name)));
    wrong.extend(forwarding(root));
    if let (Ok(starter), true) = (starter, wrong.is_empty()) {
        return vec![Finding::fine(format!(
            "after a reboot: {starter} starts the gateway, its bindings are on a disk that stays, its interfaces are there, and \
             nothing is forwarded before it comes"
        ))];
    }
    wrong.into_iter().map(|text| Finding::note(format!("after a reboot: {text}"))).collect()
}

/// The unit that starts a gateway with this configuration, or why none does; `ask` says what systemd says of a unit.
fn unit(root: &Path, file: Option<&Path>, ask: &dyn Fn(&str) -> String) -> Result<String, String> {
    let path = file.map(|file| file.canonicalize().unwrap_or_else(|_| file.to_owned()));
    let packaged = path.as_deref().filter(|path| path.parent() == Some(Path::new("/etc/kamei"))).and_then(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".toml")?;
        Some(if name == "gateway" { "kamei.service".to_owned() } else { format!("kamei@{name}.service") })
    });
    let named = packaged.or_else(|| {
        let words = path.as_deref()?.to_str()?;
        let units = UNITS.iter().flat_map(|directory| files(&root.join(directory)));
        let starts = |unit: &PathBuf| {
            let text = read(unit);
            text.lines().any(|line| line.starts_with("ExecStart=") && line.split_whitespace().any(|word| word == words))
        };
        let unit = units.filter(|unit| unit.extension().is_some_and(|kind| kind == "service")).find(starts)?;
        unit.file_name()?.to_str().map(str::to_owned)
    });
    let Some(unit) = named else {
        let shown = file.map_or("it".to_owned(), |file| file.display().to_string());
        return Err(format!(
            "no unit is found that starts a gateway with {shown}; the packaged ones take /etc/kamei/gateway.toml, and \
             kamei@NAME takes /etc/kamei/NAME.toml"
        ));
    };
    match ask(&unit).as_str() {
        "enabled" | "static" | "alias" | "generated" | "indirect" => Ok(unit),
        "enabled-runtime" => Err(format!("{unit} is enabled until then only; systemctl enable {unit}")),
        "masked" | "masked-runtime" => Err(format!("{unit} is masked: nothing starts it; systemctl unmask {unit}")),
        "" | "not-found" => {
            Err(format!("there is no unit {unit}, so nothing starts the gateway; install the package's"))
        }
        _ => Err(format!("{unit} is not enabled: nothing starts the gateway; systemctl enable {unit}")),
    }
}

fn is_enabled(unit: &str) -> Option<String> {
    let mut command = Command::new("systemctl");
    command.args(["is-enabled", unit]).stdin(Stdio::null()).stderr(Stdio::null());
    // Its exit code says the same again.
    let output = command.output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The script that starts it where there is no systemd.
fn script(root: &Path) -> Result<String, String> {
    let single = [root.join("etc/rc.local"), root.join("etc/crontab"), root.join("etc/inittab")];
    let all = single.into_iter().chain(SCRIPTS.iter().flat_map(|directory| files(&root.join(directory))));
    let starts = |file: &PathBuf| {
        let text = read(file);
        let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        lines.any(|line| line.contains("kamei")) && text.contains("gateway")
    };
    let Some(found) = all.into_iter().find(starts) else {
        let what = "nothing is found that starts the gateway (no systemd, and no script in /etc/init.d, /etc/local.d, \
                    /etc/rc.local names it)";
        return Err(what.to_owned());
    };
    let shown = format!("/{}", found.strip_prefix(root).unwrap_or(&found).display());
    if !shown.starts_with("/etc/init.d/") {
        return Ok(shown);
    }
    let name = found.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // OpenRC has the names as they are; SysV and OpenWrt put S and a number in front.
    let levels = subdirectories(&root.join("etc/runlevels"));
    let levels =
        levels.into_iter().chain(["etc/rc.d", "etc/rc2.d", "etc/rc3.d", "etc/rc5.d"].map(|level| root.join(level)));
    let is_link = |link: &PathBuf| {
        let link = link.file_name().and_then(|link| link.to_str()).unwrap_or_default();
        link == name
            || link.strip_prefix('S').is_some_and(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()) == name)
    };
    if levels.flat_map(|level| files(&level)).any(|link| is_link(&link)) {
        return Ok(shown);
    }
    Err(format!("{shown} is in no runlevel: nothing starts the gateway; rc-update add {name}, or {shown} enable"))
}

/// Where the state would be lost.
fn state(directory: &Path) -> Option<String> {
    let nearest = directory.ancestors().find(|path| path.exists())?;
    let kind = |path: &Path| rustix::fs::statfs(path).ok().map(|about| about.f_type);
    let shown = directory.display();
    if kind(nearest).is_some_and(|kind| IN_MEMORY.contains(&kind)) {
        return Some(format!("all bindings are forgotten: {shown} is in memory (tmpfs); choose a state-dir on a disk"));
    }
    if kind(nearest) != Some(OVERLAY) {
        return None;
    }
    let mounts = read(Path::new("/proc/self/mountinfo"));
    let upper = upper_directory(&mounts, nearest)?;
    // Where it cannot be seen, as in containers, nobody here knows.
    match kind(Path::new(upper)) {
        Some(kind) if IN_MEMORY.contains(&kind) => Some(format!(
            "all bindings are forgotten: what is written to {shown} is in memory (an overlay over tmpfs); choose a state-dir on \
             a disk"
        )),
        Some(_) => None,
        None => Some(format!(
            "whether bindings are still there depends on what {shown} lies over: the overlay of a container goes with it; choose \
             a state-dir on a volume"
        )),
    }
}

/// The upper directory of the overlay that a path is in, from /proc/self/mountinfo.
fn upper_directory<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let overlay = mounts
        .lines()
        .filter(|line| line.contains(" - overlay "))
        .filter(|line| line.split(' ').nth(4).is_some_and(|at| path.starts_with(at)));
    let inner = overlay.max_by_key(|line| line.split(' ').nth(4).map_or(0, str::len))?;
    let options = inner.rsplit(' ').next()?;
    options.split(',').find_map(|option| option.strip_prefix("upperdir="))
}

/// An interface that nobody is known to make at a start.
fn interface(root: &Path, name: &str) -> Option<String> {
    let device = root.join("sys/class/net").join(name);
    if !device.exists() || device.join("device").exists() {
        return None;
    }
    match maker(root, name) {
        Some(_) => None,
        None if ["docker", "br-", "virbr", "lxcbr", "lxdbr", "podman"].iter().any(|maker| name.starts_with(maker)) => {
            Some(format!(
                "{name} is made by a program that may start later than the gateway, which is started again until it is there"
            ))
        }
        None => Some(format!(
            "nothing is found that makes {name}; if it was made by hand, the gateway does not start without it: write it down \
             for systemd-networkd, NetworkManager or /etc/network/interfaces"
        )),
    }
}

/// The file that says that an interface is to be made.
fn maker(root: &Path, name: &str) -> Option<PathBuf> {
    let inside = |directory: &str, says: &dyn Fn(&str) -> bool| {
        files(&root.join(directory)).into_iter().find(|file| read(file).lines().any(|line| says(line.trim())))
    };
    let is_value = |line: &str, key: &str| {
        line.split_once('=').is_some_and(|(have, value)| have.trim() == key && value.trim().trim_matches('"') == name)
    };
    for directory in ["etc/systemd/network", "run/systemd/network", "usr/lib/systemd/network"] {
        if let Some(file) = inside(directory, &|line| is_value(line, "Name"))
            .filter(|file| file.extension().is_some_and(|kind| kind == "netdev"))
        {
            return Some(file);
        }
    }
    for directory in ["etc", "run", "usr/lib"].map(|top| format!("{top}/NetworkManager/system-connections")) {
        if let Some(file) = inside(&directory, &|line| is_value(line, "interface-name")) {
            return Some(file);
        }
    }
    let ifupdown = |line: &str| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("auto" | "allow-hotplug" | "iface")) && words.any(|word| word == name)
    };
    let interfaces = root.join("etc/network/interfaces");
    if read(&interfaces).lines().any(|line| ifupdown(line.trim())) {
        return Some(interfaces);
    }
    let key = format!("{name}:");
    let single = [format!("etc/wireguard/{name}.conf"), format!("etc/conf.d/net.{name}")].map(|file| root.join(file));
    inside("etc/network/interfaces.d", &ifupdown)
        .or_else(|| inside("etc/netplan", &|line| line == key || line.starts_with(&format!("{key} "))))
        .or_else(|| inside("etc/config", &|line| line.ends_with(&format!("'{name}'"))))
        .or_else(|| single.into_iter().find(|file| file.exists()))
        .or_else(|| name.starts_with("ppp").then(|| files(&root.join("etc/ppp/peers")).into_iter().next()).flatten())
}

/// A file that switches forwarding on before the gateway comes.
fn forwarding(root: &Path) -> Option<String> {
    let mut by_name: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in SETTINGS.iter().flat_map(|directory| files(&root.join(directory))) {
        if let Some(name) = file.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".conf")) {
            by_name.entry(name.to_owned()).or_insert(file.clone());
        }
    }
    let mut on: BTreeMap<String, PathBuf> = BTreeMap::new();
    for file in by_name.into_values().chain([root.join("etc/sysctl.conf")]) {
        for line in read(&file).lines() {
            let line = line.trim().trim_start_matches('-');
            let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with(['#', ';'])) else { continue };
            let key = key.trim().replace('/', ".");
            let is_it = key == "net.ipv4.ip_forward"
                || key.starts_with("net.ipv4.conf.") && key.ends_with(".forwarding")
                || key == "net.ipv6.conf.all.forwarding";
            if is_it && value.trim() == "0" {
                on.remove(&key);
            } else if is_it {
                on.insert(key, file.clone());
            }
        }
    }
    on.extend(networkd_forwards(root));
    let (key, file) = on.into_iter().next()?;
    let shown = format!("/{}", file.strip_prefix(root).unwrap_or(&file).display());
    Some(format!(
        "{shown} switches forwarding on ({key}) before the gateway comes, and until then the inside goes out untranslated; take \
         the line out: the gateway switches forwarding on itself"
    ))
}

/// The key by which systemd-networkd switches forwarding on (systemd.network(5), networkd.conf(5)), and its file.
fn networkd_forwards(root: &Path) -> Option<(String, PathBuf)> {
    let places = ["etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd"].map(|top| root.join(top));
    let mut by_name: BTreeMap<String, PathBuf> = BTreeMap::new();
    for place in &places {
        let network = place.join("network");
        let parts = subdirectories(&network).into_iter().chain([place.join("networkd.conf.d")]);
        let all = parts.flat_map(|part| files(&part)).chain(files(&network)).chain([place.join("networkd.conf")]);
        for file in all.filter(|file| file.extension().is_some_and(|kind| kind == "network" || kind == "conf")) {
            let name = file.strip_prefix(place).unwrap_or(&file).display().to_string();
            by_name.entry(name).or_insert(file);
        }
    }
    by_name.into_values().find_map(|file| {
        let text = read(&file);
        let mut pairs = text.lines().filter_map(|line| line.split_once('='));
        let says = |(key, value): &(&str, &str)| {
            matches!(key.trim(), "IPForward" | "IPv4Forwarding" | "IPv6Forwarding")
                && matches!(value.trim(), "yes" | "true" | "1" | "on" | "ipv4" | "ipv6")
        };
        let (key, _) = pairs.find(says)?;
        Some((format!("{}=", key.trim()), file.clone()))
    })
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    // Neither pipes nor devices are read.
    if fs::metadata(path).is_ok_and(|about| about.is_file())
        && let Ok(file) = File::open(path)
    {
        let _ = file.take(LARGEST).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is in a directory, in the order of names.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(MOST);
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| !path.is_dir()).collect();
    files.sort();
    files
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(MOST);
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with these files.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_unit_that_takes_the_file_is_asked_for() {
        let root = machine(&[(
            "etc/systemd/system/nat.service",
            "[Service]\nExecStart=/opt/kamei gateway --config /srv/nat.toml\n",
        )]);
        let asked = |file: Option<&str>, says: &str| {
            let answer = |unit: &str| format!("{}{}", if unit.is_empty() { "?" } else { "" }, says);
            unit(root.path(), file.map(Path::new), &answer)
        };
        assert_eq!(asked(Some("/etc/kamei/gateway.toml"), "enabled"), Ok("kamei.service".to_owned()));
        assert_eq!(asked(Some("/etc/kamei/north.toml"), "enabled"), Ok("kamei@north.service".to_owned()));
        assert_eq!(asked(Some("/srv/nat.toml"), "enabled"), Ok("nat.service".to_owned()));
        for (says, words) in [
            ("disabled", "systemctl enable kamei@north.service"),
            ("enabled-runtime", "until then only"),
            ("masked", "systemctl unmask"),
            ("not-found", "there is no unit kamei@north.service"),
            ("", "there is no unit"),
        ] {
            let why = asked(Some("/etc/kamei/north.toml"), says).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
        assert!(asked(Some("/home/x.toml"), "enabled").unwrap_err().contains("no unit is found"));
        assert!(asked(None, "enabled").is_err());
    }

    #[test]
    fn without_systemd_a_script_starts_it_that_is_in_a_runlevel() {
        let init = ("etc/init.d/kamei", "#!/sbin/openrc-run\ncommand=/usr/sbin/kamei\ncommand_args=\"gateway\"\n");
        let why = |files: &[(&str, &str)]| script(machine(files).path());
        assert!(why(&[]).unwrap_err().contains("nothing is found that starts"));
        assert!(why(&[("etc/rc.local", "# kamei gateway\n")]).is_err());
        assert_eq!(why(&[("etc/rc.local", "kamei gateway --config /etc/x &\n")]), Ok("/etc/rc.local".to_owned()));
        assert!(why(&[init]).unwrap_err().contains("in no runlevel"));
        for link in ["etc/runlevels/default/kamei", "etc/rc.d/S95kamei", "etc/rc2.d/S01kamei"] {
            assert_eq!(why(&[init, (link, "")]), Ok("/etc/init.d/kamei".to_owned()), "{link}");
        }
    }

    #[test]
    fn what_is_written_to_memory_is_told_from_what_stays() {
        let mounts = "22 1 0:5 / / rw - overlay overlay rw,lowerdir=/rom,upperdir=/overlay/upper,workdir=/w\n\
                      23 22 0:6 / /var rw - overlay o rw,lowerdir=/a,upperdir=/run/u,workdir=/w\n\
                      24 22 0:7 / /tmp rw - tmpfs tmpfs rw\n";
        assert_eq!(upper_directory(mounts, Path::new("/var/lib/kamei")), Some("/run/u"));
        assert_eq!(upper_directory(mounts, Path::new("/srv/kamei")), Some("/overlay/upper"));
        assert_eq!(upper_directory("", Path::new("/srv")), None);
        if rustix::fs::statfs("/dev/shm").is_ok_and(|about| IN_MEMORY.contains(&about.f_type)) {
            assert!(state(Path::new("/dev/shm/kamei/x")).unwrap().contains("all bindings are forgotten"));
        }
    }

    #[test]
    fn interfaces_that_somebody_makes_at_a_start_are_known() {
        for (path, text) in [
            ("etc/systemd/network/10.netdev", "[NetDev]\nName=br7\nKind=bridge\n"),
            ("etc/NetworkManager/system-connections/x.nmconnection", "[connection]\ninterface-name=br7\n"),
            ("etc/network/interfaces", "auto lo br7\n"),
            ("etc/network/interfaces.d/br", "iface br7 inet static\n"),
            ("etc/netplan/1.yaml", "network:\n  bridges:\n    br7:\n"),
            ("etc/config/network", "config device\n\toption name 'br7'\n"),
            ("etc/wireguard/br7.conf", ""),
        ] {
            let root = machine(&[(path, text)]);
            assert_eq!(maker(root.path(), "br7"), Some(root.path().join(path)));
            assert_eq!(maker(root.path(), "br"), None, "{path}");
        }
        let root = machine(&[
            ("sys/class/net/br7/mtu", ""),
            ("sys/class/net/eth1/device/x", ""),
            ("sys/class/net/docker0/x", ""),
        ]);
        assert!(interface(root.path(), "br7").unwrap().contains("made by hand"));
        assert!(interface(root.path(), "docker0").unwrap().contains("may start later"));
        assert_eq!((interface(root.path(), "eth1"), interface(root.path(), "eth9")), (None, None));
    }

    #[test]
    fn the_file_that_switches_forwarding_on_is_named() {
        let named = |files: &[(&str, &str)]| forwarding(machine(files).path());
        assert_eq!(named(&[]), None);
        assert_eq!(named(&[("etc/sysctl.d/x.conf", "# net.ipv4.ip_forward=1\nkernel.x = 1\n")]), None);
        assert_eq!(named(&[("etc/sysctl.d/readme", "net.ipv4.ip_forward=1\n")]), None);
        for (path, text) in [
            ("etc/sysctl.conf", "net.ipv4.ip_forward = 1\n"),
            ("usr/lib/sysctl.d/50.conf", "-net/ipv6/conf/all/forwarding=1\n"),
            ("run/sysctl.d/50.conf", "net.ipv4.conf.all.forwarding=1"),
        ] {
            assert!(named(&[(path, text)]).unwrap().starts_with(&format!("/{path} switches forwarding on")), "{path}");
        }
        for (path, text) in [
            ("etc/systemd/network/lan.network", "[Match]\nName=eth1\n[Network]\nIPv4Forwarding=yes\n"),
            ("etc/systemd/network/lan.network.d/x.conf", "[Network]\nIPForward = ipv4\n"),
            ("etc/systemd/networkd.conf", "[Network]\nIPv6Forwarding=true\n"),
            ("usr/lib/systemd/networkd.conf.d/x.conf", "[Network]\nIPv4Forwarding=1\n"),
        ] {
            assert!(named(&[(path, text)]).unwrap().starts_with(&format!("/{path} switches forwarding on")), "{path}");
        }
        let off = ("etc/systemd/network/lan.network", "[Network]\n#IPForward=yes\nIPv4Forwarding=no\n");
        let masked = ("usr/lib/systemd/network/lan.network", "[Network]\nIPForward=yes\n");
        assert_eq!(named(&[off, masked]), None);
        // The file of the same name in /etc counts, and the last word.
        let overruled = [("usr/lib/sysctl.d/50.conf", "net.ipv4.ip_forward=1"), ("etc/sysctl.d/50.conf", "")];
        assert_eq!(named(&overruled), None);
        let last =
            [("etc/sysctl.d/10.conf", "net.ipv4.ip_forward=1"), ("etc/sysctl.d/90.conf", "net.ipv4.ip_forward=0")];
        assert_eq!(named(&last), None);
    }
}
