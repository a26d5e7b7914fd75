use gptq_pack::{DynamicRules, Resolved};

use super::*;

fn report() -> Report {
    let layer = |name: &str, loss: f64| LayerReport {
        name: name.into(),
        bits: 4,
        group_size: 128,
        loss: Some(loss),
        rtn_loss: Some(2.0 * loss),
        ..LayerReport::default()
    };
    let names = [
        ("model.layers.1.self_attn.q_proj", 1.0),
        ("model.layers.1.self_attn.k_proj", 2.0),
        ("model.layers.1.self_attn.o_proj", 4.0),
        ("model.layers.10.self_attn.o_proj", 1.0),
        ("model.layers.1.mlp.experts.0.up_proj", 3.0),
        ("model.layers.1.mlp.experts.11.up_proj", 4.0),
        ("m$(x).layers.1.w*", 0.5),
        ("lm_head", 0.25),
    ];
    let layers = names.iter().map(|(name, loss)| layer(name, *loss)).collect();
    Report { layers, settings: json!({"format": "gptq"}), ..Report::default() }
}

#[test]
fn units_are_ranked_by_their_share_and_every_rule_finds_its_linears_and_no_others() {
    let report = report();
    let advice = Advice::new(&report, &Shapes::new());
    assert!((advice.units.iter().map(|unit| unit.share).sum::<f64>() - 1.0).abs() < 1e-12);
    assert_eq!(advice.units[0].name, "model.layers.1.mlp.experts: 2 linears of experts");
    assert_eq!(advice.units[2].name, "model.layers.1.self_attn: q_proj, k_proj");
    for unit in &advice.units {
        for help in &unit.helps {
            let rules = DynamicRules::from_json(&help.rule).unwrap();
            for layer in &report.layers {
                let found = rules.resolve(&layer.name).unwrap() != Resolved::Default;
                let meant = unit.layers.contains(&layer.name.as_str());
                assert_eq!(found, meant, "{} {}", help.rule, layer.name);
            }
        }
    }
}

#[test]
fn a_bit_is_a_quarter_and_a_smaller_group_goes_by_its_logarithm() {
    let report = report();
    let shapes = Shapes::from([("lm_head".into(), (64, 128))]);
    let advice = Advice::new(&report, &shapes);
    let head = advice.units.iter().find(|unit| unit.name == "lm_head").unwrap();
    let found: Vec<(&str, f64, Option<u64>)> =
        head.helps.iter().map(|h| (h.change.as_str(), h.leaves, h.extra_bytes)).collect();
    // 8192 weights: 4 bits more each; 3 groups of 20 bits more per 128; 16 − 4 − 20/128 bits.
    let expected = [
        ("8 bits", 1.0 / 256.0, Some(4096)),
        ("groups of 32", 5.0 / 7.0, Some(480)),
        ("left dense", 0.0, Some(12128)),
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((found.0, found.2), (expected.0, expected.2));
        assert!((found.1 - expected.1).abs() < 1e-12);
    }
    let (rules, stays) = advice.together(1).unwrap();
    assert_eq!(rules, advice.units[0].helps[0].rule);
    assert!((stays - (1.0 - 7.0 / 15.75 * 255.0 / 256.0)).abs() < 1e-12);
}

#[test]
fn no_linear_of_a_unit_gets_fewer_bits_and_none_is_counted_that_has_enough() {
    let mut report = report();
    report.layers[0].bits = 3;
    report.layers[1].bits = 8;
    let shapes = report.layers.iter().map(|layer| (layer.name.clone(), (8, 8))).collect();
    let advice = Advice::new(&report, &shapes);
    let unit = advice.units.iter().find(|unit| unit.name.ends_with("q_proj, k_proj")).unwrap();
    let help = &unit.helps[0];
    assert_eq!((help.change.as_str(), help.extra_bytes), ("8 bits", Some(64 * 5 / 8)));
    assert!((help.leaves - (2.0 + 1.0 / 1024.0) / 3.0).abs() < 1e-12);
}

#[test]
fn without_losses_there_is_nothing_to_rank() {
    let mut report = report();
    report.layers.iter_mut().for_each(|layer| layer.loss = None);
    let advice = Advice::new(&report, &Shapes::new());
    assert!(advice.total.is_none() && advice.units.is_empty());
    assert!(advice.together(3).is_none());
}
