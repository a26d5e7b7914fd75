//! Where a linear is, as its name tells: block, projection, expert.

use std::collections::BTreeMap;

use gptq_models::LayerReport;

/// The parts of `model.layers.3.mlp.experts.7.up_proj`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Up to the block: `model.layers`; empty without a block.
    pub(super) stack: String,
    /// The first number of the name.
    pub(super) block: Option<u64>,
    /// What follows, without the expert's number: `mlp.experts.*.up_proj`.
    pub(super) kind: String,
    /// The second number.
    pub(super) expert: Option<u64>,
}

impl Place {
    pub(super) fn of(name: &str) -> Self {
        let parts: Vec<&str> = name.split('.').collect();
        let number = |part: &&str| part.parse::<u64>().ok();
        let Some(at) = parts.iter().position(|part| number(part).is_some()) else {
            return Self { stack: String::new(), block: None, kind: name.to_owned(), expert: None };
        };
        let rest = &parts[at + 1..];
        let expert = rest.iter().find_map(number);
        let kind: Vec<&str> =
            rest.iter().map(|part| if number(part).is_some() { "*" } else { *part }).collect();
        Self {
            stack: parts[..at].join("."),
            block: number(&parts[at]),
            kind: kind.join("."),
            expert,
        }
    }
}

/// Linears of one kind in one block; experts together.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    /// Index into [`Grid::kinds`].
    pub(super) kind: usize,
    /// Index into [`Grid::columns`].
    pub(super) column: usize,
    pub(super) linears: usize,
    /// Summed over the linears that have both.
    pub(super) loss: Option<f64>,
    pub(super) rtn: Option<f64>,
    pub(super) fallbacks: usize,
    /// The fewest and the most bits.
    pub(super) bits: (u32, u32),
    pub(super) seconds: f64,
}

impl Cell {
    /// What is left of rounding's loss.
    pub(super) fn ratio(&self) -> Option<f64> {
        ratio(self.loss?, self.rtn?)
    }
}

/// `loss / rtn`, if that is a number.
pub(super) fn ratio(loss: f64, rtn: f64) -> Option<f64> {
    Some(loss / rtn).filter(|ratio| ratio.is_finite() && *ratio >= 0.0)
}

/// All linears by kind and depth.
pub(super) struct Grid {
    /// As short as they can be told apart, in the order of the run.
    pub(super) kinds: Vec<String>,
    /// Blocks in the order of the run, those without a block last and by the name of their kind.
    pub(super) columns: Vec<String>,
    /// In the order of the run.
    pub(super) cells: Vec<Cell>,
}

impl Grid {
    pub(super) fn new(layers: &[LayerReport]) -> Self {
        let places: Vec<Place> = layers.iter().map(|layer| Place::of(&layer.name)).collect();
        let mut stacks: Vec<&str> = Vec::new();
        let (mut kinds, mut blocks, mut loose) = (Vec::new(), Vec::new(), Vec::new());
        for place in &places {
            push(&mut kinds, place.kind.as_str());
            match place.block {
                Some(block) => {
                    push(&mut stacks, place.stack.as_str());
                    push(&mut blocks, (place.stack.as_str(), block));
                }
                None => push(&mut loose, place.kind.as_str()),
            }
        }
        let kind_at = index(&kinds);
        let (block_at, loose_at) = (index(&blocks), index(&loose));
        let mut found: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        let mut cells: Vec<Cell> = Vec::new();
        for (layer, place) in layers.iter().zip(&places) {
            let kind = kind_at[place.kind.as_str()];
            let column = match place.block {
                Some(block) => block_at[&(place.stack.as_str(), block)],
                None => blocks.len() + loose_at[place.kind.as_str()],
            };
            let at = *found.entry((kind, column)).or_insert_with(|| {
                cells.push(Cell { kind, column, bits: (u32::MAX, 0), ..Cell::default() });
                cells.len() - 1
            });
            add(&mut cells[at], layer);
        }
        let (stack_at, short_stacks) = (index(&stacks), short(&stacks));
        let block = |(stack, block): &(&str, u64)| match stacks.len() {
            0 | 1 => block.to_string(),
            _ => format!("{}.{block}", short_stacks[stack_at[stack]]),
        };
        Self {
            columns: blocks.iter().map(block).chain(loose.iter().map(|k| last(k))).collect(),
            kinds: short(&kinds),
            cells,
        }
    }
}

fn add(cell: &mut Cell, layer: &LayerReport) {
    cell.linears += 1;
    cell.fallbacks += usize::from(layer.fallback.is_some());
    cell.bits = (cell.bits.0.min(layer.bits), cell.bits.1.max(layer.bits));
    cell.seconds += layer.seconds;
    if let (Some(loss), Some(rtn)) = (layer.loss, layer.rtn_loss) {
        cell.loss = Some(cell.loss.unwrap_or(0.0) + loss);
        cell.rtn = Some(cell.rtn.unwrap_or(0.0) + rtn);
    }
}

/// Adds what is not there. The lists are short, or the last entry is most often the one.
fn push<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if list.last() != Some(&item) && !list.contains(&item) {
        list.push(item);
    }
}

fn index<T: Ord + Copy>(list: &[T]) -> BTreeMap<T, usize> {
    list.iter().enumerate().map(|(at, item)| (*item, at)).collect()
}

fn last(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).to_owned()
}

/// Each name by as few of its last parts as tell it from all others.
fn short(names: &[&str]) -> Vec<String> {
    let tail = |name: &str, parts: usize| {
        let all: Vec<&str> = name.split('.').collect();
        all[all.len().saturating_sub(parts)..].join(".")
    };
    let longest = names.iter().map(|name| name.split('.').count()).max().unwrap_or(0);
    let one = |name: &&str| {
        // What there is a number of belongs to the number.
        let alone = |parts: &usize| {
            let this = tail(name, *parts);
            let alone = names.iter().filter(|other| tail(other, *parts) == this).count() == 1;
            alone && !this.starts_with('*')
        };
        tail(name, (1..=longest).find(alone).unwrap_or(longest))
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_block_kind_and_expert() {
        let place = Place::of("model.layers.3.mlp.experts.7.up_proj");
        assert_eq!((place.stack.as_str(), place.block), ("model.layers", Some(3)));
        assert_eq!((place.kind.as_str(), place.expert), ("mlp.experts.*.up_proj", Some(7)));
        let head = Place::of("lm_head");
        assert_eq!((head.block, head.kind.as_str(), head.expert), (None, "lm_head", None));
    }

    #[test]
    fn kinds_are_as_short_as_they_can_be_told_apart() {
        let names = ["self_attn.q_proj", "mlp.experts.*.up_proj", "mlp.shared_expert.up_proj"];
        assert_eq!(short(&names), ["q_proj", "experts.*.up_proj", "shared_expert.up_proj"]);
    }
}
