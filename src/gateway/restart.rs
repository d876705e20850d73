//! What a restart with another configuration would cost.

use crate::config::{Config, OnStop};
use crate::control::{KeptAside, Restart};
use crate::nat::Nat;
use crate::time::Time;

/// Bindings that are named one by one; of others there is only the number.
const NAMED: usize = 1000;

/// The cost of a restart of the gateway with `before` and these bindings, with `after`, for the sake of `keys`.
pub fn cost(nat: &Nat, before: &Config, after: &Config, keys: &[&'static str], now: Time) -> Restart {
    let (mut kept_aside, mut named) = (0, Vec::new());
    let is_elsewhere = before.state_dir != after.state_dir || before.tun != after.tun;
    nat.for_each_binding(now, &mut |binding| {
        let why = if is_elsewhere {
            Some("it stays in the state file of now")
        } else {
            after.misfit(&binding.realm, binding.virtual_ip)
        };
        if let Some(why) = why {
            kept_aside += 1;
            if named.len() < NAMED {
                let (terminal, realm, virtual_ip) = (binding.terminal, binding.realm, binding.virtual_ip);
                named.push(KeptAside { terminal, realm, virtual_ip, why: why.to_owned() });
            }
        }
        true
    });
    Restart {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        kept_aside,
        named,
        notes: notes(before, after, is_elsewhere),
    }
}

fn notes(before: &Config, after: &Config, is_elsewhere: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if is_elsewhere {
        notes.push(format!(
            "the bindings stay in {}; to take them along, stop the gateway and import there what `kamei state export` gives",
            before.state_dir.display()
        ));
    }
    // Of this network namespace, unlike /sys.
    let there = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let is_there = |name: &str| there.lines().any(|line| line.trim_start().split(':').next() == Some(name));
    let wanted = after.insides.iter().flat_map(|inside| &inside.interfaces).chain(&after.outsides);
    let missing: Vec<&str> = wanted.map(String::as_str).filter(|name| !is_there(name)).collect();
    if !missing.is_empty() {
        notes.push(format!("{} is not here now: the gateway would not start until it is", missing.join(", ")));
    }
    notes.push(match before.on_stop {
        OnStop::Leave => "while it restarts, known flows go on and other packets wait or are dropped".to_owned(),
        OnStop::Undo => {
            "while it restarts, nothing is translated: connections stand still, and where this machine forwards \
                         by itself, packets from inside go out untranslated (on-stop = \"undo\")"
                .to_owned()
        }
    });
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        Config::parse(&format!(
            "inside = [\"lo\"]\noutside = [\"nobody0\"]\n{more}[[pool]]\nrange = \"198.18.0.0/24\"\n"
        ))
        .unwrap()
    }

    #[test]
    fn a_restart_says_what_it_leaves_behind_and_what_is_not_there() {
        let (before, after) = (config(""), config("state-dir = \"/srv/other\"\non-stop = \"leave\"\n"));
        let said = notes(&before, &after, true).join("\n");
        for words in ["the bindings stay in /var/lib/kamei", "nobody0 is not here now", "nothing is translated"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let said = notes(&after, &after, false);
        assert!(said.len() == 2 && said[1].contains("known flows go on"), "{said:?}");
    }
}
