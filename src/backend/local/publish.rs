//! Publishing and deleting objects, and what is left of an interrupted publication.
//!
//! The sequence, which nothing may reorder: create in `tmp` → write → sync the file → make sure
//! that the folders are durable → name it without replacing → sync the folder. See "Publishing"
//! in `store-format.md`.
//!
//! Failures: whatever happens before the object has its name costs only a file in `tmp`. A failed
//! sync, or an I/O error of the device, latches the backend. A full disk does not.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fs::{File, TryLockError};
use std::hash::BuildHasher;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, StatVfs};
use rustix::io::Errno;

use super::LocalBackend;
use super::root::{DIRECTORY_MODE, FILE_MODE, PACKS, Place, Root, TMP, parent, prefixes, retry};
use crate::backend::{Error, Key, Put};

/// Folders whose objects are most of a store.
const PACK_FOLDERS: [&str; 2] = [PACKS, "pages"];
/// Of a file system this share is left free by packs,
const RESERVE_SHARE: u64 = 256;
/// but not less than this, in bytes: what a prune of a small store writes,
const RESERVE_BYTES_MIN: u64 = 128 * 1024;
/// and not more than this, in bytes: index segments of some million chunks.
const RESERVE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How often something is tried again that another process got in the way of. Once is usual,
/// twice is a rare coincidence.
const TRIES_MAX: usize = 16;

/// The first failure after which nothing can be promised any more.
#[derive(Debug, Default)]
pub(super) struct Latch(OnceLock<String>);

impl Latch {
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.0.get() {
            None => Ok(()),
            Some(first) => Err(Error::Latched { first: first.clone() }),
        }
    }

    /// Latches; returns the error for its first reporter.
    pub(super) fn close(&self, error: Error) -> Error {
        let _ = self.0.set(error.to_string());
        error
    }

    /// Latches if `error` is a failure of the device. A full disk is ordinary, as is a permission
    /// or a limit of the process.
    fn judge(&self, error: Error) -> Error {
        match &error {
            Error::Io { source, .. } if source.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                self.close(error)
            }
            _ => error,
        }
    }
}

/// The folders that this backend knows to be durable, with their names in the folders above.
#[derive(Debug, Default)]
pub(super) struct Folders(Mutex<HashSet<String>>);

impl Folders {
    fn has(&self, folder: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }

    fn add(&self, folder: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
    }

    fn remove(&self, folder: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
    }
}

impl LocalBackend {
    /// Stores an object unless there is one already; durable in both cases.
    pub(super) fn publish(&self, key: &Key, parts: &[&[u8]]) -> Result<Put, Error> {
        self.latch.check()?;
        let place = Place::of(key)?;
        if let Some((existing, _)) = self.root.open_object(&place)? {
            return self.confirm(&existing, &place);
        }
        self.leave_reserve(&place, parts)?;
        let mut unfinished = self.write_unfinished(parts)?;
        self.make_folder_durable(place.folder())?;
        for _ in 0..TRIES_MAX {
            match unfinished.name(&place) {
                Ok(()) => {
                    self.sync_folder(place.folder())?;
                    return Ok(Put::Created);
                }
                Err(Errno::EXIST) => {
                    // Unless it has just been deleted again.
                    if let Some((existing, _)) = self.root.open_object(&place)? {
                        return self.confirm(&existing, &place);
                    }
                }
                Err(errno) => {
                    self.folders.remove(place.folder()); // It may be gone.
                    return Err(self.latch.judge(self.root.io("publish", place.path(), errno)));
                }
            }
        }
        Err(self.root.io("publish", place.path(), Errno::EXIST))
    }

    /// Refuses packs that would take the last room of the file system: records, lists and segments
    /// must find some, so that what is stored can still be pruned.
    fn leave_reserve(&self, place: &Place, parts: &[&[u8]]) -> Result<(), Error> {
        if !PACK_FOLDERS.iter().any(|folder| is_below(place.folder(), folder)) {
            return Ok(());
        }
        let needed: usize = parts.iter().map(|part| part.len()).sum();
        // Who cannot say how much room there is finds out by writing.
        match rustix::fs::fstatvfs(&self.root.fd) {
            Ok(room) if room.f_bavail * room.f_frsize < needed as u64 + reserve_bytes(&room) => {
                Err(self.root.io("write", place.path(), Errno::NOSPC))
            }
            _ => Ok(()),
        }
    }

    /// Stores an object in place of one that may be there.
    pub(super) fn republish(&self, key: &Key, parts: &[&[u8]]) -> Result<(), Error> {
        self.latch.check()?;
        let place = Place::of(key)?;
        let mut unfinished = self.write_unfinished(parts)?;
        self.make_folder_durable(place.folder())?;
        let answer = retry(|| self.root.replace(&unfinished.path, place.path()));
        self.files.forget(key);
        answer.map_err(|e| self.latch.judge(self.root.io("publish", place.path(), e)))?;
        unfinished.named = true;
        self.sync_folder(place.folder())
    }

    /// Writes a file in `tmp` and syncs it.
    fn write_unfinished(&self, parts: &[&[u8]]) -> Result<Unfinished<'_>, Error> {
        let unfinished = Unfinished::create(&self.root).map_err(|e| self.latch.judge(e))?;
        self.buffers.write(&self.root, &unfinished.file, &unfinished.path, parts).map_err(
            |(action, errno)| self.latch.judge(self.root.io(action, &unfinished.path, errno)),
        )?;
        self.sync_file(&unfinished.file, &unfinished.path)?;
        Ok(unfinished)
    }

    /// Makes an object that is there durable: its writer may not have come to that.
    fn confirm(&self, existing: &File, place: &Place) -> Result<Put, Error> {
        self.sync_file(existing, place.path())?;
        self.make_folder_durable(place.folder())?;
        self.sync_folder(place.folder())?;
        Ok(Put::Existed)
    }

    /// Removes an object.
    pub(super) fn remove(&self, key: &Key) -> Result<(), Error> {
        self.latch.check()?;
        let place = Place::of(key)?;
        let Some(folder) = self.root.find_folder(place.folder())? else {
            return Ok(());
        };
        let answer = self.root.unlink(place.path());
        self.files.forget(key);
        match answer {
            // Also if it was gone: whoever removed it may not have come to the sync.
            Ok(()) | Err(Errno::NOENT) => self.sync_opened(folder, place.folder()),
            Err(Errno::ISDIR) => Ok(()), // A folder of keys, so no object.
            Err(errno) => Err(self.latch.judge(self.root.io("delete", place.path(), errno))),
        }
    }

    /// Makes `folder` if it is missing, and makes sure that it survives a power cut.
    fn make_folder_durable(&self, folder: &str) -> Result<(), Error> {
        for at in prefixes(folder) {
            if self.folders.has(at) {
                continue;
            }
            match self.root.make_folder(at) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.latch.judge(self.root.io("create", at, errno))),
            }
            // Also if it was there: whoever made it may not have come to the sync.
            self.sync_folder(parent(at))?;
            self.folders.add(at);
        }
        Ok(())
    }

    fn sync_file(&self, file: &File, path: &str) -> Result<(), Error> {
        let answer = self.root.sync_file(file, path);
        answer.map_err(|errno| self.latch.close(self.root.io("sync", path, errno)))
    }

    pub(super) fn sync_folder(&self, folder: &str) -> Result<(), Error> {
        let opened = self.root.open_folder(folder);
        let opened = opened.map_err(|e| self.latch.judge(self.root.io("open", folder, e)))?;
        self.sync_opened(opened, folder)
    }

    fn sync_opened(&self, opened: OwnedFd, folder: &str) -> Result<(), Error> {
        let answer = self.root.sync_folder(opened, folder);
        answer.map_err(|errno| self.latch.close(self.root.io("sync", folder, errno)))?;
        // A failure is reported to one of those who sync a folder, but concerns all of them.
        self.latch.check()
    }
}

fn is_below(folder: &str, above: &str) -> bool {
    folder.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Returns what packs leave free of a file system, in bytes.
fn reserve_bytes(room: &StatVfs) -> u64 {
    (room.f_blocks * room.f_frsize / RESERVE_SHARE).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX)
}

/// A file in `tmp` that its writer holds a lock on; removed when dropped.
pub(super) struct Unfinished<'a> {
    root: &'a Root,
    path: String,
    pub(super) file: File,
    named: bool,
}

impl<'a> Unfinished<'a> {
    pub(super) fn create(root: &'a Root) -> Result<Self, Error> {
        for _ in 0..TRIES_MAX {
            let path = format!("{TMP}/{}", unique_name());
            let file = match retry(|| root.create_file(&path, FILE_MODE)) {
                Ok(file) => file,
                Err(Errno::EXIST) => continue,
                // A copy of the store may have lost its empty folders.
                Err(Errno::NOENT) => match rustix::fs::mkdirat(&root.fd, TMP, DIRECTORY_MODE) {
                    Ok(()) | Err(Errno::EXIST) => continue,
                    Err(errno) => return Err(root.io("create", TMP, errno)),
                },
                Err(errno) => return Err(root.io("create", &path, errno)),
            };
            let unfinished = Self { root, path, file, named: false };
            if unfinished.lock()? {
                return Ok(unfinished);
            }
        }
        Err(root.io("create", TMP, Errno::EXIST))
    }

    /// Locks the file against [`sweep`]; false if a sweep was faster.
    pub(super) fn lock(&self) -> Result<bool, Error> {
        match self.file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            // Where nobody can lock, nobody sweeps.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(self.root.io("lock", &self.path, e)),
        }
        let stat = rustix::fs::fstat(&self.file);
        let stat = stat.map_err(|e| self.root.io("examine", &self.path, e))?;
        Ok(stat.st_nlink > 0)
    }

    /// Gives the file its final name, if nothing has that name.
    pub(super) fn name(&mut self, place: &Place) -> Result<(), Errno> {
        match retry(|| self.root.rename(&self.path, place.path())) {
            Ok(()) => {
                self.named = true;
                Ok(())
            }
            // The file system cannot rename without replacing. The name in `tmp` goes with `self`.
            Err(Errno::INVAL | Errno::NOSYS) => retry(|| self.root.link(&self.path, place.path())),
            Err(errno) => Err(errno),
        }
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.named {
            let _ = self.root.unlink(&self.path); // A sweep removes what is left.
        }
    }
}

/// Returns a name that no other process uses, nor this one again.
fn unique_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: OnceLock<u64> = OnceLock::new();
    let process = PROCESS.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    format!("{process:016x}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What [`LocalBackend::sweep_tmp`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files.
    pub files: u64,
    /// The sum of their lengths.
    pub size_bytes: u64,
}

/// Removes the files in `tmp` that nobody writes.
pub(super) fn sweep(root: &Root) -> Result<Swept, Error> {
    let mut swept = Swept::default();
    let opened = match root.open_folder(TMP) {
        Ok(opened) => opened,
        Err(Errno::NOENT) => return Ok(swept),
        Err(errno) => return Err(root.io("list", TMP, errno)),
    };
    for entry in Dir::read_from(&opened).map_err(|e| root.io("list", TMP, e))? {
        let entry = entry.map_err(|e| root.io("list", TMP, e))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let path = format!("{TMP}/{}", name.to_string_lossy());
        // What is no file, we did not make; it is not opened, as that may have effects.
        let stat = match rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(root.io("examine", &path, errno)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            continue;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = match retry(|| rustix::fs::openat(&opened, name, flags, Mode::empty())) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(root.io("open", &path, errno)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(root.io("lock", &path, error)),
        }
        // Once it is locked nobody else removes it. It may have been removed, or been given its
        // final name, before: then it has none here, and names are never used twice.
        let stat = rustix::fs::fstat(&file).map_err(|e| root.io("examine", &path, e))?;
        match rustix::fs::unlinkat(&opened, name, AtFlags::empty()) {
            Ok(()) => {
                swept.files += 1;
                swept.size_bytes += u64::try_from(stat.st_size).unwrap_or(0);
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(root.io("delete", &path, errno)),
        }
    }
    Ok(swept)
}
