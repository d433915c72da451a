//! Places of content, as executors handle them: staging directories, in which nothing is followed,
//! and files that are read in place.

use std::io;
use std::path::{Path, PathBuf};

use super::{Error, Fetched};
use crate::run::inventory::Row;

fn refused(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Refused(format!("{}: {error}", path.display()))
}

/// Says that a member's content stays where it is.
///
/// # Errors
/// [`Error::Refused`] if it is not there.
pub fn in_place(member: &Row, path: PathBuf) -> Result<Fetched, Error> {
    match std::fs::symlink_metadata(&path) {
        Ok(_) => Ok(Fetched::InPlace(path)),
        Err(error) => {
            let id = &member.id;
            Err(Error::Refused(format!("member {id}: {}: {error}", path.display())))
        }
    }
}

/// Returns the directory's path from the root: commands may work elsewhere.
///
/// # Errors
/// [`Error::Refused`] if this process's directory is gone.
pub fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(refused(path))
}

/// Removes what is in a directory.
///
/// # Errors
/// [`Error::Refused`] if it is no directory, or something in it cannot be removed.
pub fn empty(dir: &Path) -> Result<(), Error> {
    let remove = || {
        for item in real_dir(dir)? {
            let item = item?;
            if item.file_type()?.is_dir() {
                std::fs::remove_dir_all(item.path())?;
            } else {
                std::fs::remove_file(item.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(refused(dir))
}

/// Says whether a directory holds nothing.
///
/// # Errors
/// [`Error::Refused`] if it is no directory.
pub fn is_empty(dir: &Path) -> Result<bool, Error> {
    let first = || real_dir(dir)?.next().transpose();
    Ok(first().map_err(refused(dir))?.is_none())
}

/// Lists a directory that is no symlink to one.
fn real_dir(dir: &Path) -> io::Result<std::fs::ReadDir> {
    if std::fs::symlink_metadata(dir)?.is_dir() {
        std::fs::read_dir(dir)
    } else {
        Err(io::ErrorKind::NotADirectory.into())
    }
}
