//! Transfers that were interrupted, and may go on only where that is certain to be right: `icp`
//! resumes whatever it finds, another snapshot's files included.
//!
//! A mark beside the staging directory, never inside it, says what an unfinished transfer is of. It
//! is written when the directory is empty and goes before the directory is emptied again, so it
//! never speaks of anything else. Its name begins with `.`, which no member's does.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::answer;
use super::content::{self, DOWNLOAD_PROGRESS, METADATA, UPLOAD_PROGRESS};
use crate::run::executor::{Error, staged};

fn refused(path: &Path) -> impl Fn(io::Error) -> Error {
    move |error| Error::Refused(format!("{}: {error}", path.display()))
}

/// The mark of a staging directory.
struct Mark(PathBuf);

impl Mark {
    fn of(staging: &Path, what: &str) -> Result<Self, Error> {
        let name = staging
            .file_name()
            .ok_or_else(|| Error::Refused(format!("{}: it has no name", staging.display())))?;
        let mut mark = std::ffi::OsString::from(".");
        mark.push(name);
        mark.push(what);
        Ok(Self(staging.with_file_name(mark)))
    }

    fn says(&self, text: &str) -> bool {
        std::fs::read(&self.0).is_ok_and(|found| found == text.as_bytes())
    }

    fn remove(&self) -> Result<(), Error> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(&self.0)(error)),
            _ => Ok(()),
        }
    }

    /// Writes a mark where there is none.
    fn write(&self, text: &str) -> Result<(), Error> {
        let write = || std::fs::File::create_new(&self.0)?.write_all(text.as_bytes());
        write().map_err(refused(&self.0))
    }
}

fn is_json_object(path: &Path) -> bool {
    content::read_json(path).is_ok_and(|value| value.is_object())
}

/// Makes a staging directory ready for a download of `what`, a text that names it and nothing else.
/// Says whether what is there is the beginning of it; otherwise the directory is empty now.
///
/// # Errors
/// [`Error::Refused`] if that is not possible.
pub fn begin_download(staging: &Path, what: &str) -> Result<bool, Error> {
    let mark = Mark::of(staging, ".download")?;
    // `icp` believes the metadata that it finds, and fails for ever if it cannot be read.
    let begun =
        [DOWNLOAD_PROGRESS, METADATA].iter().all(|name| is_json_object(&staging.join(name)));
    if begun && mark.says(what) && content::remove_partial_chunks(staging).is_ok() {
        return Ok(true);
    }
    mark.remove()?;
    staged::empty(staging)?;
    mark.write(what)?;
    Ok(false)
}

/// Says that a download has ended.
///
/// # Errors
/// [`Error::Unknown`] if it has left something unfinished.
pub fn end_download(staging: &Path) -> Result<(), Error> {
    let progress = staging.join(DOWNLOAD_PROGRESS);
    if std::fs::symlink_metadata(&progress).is_ok() {
        let there = format!("{}: is there after a download that ended well", progress.display());
        return Err(Error::Unknown(there));
    }
    Mark::of(staging, ".download")?.remove()
}

/// An upload about to begin.
pub struct Upload<'a> {
    staging: &'a Path,
    mark: Mark,
    text: String,
}

impl<'a> Upload<'a> {
    /// Looks at a staging directory whose content is to be uploaded to `target`, a text that names
    /// it and nothing else.
    ///
    /// # Errors
    /// [`Error::Refused`] if the directory cannot be looked at.
    pub fn new(staging: &'a Path, target: &str) -> Result<Self, Error> {
        let fingerprint = content::fingerprint(staging).map_err(Error::Refused)?;
        let text = format!("{target}\n{fingerprint}");
        Ok(Self { staging, mark: Mark::of(staging, ".upload")?, text })
    }

    fn progress(&self) -> PathBuf {
        self.staging.join(UPLOAD_PROGRESS)
    }

    /// Returns the snapshot of an unfinished upload of the same files to the same target.
    pub fn unfinished(&self) -> Option<String> {
        if !self.mark.says(&self.text) {
            return None;
        }
        let progress = content::read_json(&self.progress()).ok()?;
        let progress = serde_json::to_vec(&progress).ok()?;
        answer::uploaded(&progress).map(|snapshot| snapshot.id).ok()
    }

    /// Makes the directory ready for an upload from its beginning.
    ///
    /// # Errors
    /// [`Error::Refused`] if that is not possible.
    pub fn begin(&self) -> Result<(), Error> {
        self.mark.remove()?;
        self.forget()?;
        self.mark.write(&self.text)
    }

    /// Removes what an unfinished upload has left.
    pub fn forget(&self) -> Result<(), Error> {
        let progress = self.progress();
        match std::fs::remove_file(&progress) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(&progress)(error)),
            _ => Ok(()),
        }
    }

    /// Says that the upload has ended.
    ///
    /// # Errors
    /// [`Error::Refused`] if the mark cannot be removed.
    pub fn end(&self) -> Result<(), Error> {
        self.forget()?;
        self.mark.remove()
    }
}
