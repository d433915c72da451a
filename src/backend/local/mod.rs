//! The store in a local directory.
//!
//! One file per object, published once and never changed:
//!
//! | place | what |
//! |---|---|
//! | `packs/<first two digits>/<64 hexadecimal digits>` | the key `packs/<64 hexadecimal digits>` |
//! | `tmp/<name>` | objects being written; whatever no process writes any more is debris |
//! | `locks/<name>` | lock files, made on demand and never deleted |
//! | everything else | the key of the same text |
//!
//! Invariants: a final name never holds torn bytes, because it is given to a file that is synced
//! already; a final name is never replaced but by [`Backend::overwrite`]; [`Backend::put`] returns after the sync of the folder
//! that holds the name (and of every folder above it that may be new). A sync is never repeated:
//! the system may answer the second one with success although the bytes are gone. The first
//! failed sync latches the backend instead.
//!
//! Everything is addressed relative to one directory descriptor, so a later change of the working
//! directory or a renamed parent does not matter. Files are 0600 and directories 0700.
//!
//! Not here: what the bytes mean, and who may delete. See "Publishing" in `store-format.md`.

use std::path::Path;

use super::{Backend, Error, Key, Lock, LockMode, ObjectBytes, Put};

mod direct;
mod layout;
mod list;
mod lock;
mod publish;
mod read;
mod root;
mod seam;
#[cfg(test)]
mod tests;

pub use publish::Swept;

use publish::{Folders, Latch};
use read::OpenFiles;
use root::Root;

/// A store in a local directory.
///
/// May be shared between threads and opened by several processes at once. Opening needs no
/// permission to write: on a read-only file system everything but [`Backend::put`],
/// [`Backend::delete`] and exclusive locks works.
#[derive(Debug)]
pub struct LocalBackend {
    root: Root,
    latch: Latch,
    folders: Folders,
    buffers: direct::Buffers,
    files: OpenFiles,
}

impl LocalBackend {
    /// Creates the directory `path` (or takes it, if it is empty) with the store's folders in it,
    /// durably.
    ///
    /// # Errors
    /// [`Error::NotEmpty`] if the directory holds anything but `lost+found`; [`Error::Io`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self, Error> {
        layout::create(path.as_ref()).map(Self::new)
    }

    /// Opens the directory `path`. Whether it holds a store is for the caller to find out, from
    /// the objects in it.
    ///
    /// # Errors
    /// [`Error::Io`] if it is no directory or cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Root::open(path.as_ref()).map(Self::new)
    }

    /// Removes what interrupted writers left in `tmp`. Safe beside running writers, of this or
    /// other processes: they hold a lock on the files they write.
    ///
    /// # Errors
    /// [`Error::Latched`], or [`Error::Io`] from the first file that cannot be removed.
    pub fn sweep_tmp(&self) -> Result<Swept, Error> {
        self.latch.check()?;
        publish::sweep(&self.root)
    }

    fn new(root: Root) -> Self {
        Self {
            root,
            latch: Latch::default(),
            folders: Folders::default(),
            buffers: direct::Buffers::default(),
            files: OpenFiles::default(),
        }
    }

    /// Returns the store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root.path
    }
}

impl Backend for LocalBackend {
    fn put(&self, key: &Key, parts: &[&[u8]]) -> Result<Put, Error> {
        self.publish(key, parts)
    }

    fn overwrite(&self, key: &Key, parts: &[&[u8]]) -> Result<(), Error> {
        self.republish(key, parts)
    }

    fn read_at(&self, key: &Key, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        read::read_at(&self.root, &self.files, key, offset, buffer)
    }

    fn read(&self, key: &Key, bytes_max: u64) -> Result<ObjectBytes, Error> {
        read::read(&self.root, key, bytes_max)
    }

    fn len(&self, key: &Key) -> Result<u64, Error> {
        read::len(&self.root, key)
    }

    fn list(&self, folder: &str, each: &mut dyn FnMut(Key, u64)) -> Result<(), Error> {
        list::list(&self.root, folder, each)
    }

    fn delete(&self, key: &Key) -> Result<(), Error> {
        self.remove(key)
    }

    fn try_lock(&self, name: &str, mode: LockMode) -> Result<Option<Box<dyn Lock>>, Error> {
        lock::try_lock(&self.root, name, mode)
    }

    fn location(&self) -> String {
        self.root.path.display().to_string()
    }
}
