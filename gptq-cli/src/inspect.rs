//! `gptq inspect`.

use std::collections::BTreeMap;

use gptq_models::{Checkpoint, Inspection, PackedScheme, inspect};

use crate::{
    args::InspectArgs,
    failure::Failure,
    terminal::{self, Table, bytes},
};

pub(crate) fn run(args: &InspectArgs, json: bool) -> Result<(), Failure> {
    let found = inspect(&Checkpoint::open(&args.model)?)?;
    if json {
        return terminal::json(&found);
    }
    let model_type = found.model_type.as_deref().unwrap_or("unknown");
    let mut text = format!("{}: {model_type}, {}\n", args.model.display(), bytes(found.bytes));
    if found.layers.is_empty() {
        text += "no packed layers\n";
    } else if args.layers {
        text += &by_layer(&found);
    } else {
        text += &by_scheme(&found);
    }
    text += &dense(&found);
    for finding in &found.findings {
        text += &format!("warning: {finding}\n");
    }
    terminal::print(&text);
    Ok(())
}

const SCHEME: [&str; 5] = ["bits", "group", "sym", "zero points", "g_idx"];

fn cells(layer: &PackedScheme) -> [String; 5] {
    [
        layer.bits.to_string(),
        layer.group_size.to_string(),
        if layer.sym { "yes" } else { "no" }.to_owned(),
        layer.zero_points.to_owned(),
        if layer.scattered_g_idx { "scattered" } else { "trivial" }.to_owned(),
    ]
}

fn by_layer(found: &Inspection) -> String {
    let header = [&["layer", "out", "in"][..], &SCHEME, &["bits/weight"]].concat();
    let mut table = Table::new(&header);
    for layer in &found.layers {
        let mut row =
            vec![layer.name.clone(), layer.out_features.to_string(), layer.in_features.to_string()];
        row.extend(cells(layer));
        row.push(format!("{:.2}", layer.bits_per_weight));
        table.row(row);
    }
    table.render()
}

fn by_scheme(found: &Inspection) -> String {
    // Layers, bytes and weights of each scheme.
    let mut schemes: BTreeMap<[String; 5], (usize, u64, f64)> = BTreeMap::new();
    for layer in &found.layers {
        let entry = schemes.entry(cells(layer)).or_default();
        entry.0 += 1;
        entry.1 += layer.bytes as u64;
        entry.2 += layer.in_features as f64 * layer.out_features as f64;
    }
    let header = [&["packed layers"][..], &SCHEME, &["size", "bits/weight"]].concat();
    let mut table = Table::new(&header);
    for (scheme, (layers, size, weights)) in schemes {
        let mut row = vec![layers.to_string()];
        row.extend(scheme);
        row.extend([bytes(size), format!("{:.2}", size as f64 * 8.0 / weights)]);
        table.row(row);
    }
    table.render()
}

fn dense(found: &Inspection) -> String {
    let mut table = Table::new(&["other tensors", "type", "elements", "size"]);
    for (dtype, share) in &found.dense {
        table.row([
            share.tensors.to_string(),
            dtype.clone(),
            share.elements.to_string(),
            bytes(share.bytes),
        ]);
    }
    table.render()
}
