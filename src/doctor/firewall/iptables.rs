//! What `iptables-save` says, in the words of nft's JSON.

use serde_json::{Value, json};

/// A table of one of the two families.
pub struct Table {
    pub name: String,
    /// With their policies.
    pub base_chains: Vec<(String, String)>,
    /// In order, each with its chain.
    pub rules: Vec<(String, Vec<Value>)>,
}

/// The kind and the priority of a base chain (linux/netfilter_ipv4.h).
pub fn place(table: &str, chain: &str) -> (&'static str, i64) {
    match (table, chain) {
        ("raw", _) => ("filter", -300),
        ("mangle", _) => ("filter", -150),
        ("nat", "POSTROUTING" | "INPUT") => ("nat", 100),
        ("nat", _) => ("nat", -100),
        ("security", _) => ("filter", 50),
        _ => ("filter", 0),
    }
}

/// The tables, of the family `ip` or `ip6`.
pub fn tables(text: &str, family: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut chains: Vec<String> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            chains.clear();
            tables.push(Table { name: name.trim().to_owned(), base_chains: Vec::new(), rules: Vec::new() });
            continue;
        }
        let Some(table) = tables.last_mut() else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace().map(str::to_owned);
            let Some((name, policy)) = words.next().zip(words.next()) else { continue };
            chains.push(name.clone());
            if policy != "-" {
                table.base_chains.push((name, policy));
            }
            continue;
        }
        let words = words(line);
        if let Some(("-A", chain)) = words.first().map(String::as_str).zip(words.get(1)) {
            let rule = Rule { words: words.get(2..).unwrap_or_default(), family, chains: &chains };
            table.rules.push((chain.clone(), rule.expression()));
        }
    }
    tables
}

/// Those of a line; quoted ones may have spaces.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted, mut is_escaped) = (Vec::new(), None::<String>, false, false);
    for letter in line.chars() {
        match letter {
            _ if is_escaped => {
                word.get_or_insert_default().push(letter);
                is_escaped = false;
            }
            '\\' if is_quoted => is_escaped = true,
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            _ if letter.is_whitespace() && !is_quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

struct Rule<'a> {
    words: &'a [String],
    family: &'a str,
    /// Those of the table.
    chains: &'a [String],
}

impl Rule<'_> {
    fn expression(&self) -> Vec<Value> {
        let mut expression = Vec::new();
        // Of a match that begins: its name, and whether all that it asks has been read.
        let mut extension: Option<(&str, bool)> = None;
        let unread = |extension: Option<(&str, bool)>| {
            let (name, is_read) = extension?;
            (!is_read).then(|| json!({"xt": {"type": "match", "name": name}}))
        };
        let (mut rest, mut op) = (self.words, "==");
        while let Some((word, after)) = rest.split_first() {
            rest = after;
            let of_word = std::mem::replace(&mut op, "==");
            let value = rest.first().map_or("", String::as_str);
            match word.as_str() {
                "!" => op = "!=",
                "-m" => {
                    expression.extend(unread(extension.replace((value, value == "comment"))));
                    rest = rest.get(1..).unwrap_or_default();
                }
                "-j" | "-g" => {
                    expression.extend(unread(extension.take()));
                    expression.extend(self.end(word, value, rest));
                    break;
                }
                word => {
                    let (left, right) = self.condition(word, value);
                    if let Some((_, is_read)) = extension.as_mut().filter(|_| word.starts_with("--")) {
                        *is_read = !left.is_null() || word == "--dir" || word == "--comment";
                    }
                    if !left.is_null() {
                        expression.push(json!({"match": {"op": of_word, "left": left, "right": right}}));
                    }
                    let is_value = |word: &&String| !word.starts_with('-') && *word != "!";
                    rest = rest.get(rest.iter().take_while(is_value).count()..).unwrap_or_default();
                }
            }
        }
        expression.extend(unread(extension));
        expression
    }

    /// What an option compares, and with what; nothing, where it is not read.
    fn condition(&self, option: &str, value: &str) -> (Value, Value) {
        let meta = |key: &str| json!({"meta": {"key": key}});
        let address = |field: &str| json!({"payload": {"protocol": self.family, "field": field}});
        let interface = || match value.strip_suffix('+') {
            Some(start) => format!("{start}*").into(),
            None => Value::from(value),
        };
        let list = || value.to_lowercase().split(',').collect::<Value>();
        match option {
            "-s" => (address("saddr"), value.into()),
            "-d" => (address("daddr"), value.into()),
            "-i" => (meta("iifname"), interface()),
            "-o" => (meta("oifname"), interface()),
            // Where /etc/protocols is missing, numbers.
            "-p" => (meta("l4proto"), value.parse::<u8>().map_or_else(|_| value.into(), Value::from)),
            "--ctstate" | "--state" => (json!({"ct": {"key": "state"}}), list()),
            "--src-type" | "--dst-type" => (json!({"fib": {"result": "type"}}), list()),
            "--pol" => (meta("ipsec"), (value == "ipsec").into()),
            // Of rpfilter.
            "--invert" => (json!({"fib": {"result": "oif"}}), false.into()),
            // These are routed.
            "--physdev-is-bridged" | "--physdev-in" | "--physdev-out" => (meta("nfproto"), "bridge".into()),
            _ => (Value::Null, Value::Null),
        }
    }

    fn end(&self, how: &str, target: &str, options: &[String]) -> Option<Value> {
        let verdict = match target {
            "ACCEPT" | "DROP" | "REJECT" | "RETURN" | "QUEUE" | "MASQUERADE" | "SNAT" | "NOTRACK" => {
                target.to_lowercase()
            }
            "NFQUEUE" => "queue".to_owned(),
            "NETMAP" => "snat".to_owned(),
            "CT" if options.iter().any(|option| option == "--notrack") => "notrack".to_owned(),
            _ if self.chains.iter().any(|chain| chain == target) => {
                let how = if how == "-g" { "goto" } else { "jump" };
                return Some(json!({ how: {"target": target} }));
            }
            // It changes or notes something, and the chain goes on.
            _ => return None,
        };
        Some(json!({ verdict: null }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expression(rule: &str) -> Value {
        let text = format!("*filter\n:FORWARD DROP [0:0]\n:own - [0:0]\n-A FORWARD {rule}\nCOMMIT\n");
        let [table] = &tables(&text, "ip")[..] else { panic!("{text}") };
        assert_eq!(table.base_chains, [("FORWARD".to_owned(), "DROP".to_owned())]);
        let [(chain, expression)] = &table.rules[..] else { panic!("{text}") };
        assert_eq!(chain, "FORWARD");
        expression.clone().into()
    }

    #[test]
    fn rules_are_read_with_what_their_matches_ask() {
        let meta = |op: &str, key: &str, right: Value| json!({"match": {"op": op, "left": {"meta": {"key": key}}, "right": right}});
        let rule = r#"! -s 10.0.0.0/8 -i br-+ ! -o eth0 -m comment --comment "a -j b" -m conntrack --ctstate NEW,RELATED -g own"#;
        let source = json!({"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "10.0.0.0/8"}});
        let state = json!({"match": {"op": "==", "left": {"ct": {"key": "state"}}, "right": ["new", "related"]}});
        let end = json!({"goto": {"target": "own"}});
        let expected =
            json!([source, meta("==", "iifname", "br-*".into()), meta("!=", "oifname", "eth0".into()), state, end]);
        assert_eq!(expression(rule), expected);
        let of_match = |name: &str| json!({"xt": {"type": "match", "name": name}});
        let accept = json!({"accept": null});
        let ports = expression("-p tcp -m multiport --dports 22,80 -m mark ! --mark 0x1/0xff -j ACCEPT");
        assert_eq!(
            ports,
            json!([meta("==", "l4proto", "tcp".into()), of_match("multiport"), of_match("mark"), accept])
        );
        let secured = expression("-p 50 -m policy --dir in --pol ipsec -m socket -j ACCEPT");
        let ipsec = meta("==", "ipsec", true.into());
        assert_eq!(secured, json!([meta("==", "l4proto", 50.into()), ipsec, of_match("socket"), accept]));
        assert_eq!(expression("-j CT --notrack"), json!([{"notrack": null}]));
        assert_eq!(expression("-j LOG --log-prefix \"-j DROP\""), json!([]));
        assert_eq!(expression(""), json!([]));
    }

    proptest! {
        #[test]
        fn whatever_it_says_is_read(text in "(\\*t\n|:c - [0:0]\n|-A c|[ \n\"!\\\\]|-[mjgsip]|--[a-z]{1,5}|\\PC){0,60}") {
            tables(&text, "ip6");
        }
    }
}
