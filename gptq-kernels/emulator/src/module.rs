//! A module: what one PTX text declares.

use std::collections::BTreeMap;

use crate::builder::Builder;
use crate::decode;
use crate::error::Error;
use crate::kernel::{Kernel, Parameter};
use crate::operand::number;
use crate::text::{Cursor, target, tokens};
use crate::variable::{Declaration, Variables};

/// Parsed PTX: its kernels and its variables.
pub struct Module {
    pub(crate) kernels: BTreeMap<String, Kernel>,
    pub(crate) variables: Variables,
}

/// An error for the statement that stands at the cursor.
fn refuse(line: usize, text: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::Parse { line, text: text.into(), reason: reason.into() }
}

impl Module {
    /// Reads PTX text; an instruction that the emulator does not know is an error.
    pub fn parse(ptx: &str) -> Result<Self, Error> {
        let mut cursor = Cursor::new(tokens(ptx));
        let target = target(ptx);
        let mut module = Self { kernels: BTreeMap::new(), variables: Variables::default() };
        while let Some(word) = cursor.peek() {
            match word {
                ".visible" | ".extern" | ".weak" | ".common" | ";" => {
                    cursor.next();
                }
                ".entry" => module.entry(&mut cursor, target)?,
                ".func" => skip_function(&mut cursor),
                ".section" => cursor.skip_braces(),
                ".pragma" => {
                    cursor.statement();
                }
                ".global" | ".const" | ".shared" => module.variable(&mut cursor)?,
                _ => {
                    let line = cursor.line();
                    return Err(refuse(line, cursor.statement().join(" "), "unknown directive"));
                }
            }
        }
        Ok(module)
    }

    /// Names of the kernels, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.kernels.keys().map(String::as_str)
    }

    /// The parameters of a kernel.
    pub fn parameters(&self, kernel: &str) -> Option<&[Parameter]> {
        self.kernels.get(kernel).map(|kernel| kernel.parameters.as_slice())
    }

    /// Bytes of static shared memory, and the most threads that the kernel was compiled for.
    pub fn limits(&self, kernel: &str) -> Option<(usize, Option<u32>)> {
        self.kernels.get(kernel).map(|kernel| (kernel.static_shared, kernel.max_threads))
    }

    /// Address and bytes of a module variable.
    pub fn global(&self, name: &str) -> Option<(u64, usize)> {
        let mut storage = self.variables.storage.iter();
        storage.find(|(known, ..)| known == name).map(|(_, block)| (block.address(), block.len()))
    }

    fn variable(&mut self, cursor: &mut Cursor) -> Result<(), Error> {
        let line = cursor.line();
        let shared = cursor.next() == ".shared";
        let words = cursor.statement();
        let declaration = Declaration::parse(&words)
            .ok_or_else(|| refuse(line, words.join(" "), "not a declaration that is known"))?;
        if shared {
            self.variables.add_shared(declaration);
        } else {
            self.variables.add_global(declaration);
        }
        Ok(())
    }

    fn entry(&mut self, cursor: &mut Cursor, target: &str) -> Result<(), Error> {
        cursor.next();
        let name = cursor.next();
        let parameters = parameters(cursor)?;
        let mut max_threads = None;
        while let Some(word) = cursor.peek() {
            match word {
                "{" => break,
                ";" => return Ok(()),
                ".maxntid" | ".reqntid" => {
                    cursor.next();
                    max_threads = Some(product(cursor));
                }
                _ => {
                    cursor.next();
                }
            }
        }
        let mut builder = Builder::new(name.clone(), parameters, &self.variables, target);
        body(cursor, &mut builder)?;
        let line = cursor.line();
        let kernel =
            builder.finish(max_threads).map_err(|reason| refuse(line, name.as_str(), reason))?;
        self.kernels.insert(name, kernel);
        Ok(())
    }
}

/// Functions are inlined in what is run; their text only has to be passed over.
fn skip_function(cursor: &mut Cursor) {
    while let Some(word) = cursor.peek() {
        match word {
            "{" => return cursor.skip_braces(),
            ";" => return,
            _ => {
                cursor.next();
            }
        }
    }
}

/// `256, 1, 1` as one number.
fn product(cursor: &mut Cursor) -> u32 {
    let mut total = 1;
    loop {
        total *= number(&cursor.next()).unwrap_or(1) as u32;
        if !cursor.take(",") {
            return total;
        }
    }
}

fn parameters(cursor: &mut Cursor) -> Result<Vec<(String, Parameter)>, Error> {
    let mut found: Vec<(String, Parameter)> = Vec::new();
    let mut end = 0;
    if !cursor.take("(") {
        return Ok(found);
    }
    while !cursor.take(")") {
        let line = cursor.line();
        let mut words = Vec::new();
        while !matches!(cursor.peek(), Some("," | ")") | None) {
            words.push(cursor.next());
        }
        cursor.take(",");
        let declaration = words
            .split_first()
            .filter(|(first, _)| *first == ".param")
            .and_then(|(_, rest)| Declaration::parse(&plain_parameter(rest)))
            .ok_or_else(|| refuse(line, words.join(" "), "not a parameter"))?;
        let offset = (end as usize).next_multiple_of(declaration.align.max(1) as usize);
        let size = declaration.bytes as usize;
        end = (offset + size) as u64;
        found.push((declaration.name, Parameter { offset, size }));
    }
    Ok(found)
}

/// Without `.ptr .global .align 16`, which speaks of what a pointer points to.
fn plain_parameter(words: &[String]) -> Vec<String> {
    let Some(at) = words.iter().position(|word| word == ".ptr") else { return words.to_vec() };
    let mut kept = words[..at].to_vec();
    kept.extend(words.last().cloned());
    kept
}

/// Everything between a kernel's braces.
fn body(cursor: &mut Cursor, builder: &mut Builder<'_>) -> Result<(), Error> {
    cursor.take("{");
    let mut depth = 1;
    while depth > 0 {
        let line = cursor.line();
        let fail = |text: &str, reason: String| refuse(line, text, reason);
        match cursor.peek() {
            None => return Err(refuse(line, "", "the text ends inside a kernel")),
            Some("{") => {
                cursor.next();
                builder.open();
                depth += 1;
            }
            Some("}") => {
                cursor.next();
                depth -= 1;
                if depth > 0 {
                    builder.close().map_err(|reason| fail("}", reason))?;
                }
            }
            Some(";") => {
                cursor.next();
            }
            Some(_) if cursor.peek_at(1) == Some(":") => {
                let label = cursor.next();
                cursor.next();
                if matches!(cursor.peek(), Some(".branchtargets")) {
                    let targets = cursor.statement();
                    let names = targets[1..].iter().filter(|word| *word != ",").cloned();
                    builder.tables.insert(label, names.collect());
                } else {
                    builder.label(label);
                }
            }
            Some(_) => {
                let words = cursor.statement();
                let text = words.join(" ");
                decode::statement(builder, &words, line).map_err(|reason| fail(&text, reason))?;
            }
        }
    }
    Ok(())
}
