//! `gptq report`: the page of a run, and where it goes.

use std::fs;

use crate::{args, gptq, mini, short_run};

/// What every page has.
const MARK: &str = "<meta name=\"generator\" content=\"gptq report\"";

#[test]
fn a_run_becomes_a_page_beside_it_and_stays_as_it_was_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let ran = short_run(&mini(), &out, &[]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("largest losses"), "{}", ran.stdout);
    assert_eq!(ran.stdout.matches("% of the total; 8 bits would take").count(), 3);

    let page = dir.path().join("out.report.html");
    let ran = gptq(args!["report", out]);
    assert_eq!((ran.code, ran.stdout.trim()), (0, &*page.display().to_string()), "{}", ran.stderr);
    let text = fs::read_to_string(&page).unwrap();
    assert!(text.contains(MARK) && text.contains("model.layers.3.mlp.down_proj"));
    // Sizes come from the tensors beside the report.
    assert!(text.contains("packed: codes") && text.contains("dense: embeddings"));
    assert_eq!(gptq(args!["verify", out]).code, 0);

    // Again, over the old page; and by numbers.
    let said = gptq(args!["report", out, "--json"]).json();
    assert_eq!(fs::read_to_string(&page).unwrap(), text);
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("gptq_report.json")).unwrap()).unwrap();
    let layers = report["layers"].as_array().unwrap();
    let sum: f64 = layers.iter().map(|layer| layer["loss"].as_f64().unwrap()).sum();
    assert!((said["loss"].as_f64().unwrap() / sum - 1.0).abs() < 1e-12);
    assert_eq!(said["layers"], layers.len());
    assert_eq!(said["fallbacks"], 0);
    let worst = said["worst"].as_array().unwrap();
    assert!(worst.windows(2).all(|pair| pair[0]["loss"].as_f64() >= pair[1]["loss"].as_f64()));
    let help = &worst[0]["helps"][0];
    assert_eq!(help["change"], "8 bits");
    // Its rule is one that the program takes, and it finds just the linears it is about.
    let rule = help["rule"].to_string();
    let better = dir.path().join("better");
    let ran = short_run(&mini(), &better, &["--dynamic", &rule]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(better.join("gptq_report.json")).unwrap()).unwrap();
    for layer in report["layers"].as_array().unwrap() {
        let meant = worst[0]["layers"].as_array().unwrap().contains(&layer["name"]);
        assert_eq!(layer["bits"], if meant { 8 } else { 4 }, "{}", layer["name"]);
    }
}

#[test]
fn nothing_but_an_older_page_is_written_over_and_nothing_goes_into_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (run, page) = (dir.path().join("run"), dir.path().join("page.html"));
    fs::create_dir(&run).unwrap();
    fs::write(run.join("gptq_report.json"), r#"{"layers": [], "settings": {}}"#).unwrap();
    fs::write(&page, "my notes").unwrap();
    gptq(args!["report", run, "--out", page]).fails(1, &["page.html exists", "--force"]);
    assert_eq!(fs::read_to_string(&page).unwrap(), "my notes");
    assert_eq!(gptq(args!["report", run, "--out", page, "--force"]).code, 0);
    assert_eq!(gptq(args!["report", run, "--out", page]).code, 0);
    for inside in [run.join("page.html"), run.join("../run/page.html")] {
        gptq(args!["report", run, "--out", inside, "--force"]).fails(1, &["inside", "sealed"]);
    }
    let nowhere = dir.path().join("no/page.html");
    gptq(args!["report", run, "--out", nowhere]).fails(1, &["cannot write to"]);
}

#[test]
fn a_folder_without_a_report_of_a_run_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    gptq(args!["report", dir.path()]).fails(1, &["gptq_report.json", "gptq quantize writes it"]);
    gptq(args!["report", mini()]).fails(1, &["gptq_report.json"]);
    for (text, word) in [("{}", "\"layers\""), ("nonsense", "not JSON")] {
        fs::write(dir.path().join("gptq_report.json"), text).unwrap();
        gptq(args!["report", dir.path()]).fails(1, &[word]);
    }
}
