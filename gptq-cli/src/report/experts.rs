//! What the router sent each expert.

use std::collections::BTreeMap;

use gptq_models::LayerReport;
use maud::{Markup, html};

use super::{
    heat::{Fill, Map, Tile, legend},
    number,
    place::Place,
};

/// One expert of one block.
#[derive(Clone, Copy, Default)]
struct Expert {
    tokens: u64,
    fell_back: bool,
}

pub(super) fn section(layers: &[LayerReport]) -> Markup {
    let blocks = blocks(layers);
    if blocks.is_empty() {
        return html! {};
    }
    let names: Vec<String> = blocks.iter().map(|(name, _)| name.clone()).collect();
    let most = blocks.iter().flat_map(|(_, e)| e.values()).map(|e| e.tokens).max().unwrap_or(0);
    let numbers: Vec<u64> = blocks.iter().flat_map(|(_, e)| e.keys().copied()).collect();
    let columns: Vec<String> =
        (0..=numbers.into_iter().max().unwrap_or(0).min(MOST)).map(|n| n.to_string()).collect();
    let tiles = blocks.iter().enumerate().flat_map(|(row, (name, experts))| {
        experts.iter().filter(|(n, _)| **n <= MOST).map(move |(n, expert)| Tile {
            row,
            column: *n as usize,
            fill: match expert.fell_back {
                true => Fill::Bad,
                false => Fill::Scale((expert.tokens as f64 / most.max(1) as f64).sqrt()),
            },
            number: expert.tokens.to_string(),
            tip: format!(
                "block {name}, expert {n}: {} tokens{}",
                number::count(expert.tokens),
                if expert.fell_back { ", too few: fell back" } else { "" }
            ),
        })
    });
    html! {
        h2 { "Tokens per expert" }
        p.how {
            "Tokens of the calibration text that the router sent each expert. Those that saw too "
            "few were not solved; more or more varied text, or " code { "--moe all" } ", feeds them."
        }
        (Map {
            id: "map-experts",
            title: "Tokens by block and expert",
            description: "Rows are blocks, columns experts; lighter is more.",
            rows: &names,
            columns: &columns,
            below: "expert",
            tiles: tiles.collect(),
        }.draw())
        (legend("0", &format!("{} tokens", number::count(most)), &[(Fill::Bad, "starved: fell back")]))
        details open=[(blocks.len() <= OPEN).then_some("open")] {
            summary { "in numbers" }
            (table(&blocks))
        }
    }
}

/// The highest number of an expert that has a column.
const MOST: u64 = 4095;

/// Blocks up to which the numbers are there at once.
const OPEN: usize = 8;

type Blocks = Vec<(String, BTreeMap<u64, Expert>)>;

/// Experts by block, in the order of the run.
fn blocks(layers: &[LayerReport]) -> Blocks {
    let mut blocks: Blocks = Vec::new();
    for layer in layers {
        let place = Place::of(&layer.name);
        let (Some(tokens), Some(block), Some(number)) =
            (layer.routed_tokens, place.block, place.expert)
        else {
            continue;
        };
        let name = block.to_string();
        if blocks.last().is_none_or(|(last, _)| *last != name) {
            blocks.push((name, BTreeMap::new()));
        }
        if let Some((_, experts)) = blocks.last_mut() {
            let expert = experts.entry(number).or_default();
            expert.tokens = expert.tokens.max(tokens);
            expert.fell_back |= layer.fallback.is_some();
        }
    }
    blocks
}

fn table(blocks: &Blocks) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                th { "Block" } th.n { "Experts" } th.n { "Fewest tokens" } th.n { "Median" }
                th.n { "Most" } th.n { "Fell back" }
            } }
            tbody {
                @for (name, experts) in blocks {
                    @let sorted = sorted(experts);
                    @let starved = experts.values().filter(|e| e.fell_back).count();
                    tr {
                        td { (name) }
                        td.n { (sorted.len()) }
                        td.n { (number::count(sorted[0])) }
                        td.n { (number::count(sorted[sorted.len() / 2])) }
                        td.n { (number::count(sorted[sorted.len() - 1])) }
                        td.n.bad[starved > 0] { (starved) }
                    }
                }
            }
        } }
    }
}

/// Never empty: a block is there because of an expert.
fn sorted(experts: &BTreeMap<u64, Expert>) -> Vec<u64> {
    let mut tokens: Vec<u64> = experts.values().map(|expert| expert.tokens).collect();
    tokens.sort_unstable();
    tokens
}
