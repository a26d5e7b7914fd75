//! Names inside one pair of braces: registers and labels.

use std::collections::HashMap;

use crate::inst::Slot;

#[derive(Default)]
pub(crate) struct Scope {
    /// `%r<100>`: a prefix and how many there are.
    ranges: HashMap<String, u64>,
    names: HashMap<String, Option<Slot>>,
    pub(crate) labels: HashMap<String, u32>,
    /// Branches to labels not yet seen.
    pub(crate) waiting: Vec<Branch>,
}

/// A branch whose target is still a name.
pub(crate) struct Branch {
    pub(crate) inst: usize,
    /// Which target of a table.
    pub(crate) entry: usize,
    pub(crate) label: String,
}

impl Scope {
    /// Takes the words of `.reg .b32 %r<4>, x` after the type.
    pub(crate) fn declare(&mut self, words: &[String]) {
        for part in words.split(|word| word == ",") {
            match part {
                [name] => {
                    self.names.insert(name.clone(), None);
                }
                [prefix, open, count, _] if open == "<" => {
                    self.ranges.insert(prefix.clone(), count.parse().unwrap_or(0));
                }
                _ => {}
            }
        }
    }

    /// The register's slot if it is declared here; `fresh` makes one at its first use.
    pub(crate) fn register(&mut self, name: &str, fresh: impl FnOnce() -> Slot) -> Option<Slot> {
        if let Some(slot) = self.names.get_mut(name) {
            return Some(*slot.get_or_insert_with(fresh));
        }
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let index: u64 = name[prefix.len()..].parse().ok()?;
        if index >= *self.ranges.get(prefix)? {
            return None;
        }
        let slot = fresh();
        self.names.insert(name.to_owned(), Some(slot));
        Some(slot)
    }
}
