//! Operands as written, before names become register slots.

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A register, a symbol or a label.
    Name(String),
    /// `!%p`.
    Not(String),
    /// A number, as its bits.
    Number(u64),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `[base+offset]`.
    Address(Box<Operand>, i64),
    /// `%p|%q`.
    Pair(String, String),
}

/// Reads operands separated by commas; none if something has no meaning.
pub(crate) fn operands(words: &[String]) -> Option<Vec<Operand>> {
    let mut rest = words;
    let mut found = Vec::new();
    while !rest.is_empty() {
        found.push(operand(&mut rest)?);
        if !rest.is_empty() && take(&mut rest)? != "," {
            return None;
        }
    }
    Some(found)
}

fn take<'a>(rest: &mut &'a [String]) -> Option<&'a str> {
    let (first, others) = rest.split_first()?;
    *rest = others;
    Some(first)
}

fn next_is(rest: &[String], text: &str) -> bool {
    rest.first().is_some_and(|word| word == text)
}

fn operand(rest: &mut &[String]) -> Option<Operand> {
    let word = take(rest)?;
    match word {
        "{" => {
            let mut parts = Vec::new();
            loop {
                parts.push(operand(rest)?);
                match take(rest)? {
                    "," => {}
                    "}" => return Some(Operand::Vector(parts)),
                    _ => return None,
                }
            }
        }
        "[" => {
            let base = operand(rest)?;
            let mut offset = 0i64;
            loop {
                match take(rest)? {
                    "]" => return Some(Operand::Address(Box::new(base), offset)),
                    "+" => {
                        let sign = if next_is(rest, "-") { -1 } else { 1 };
                        if sign < 0 {
                            take(rest)?;
                        }
                        offset += sign * number(take(rest)?)? as i64;
                    }
                    "-" => offset -= number(take(rest)?)? as i64,
                    _ => return None,
                }
            }
        }
        "!" => Some(Operand::Not(take(rest)?.to_owned())),
        "-" => Some(Operand::Number((number(take(rest)?)? as i64).wrapping_neg() as u64)),
        _ => {
            if let Some(value) = number(word) {
                return Some(Operand::Number(value));
            }
            if next_is(rest, "|") {
                take(rest)?;
                return Some(Operand::Pair(word.to_owned(), take(rest)?.to_owned()));
            }
            Some(Operand::Name(word.to_owned()))
        }
    }
}

/// A literal's bits: whole numbers, and floats given by their bits.
pub(crate) fn number(word: &str) -> Option<u64> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let radix = |digits: &str, radix| u64::from_str_radix(digits.trim_end_matches('u'), radix).ok();
    if let Some(digits) = lower.strip_prefix("0x") {
        radix(digits, 16)
    } else if let Some(digits) = lower.strip_prefix("0f").or_else(|| lower.strip_prefix("0d")) {
        radix(digits, 16)
    } else if let Some(digits) = lower.strip_prefix("0b") {
        radix(digits, 2)
    } else if lower.len() > 1 && lower.starts_with('0') {
        radix(&lower[1..], 8)
    } else {
        radix(&lower, 10)
    }
}
