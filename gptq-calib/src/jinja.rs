//! The Jinja that chat templates are written for: the one Transformers sets up, on `minijinja`.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// Today, to templates that ask. A fixed date keeps a rendered calibration set the same tomorrow;
/// it is the one the Llama 3 templates fall back on.
const DATE: [(char, &str); 10] = [
    ('Y', "2024"),
    ('y', "24"),
    ('m', "07"),
    ('d', "26"),
    ('B', "July"),
    ('b', "Jul"),
    ('A', "Friday"),
    ('a', "Fri"),
    ('H', "00"),
    ('M', "00"),
];

/// Instructions of one rendering: a hundred times what the longest templates need for a long
/// conversation, and a second or two of work.
const MOST_STEPS: u64 = 10_000_000;

/// Bytes of the longest text that a template may write.
pub(crate) const LONGEST_TEXT: usize = 64 << 20;

/// The widest indentation of a line of JSON.
const WIDEST_INDENT: usize = 64;

/// What a template writes, up to [`LONGEST_TEXT`].
#[derive(Default)]
pub(crate) struct Bounded {
    text: Vec<u8>,
    overflowed: bool,
}

impl Bounded {
    /// The text, or the error that ended it; `None` if it became too long.
    pub(crate) fn into_text<E>(self, written: Result<(), E>) -> Option<Result<String, E>> {
        match self.overflowed {
            true => None,
            // Templates write strings only.
            false => Some(written.map(|()| String::from_utf8_lossy(&self.text).into_owned())),
        }
    }
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() > LONGEST_TEXT - self.text.len() {
            self.overflowed = true;
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An interpreter with the block trimming, functions and filters that chat templates count on.
pub(crate) fn environment() -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_fuel(Some(MOST_STEPS));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env.add_filter("tojson", tojson);
    Ok(env)
}

/// Rewrites `{% generation %}` … `{% endgeneration %}`, with which Transformers marks the
/// assistant's tokens for training, to a block that does nothing.
pub(crate) fn without_generation_marks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find("{%") {
        // `{%}` opens a tag and does not close it.
        let Some(length) = rest[open + 2..].find("%}").map(|inner| 2 + inner) else { break };
        let tag = &rest[open..open + length];
        out.push_str(&rest[..open]);
        match tag[2..].trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = &rest[open + length..];
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: String) -> Result<String, Error> {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = chars.next().unwrap_or('%');
        let Some((_, text)) = DATE.iter().find(|(name, _)| *name == directive) else {
            let message = format!("strftime_now knows no %{directive} (in {format:?})");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        };
        out.push_str(text);
    }
    Ok(out)
}

/// Python's `json.dumps(value, ensure_ascii=False)`, optionally indented. The filter that comes
/// with `minijinja` writes for HTML pages: no spaces, and `<` escaped.
fn tojson(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    match indent {
        Some(width) if width > WIDEST_INDENT => {
            let message = format!("tojson indents by {width}, but at most by {WIDEST_INDENT}");
            Err(Error::new(ErrorKind::InvalidOperation, message))
        }
        Some(width) => {
            to_json_with(&value, PrettyFormatter::with_indent(" ".repeat(width).as_bytes()))
        }
        None => to_json_with(&value, OneLine),
    }
}

fn to_json_with(value: &Value, formatter: impl Formatter) -> Result<String, Error> {
    let failed = |message: String| Error::new(ErrorKind::BadSerialization, message);
    let mut out = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut out, formatter))
        .map_err(|error| failed(error.to_string()))?;
    String::from_utf8(out).map_err(|error| failed(error.to_string()))
}

/// Python's separators: `", "` and `": "`.
struct OneLine;

impl Formatter for OneLine {
    fn begin_array_value<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, Error> {
        environment()?.render_str(&without_generation_marks(template), ())
    }

    #[test]
    fn json_is_python_json() {
        let out = render("{{ {'a': [1, 'x<é'], 'b': true} | tojson }}").unwrap();
        assert_eq!(out, r#"{"a": [1, "x<é"], "b": true}"#);
        assert_eq!(render("{{ [1] | tojson(indent=2) }}").unwrap(), "[\n  1\n]");
    }

    #[test]
    fn python_methods_and_trimming() {
        let out = render("{% if true %}\n{{ ' a b '.strip().split(' ')[-1] }}\n{% endif %}\n");
        assert_eq!(out.unwrap(), "b\n");
    }

    #[test]
    fn generation_marks_vanish() {
        let marked = "a {%- generation %} b {%- endgeneration -%} c{% set x = '%' %}";
        assert_eq!(render(marked).unwrap(), "a bc");
        for broken in ["{% open", "{%", "{%}", "{%}{%", "{%}é%}{%%}"] {
            assert_eq!(without_generation_marks(broken), broken);
        }
    }

    #[test]
    fn the_date_stands_still() {
        assert_eq!(render("{{ strftime_now('%d %b %Y') }}").unwrap(), "26 Jul 2024");
        assert!(render("{{ strftime_now('%q') }}").unwrap_err().to_string().contains("%q"));
    }
}
