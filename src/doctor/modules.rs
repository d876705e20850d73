//! Security modules of the kernel that may refuse a gateway what root may do.

use super::finding::Finding;
use std::path::Path;

/// Looks at what holds for this process: doctor is the gateway's own program, so a profile for that holds for both.
pub fn examine() -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let mut findings = Vec::new();
    let apparmor = read("/proc/self/attr/apparmor/current");
    findings.extend(apparmor_profile(&apparmor));
    if read("/sys/fs/selinux/enforce").trim() == "1" {
        findings.extend(selinux_domain(&read("/proc/self/attr/current")));
    }
    findings.extend(lockdown(&read("/sys/kernel/security/lockdown")));
    findings
}

fn apparmor_profile(label: &str) -> Option<Finding> {
    let (profile, mode) = label.trim_matches(['\0', '\n']).rsplit_once(" (")?;
    (mode == "enforce)").then(|| {
        Finding::note(format!(
            "the AppArmor profile {profile} is enforced on kamei, and kamei doctor cannot read what it forbids; a gateway \
             needs network, bpf, net_admin, /dev/net/tun, /proc/sys/net and /sys/fs/bpf; refusals: journalctl -k -g \
             apparmor=.DENIED; to see whether it is to blame: aa-complain {profile}"
        ))
    })
}

fn selinux_domain(label: &str) -> Option<Finding> {
    let domain = label.trim_matches(['\0', '\n']).split(':').nth(2)?;
    (!domain.starts_with("unconfined")).then(|| {
        Finding::note(format!(
            "SELinux is enforcing, with kamei in the domain {domain}, and kamei doctor cannot read what that forbids; \
             refusals: ausearch -m avc -c kamei"
        ))
    })
}

/// From `none [integrity] confidentiality`.
fn lockdown(text: &str) -> Option<Finding> {
    let mode = text.split_once('[')?.1.split_once(']')?.0;
    (mode == "confidentiality").then(|| {
        Finding::note(
            "the kernel is locked down for confidentiality: it refuses eBPF programs that read its memory; if the gateway \
             says that a program was refused, boot with lockdown=integrity",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_in_force_is_said_and_one_that_only_complains_is_not() {
        let said = apparmor_profile("/usr/bin/kamei (enforce)\n").unwrap().text;
        assert!(said.contains("profile /usr/bin/kamei is enforced") && said.contains("aa-complain"), "{said}");
        for none in ["", "unconfined\n", "kamei (complain)\n", "kamei (unconfined)", "\0", " (", "(enforce)"] {
            assert_eq!(apparmor_profile(none), None, "{none:?}");
        }
        assert!(selinux_domain("system_u:system_r:init_t:s0\0").unwrap().text.contains("domain init_t"));
        for none in ["", "unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\0", "a:b", "kernel"] {
            assert_eq!(selinux_domain(none), None, "{none:?}");
        }
    }

    #[test]
    fn lockdown_is_said_where_it_may_refuse_programs() {
        assert!(lockdown("none integrity [confidentiality]\n").is_some());
        for none in ["", "[none] integrity confidentiality", "none [integrity] confidentiality", "]["] {
            assert_eq!(lockdown(none), None, "{none:?}");
        }
    }
}
