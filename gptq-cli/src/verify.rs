//! `gptq verify`.

use gptq_models::verify;

use crate::{
    args::VerifyArgs,
    failure::Failure,
    terminal::{self, Table, bytes},
};

pub(crate) fn run(args: &VerifyArgs, json: bool) -> Result<(), Failure> {
    let found = verify(&args.model, args.source.as_deref())?;
    let folder = args.model.display();
    if json {
        terminal::json(&found)?;
    } else {
        let mut text = format!(
            "{folder}: {} files, {} tensors ({}), {} packed layers\n",
            found.files,
            found.tensors,
            bytes(found.bytes),
            found.layers
        );
        if args.source.is_some() {
            text += &format!("source: {} files\n", found.source_files);
        }
        if found.findings.is_empty() {
            text += "all as it was written\n";
        } else {
            let mut table = Table::new(&["file", "tensor or layer", "problem"]);
            for finding in &found.findings {
                let tensor = finding.tensor.clone().unwrap_or_else(|| "-".into());
                table.row([finding.file.clone(), tensor, finding.problem.clone()]);
            }
            text += &table.render();
        }
        terminal::print(&text);
    }
    match found.findings.len() {
        0 => Ok(()),
        1 => Err(Failure::failed(format!("{folder}: one thing is not as it was written"))),
        n => Err(Failure::failed(format!("{folder}: {n} things are not as they were written"))),
    }
}
