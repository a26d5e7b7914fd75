//! The page, read by a reader of XML that knows nothing of it.

use std::collections::BTreeSet;

use gptq_models::LayerReport;
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::{Map, Value, json};

use super::{
    advice::{Advice, Shapes},
    number, page,
    source::{Source, parse},
};

/// What a hostile report would like to be run.
const SCRIPT: &str = "</title></style><script src='https://evil'>alert(\"&x\")</script>";

fn source(report: &Value) -> Source {
    let (report, others) = parse(&report.to_string()).unwrap();
    Source { name: "result".into(), report, others, sizes: Err("no tensors here".into()) }
}

fn rendered(report: &Value) -> String {
    let source = source(report);
    page::render(&source, &Advice::new(&source.report, &Shapes::new()))
}

/// Asserts what holds for every page: well-formed, no address, no script, unique ids that every link
/// inside the page finds, titles and descriptions of all pictures.
fn checked(page: &str, look: impl FnOnce(&Document<'_>)) {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(page, options).unwrap();
    let mut ids = BTreeSet::new();
    for node in document.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        assert!(!["script", "link", "iframe", "img", "object", "image", "use"].contains(&name));
        for attribute in node.attributes() {
            let (key, value) = (attribute.name(), attribute.value());
            assert!(!key.starts_with("on") && key != "src", "{key}");
            assert!(key != "href" || value.starts_with('#'), "{value}");
            if key == "id" {
                assert!(ids.insert(value.to_owned()), "{value} twice");
            }
        }
        if name == "svg" {
            let told = node.attribute("aria-hidden") == Some("true")
                || node.children().any(|child| child.has_tag_name("title"));
            assert!(told, "a picture without words");
        }
    }
    for node in document.descendants() {
        let link = node.attribute("href").map(|href| &href[1..]);
        let labels = node.attribute("aria-labelledby").unwrap_or_default().split(' ');
        for id in link.into_iter().chain(labels).filter(|id| !id.is_empty()) {
            assert!(ids.contains(id), "nothing is called {id}");
        }
    }
    let style = document.descendants().find(|node| node.has_tag_name("style")).unwrap();
    let style = style.text().unwrap();
    assert!(!style.contains("http") && !style.contains("@import") && !style.contains("url("));
    look(&document);
}

/// All text below a node, as a reader sees it.
fn text(node: Node<'_, '_>) -> String {
    node.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
}

fn section<'a>(document: &'a Document<'_>, id: &str) -> Option<Node<'a, 'a>> {
    document.descendants().find(|node| node.attribute("id") == Some(id))
}

fn layer(name: &str, loss: f64, rtn: f64) -> Value {
    json!({
        "name": name, "bits": 4, "group_size": 128, "loss": loss, "rtn_loss": rtn,
        "damp_percent": 0.01, "damp_attempts": 1, "damp_floor": 0, "tokens": 4096,
        "routed_tokens": null, "dead_columns": 0, "fallback": null, "seconds": 0.5,
    })
}

fn llama(blocks: usize) -> Value {
    let kinds = ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"];
    let name = |block: usize, kind| format!("model.layers.{block}.{kind}");
    let loss = |block: usize, at: usize| 0.01 * (1 + block + 3 * at) as f64;
    let layers = (0..blocks).flat_map(|b| {
        let one = move |(at, kind)| layer(&name(b, kind), loss(b, at), 4.0 * loss(b, at));
        kinds.into_iter().enumerate().map(one)
    });
    json!({
        "tool": "gptq 0.1.0",
        "settings": {"method": "gptq", "format": "gptq", "quantization_config":
            {"bits": 4, "group_size": 128, "sym": true, "desc_act": false}},
        "calibration": {"n_samples": 8, "seed": 0, "doctor": {"lengths": [1, 4, 2]}},
        "layers": layers.collect::<Vec<_>>(),
        "coverage": {"quantized": 900, "skipped": 100, "expected": 1000},
        "source_bytes": 4_000_000, "output_bytes": 1_000_000, "seconds": 75.0,
        "computed": "f32 on avx2", "memory": {"peak_bytes": 2_000_000_u64},
        "notices": ["groups of 7 are unusual"],
    })
}

#[test]
fn numbers_in_the_page_are_those_of_the_report() {
    let report = llama(12);
    checked(&rendered(&report), |document| {
        let rows: Vec<Vec<String>> = section(document, "layers")
            .unwrap()
            .descendants()
            .filter(|node| node.has_tag_name("tr"))
            .map(|row| row.children().map(text).collect())
            .skip(1)
            .collect();
        let layers = report["layers"].as_array().unwrap();
        assert_eq!(rows.len(), layers.len());
        for (row, layer) in rows.iter().zip(layers) {
            assert_eq!(row[0], layer["name"].as_str().unwrap());
            let (loss, rtn) =
                (layer["loss"].as_f64().unwrap(), layer["rtn_loss"].as_f64().unwrap());
            assert_eq!((row[1].as_str(), row[2].as_str()), ("4", "128"));
            assert_eq!((&row[3], &row[4]), (&number::plain(loss), &number::plain(rtn)));
            assert_eq!(row[5], "25.0%");
        }
        // Exact numbers are there for those who point at them.
        let exact: Vec<f64> = section(document, "layers")
            .unwrap()
            .descendants()
            .filter_map(|node| node.attribute("title")?.parse().ok())
            .collect();
        let pairs = layers.iter().flat_map(|l| [l["loss"].as_f64(), l["rtn_loss"].as_f64()]);
        assert_eq!(exact, pairs.flatten().collect::<Vec<_>>());
        let head = text(document.descendants().find(|n| n.has_tag_name("header")).unwrap());
        for words in
            ["25.0%", "4.00×", "4.00 MB → 1.00 MB", "90.0%", "1:15 min", "2.00 MB", "unusual"]
        {
            assert!(head.contains(words), "{words}: {head}");
        }
    });
}

#[test]
fn every_projection_of_every_block_has_its_dot_and_its_cell() {
    for blocks in [1, 2, 80] {
        checked(&rendered(&llama(blocks)), |document| {
            let count = |id: &str, tag: &str| {
                let all = section(document, id).unwrap().parent().unwrap().parent().unwrap();
                all.descendants()
                    .filter(|n| n.has_tag_name(tag))
                    .filter(|n| n.children().any(|c| c.has_tag_name("title")))
                    .count()
            };
            assert_eq!(count("ratio-title", "circle"), 3 * blocks);
            assert_eq!(count("loss-title", "circle"), 3 * blocks);
            assert_eq!(count("map-ratio-title", "rect"), 3 * blocks);
        });
    }
}

#[test]
fn names_and_words_of_a_hostile_report_stay_words() {
    let mut report = llama(2);
    let name = format!("{SCRIPT}.0.\u{0}\u{7}\u{202e}x'\"");
    report["layers"][0]["name"] = json!(name);
    report["layers"][1]["fallback"] =
        json!({"strategy": SCRIPT, "reason": SCRIPT, "mean_abs_error": 1e300});
    report["layers"][1]["loss"] = Value::Null;
    report["layers"][2]["routed_tokens"] = json!(u64::MAX);
    for key in ["tool", "computed", "seal"] {
        report[key] = json!(SCRIPT);
    }
    report["notices"] = json!([SCRIPT]);
    report["calibration"] =
        json!({SCRIPT: [SCRIPT], "rows": [{SCRIPT: SCRIPT}], "odd": [[1], SCRIPT]});
    report["settings"] = json!({"method": SCRIPT, "format": SCRIPT});
    report["ledger"] = json!({"tensors": [{"name": SCRIPT, "fate": "dropped", "reason": SCRIPT}]});
    for key in ["sha256", "source", "files", SCRIPT] {
        report[key] = json!({SCRIPT: SCRIPT});
    }
    let page = rendered(&report);
    assert!(!page.contains("<script"));
    assert_eq!(page.matches("</style>").count(), 1);
    checked(&page, |document| {
        let shown = text(section(document, "layers").unwrap());
        assert!(shown.contains(SCRIPT), "the name is shown as it is");
        assert!(!shown.contains(['\u{7}', '\u{202e}']));
        for id in ["calibration", "others", "hashes", "unusual", "worst"] {
            assert!(text(section(document, id).unwrap()).contains("alert"), "{id}");
        }
    });
}

#[test]
fn numbers_that_cannot_be_do_not_break_the_page() {
    let mut report = llama(3);
    let wild = [1e308, -3.0, 0.0, 5e-324];
    for (at, layer) in report["layers"].as_array_mut().unwrap().iter_mut().enumerate() {
        layer["loss"] = json!(wild[at % 4]);
        layer["rtn_loss"] = json!(wild[(at / 2) % 4]);
        layer["bits"] = json!(u32::MAX);
        layer["group_size"] = json!(i64::MIN);
        layer["seconds"] = json!(-1e308);
        layer["tokens"] = json!(u64::MAX);
        layer["dead_columns"] = json!(u64::MAX);
        layer["damp_attempts"] = json!(u32::MAX);
    }
    report["seconds"] = json!(1e308);
    report["source_bytes"] = json!(u64::MAX);
    report["memory"] =
        json!({"peak_bytes": u64::MAX, "waiting_bytes": u64::MAX, "pass_bytes": u64::MAX});
    report["calibration"] = json!({"numbers": [1e308, -1.0, 0.0, 1e-300]});
    let page = rendered(&report);
    checked(&page, |_| {});
    for odd in ["NaN", "inf%"] {
        assert!(!page.contains(odd), "{odd}");
    }
}

#[test]
fn whatever_a_report_lacks_is_said_to_be_missing() {
    let whole = llama(2);
    let Value::Object(fields) = &whole else { unreachable!() };
    for key in fields.keys().filter(|key| !["layers", "settings"].contains(&key.as_str())) {
        let mut less = fields.clone();
        less.remove(key);
        checked(&rendered(&Value::Object(less)), |_| {});
    }
    for layers in [json!([]), json!([{}]), json!([{"name": "lm_head"}])] {
        let bare = json!({"layers": layers, "settings": {}});
        checked(&rendered(&bare), |document| {
            let all = text(document.root_element());
            assert!(all.matches("not recorded").count() >= 10, "{all}");
        });
    }
}

#[test]
fn each_field_of_a_layer_may_be_missing() {
    let whole = llama(1);
    let Value::Object(fields) = &whole["layers"][0] else { unreachable!() };
    for key in fields.keys() {
        let mut less: Map<String, Value> = fields.clone();
        less.remove(key);
        checked(&rendered(&json!({"layers": [less], "settings": {}})), |_| {});
    }
}

#[test]
fn the_writers_report_is_read_as_it_was() {
    let layer =
        LayerReport { name: "a".into(), bits: 4, loss: Some(0.1), ..LayerReport::default() };
    let report = gptq_models::Report {
        layers: vec![layer],
        settings: json!({"format": "awq"}),
        ..gptq_models::Report::default()
    };
    let text = serde_json::to_string(&report).unwrap();
    let (read, others) = parse(&text).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn what_is_no_report_is_refused_with_what_it_lacks() {
    for (text, words) in [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        ("{}", "\"layers\""),
        (r#"{"layers": []}"#, "\"settings\""),
        (r#"{"from": "gptq", "to": "awq", "layers": [], "lossless": 3}"#, "conversion"),
        (r#"{"settings": {}, "layers": 3}"#, "invalid type"),
        (r#"{"settings": {}, "layers": [{"bits": "four"}]}"#, "four"),
    ] {
        let problem = parse(text).unwrap_err();
        assert!(problem.contains(words), "{words}: {problem}");
    }
}

#[test]
fn more_experts_than_a_page_holds_are_no_panic() {
    let mut layer = layer("m.layers.0.experts.18446744073709551615.up_proj", 1.0, 2.0);
    layer["routed_tokens"] = json!(7);
    checked(&rendered(&json!({"settings": {}, "layers": [layer]})), |document| {
        assert!(section(document, "experts").is_some());
    });
}
