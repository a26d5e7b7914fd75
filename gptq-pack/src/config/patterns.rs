//! Names and parts of names as the regular expressions of `dynamic` rules, and back.
//!
//! Rules match from the first character on and need not reach the last, so `name$` is one module and
//! `.*part` every module whose name contains a part.

/// Characters that mean something to a regular expression.
const META: &str = r"\.+*?()|[]{}^$#&-~/ ";

/// The rule that matches exactly this module.
pub(super) fn exactly(name: &str) -> String {
    escape(name) + "$"
}

/// The rule that matches every module whose name contains this.
pub(super) fn containing(part: &str) -> String {
    format!(".*{}", escape(part))
}

/// What a rule made by [`exactly`] or [`containing`] stands for. Both are what AWQ's list of parts
/// says, as far as a full name is no part of another.
pub(super) fn literal(rule: &str) -> Option<String> {
    let rule = rule.strip_prefix(".*").unwrap_or(rule);
    let rule = rule.strip_suffix('$').unwrap_or(rule);
    unescape(rule).filter(|text| !text.is_empty())
}

/// The name of the only module that a rule matches, if it was made by [`exactly`].
pub(super) fn only(rule: &str) -> Option<String> {
    unescape(rule.strip_suffix('$')?)
}

fn escape(text: &str) -> String {
    let escaped = |c| [META.contains(c).then_some('\\'), Some(c)].into_iter().flatten();
    text.chars().flat_map(escaped).collect()
}

fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let plain = match c {
            '\\' => chars.next().filter(|&c| META.contains(c))?,
            '-' | '~' | '/' | '&' | '#' | ' ' => c,
            _ if META.contains(c) => return None,
            _ => c,
        };
        out.push(plain);
    }
    Some(out)
}

/// A rule's text without its prefix, and whether it skips.
pub(super) fn split(rule: &str) -> (bool, &str) {
    match rule.strip_prefix("-:") {
        Some(rest) => (true, rest),
        None => (false, rule.strip_prefix("+:").unwrap_or(rule)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_come_back() {
        for name in ["model.layers.1.mlp.gate", "a-b/c d", r"odd\name(1)"] {
            assert_eq!(only(&exactly(name)).as_deref(), Some(name));
            assert_eq!(literal(&containing(name)).as_deref(), Some(name));
        }
        assert_eq!(literal(r".*\.\d+"), None);
        assert_eq!(only("gate|up$"), None);
        assert_eq!(split("-:a"), (true, "a"));
        assert_eq!(split("+:a"), (false, "a"));
    }

    #[test]
    fn rules_match_what_they_say() {
        let matches = |rule: &str, name| {
            fancy_regex::Regex::new(&format!("^(?:{rule})")).unwrap().is_match(name).unwrap()
        };
        assert!(matches(&exactly("a.1"), "a.1"));
        assert!(!matches(&exactly("a.1"), "a.10") && !matches(&exactly("a.1"), "ab1"));
        assert!(matches(&containing("gate"), "h.0.gate_proj"));
        assert!(!matches(&containing("h.0"), "h10"));
    }
}
