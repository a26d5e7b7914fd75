//! `gptq inspect`.

use std::collections::BTreeMap;

use gptq_models::{Inspection, PackedScheme, ZeroPoints, inspect};

use crate::{
    args::InspectArgs,
    failure::Failure,
    model_dir,
    terminal::{self, Table, bytes},
};

pub(crate) fn run(args: &InspectArgs, json: bool) -> Result<(), Failure> {
    let found = inspect(&model_dir::open(&args.model, &args.reading)?)?;
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
    if let Some(bits) = found.bits_per_weight {
        let packed: u64 = found.packed_bytes.values().sum();
        let parts = found
            .packed_bytes
            .iter()
            .map(|(part, n)| format!("{part} {:.2}", bits * *n as f64 / packed as f64));
        let parts: Vec<String> = parts.collect();
        text += &format!("\n{bits:.2} bits per packed weight: {}\n", parts.join(", "));
    }
    if let Some(zero_points) = &found.zero_points {
        text += &convention(zero_points);
    }
    text += "\n";
    text += &shares(&found);
    text += "\n";
    text += &dense(&found);
    for finding in &found.findings {
        text += &format!("warning: {finding}\n");
    }
    terminal::print(&text);
    Ok(())
}

fn convention(found: &ZeroPoints) -> String {
    let says = found.found.unwrap_or("no clear answer");
    let mut evidence = Vec::new();
    for (layers, format) in [(found.layers_gptq, "gptq"), (found.layers_gptq_v2, "gptq_v2")] {
        if layers > 0 {
            evidence.push(format!("{layers} symmetric layers as in {format}"));
        }
    }
    if let Some(offset) = &found.offset {
        evidence.push(format!(
            "codes {:.2} ± {:.2} steps above stored zero points in {} asymmetric layers",
            offset.steps, offset.error, offset.layers
        ));
    }
    let evidence = evidence.join(", ");
    format!("zero points: declared {}, found {says} ({evidence})\n", found.declared)
}

const SCHEME: [&str; 6] = ["bits", "group", "sym", "zero points", "g_idx", "scales"];

fn cells(layer: &PackedScheme) -> [String; 6] {
    [
        layer.bits.to_string(),
        layer.group_size.to_string(),
        if layer.sym { "yes" } else { "no" }.to_owned(),
        layer.zero_points.to_owned(),
        if layer.scattered_g_idx { "scattered" } else { "trivial" }.to_owned(),
        layer.scales.clone(),
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
    let mut schemes: BTreeMap<[String; 6], (usize, u64, f64)> = BTreeMap::new();
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

fn shares(found: &Inspection) -> String {
    let mut table = Table::new(&["where the bytes are", "tensors", "size", "share"]);
    for share in &found.shares {
        let (tensors, percent) = (share.tensors.to_string(), 100.0 * share.share);
        table.row([share.kind.clone(), tensors, bytes(share.bytes), format!("{percent:.1}%")]);
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
