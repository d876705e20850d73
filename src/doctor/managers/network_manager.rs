//! What NetworkManager's configuration makes of a gateway's own devices.

use super::keyfile::{is_like, settings};
use crate::doctor::finding::Finding;
use std::collections::BTreeMap;

/// A section `device…` of the configuration.
type Section<'a> = BTreeMap<&'a str, &'a str>;

/// Says that NetworkManager counts the devices of the gateway `tun` as its own, and how to keep it off them. The
/// configuration is what `NetworkManager --print-config` says: all files merged, sections that count first before others.
///
/// It leaves such a device as it is ("connected (externally)") until the operator disconnects it or switches networking
/// off. The key that is advised is heeded at a reload, for devices that exist too, and counts before every section
/// `device…`.
pub fn judge(merged: &str, tun: &str, devices: &[String]) -> Vec<Finding> {
    let mut strictly_unmanaged = "";
    let mut sections: Vec<(&str, Section<'_>)> = Vec::new();
    for (name, key, value) in settings(merged) {
        if (name, key) == ("keyfile", "unmanaged-devices") {
            strictly_unmanaged = value;
        } else if name.trim_start_matches(".intern.").starts_with("device") {
            match sections.last_mut().filter(|(last, _)| *last == name) {
                Some((_, section)) => _ = section.insert(key, value),
                None => sections.push((name, Section::from([(key, value)]))),
            }
        }
    }
    // The one without a name is printed first and counts last.
    sections.sort_by_key(|(name, _)| *name == "device");
    let is_taken = |device: &&String| !is_listed(strictly_unmanaged, device) && is_managed(&sections, device);
    let say = |device: &String| {
        Finding::note(format!(
            "NetworkManager counts {device} as its own: whoever disconnects it there or switches networking off takes its \
             address and disturbs packets until the gateway has put it back; put into \
             /etc/NetworkManager/conf.d/zz-{tun}.conf the lines [keyfile], \
             unmanaged-devices+=interface-name:{tun}-nat,interface-name:{tun}-in*,interface-name:{tun}-tin,\
             interface-name:{tun}-tout; then nmcli general reload conf"
        ))
    };
    devices.iter().find(is_taken).map(say).into_iter().collect()
}

/// By the first section that speaks of the device.
fn is_managed(sections: &[(&str, Section<'_>)], device: &str) -> bool {
    let is_yes = |value: &&str| ["1", "yes", "true", "on"].iter().any(|yes| value.eq_ignore_ascii_case(yes));
    let speaks = |section: &Section<'_>| {
        (section.contains_key("managed") || section.get("stop-match").is_some_and(is_yes))
            && section.get("match-device").is_none_or(|list| is_listed(list, device))
    };
    let first = sections.iter().find(|(_, section)| speaks(section));
    first.and_then(|(_, section)| section.get("managed")).is_none_or(is_yes)
}

/// Whether a list of devices has this one (NetworkManager.conf(5), "Device List Format").
fn is_listed(list: &str, device: &str) -> bool {
    let is_it = |word: &str| match word.split_once(':') {
        None => word == "*" || word == device,
        Some(("type" | "driver", kind)) => kind == "tun",
        Some(("interface-name", name)) => match name.strip_prefix('=') {
            Some(name) => name == device,
            None => is_like(name.trim_start_matches('~').as_bytes(), device.as_bytes()),
        },
        Some(_) => false,
    };
    let words = list.split([',', ';']).map(str::trim).filter(|word| !word.is_empty());
    let (exceptions, others): (Vec<&str>, Vec<&str>) = words.partition(|word| word.starts_with("except:"));
    // Exceptions alone are for everything else.
    let is_in = others.iter().any(|word| is_it(word)) || others.is_empty() && !exceptions.is_empty();
    is_in && !exceptions.iter().filter_map(|word| word.strip_prefix("except:")).any(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = include_str!("../../../scripts/packaging/networkmanager.conf");

    fn takes(merged: &str, tun: &str) -> bool {
        !judge(merged, tun, &[format!("{tun}-nat"), format!("{tun}-in0")]).is_empty()
    }

    #[test]
    fn the_packages_file_keeps_it_off_the_devices_of_one_name_and_what_is_advised_off_another() {
        assert!(takes("", "kamei"));
        // Merged, lists have no sign that they go on.
        assert!(!takes(&OWN.replace("+=", "="), "kamei"));
        let said = judge(OWN, "second", &["second-nat".to_owned()]).remove(0).text;
        let lines = said.split_once("the lines ").unwrap().1.split_once("; then").unwrap().0;
        assert!(!takes(&format!("{OWN}{}", lines.replace(", ", "\n").replace("+=", "=")), "second"), "{lines}");
    }

    #[test]
    fn its_configuration_is_read_as_it_reads_it() {
        for off in [
            "[keyfile]\nunmanaged-devices=*,except:type:wifi,except:type:gsm",
            "[keyfile]\nunmanaged-devices=mac:02:00:00:00:00:01;interface-name:=second-nat;second-in0",
            "[keyfile]\nunmanaged-devices=except:interface-name:eth*",
            "[keyfile]\nunmanaged-devices=type:tun\n[device-a]\nmanaged=1",
            "[device]\nmatch-device=driver:tun\nmanaged=no",
            "[device]\nmanaged=1\n[device-b]\nmatch-device=interface-name:~second-*\nmanaged=false",
            "[device-b]\nmanaged=0\n[device-a]\nmanaged=1",
            "[device-b]\nwifi.backend=iwd\n[device-a]\nmanaged=0",
        ] {
            assert!(!takes(off, "second"), "{off}");
        }
        for on in [
            "[keyfile]\nunmanaged-devices=none",
            "[keyfile]\nunmanaged-devices=",
            "[keyfile]\nunmanaged-devices=*,except:interface-name:second*",
            "[keyfile]\nunmanaged-devices=interface-name:second-nat",
            "[ifupdown]\nmanaged=false",
            "[device-b]\nmanaged=1\n[device-a]\nmanaged=0",
            "[device-b]\nstop-match=1\n[device-a]\nmanaged=0",
            "[device-b]\nmatch-device=interface-name:second\nmanaged=0",
            "#[device]\n#managed=0",
        ] {
            assert!(takes(on, "second"), "{on}");
        }
    }
}
