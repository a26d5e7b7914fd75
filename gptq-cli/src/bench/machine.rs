//! `gptq bench machine`.

use gptq_kernels::{Isa, measure};
use serde_json::json;

use crate::{
    failure::Failure,
    terminal::{self, Table},
};

/// A figure with one thread and with all.
struct Figure {
    name: &'static str,
    key: &'static str,
    unit: &'static str,
    one: Option<f64>,
    all: Option<f64>,
}

pub(crate) fn run(json: bool) -> Result<(), Failure> {
    let (isa, threads) = (Isa::best(), rayon::current_num_threads());
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let alone = alone.map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?;
    let figures = [
        Figure {
            name: "f32 products, 2048 x 2048 x 2048",
            key: "f32_products",
            unit: "GF/s",
            one: Some(alone.install(|| measure::f32_products(isa))),
            all: Some(measure::f32_products(isa)),
        },
        Figure {
            name: "bf16 products, the same, packing included",
            key: "bf16_products",
            unit: "GF/s",
            one: alone.install(|| measure::bf16_products(isa)),
            all: measure::bf16_products(isa),
        },
        Figure {
            name: "int8 dot products, registers alone",
            key: "int8_dots",
            unit: "Gop/s",
            one: measure::int8_dots(isa, 1),
            all: measure::int8_dots(isa, threads),
        },
        Figure {
            name: "reading memory, 512 MiB",
            key: "read_bandwidth",
            unit: "GB/s",
            one: Some(measure::read_bandwidth(1)),
            all: Some(measure::read_bandwidth(threads)),
        },
    ];
    if json {
        let mut all = json!({"instructions": isa.name(), "threads": threads});
        for figure in &figures {
            all[figure.key] = json!({"one_thread": figure.one, "all_threads": figure.all});
        }
        return terminal::json(&all);
    }
    let mut table = Table::new(&["measured", "unit", "1 thread", &format!("{threads} threads")]);
    for Figure { name, unit, one, all, .. } in &figures {
        let show = |x: &Option<f64>| x.map_or("-".to_owned(), |x| format!("{:.1}", x / 1e9));
        table.row([name.to_string(), unit.to_string(), show(one), show(all)]);
    }
    terminal::print(&table.render());
    terminal::print(&format!("instructions: {}\n", isa.name()));
    Ok(())
}
