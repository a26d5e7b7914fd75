//! `gptq diff`.

use gptq_models::{Diff, LayerDiff, diff};

use crate::{
    args::DiffArgs,
    failure::Failure,
    model_dir,
    terminal::{self, Meter, Table},
};

pub(crate) fn run(args: &DiffArgs, json: bool) -> Result<(), Failure> {
    let a = model_dir::open(&args.a, &args.reading)?;
    let b = model_dir::open(&args.b, &args.reading)?;
    let mut meter = Meter::new("diff");
    let found = diff(&a, &b, &mut meter)?;
    meter.finish();
    if json {
        return terminal::json(&found);
    }
    terminal::print(&text(&found, args.layers));
    Ok(())
}

fn text(found: &Diff, all_layers: bool) -> String {
    let mut out = String::new();
    if found.equal {
        out += "no difference\n";
    } else if found.same_weights {
        out += "the same weights, stored or described differently\n";
    }
    if !found.config.is_empty() {
        let mut table = Table::new(&["config.json", "a", "b"]);
        for change in &found.config {
            table.row([change.key.clone(), change.a.to_string(), change.b.to_string()]);
        }
        out += &(table.render() + "\n");
    }
    for (side, names) in [("a", &found.only_in_a), ("b", &found.only_in_b)] {
        if let [first, ..] = &names[..] {
            out += &format!("only in {side}: {} tensors (first: {first})\n", names.len());
        }
    }
    if !found.tensors.is_empty() {
        let mut table = Table::new(&["tensor", "a", "b", "max", "rms"]);
        for t in &found.tensors {
            let row = [t.name.clone(), t.a.clone(), t.b.clone(), share(t.max), share(t.rms)];
            table.row(row);
        }
        out += &(table.render() + "\n");
    }
    out += &format!("{} plain tensors are equal\n", found.tensors_equal);
    if !found.layers.is_empty() {
        out += &if all_layers { layers(&found.layers) } else { by_form(&found.layers) };
        out += "max and rms: difference of weights, as a share of a's rms weight\n";
    }
    for notice in &found.notices {
        out += &format!("warning: {notice}\n");
    }
    out
}

fn layers(layers: &[LayerDiff]) -> String {
    let mut table = Table::new(&["layer", "a", "b", "codes", "scales", "zeros", "max", "rms"]);
    for layer in layers {
        table.row([
            layer.name.clone(),
            layer.a.clone(),
            layer.b.clone(),
            percent(layer.codes_equal),
            percent(layer.scales_equal),
            percent(layer.zeros_equal),
            share(layer.max),
            share(layer.rms),
        ]);
    }
    table.render()
}

/// One line for all layers that are stored alike on both sides; figures of the most different.
fn by_form(layers: &[LayerDiff]) -> String {
    let header = ["packed in either", "a", "b", "codes", "scales", "zeros", "max", "rms", "worst"];
    let mut table = Table::new(&header);
    let mut forms: Vec<(&str, &str)> = Vec::new();
    for layer in layers {
        if !forms.contains(&(&layer.a, &layer.b)) {
            forms.push((&layer.a, &layer.b));
        }
    }
    for (a, b) in forms {
        let these: Vec<&LayerDiff> = layers.iter().filter(|l| l.a == a && l.b == b).collect();
        let least = |of: fn(&LayerDiff) -> Option<f64>| {
            these.iter().filter_map(|layer| of(layer)).reduce(f64::min)
        };
        let most = |of: fn(&LayerDiff) -> Option<f64>| {
            these.iter().filter_map(|layer| of(layer)).reduce(f64::max)
        };
        table.row([
            format!("{} layers", these.len()),
            a.to_owned(),
            b.to_owned(),
            percent(least(|layer| layer.codes_equal)),
            percent(least(|layer| layer.scales_equal)),
            percent(least(|layer| layer.zeros_equal)),
            share(most(|layer| layer.max)),
            share(most(|layer| layer.rms)),
            // Sorted, the most different first.
            these[0].name.clone(),
        ]);
    }
    table.render()
}

/// Never `100.0%` for less than all.
fn percent(share: Option<f64>) -> String {
    match share {
        None => "-".to_owned(),
        Some(1.0) => "equal".to_owned(),
        Some(share) => format!("{:.1}%", (1000.0 * share).floor() / 10.0),
    }
}

fn share(value: Option<f64>) -> String {
    value.map_or(
        "-".to_owned(),
        |value| if value == 0.0 { "0".into() } else { format!("{value:.1e}") },
    )
}
