//! Layers one by one.

use gptq_models::Report;
use maud::{Markup, html};

use super::{number, place::ratio};

pub(super) fn all(report: &Report) -> Markup {
    let figure = |x: Option<f64>| x.map_or("–".to_owned(), number::plain);
    let exact = |x: Option<f64>| x.map(|x| x.to_string());
    html! {
        h2 { "All layers" }
        details {
            summary { (number::of(report.layers.len(), "layer", "layers")) ", in the order of the run" }
            div.scroll { table {
                thead { tr {
                    th { "Layer" } th.n { "Bits" } th.n { "Group" } th.n { "Loss" }
                    th.n { "Rounding’s" } th.n { "Ratio" } th.n { "Damping" } th.n { "Tokens" }
                    th.n { "Seconds" }
                } }
                tbody {
                    @for layer in &report.layers {
                        @let left = layer.loss.zip(layer.rtn_loss).and_then(|(l, r)| ratio(l, r));
                        tr {
                            td { code { (layer.name) } }
                            td.n { (layer.bits) }
                            td.n { (layer.group_size) }
                            td.n title=[exact(layer.loss)] { (figure(layer.loss)) }
                            td.n title=[exact(layer.rtn_loss)] { (figure(layer.rtn_loss)) }
                            td.n { (left.map_or("–".to_owned(), number::percent)) }
                            td.n { (figure(layer.damp_percent)) }
                            td.n { (number::count(layer.tokens)) }
                            td.n { (number::plain(layer.seconds)) }
                        }
                    }
                }
            } }
        }
    }
}
