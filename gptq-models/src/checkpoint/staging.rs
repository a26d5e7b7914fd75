//! [`Staging`]: an output folder that has its name only when it is whole.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use crate::Error;

/// Marks a folder as ours, so that the remains of a killed run can be told from someone's data.
pub(crate) const MARKER: &str = ".gptq-partial";

/// A folder being filled beside its final place. Dropped before [`Staging::finish`], it is removed.
#[derive(Debug)]
pub struct Staging {
    target: PathBuf,
    partial: PathBuf,
    /// Held until the folder is finished or the process ends, however it ends.
    _lock: File,
    finished: bool,
}

impl Staging {
    /// Prepares `{target}.partial`. What a killed run left there is removed first.
    ///
    /// # Errors
    /// [`Error::OutputExists`] if `target` is anything but absent or an empty folder;
    /// [`Error::File`] if `{target}.partial` is not ours; [`Error::Io`] if it cannot be written.
    pub fn create(target: &Path) -> Result<Self, Error> {
        Self::check(target)?;
        let name = target.file_name().ok_or_else(|| {
            Error::file(target, "is no place for an output folder; give it a name of its own")
        })?;
        let partial = target.with_file_name(format!("{}.partial", name.to_string_lossy()));
        let marker = partial.join(MARKER);
        if let Ok(file) = File::open(&marker) {
            if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                return Err(Error::file(&partial, "is being written by another run; wait for it"));
            }
            fs::remove_dir_all(&partial).map_err(|e| Error::io("clear", &partial, e))?;
        } else if fs::symlink_metadata(&partial).is_ok() {
            return Err(Error::file(
                &partial,
                "is in the way and was not left by an interrupted run; move it",
            ));
        }
        fs::create_dir_all(&partial).map_err(|e| Error::io("create", &partial, e))?;
        let lock = File::create(&marker).map_err(|e| Error::io("write", &marker, e))?;
        // File systems without locks lose only the protection against a second run.
        let _ = lock.try_lock();
        Ok(Self { target: target.to_owned(), partial, _lock: lock, finished: false })
    }

    /// Whether `target` may be created: it must be absent or an empty folder.
    ///
    /// # Errors
    /// [`Error::OutputExists`].
    pub fn check(target: &Path) -> Result<(), Error> {
        let free = match fs::read_dir(target) {
            // Giving a folder a name that is a link would fail when all is done.
            Ok(_) if target.is_symlink() => false,
            Ok(mut entries) => entries.next().is_none(),
            Err(_) => fs::symlink_metadata(target).is_err(),
        };
        if free {
            return Ok(());
        }
        Err(Error::OutputExists { path: target.display().to_string() })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// The name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<(), Error> {
        let marker = self.partial.join(MARKER);
        fs::remove_file(&marker).map_err(|e| Error::io("remove", &marker, e))?;
        sync_folder(&self.partial)?;
        // An empty folder may stand at the target; renaming over it is not portable.
        if self.target.is_dir() {
            fs::remove_dir(&self.target).map_err(|e| Error::io("replace", &self.target, e))?;
        }
        fs::rename(&self.partial, &self.target)
            .map_err(|e| Error::io("rename", &self.partial, e))?;
        self.finished = true;
        match self.target.parent() {
            Some(parent) if parent.as_os_str().is_empty() => sync_folder(Path::new(".")),
            Some(parent) => sync_folder(parent),
            None => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing to be done if it fails: the marker lets the next run clear it.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
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
