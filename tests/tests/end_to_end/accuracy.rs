//! How far a quantized model is from the one it was made from, on tokens it has not seen.

use gptq_core::{ActOrder, Bits};
use gptq_models::{Evaluation, Method, Window, evaluate};
use gptq_tests::{fixture, largest_difference, random_tokens};

use crate::{Run, load, options};

/// Against the dense model, on 16 fresh sequences.
fn distance(run: &Run) -> Evaluation {
    let ids = random_tokens(3, 16, 64).concat();
    let windows: Vec<Window> =
        (0..16).map(|w| Window { range: w * 64..(w + 1) * 64, targets: 63 }).collect();
    let dense = load(&fixture("arch/llama"));
    evaluate(&run.load(), Some(&dense), &ids, &windows, |_| ()).unwrap()
}

#[test]
fn eight_bits_are_close_to_the_dense_model() {
    for order in [ActOrder::Natural, ActOrder::GroupAware, ActOrder::DescAct] {
        let mut options = options(Bits::B8);
        options.config.act_order = order;
        let run = Run::with(&options);
        let ids = &random_tokens(4, 1, 40)[0];
        let dense = load(&fixture("arch/llama"));
        let gap = largest_difference(&run.load().logits(ids).unwrap(), &dense.logits(ids).unwrap());
        assert!(gap < 0.02, "{order:?}: {gap} of the largest logit");
        let result = distance(&run);
        assert!(result.kl.unwrap() < 1e-4, "{order:?}: {result:?}");
        assert!(result.top1.unwrap() > 0.97, "{order:?}: {result:?}");
    }
}

#[test]
fn gptq_stays_closer_than_rounding_at_two_and_three_bits() {
    for bits in [Bits::B2, Bits::B3] {
        let kl = |method: Method, order: ActOrder| {
            let mut options = options(bits);
            options.method = method;
            options.config.act_order = order;
            distance(&Run::with(&options)).kl.unwrap()
        };
        let rounded = kl(Method::Rtn, ActOrder::Natural);
        for order in [ActOrder::Natural, ActOrder::GroupAware, ActOrder::DescAct] {
            let solved = kl(Method::Gptq, order);
            assert!(solved < rounded, "{bits:?} {order:?}: {solved} against {rounded}");
        }
    }
}

#[test]
fn more_bits_are_never_worse() {
    let kl: Vec<f64> =
        Bits::ALL.iter().map(|&bits| distance(&Run::with(&options(bits))).kl.unwrap()).collect();
    assert!(kl.is_sorted_by(|a, b| a > b), "{kl:?}");
}

#[test]
fn reported_losses_are_below_those_of_rounding() {
    let run = Run::with(&options(Bits::B3));
    let sum = |loss: fn(&gptq_models::LayerReport) -> Option<f64>| {
        run.report.layers.iter().map(|layer| loss(layer).unwrap()).sum::<f64>()
    };
    let (loss, rtn) = (sum(|l| l.loss), sum(|l| l.rtn_loss));
    assert!(loss < rtn, "{loss} against {rtn}");
    for layer in &run.report.layers {
        assert_eq!(layer.tokens, 12 * 48, "{}", layer.name);
        assert_eq!(layer.damp_attempts, Some(1), "{}", layer.name);
        assert_eq!(layer.fallback, None, "{}", layer.name);
    }
}
