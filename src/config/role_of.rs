//! Whose configuration a file is.

use super::{agent_draft, draft, relay_draft};
use toml::de::DeTable;

/// The roles with a configuration file, each with the file that explains its keys.
const ROLES: [(&str, &str); 3] =
    [("gateway", draft::EXAMPLE), ("relay", relay_draft::EXAMPLE), ("agent", agent_draft::EXAMPLE)];

/// The role that knows most of a file's keys; the gateway's where none does, or where it is no TOML.
pub fn role_of(text: &str) -> &'static str {
    let parsed = DeTable::parse(text).ok();
    let keys: Vec<&str> =
        parsed.iter().flat_map(|table| table.get_ref().keys()).map(|key| key.get_ref().as_ref()).collect();
    let mut best = ("gateway", 0);
    for (role, example) in ROLES {
        let known = keys.iter().filter(|key| is_known(example, key)).count();
        if known > best.1 {
            best = (role, known);
        }
    }
    best.0
}

/// Whether the example shows this key outside of all sections, or a section of this name.
fn is_known(example: &str, key: &str) -> bool {
    let mut is_within = false;
    example.lines().any(|line| {
        let line = line.trim_start_matches(['#', ' ']);
        let header = line.strip_prefix('[').map(|rest| rest.trim_matches(['[', ']']));
        is_within |= header.is_some();
        let is_key = !is_within && line.strip_prefix(key).is_some_and(|rest| rest.starts_with(" = "));
        is_key || header == Some(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_tell_whose_a_file_is_however_they_are_written() {
        for (role, example) in ROLES {
            assert_eq!(role_of(example), role);
        }
        for (text, role) in [
            ("listen = [\":443\"] # here\n[[server]] # the web\nname = \"web\"\nport = 80", "relay"),
            ("listen=[\":443\"]", "relay"),
            ("server = [{ name = \"web\", port = 80 }]", "relay"),
            ("'relay' = [\"a:1\"]\n[[ publish ]]\nname = \"web\"", "agent"),
            ("inside = [\"eth1\"]\noutside = [\"eth0\"]\n[[pool]]\nrange = \"198.18.0.0/16\"", "gateway"),
            ("# listen = 1\ninside = [\"eth1\"]\n", "gateway"),
            ("", "gateway"),
            ("listen = [", "gateway"),
        ] {
            assert_eq!(role_of(text), role, "{text}");
        }
    }
}
