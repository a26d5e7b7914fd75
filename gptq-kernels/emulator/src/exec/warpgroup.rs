//! Products of a warpgroup: 64 rows of A, 16 for each of its warps, with columns of B in shared
//! memory.

use super::collective::{Failure, Lanes};
use super::descriptor::Descriptor;
use super::flight::{Flight, Product, poison};
use super::mark::Who;
use super::matrix::{DEPTH, element, sums};
use crate::inst::{Group, GroupProduct, Left, Slot};
use crate::types::Ty;

/// Rows of A that a warp multiplies, and that its warpgroup does.
const WARP_ROWS: usize = 16;
const GROUP_ROWS: usize = 64;

/// Rows of a factor, 16 elements each.
type Rows = Vec<[f64; DEPTH]>;

impl Lanes<'_> {
    pub(super) fn group(&mut self, what: &Group) -> Result<(), Failure> {
        let Some(flight) = self.flight.take() else { return Ok(()) };
        if !flight.complete {
            return Err((self.group[0], "the warp is in no complete warpgroup".into()));
        }
        match what {
            Group::Fence => flight.fence(self.regs, self.slots),
            Group::Commit => {
                let group = std::mem::take(&mut flight.open);
                flight.groups.push_back(group);
            }
            Group::Wait { left } => {
                while flight.groups.len() > *left as usize {
                    for product in flight.groups.pop_front().unwrap_or_default() {
                        self.finish(flight, &product)?;
                    }
                }
            }
            Group::Multiply(product) => self.issue(flight, product)?,
        }
        Ok(())
    }

    fn who(&self) -> Who {
        Who { thread: self.group[0] as u16, order: self.order }
    }

    fn first(&self, what: String) -> Failure {
        (self.group[0], what)
    }

    fn each(&self, slot: Slot) -> [u64; 32] {
        std::array::from_fn(|lane| self.get(self.group[lane], slot))
    }

    /// A value that all lanes must share.
    fn uniform(&self, slot: Slot, what: &str) -> Result<u64, Failure> {
        let values = self.each(slot);
        match values.iter().position(|&value| value != values[0]) {
            None => Ok(values[0]),
            Some(lane) => Err((self.group[lane], format!("{what} differs between lanes"))),
        }
    }

    fn issue(&mut self, flight: &mut Flight, product: &GroupProduct) -> Result<(), Failure> {
        if !flight.fenced {
            return Err(self.first("no wgmma.fence comes before the first wgmma".into()));
        }
        let add = self.uniform(product.add, "whether the product is added")? & 1 == 1;
        let right = self.uniform(product.b, "the descriptor of B")?;
        let mut shared = vec![(self.descriptor(right)?, product.columns)];
        let mut operands = vec![u64::from(add), right];
        let (left, words) = match product.a {
            Left::Registers(slots) => {
                let words = self.words(flight, slots)?;
                (self.fragment(product.ty, &words), Some((slots, words)))
            }
            Left::Shared(slot) => {
                let bits = self.uniform(slot, "the descriptor of A")?;
                let descriptor = self.descriptor(bits)?;
                shared.push((descriptor, GROUP_ROWS));
                operands.push(bits);
                // Which of its warps reads a row is the warpgroup's own business.
                let rows = self.rows(product.ty, descriptor, GROUP_ROWS)?;
                let own = self.group[0] / 32 % 4 * WARP_ROWS;
                (rows[own..own + WARP_ROWS].to_vec(), None)
            }
        };
        let right = self.rows(product.ty, shared[0].0, product.columns)?;
        for (index, pair) in product.d.chunks(4).enumerate() {
            let mut block = sums(&left, &right[8 * index..8 * index + 8]);
            if product.negate {
                block.iter_mut().flatten().for_each(|sum| *sum = -*sum);
            }
            for (part, &slot) in pair.iter().enumerate() {
                let place = (product.columns, 4 * index + part);
                self.accumulate(flight, slot, place, add, &block)?;
            }
        }
        flight.count(product, &operands);
        flight.open.push(Product { d: product.d.clone(), a: words, shared });
        Ok(())
    }

    fn descriptor(&self, bits: u64) -> Result<Descriptor, Failure> {
        Descriptor::parse(bits).map_err(|what| self.first(what))
    }

    /// Fragments of A, which must be as they were at the last fence.
    fn words(&self, flight: &mut Flight, slots: [Slot; 4]) -> Result<[[u64; 32]; 4], Failure> {
        let mut words = [[0; 32]; 4];
        for (word, slot) in words.iter_mut().zip(slots) {
            *word = self.each(slot);
            let cell = flight.cell(slot).map_err(|what| self.first(what))?;
            if cell.writers > 0 {
                let what = "a register of A is the result of a wgmma under way";
                return Err(self.first(what.into()));
            }
            self.unchanged(word, &cell.fenced, "A was changed with no wgmma.fence since")?;
        }
        Ok(words)
    }

    fn unchanged(&self, now: &[u64; 32], then: &[u64; 32], what: &str) -> Result<(), Failure> {
        match now.iter().zip(then).position(|(now, then)| now != then) {
            None => Ok(()),
            Some(lane) => Err((self.group[lane], format!("a register of {what}"))),
        }
    }

    /// The warp's rows of A, from the words of its lanes.
    fn fragment(&self, ty: Ty, words: &[[u64; 32]; 4]) -> Rows {
        let mut rows = vec![[0.0; DEPTH]; WARP_ROWS];
        for (index, lanes) in words.iter().enumerate() {
            for (lane, &word) in lanes.iter().enumerate() {
                let (row, k) = (lane / 4 + 8 * (index % 2), lane % 4 * 2 + 8 * (index / 2));
                for at in 0..2 {
                    rows[row][k + at] = element(ty, word, at);
                }
            }
        }
        rows
    }

    fn rows(&mut self, ty: Ty, from: Descriptor, count: usize) -> Result<Rows, Failure> {
        let mut rows = vec![[0.0; DEPTH]; count];
        let who = self.who();
        for (row, values) in rows.iter_mut().enumerate() {
            for (half, values) in values.chunks_mut(8).enumerate() {
                let bytes = self.store.begin_read(from.at(row, half), who);
                let bytes = bytes.map_err(|what| self.first(what))?;
                for (value, pair) in values.iter_mut().zip(bytes.chunks(2)) {
                    *value = element(ty, u16::from_le_bytes([pair[0], pair[1]]).into(), 0);
                }
            }
        }
        Ok(rows)
    }

    /// Adds a block's sums to a register of the result, which nobody sees before the wait.
    fn accumulate(
        &mut self,
        flight: &mut Flight,
        slot: Slot,
        place: (usize, usize),
        add: bool,
        block: &[[f64; 8]; WARP_ROWS],
    ) -> Result<(), Failure> {
        let (now, fresh) = (self.each(slot), flight.fresh);
        let cell = flight.cell(slot).map_err(|what| self.first(what))?;
        if cell.writers == 0 {
            // Compilers move zeros past the fence: what starts from them reads no register.
            if !(fresh && now == [0; 32]) {
                let what = "the result was changed with no wgmma.fence since";
                self.unchanged(&now, &cell.fenced, what)?;
            }
            cell.value = now.map(|bits| f32::from_bits(bits as u32));
        } else {
            self.unchanged(&now, &[poison(slot); 32], CHANGED)?;
            if cell.place != place {
                let what = "a register of the result is under way in another place or shape";
                return Err(self.first(what.into()));
            }
        }
        cell.place = place;
        cell.writers += 1;
        // Two columns of a row, then two of the row eight below.
        let part = place.1 % 4;
        for (lane, value) in cell.value.iter_mut().enumerate() {
            let sum = block[lane / 4 + part / 2 * 8][lane % 4 * 2 + part % 2];
            let start = if add { f64::from(*value) } else { 0.0 };
            *value = (start + sum) as f32;
        }
        for &thread in self.group {
            self.set(thread, slot, poison(slot));
        }
        Ok(())
    }

    /// A product that has been waited for.
    fn finish(&mut self, flight: &mut Flight, product: &Product) -> Result<(), Failure> {
        flight.fresh = false;
        if let Some((slots, words)) = &product.a {
            for (&slot, then) in slots.iter().zip(words) {
                self.unchanged(
                    &self.each(slot),
                    then,
                    "A was changed while a wgmma was under way",
                )?;
            }
        }
        for &(descriptor, rows) in &product.shared {
            for row in 0..rows {
                for half in 0..2 {
                    self.store.end_read(descriptor.at(row, half), self.who());
                }
            }
        }
        for &slot in &product.d {
            let now = self.each(slot);
            let cell = flight.cell(slot).map_err(|what| self.first(what))?;
            self.unchanged(&now, &[poison(slot); 32], CHANGED)?;
            cell.writers -= 1;
            if cell.writers > 0 {
                continue;
            }
            cell.fenced = cell.value.map(|value| value.to_bits().into());
            for (&thread, &bits) in self.group.iter().zip(&cell.fenced) {
                self.set(thread, slot, bits);
            }
        }
        Ok(())
    }
}

const CHANGED: &str = "the result was changed while a wgmma was under way";
