//! A directory that appears all at once: written beside its place, and renamed.

use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::error::Error;
use crate::fstree::Destination;

/// Ending of the directory beside the target, whose name begins with a dot.
const ENDING: &str = ".strongroom-export";

/// A directory under way to its place.
pub(super) struct Publication {
    target: PathBuf,
    parent: PathBuf,
    temporary: PathBuf,
    /// The temporary directory itself; its lock says that somebody is writing there.
    lock: File,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { action, path: path.to_path_buf(), source }
}

impl Publication {
    /// Takes the place beside `target`, which is not there or an empty directory. What an export to
    /// the same target left behind is in it.
    pub fn begin(target: &Path) -> Result<Self, Error> {
        let Some(name) = target.file_name() else {
            return Err(Error::NoName { path: target.to_path_buf() });
        };
        check_free(target)?;
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(ENDING);
        let temporary = parent.join(hidden);
        Destination::create_dir_all_synced(&temporary)?;
        let lock = File::open(&temporary).map_err(failed("open", &temporary))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: temporary }),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &temporary)(error)),
        }
        // Whoever had the lock may have moved the directory to its place.
        let locked = lock.metadata().map_err(failed("stat", &temporary))?;
        let there = fs::symlink_metadata(&temporary).map(|there| (there.dev(), there.ino()));
        if there.ok() != Some((locked.dev(), locked.ino())) {
            return Err(Error::Busy { path: temporary });
        }
        let (target, parent) = (target.to_path_buf(), parent.to_path_buf());
        Ok(Self { target, parent, temporary, lock })
    }

    /// Returns where to write.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Writes a file and makes its content durable.
    pub fn write_json(&self, name: &str, document: &impl Serialize) -> Result<(), Error> {
        let path = self.temporary.join(name);
        let written = File::create_new(&path).and_then(|file| {
            let mut out = BufWriter::new(file);
            serde_json::to_writer_pretty(&mut out, document)?;
            out.write_all(b"\n")?;
            out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
        });
        written.map_err(failed("write", &path))
    }

    /// Removes everything that is in the directory.
    pub fn clear(&self) -> Result<(), Error> {
        let dir = Destination::open(&self.temporary)?;
        let names = fs::read_dir(&self.temporary).map_err(failed("list", &self.temporary))?;
        for name in names {
            let name = name.map_err(failed("list", &self.temporary))?.file_name();
            dir.remove_tree(name.as_encoded_bytes())?;
        }
        Ok(())
    }

    /// Gives up and removes the directory.
    pub fn abandon(self) {
        // What stays is taken over by the next export to this target.
        let _ = self.clear();
        let _ = fs::remove_dir(&self.temporary);
    }

    /// Moves the directory to its place. It is durable when this returns.
    pub fn publish(self) -> Result<(), Error> {
        self.lock.sync_all().map_err(failed("sync", &self.temporary))?;
        // Replaces an empty directory and nothing else.
        match fs::rename(&self.temporary, &self.target) {
            Err(error) if is_occupied(&error) => Err(Error::Occupied { path: self.target }),
            result => {
                result.map_err(failed("rename to", &self.target))?;
                let parent = File::open(&self.parent).and_then(|parent| parent.sync_all());
                parent.map_err(failed("sync", &self.parent))
            }
        }
    }
}

fn is_occupied(error: &io::Error) -> bool {
    use io::ErrorKind::{AlreadyExists, DirectoryNotEmpty, NotADirectory};
    matches!(error.kind(), AlreadyExists | DirectoryNotEmpty | NotADirectory)
}

/// Fails unless `target` is not there, or an empty directory.
fn check_free(target: &Path) -> Result<(), Error> {
    let occupied = || Err(Error::Occupied { path: target.to_path_buf() });
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("stat", target)(error)),
        Ok(there) if !there.is_dir() => occupied(),
        Ok(_) => match fs::read_dir(target).map_err(failed("list", target))?.next() {
            None => Ok(()),
            Some(_) => occupied(),
        },
    }
}
