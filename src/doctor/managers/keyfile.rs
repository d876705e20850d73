//! Sections and settings as both programs write them, and patterns of names.

/// Settings with the name of the section that they are in, in order.
pub fn settings(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let mut section = "";
    text.lines().map(str::trim).filter_map(move |line| {
        if let Some(name) = line.strip_prefix('[') {
            section = name.strip_suffix(']').unwrap_or("");
            return None;
        }
        let (key, value) = line.split_once('=').filter(|_| !line.starts_with(['#', ';']))?;
        Some((section, key.trim(), value.trim()))
    })
}

/// Shell patterns with `*`, `?` and `[a-z]`; in time of their lengths' product.
pub fn is_like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(seen) {
        let rest = pattern.get(at..).unwrap_or_default();
        if rest.first() == Some(&b'*') {
            star = Some((at, seen));
            at += 1;
        } else if let Some(length) = one(rest, *byte) {
            at += length;
            seen += 1;
        } else {
            let Some((place, taken)) = star else { return false };
            star = Some((place, taken + 1));
            at = place + 1;
            seen = taken + 1;
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

/// How much of the pattern stands for this one byte; nothing if it is for another.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    let (first, rest) = pattern.split_first()?;
    // A first `]` is one of the bytes, and a bracket that is never closed is only itself.
    let end = rest.iter().skip(2).position(|byte| *byte == b']').map(|at| at + 2);
    let end = end.or_else(|| (rest.get(1) == Some(&b']')).then_some(1)).filter(|_| *first == b'[');
    let Some(mut set) = end.and_then(|end| rest.get(..end)) else {
        return (*first == b'?' || *first == byte).then_some(1);
    };
    let length = set.len() + 2;
    let is_inverted = set.len() > 1 && matches!(set, [b'!' | b'^', ..]);
    set = set.get(usize::from(is_inverted)..).unwrap_or_default();
    let mut is_in = false;
    while let Some((low, after)) = set.split_first() {
        let (high, after) = match after {
            [b'-', high, after @ ..] => (high, after),
            _ => (low, after),
        };
        is_in |= (*low..=*high).contains(&byte);
        set = after;
    }
    (is_in != is_inverted).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_what_a_shell_takes_it_for() {
        for (pattern, name) in [
            ("*", "a"),
            ("a?c*", "abc"),
            ("*-nat", "kamei-nat"),
            ("k[a-c]m*", "kamei-nat"),
            ("[!x]amei[-_]nat", "kamei-nat"),
            ("k[]a]m*", "kam"),
            ("[a", "[a"),
            ("x[a]", "xa"),
        ] {
            assert!(is_like(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in
            [("", "a"), ("a", ""), ("a?", "a"), ("k[b-z]mei", "kamei"), ("[!k]*", "kamei"), ("[k", "k"), ("*a", "b")]
        {
            assert!(!is_like(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        assert!(!is_like(&b"*a".repeat(200), &b"b".repeat(200)));
    }

    #[test]
    fn settings_are_told_with_their_sections() {
        let text = "x=0\n[A]\n a = 1 \n#a=2\n;a=3\nword\n[B\nb=4\n[A]\na=b=c\n";
        let found: Vec<_> = settings(text).collect();
        assert_eq!(found, [("", "x", "0"), ("A", "a", "1"), ("", "b", "4"), ("A", "a", "b=c")]);
    }
}
