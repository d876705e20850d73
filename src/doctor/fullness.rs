//! Tables of the kernel that are full, or nearly: a host or connection that is not in them yet gets nothing through.

use super::finding::Finding;
use std::path::Path;

/// The share of a table in use, in percent, from which on the operator should know.
const NEARLY: u64 = 90;

/// Looks at the tables of neighbours and of connections. What this namespace does not show is not judged: neighbours are
/// counted for the whole machine, and only its first namespace tells.
pub fn examine(proc: &Path) -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(proc.join(path)).ok();
    let number = |path: &str| read(path)?.trim().parse().ok();
    let families = [("arp_cache", "ipv4"), ("ndisc_cache", "ipv6")].into_iter().filter_map(|(table, family)| {
        let limit = number(&format!("sys/net/{family}/neigh/default/gc_thresh3"))?;
        neighbours(&read(&format!("net/stat/{table}"))?, family, limit)
    });
    let mut findings: Vec<Finding> = families.collect();
    let sizes = number("sys/net/netfilter/nf_conntrack_count").zip(number("sys/net/netfilter/nf_conntrack_max"));
    findings.extend(sizes.and_then(|(count, most)| connections(count, most)));
    findings
}

/// `text` has a line a processor, in hexadecimal: all have the same `entries`, each its own `table_fulls`.
fn neighbours(text: &str, family: &str, limit: u64) -> Option<Finding> {
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let names = lines.next()?;
    let column = |name: &str| names.iter().position(|this| *this == name);
    let (entries_at, fulls_at) = (column("entries")?, column("table_fulls"));
    let (mut entries, mut fulls) = (0, 0_u64);
    for line in lines {
        let number = |at: usize| line.get(at).and_then(|word| u64::from_str_radix(word, 16).ok());
        entries = entries.max(number(entries_at).unwrap_or(0));
        fulls = fulls.saturating_add(fulls_at.and_then(number).unwrap_or(0));
    }
    let raise = format!(
        "raise it: sysctl -w net.{family}.neigh.default.gc_thresh3={}, and gc_thresh2 and gc_thresh1 with it",
        limit.saturating_mul(4)
    );
    if entries >= limit {
        return Some(Finding::wrong(format!(
            "the kernel's table of {family} neighbours is full ({entries} of gc_thresh3 = {limit}): packets to machines \
             that are not in it are dropped; {raise}"
        )));
    }
    let what = if fulls > 0 {
        format!("has been full since the machine started ({fulls} times refused)")
    } else if is_nearly(entries, limit) {
        "is nearly full".to_owned()
    } else {
        return None;
    };
    Some(Finding::note(format!(
        "the kernel's table of {family} neighbours {what}, with {entries} of gc_thresh3 = {limit} now; {raise}"
    )))
}

/// Of netfilter's connection tracking, which firewalls switch on.
fn connections(count: u64, most: u64) -> Option<Finding> {
    // 0: without limit.
    if most == 0 || !is_nearly(count, most) {
        return None;
    }
    let raise = format!("raise it: sysctl -w net.netfilter.nf_conntrack_max={}", most.saturating_mul(4));
    let sizes = format!("({count} of nf_conntrack_max = {most})");
    Some(if count >= most {
        Finding::wrong(format!(
            "netfilter's table of connections is full {sizes}: packets of new calls and callbacks are dropped; {raise}"
        ))
    } else {
        Finding::note(format!("netfilter's table of connections is nearly full {sizes}; {raise}"))
    })
}

fn is_nearly(count: u64, most: u64) -> bool {
    u128::from(count) * 100 >= u128::from(most) * u128::from(NEARLY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Grade;

    const NAMES: &str = "entries  allocs   destroys lookups  table_fulls\n";

    fn grade(finding: Option<Finding>) -> Option<Grade> {
        finding.map(|finding| finding.grade)
    }

    #[test]
    fn a_full_neighbour_table_is_wrong_and_one_that_was_full_is_said() {
        let judge = |lines: &str| neighbours(&format!("{NAMES}{lines}"), "ipv4", 1024);
        assert_eq!(judge("00000002 0 0 0 00000000\n00000002 0 0 0 00000000\n"), None);
        let full = judge("00000400 0 0 0 00000010\n00000400 0 0 0 00000001\n").unwrap();
        assert!(full.grade == Grade::Wrong && full.text.contains("1024 of gc_thresh3 = 1024"), "{full:?}");
        assert!(full.text.contains("sysctl -w net.ipv4.neigh.default.gc_thresh3=4096"), "{full:?}");
        let was = judge("00000002 0 0 0 00000010\n00000002 0 0 0 00000001\n").unwrap();
        assert!(was.grade == Grade::Note && was.text.contains("(17 times refused)"), "{was:?}");
        assert_eq!(grade(judge("000003a0 0 0 0 0\n")), Some(Grade::Note));
        // Before Linux 4.2 there is no such column; and nothing that is no table is judged.
        assert_eq!(neighbours("entries allocs\n00000002 0\n", "ipv4", 1024), None);
        for odd in ["", "\n", "entries\nzz\n", "table_fulls\n1\n", "entries table_fulls\n1\n"] {
            assert_eq!(neighbours(odd, "ipv6", 1024), None, "{odd:?}");
        }
        let most = format!("entries table_fulls\n1 {0}\n1 {0}\n", "f".repeat(16));
        assert_eq!(grade(neighbours(&most, "ipv6", u64::MAX)), Some(Grade::Note));
    }

    #[test]
    fn a_full_table_of_connections_is_wrong_and_a_nearly_full_one_is_said() {
        assert_eq!(connections(10, 1000), None);
        assert_eq!(connections(10, 0), None);
        assert_eq!(grade(connections(900, 1000)), Some(Grade::Note));
        let full = connections(1000, 1000).unwrap();
        assert!(full.grade == Grade::Wrong && full.text.contains("nf_conntrack_max=4000"), "{full:?}");
        assert_eq!(grade(connections(u64::MAX, u64::MAX)), Some(Grade::Wrong));
    }
}
