//! The store's directory, and where in it an object is.
//!
//! Owns the directory descriptor, the mapping from keys to paths, and the shape of error
//! messages. Paths are relative to the root, in the store's own alphabet.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::seam::Seam;
use crate::backend::{Error, Key};

/// Where objects are written before they have their name.
pub(super) const TMP: &str = "tmp";
/// Where lock files are.
pub(super) const LOCKS: &str = "locks";
/// The folder whose objects are spread over 256 folders, so that none gets too large to list.
pub(super) const PACKS: &str = "packs";
/// Digits in the name of an object below [`PACKS`].
const PACK_NAME_DIGITS: usize = 64;

/// Directories of the store (rule 12 of the crash model: nobody else reads the store).
pub(super) const DIRECTORY_MODE: Mode = Mode::RWXU;
/// Files of the store.
pub(super) const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// The store's directory.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) fd: OwnedFd,
    /// As the caller named it; only for messages.
    pub(super) path: PathBuf,
    pub(super) seam: Seam,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry(|| rustix::fs::open(path, flags, Mode::empty())).map_err(|errno| {
            Error::Io { action: "open", path: path.display().to_string(), source: errno.into() }
        })?;
        Ok(Self { fd, path: path.to_owned(), seam: Seam::new() })
    }

    /// Builds the error for a failed `action` on `path` (relative to the root).
    pub(super) fn io(
        &self,
        action: &'static str,
        path: &str,
        source: impl Into<io::Error>,
    ) -> Error {
        let full = if path.is_empty() { self.path.clone() } else { self.path.join(path) };
        Error::Io { action, path: full.display().to_string(), source: source.into() }
    }

    /// Opens the directory `path` for listing and syncing.
    pub(super) fn open_folder(&self, path: &str) -> Result<OwnedFd, Errno> {
        open_folder_in(&self.fd, path)
    }

    /// Opens the directory `path`, step by step; `None` if it, or one above it, is missing or is an
    /// object. A link that leads nowhere is not taken for a missing directory.
    pub(super) fn find_folder(&self, path: &str) -> Result<Option<OwnedFd>, Error> {
        let mut opened = self.open_folder("").map_err(|e| self.io("open", "", e))?;
        for at in prefixes(path) {
            opened = match self.find_folder_in(&self.fd, at, at)? {
                Some(folder) => folder,
                None => return Ok(None),
            };
        }
        Ok(Some(opened))
    }

    /// Opens the directory `name` in the directory `above`, which is `path` from the root; `None` if
    /// it is missing or is an object.
    pub(super) fn find_folder_in(
        &self,
        above: &OwnedFd,
        name: &str,
        path: &str,
    ) -> Result<Option<OwnedFd>, Error> {
        match open_folder_in(above, name) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR) if self.stat_object(path)?.is_some() => Ok(None),
            Err(errno) => Err(self.io("open", path, errno)),
        }
    }

    /// Opens the object at `place` for reading; `None` if there is none.
    pub(super) fn open_object(&self, place: &Place) -> Result<Option<(File, Stat)>, Error> {
        // Not blocking: a pipe under an object's name must be an error, not an endless wait.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = retry(|| rustix::fs::openat(&self.fd, place.path(), flags, Mode::empty()));
        let file = match opened {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(errno) => return Err(self.io("open", place.path(), errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| self.io("examine", place.path(), e))?;
        Ok(self.is_object(place.path(), &stat)?.then_some((file, stat)))
    }

    /// Examines the object at `path`; `None` if there is none.
    pub(super) fn stat_object(&self, path: &str) -> Result<Option<Stat>, Error> {
        match rustix::fs::statat(&self.fd, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(self.is_object(path, &stat)?.then_some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(self.io("examine", path, errno)),
        }
    }

    /// A directory under an object's name means that there is no such object. Anything else but a
    /// file did not come from this backend; to call it missing would let others conclude that
    /// what it refers to may go.
    fn is_object(&self, path: &str, stat: &Stat) -> Result<bool, Error> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(true),
            FileType::Directory => Ok(false),
            _ => Err(self.not_a_file(path)),
        }
    }

    pub(super) fn not_a_file(&self, path: &str) -> Error {
        self.io("use", path, io::Error::new(io::ErrorKind::InvalidData, "not a regular file"))
    }
}

fn open_folder_in(above: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = if path.is_empty() { "." } else { path };
    retry(|| rustix::fs::openat(above, path, flags, Mode::empty()))
}

/// Where an object is: a path below the root.
#[derive(Debug)]
pub(super) struct Place {
    path: String,
}

impl Place {
    /// Returns the place of `key`. Different keys have different places.
    pub(super) fn of(key: &Key) -> Result<Self, Error> {
        let text = key.as_str();
        let path = match text.strip_prefix(PACKS).and_then(|rest| rest.strip_prefix('/')) {
            Some(name) if is_pack_name(name) => format!("{PACKS}/{}/{name}", &name[..2]),
            // Any other name could be the place of a pack as well.
            Some(_) => {
                return Err(Error::BadKey { text: text.to_owned() });
            }
            None => text.to_owned(),
        };
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the folder that holds the object's name, empty for the root.
    pub(super) fn folder(&self) -> &str {
        parent(&self.path)
    }
}

/// Returns whether `name` can be an object below [`PACKS`].
pub(super) fn is_pack_name(name: &str) -> bool {
    name.len() == PACK_NAME_DIGITS && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the folder of `path`, empty for the root.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Returns the folders on the way to `path`, the upper ones first and `path` last.
pub(super) fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.map(|end| &path[..end]).filter(|prefix| !prefix.is_empty())
}

/// Repeats `call` while signals interrupt it. Never for a sync.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            answer => return answer,
        }
    }
}
