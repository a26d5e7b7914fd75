//! Every scheme that can be asked for loads again, on both backends alike.

use gptq_core::{ActOrder, Bits, GroupSize, Reference};
use gptq_models::{Checkpoint, Inspection, Model, QuantizeOptions, inspect};
use gptq_pack::ZeroPointFormat;
use gptq_tests::{largest_difference, random_tokens};

use crate::{Run, options};

/// Quantizes, and runs the result with the plain reference and with the fast kernels.
fn check(bits: Bits, sym: bool, group: i64, order: ActOrder, format: ZeroPointFormat) {
    let what = format!("{bits:?} sym {sym} group {group} {order:?} {format:?}");
    let mut options: QuantizeOptions = options(bits);
    options.config.sym = sym;
    options.config.group_size = GroupSize::from_file(group).unwrap();
    options.config.act_order = order;
    options.format = format.into();
    let run = Run::with(&options);

    let checkpoint = Checkpoint::open(&run.dir).unwrap();
    let fast = run.load();
    let plain = Model::load(&checkpoint, Reference).unwrap();
    let ids = &random_tokens(2, 1, 40)[0];
    let gap = largest_difference(&fast.logits(ids).unwrap(), &plain.logits(ids).unwrap());
    assert!(gap < 1e-4, "{what}: backends differ by {gap:.1e} of the largest logit");
    // Few tokens take another kernel than many.
    let ids = &ids[..3];
    let gap = largest_difference(&fast.logits(ids).unwrap(), &plain.logits(ids).unwrap());
    assert!(gap < 1e-4, "{what}: backends differ by {gap:.1e} on three tokens");

    let found = inspect(&checkpoint).unwrap();
    check_scheme(&found, &what, bits, sym, group, order, format);
    for layer in &run.report.layers {
        let (loss, rtn) = (layer.loss.unwrap(), layer.rtn_loss.unwrap());
        assert!(loss.is_finite() && loss > 0.0 && rtn > 0.0, "{what}: {} {loss}", layer.name);
    }
}

fn check_scheme(
    found: &Inspection,
    what: &str,
    bits: Bits,
    sym: bool,
    group: i64,
    order: ActOrder,
    format: ZeroPointFormat,
) {
    assert!(found.findings.is_empty(), "{what}: {:?}", found.findings);
    assert_eq!(found.layers.len(), 14, "{what}");
    for layer in &found.layers {
        assert_eq!(layer.bits, bits.get(), "{what}: {}", layer.name);
        let scattered = order == ActOrder::DescAct && group != -1;
        if !scattered {
            assert!(!layer.scattered_g_idx, "{what}: {}", layer.name);
            assert_eq!(layer.group_size, group, "{what}: {}", layer.name);
        }
        if sym {
            assert_eq!(layer.zero_points, format.as_str(), "{what}: {}", layer.name);
        }
    }
    let any = found.layers.iter().any(|layer| layer.scattered_g_idx);
    assert_eq!(any, order == ActOrder::DescAct && group != -1, "{what}");
}

/// Every width and grid in one group size and order, in both formats.
fn widths(group: i64, order: ActOrder) {
    for bits in Bits::ALL {
        check(bits, true, group, order, ZeroPointFormat::Gptq);
        check(bits, false, group, order, ZeroPointFormat::GptqV2);
    }
}

#[test]
fn groups_in_natural_order_run_alike_on_both_backends() {
    widths(32, ActOrder::Natural);
}

#[test]
fn groups_in_group_aware_order_run_alike_on_both_backends() {
    widths(32, ActOrder::GroupAware);
}

#[test]
fn scattered_groups_run_alike_on_both_backends() {
    widths(32, ActOrder::DescAct);
}

#[test]
fn whole_rows_run_alike_on_both_backends() {
    widths(-1, ActOrder::Natural);
    check(Bits::B4, true, -1, ActOrder::DescAct, ZeroPointFormat::Gptq);
}

#[test]
fn groups_that_do_not_divide_the_row_run_alike_on_both_backends() {
    for order in [ActOrder::Natural, ActOrder::GroupAware, ActOrder::DescAct] {
        check(Bits::B3, true, 24, order, ZeroPointFormat::Gptq);
        check(Bits::B4, false, 24, order, ZeroPointFormat::GptqV2);
    }
}

#[test]
fn asymmetric_grids_fit_the_first_format_and_symmetric_ones_the_second() {
    for bits in Bits::ALL {
        check(bits, false, 32, ActOrder::GroupAware, ZeroPointFormat::Gptq);
        check(bits, true, 32, ActOrder::GroupAware, ZeroPointFormat::GptqV2);
    }
}
