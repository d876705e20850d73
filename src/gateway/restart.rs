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
        notes: notes(before, is_elsewhere),
    }
}

fn notes(before: &Config, is_elsewhere: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if is_elsewhere {
        notes.push(format!(
            "the bindings stay in {}; to take them along, stop the gateway and import there what `kamei state export` gives",
            before.state_dir.display()
        ));
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
    fn a_restart_says_what_it_leaves_behind() {
        let (before, after) = (config(""), config("state-dir = \"/srv/other\"\non-stop = \"leave\"\n"));
        let said = notes(&before, true).join("\n");
        for words in ["the bindings stay in /var/lib/kamei", "nothing is translated"] {
            assert!(said.contains(words), "{words}: {said}");
        }
        let said = notes(&after, false);
        assert!(said.len() == 1 && said[0].contains("known flows go on"), "{said:?}");
    }
}
