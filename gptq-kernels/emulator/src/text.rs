//! From PTX text to statements: comments and line directives go, words stay.

/// A word, a string or one sign, with the line it stands on.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// These end with their line and not with a semicolon.
const LINE_DIRECTIVES: [&str; 5] = [".loc", ".file", ".version", ".target", ".address_size"];

/// The architecture in the text's `.target`.
pub(crate) fn target(ptx: &str) -> &str {
    let mut lines = ptx.lines().map(str::trim_start);
    let named = lines.find_map(|line| line.strip_prefix(".target"));
    let end = |c: char| c == ',' || c == '/' || c.is_whitespace();
    named.and_then(|rest| rest.trim_start().split(end).next()).unwrap_or_default()
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

pub(crate) fn tokens(ptx: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut in_comment = false;
    for (at, line) in ptx.lines().enumerate() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !in_comment && LINE_DIRECTIVES.contains(&first) {
            continue;
        }
        line_tokens(line, at + 1, &mut in_comment, &mut found);
    }
    found
}

fn line_tokens(line: &str, number: usize, in_comment: &mut bool, found: &mut Vec<Token>) {
    let mut rest = line;
    loop {
        if *in_comment {
            let Some(end) = rest.find("*/") else { return };
            rest = &rest[end + 2..];
            *in_comment = false;
        }
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { return };
        if rest.starts_with("//") {
            return;
        }
        if rest.starts_with("/*") {
            *in_comment = true;
            rest = &rest[2..];
            continue;
        }
        let length = if first == '"' {
            rest[1..].find('"').map_or(rest.len(), |end| end + 2)
        } else if is_word(first) {
            word_length(rest)
        } else {
            first.len_utf8()
        };
        found.push(Token { text: rest[..length].to_owned(), line: number });
        rest = &rest[length..];
    }
}

/// A word goes through `::`, which only mnemonics have, and stops before a label's `:`.
fn word_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if is_word(bytes[at] as char) {
            at += 1;
        } else if text[at..].starts_with("::") {
            at += 2;
        } else {
            break;
        }
    }
    at
}

/// A reader over tokens.
pub(crate) struct Cursor {
    tokens: Vec<Token>,
    at: usize,
}

impl Cursor {
    pub(crate) fn new(tokens: Vec<Token>) -> Self {
        Self { tokens, at: 0 }
    }

    pub(crate) fn peek(&self) -> Option<&str> {
        self.peek_at(0)
    }

    pub(crate) fn peek_at(&self, ahead: usize) -> Option<&str> {
        self.tokens.get(self.at + ahead).map(|token| token.text.as_str())
    }

    pub(crate) fn line(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |token| token.line)
    }

    /// The next word, or nothing at all at the end.
    pub(crate) fn next(&mut self) -> String {
        let text = self.tokens.get(self.at).map(|token| token.text.clone()).unwrap_or_default();
        self.at += 1;
        text
    }

    /// Takes the word if it comes next.
    pub(crate) fn take(&mut self, text: &str) -> bool {
        let here = self.peek() == Some(text);
        self.at += usize::from(here);
        here
    }

    /// Everything up to the semicolon, which goes too.
    pub(crate) fn statement(&mut self) -> Vec<String> {
        let mut words = Vec::new();
        while let Some(word) = self.peek() {
            if word == ";" {
                self.at += 1;
                break;
            }
            words.push(word.to_owned());
            self.at += 1;
        }
        words
    }

    /// Skips what stands between the next brace and its partner.
    pub(crate) fn skip_braces(&mut self) {
        let mut depth = 0;
        loop {
            match self.next().as_str() {
                "{" => depth += 1,
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        return;
                    }
                }
                "" => return,
                _ => {}
            }
        }
    }
}
