//! Numbers for people.

/// Three digits that matter: `0.0123`, `12.3`, `1234`, `1.23e-7`.
pub(super) fn plain(x: f64) -> String {
    let size = x.abs();
    match size {
        _ if x == 0.0 => "0".to_owned(),
        _ if !x.is_finite() => x.to_string(),
        s if !(1e-3..1e6).contains(&s) => format!("{x:.2e}"),
        s => {
            let digits = (2 - s.log10().floor() as i32).max(0) as usize;
            let text = format!("{x:.digits$}");
            match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text,
            }
        }
    }
}

/// A share as `12.3%`.
pub(super) fn percent(share: f64) -> String {
    match 100.0 * share {
        p if p > 0.0 && p < 0.01 => "<0.01%".to_owned(),
        p if p > 0.0 && p < 0.1 => format!("{p:.2}%"),
        p if p.abs() < 100.0 => format!("{p:.1}%"),
        p if p.abs() < 1e4 => format!("{p:.0}%"),
        p => format!("{}%", plain(p)),
    }
}

/// A share as `12%`, with a digit more below ten.
pub(super) fn percent_short(share: f64) -> String {
    match 100.0 * share {
        p if p.abs() >= 1e4 => format!("{}%", plain(p)),
        p if p == p.round() || p.abs() >= 10.0 => format!("{p:.0}%"),
        p => format!("{p:.1}%"),
    }
}

/// Two digits that matter, for narrow places.
pub(super) fn short(x: f64) -> String {
    match x.abs() {
        s if !(1e-3..1e4).contains(&s) => format!("{x:.0e}"),
        s if s >= 10.0 => format!("{x:.0}"),
        s if s >= 1.0 => format!("{x:.1}"),
        s => format!("{x:.prec$}", prec = (1 - s.log10().floor() as i32).max(0) as usize),
    }
}

/// `4 096` with thin spaces.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// `0.12 s`, `12.3 s`, `2:03 min`, `1:02:03 h`.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 1.0 => format!("{} ms", plain(1000.0 * s)),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{}:{:02} min", whole / 60, whole % 60),
        s if s >= 1e7 => format!("{} s", plain(s)),
        _ => format!("{}:{:02}:{:02} h", whole / 3600, whole / 60 % 60, whole % 60),
    }
}

/// `one layer`, `12 layers`.
pub(super) fn of(n: usize, one: &str, many: &str) -> String {
    match n {
        1 => format!("one {one}"),
        _ => format!("{} {many}", count(n as u64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let cases = [
            (0.0, "0"),
            (0.14234, "0.142"),
            (65.533, "65.5"),
            (1234.0, "1234"),
            (2.0, "2"),
            (1e-7, "1.00e-7"),
        ];
        for (x, text) in cases {
            assert_eq!(plain(x), text);
        }
        assert_eq!(percent(0.26189), "26.2%");
        assert_eq!(count(84_934_656), "84\u{202f}934\u{202f}656");
        assert_eq!(duration(7.48), "7.5 s");
        assert_eq!(duration(125.0), "2:05 min");
    }
}
