//! What `/proc/net/dev` says of the interfaces of this thread's network namespace: unlike `/sys`, it is of that namespace
//! wherever `/sys` was mounted.

/// A column (net/core/net-procfs.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Packets dropped as they arrived.
    DroppedArriving = 3,
    /// Packets that could not be put into the interface's queue.
    DroppedLeaving = 11,
}

/// This counter of each interface; zero for one that is not there.
pub fn counted(interfaces: &[String], counter: Counter) -> Vec<u64> {
    let text = text();
    let number = |name: &String| line(&text, name)?.split_whitespace().nth(counter as usize)?.parse().ok();
    interfaces.iter().map(|name| number(name).unwrap_or_default()).collect()
}

/// Whether there is an interface of this name.
pub fn exists(interface: &str) -> bool {
    line(&text(), interface).is_some()
}

fn text() -> String {
    std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default()
}

/// The numbers of an interface.
fn line<'a>(text: &'a str, interface: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_known_by_its_whole_name() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12\nlo2:13 14\n";
        assert_eq!(line(text, "lo").map(str::trim), Some("1 2 3 4 5 6 7 8 9 10 11 12"));
        assert_eq!((line(text, "lo2"), line(text, "l"), line(text, "")), (Some("13 14"), None, None));
        assert!(exists("lo") && !exists("kamei-none"));
        assert_eq!(counted(&["kamei-none".to_owned()], Counter::DroppedArriving), [0]);
    }
}
