//! `gptq report`: the figures of a run as one page that needs nothing else to be read.

pub(crate) mod advice;

mod bytes;
mod calibration;
mod chart;
mod costs;
mod experts;
mod hashes;
mod head;
mod heat;
mod json;
mod layers;
mod losses;
mod number;
mod page;
mod place;
mod source;
#[cfg(test)]
mod tests;
mod unusual;
mod worst;

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value, json};

use crate::{failure::Failure, terminal};
use advice::Advice;
use source::Source;

/// The report of a run as one HTML page: losses by layer, projection and depth, bytes, experts,
/// what would help, calibration, time and memory, hashes. It needs no network and no scripts.
#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// Folder that gptq quantize wrote
    pub(crate) model: PathBuf,
    /// Page to write, not inside the folder, whose files are sealed; an older report page is
    /// replaced, any other file is not [default: DIR.report.html beside the folder]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Replace the file even if it is no report page
    #[arg(long)]
    pub(crate) force: bool,
}

/// What every page has near its start, by which `--out` knows an older one.
const MARK: &str = "<meta name=\"generator\" content=\"gptq report\"";

/// How far from the start that is at most.
const MARK_WITHIN: u64 = 1024;

pub(crate) fn run(args: &ReportArgs, json: bool) -> Result<(), Failure> {
    let source = Source::read(&args.model)?;
    let out = target(args)?;
    let advice = Advice::new(&source.report, &source.shapes());
    write(&out, &page::render(&source, &advice))?;
    if json {
        terminal::json(&summary(&source, &advice, &out))
    } else {
        terminal::print(&format!("{}\n", out.display()));
        Ok(())
    }
}

fn summary(source: &Source, advice: &Advice<'_>, out: &Path) -> Value {
    json!({
        "out": out.display().to_string(),
        "layers": source.report.layers.len(),
        "loss": advice.total.map(|total| total.loss),
        "rtn_loss": advice.total.map(|total| total.rtn),
        "fallbacks": source.report.fallbacks().count(),
        "worst": advice.units.iter().take(worst::RANKED).collect::<Vec<_>>(),
    })
}

/// The file to write, if it may be.
fn target(args: &ReportArgs) -> Result<PathBuf, Failure> {
    let cannot = |e| Failure::failed(format!("cannot find {}: {e}", args.model.display()));
    let folder = args.model.canonicalize().map_err(cannot)?;
    let out = match (&args.out, folder.file_name()) {
        (Some(out), _) => out.clone(),
        (None, Some(name)) => {
            let mut name = name.to_owned();
            name.push(".report.html");
            beside(&args.model).unwrap_or_else(|| folder.with_file_name(&name)).join(name)
        }
        (None, None) => {
            return Err(Failure::usage("the root of the file system has no name: give --out FILE"));
        }
    };
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = |e| Failure::failed(format!("cannot write to {}: {e}", parent.display()));
    if parent.canonicalize().map_err(cannot)?.starts_with(&folder) {
        return Err(Failure::failed(format!(
            "{} is inside {}, whose files are sealed: gptq verify would find one too many; choose \
             another place with --out",
            out.display(),
            args.model.display()
        )));
    }
    if !args.force && out.exists() && !is_page(&out) {
        return Err(Failure::failed(format!(
            "{} exists and is not a report page; choose another --out, or --force to replace it",
            out.display()
        )));
    }
    Ok(out)
}

/// The folder of a folder as it was typed, so that a relative path stays one.
fn beside(folder: &Path) -> Option<PathBuf> {
    folder.file_name()?;
    folder.parent().map(Path::to_owned)
}

/// Whether a file is a page of ours.
fn is_page(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = fs::File::open(path).and_then(|f| f.take(MARK_WITHIN).read_to_end(&mut start));
    read.is_ok() && String::from_utf8_lossy(&start).contains(MARK)
}

/// All of the page or nothing of it.
fn write(out: &Path, page: &str) -> Result<(), Failure> {
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any new file: the user's mask takes away what it should.
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let mut file = builder.tempfile_in(parent)?;
        file.write_all(page.as_bytes())?;
        file.persist(out)?;
        Ok(())
    };
    write().map_err(|e| Failure::failed(format!("cannot write {}: {e}", out.display())))
}
