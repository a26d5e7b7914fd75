//! Variables of a module: global and constant memory, and shared memory that kernels ask for.

use std::collections::HashMap;

use crate::block::Block;
use crate::operand;
use crate::types::Ty;

pub(crate) enum Variable {
    /// Global or constant: it lies in host memory.
    Address(u64),
    Shared {
        align: u64,
        bytes: u64,
    },
    DynamicShared {
        align: u64,
    },
}

#[derive(Default)]
pub(crate) struct Variables {
    known: HashMap<String, Variable>,
    pub(crate) storage: Vec<(String, Block)>,
}

/// What a declaration says, before its space gives it a meaning.
pub(crate) struct Declaration {
    pub(crate) name: String,
    pub(crate) align: u64,
    pub(crate) bytes: u64,
    /// No size given: as large as the launch says.
    pub(crate) open: bool,
    element: usize,
    values: Vec<u64>,
}

impl Declaration {
    /// Takes the words after the space: `.align 4 .b8 name[16] = {1, 2}`.
    pub(crate) fn parse(words: &[String]) -> Option<Self> {
        let mut rest = words.iter().map(String::as_str).peekable();
        let mut align = None;
        let mut ty = None;
        let mut lanes = 1;
        let name = loop {
            let word = rest.next()?;
            if word == ".align" {
                align = Some(rest.next()?.parse().ok()?);
            } else if let Some(vector) = word.strip_prefix(".v") {
                lanes = vector.parse().ok()?;
            } else if let Some(directive) = word.strip_prefix('.') {
                // Other directives, such as `.attribute`, do not change the size.
                ty = Ty::parse(directive).or(ty);
            } else {
                break word.to_owned();
            }
        };
        let element = ty?.size();
        let mut count = lanes;
        let mut open = false;
        while rest.next_if_eq(&"[").is_some() {
            match rest.next()? {
                "]" => open = true,
                length => {
                    count *= operand::number(length)?;
                    rest.next_if_eq(&"]")?;
                }
            }
        }
        let mut values = Vec::new();
        if rest.next_if_eq(&"=").is_some() {
            let mut negative = false;
            for word in rest {
                match word {
                    "{" | "}" | "," => {}
                    "-" => negative = true,
                    _ => {
                        let value = operand::number(word)?;
                        values.push(if negative { value.wrapping_neg() } else { value });
                        negative = false;
                    }
                }
            }
        }
        let bytes = count * element as u64;
        Some(Self { name, align: align.unwrap_or(element as u64), bytes, open, element, values })
    }
}

impl Variables {
    pub(crate) fn find(&self, name: &str) -> Option<&Variable> {
        self.known.get(name)
    }

    pub(crate) fn add_shared(&mut self, declaration: Declaration) {
        let Declaration { name, align, bytes, open, .. } = declaration;
        let variable = if open {
            Variable::DynamicShared { align }
        } else {
            Variable::Shared { align, bytes }
        };
        self.known.insert(name, variable);
    }

    /// Places a variable in host memory with its first values.
    pub(crate) fn add_global(&mut self, declaration: Declaration) {
        let Declaration { name, bytes, element, values, .. } = declaration;
        let mut block = Block::new(bytes.max(1) as usize, 0);
        for (slot, value) in block.bytes_mut().chunks_mut(element).zip(values) {
            slot.copy_from_slice(&value.to_le_bytes()[..slot.len()]);
        }
        self.known.insert(name.clone(), Variable::Address(block.address()));
        self.storage.push((name, block));
    }
}
