//! [`Staging`]: an output folder that has its name only when it is whole.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use crate::Error;

/// Marks a folder as ours, so that the remains of a killed run can be told from someone's data.
const MARKER: &str = ".gptq-partial";

/// Below the marked folder: what will have the target's name.
const RESULT: &str = "result";

/// Beside it: what an interrupted run has done so far.
const JOURNAL: &str = "journal";

/// A folder being filled beside its final place, as `{target}.partial/result`. Dropped before
/// [`Staging::finish`], it is removed.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    partial: PathBuf,
    result: PathBuf,
    /// Held until the folder is finished or the process ends, however it ends.
    _lock: File,
    /// Whether what is there outlives this run.
    keep: bool,
}

impl Staging {
    /// Prepares an empty `{target}.partial`. What a killed run left there is removed first, unless
    /// another could go on from it.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if `target` is anything but absent or an empty folder;
    /// [`Error::File`] if `{target}.partial` is not ours, or holds what a run could go on from;
    /// [`Error::Io`] if it cannot be written.
    pub fn create(target: &Path) -> Result<Self, Error> {
        let mut staging = Self::open(target)?;
        if staging.keep {
            return Err(Error::file(
                &staging.partial,
                "holds what an interrupted gptq quantize has done so far; start that again to go \
                 on, or remove the folder to lose it",
            ));
        }
        staging.clear()?;
        Ok(staging)
    }

    /// Prepares `{target}.partial` and leaves what is there.
    ///
    /// # Errors
    /// As [`Staging::create`].
    pub(crate) fn open(target: &Path) -> Result<Self, Error> {
        Self::check(target)?;
        let partial = partial_of(target).ok_or_else(|| {
            Error::file(target, "is no place for an output folder; give it a name of its own")
        })?;
        let marker = partial.join(MARKER);
        if !is_free(&partial) && !is_plain(&marker, fs::Metadata::is_file) {
            return Err(Error::file(
                &partial,
                "is in the way and was not left by an interrupted run; move it",
            ));
        }
        fs::create_dir_all(&partial).map_err(|e| Error::io("create", &partial, e))?;
        let lock = File::options().write(true).create(true).truncate(false).open(&marker);
        let lock = lock.map_err(|e| Error::io("write", &marker, e))?;
        // File systems without locks lose only the protection against a second run.
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(Error::file(&partial, "is being written by another run; wait for it"));
        }
        let keep = partial.join(JOURNAL).is_file();
        let result = partial.join(RESULT);
        Ok(Self { target: target.to_owned(), partial, result, _lock: lock, keep })
    }

    /// Removes everything that an earlier run left.
    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        self.remove_all().map_err(|e| Error::io("clear", &self.partial, e))?;
        self.keep = false;
        fs::create_dir(&self.result).map_err(|e| Error::io("create", &self.result, e))
    }

    /// Empties the folder down to its marker.
    fn remove_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.partial)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false if entry.file_name() == MARKER => {}
                false => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    /// From now on, what is there outlives a run that fails.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// Whether an earlier run left, or this one leaves, something to go on from.
    pub(crate) fn keeps(&self) -> bool {
        self.keep
    }

    /// Whether `target` may be created: it must be absent or an empty folder.
    ///
    /// # Errors
    /// [`Error::OutputExists`].
    pub fn check(target: &Path) -> Result<(), Error> {
        if is_free(target) {
            return Ok(());
        }
        Self::sweep(target);
        Err(Error::OutputExists { path: target.display().to_string() })
    }

    /// Removes what a run left that was killed after it had given its result the final name.
    fn sweep(target: &Path) {
        let Some(partial) = partial_of(target) else { return };
        let (result, marker) = (partial.join(RESULT), partial.join(MARKER));
        if is_plain(&marker, fs::Metadata::is_file)
            && !result.exists()
            && let Ok(lock) = File::options().write(true).open(&marker)
            && lock.try_lock().is_ok()
        {
            drop(Self { target: target.to_owned(), partial, result, _lock: lock, keep: false });
        }
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.result
    }

    /// The name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The folder around it, for what must not be in the result.
    pub(crate) fn beside(&self) -> &Path {
        &self.partial
    }

    /// Where a run writes down what it has done.
    pub(crate) fn journal(&self) -> PathBuf {
        self.partial.join(JOURNAL)
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(), Error> {
        sync_folder(&self.result)?;
        // An empty folder may stand at the target; renaming over it is not portable.
        if self.target.is_dir() {
            fs::remove_dir(&self.target).map_err(|e| Error::io("replace", &self.target, e))?;
        }
        fs::rename(&self.result, &self.target).map_err(|e| Error::io("rename", &self.result, e))?;
        // Nothing is left to go on from.
        self.keep = false;
        match self.target.parent() {
            Some(parent) if parent.as_os_str().is_empty() => sync_folder(Path::new(".")),
            Some(parent) => sync_folder(parent),
            None => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing to be done if it fails: the marker, which goes last, lets the next run clear it.
            let _ = self.remove_all().and_then(|()| fs::remove_dir_all(&self.partial));
        }
    }
}

fn partial_of(target: &Path) -> Option<PathBuf> {
    let name = target.file_name()?.to_string_lossy();
    Some(target.with_file_name(format!("{name}.partial")))
}

/// Whether a folder can be made here: nothing, or an empty folder. A link is neither.
fn is_free(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Err(_) => true,
        Ok(found) => found.is_dir() && fs::read_dir(path).is_ok_and(|mut all| all.next().is_none()),
    }
}

/// Whether this is there and of this kind, and no link stands for it or for its folder.
fn is_plain(path: &Path, kind: fn(&fs::Metadata) -> bool) -> bool {
    let plain = |path: &Path| fs::symlink_metadata(path).ok();
    plain(path).is_some_and(|found| kind(&found))
        && path.parent().and_then(plain).is_some_and(|folder| folder.is_dir())
}

/// Folders are opened for flushing on Unix only; elsewhere renames are durable enough.
pub(crate) fn sync_folder(path: &Path) -> Result<(), Error> {
    if cfg!(unix) {
        File::open(path)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| Error::io("flush", path, e))?;
    }
    Ok(())
}
