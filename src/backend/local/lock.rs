//! Locks between processes, and between backends of one process.
//!
//! A kernel lock on a file that is never deleted: it ends with its holder, however that ends, and
//! nothing is judged by age.

use std::fs::{File, TryLockError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::root::{FILE_MODE, LOCKS, Root, retry};
use crate::backend::{Error, Key, Lock, LockMode};

/// A held lock.
#[derive(Debug)]
struct Held(File);

impl Lock for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing the descriptor would do, were it not for a command that another thread is just
        // starting: until it runs, its process has the descriptor too, and so the lock.
        let _ = self.0.unlock();
    }
}

/// A shared lock where no lock file is and none can be made, because the file system is read-only.
///
/// Safe as far as this file system is concerned: a writer would have to make the lock file first.
/// If it is read-only for us alone (a second mount, an export over the network), a writer elsewhere
/// is not held off. Then prune may remove what we are about to read; that is an error to the
/// reader, never wrong bytes, because whatever is read is checked.
#[derive(Debug)]
struct Unneeded;

impl Lock for Unneeded {}

/// Tries to take the lock `name`.
pub(super) fn try_lock(
    root: &Root,
    name: &str,
    mode: LockMode,
) -> Result<Option<Box<dyn Lock>>, Error> {
    if Key::new(name).is_err() || name.contains('/') {
        return Err(Error::BadKey { text: name.to_owned() });
    }
    let path = format!("{LOCKS}/{name}");
    let Some(file) = open(root, &path, mode).map_err(|e| root.io("open", &path, e))? else {
        return Ok(Some(Box::new(Unneeded)));
    };
    let locked = match mode {
        LockMode::Shared => file.try_lock_shared(),
        LockMode::Exclusive => file.try_lock(),
    };
    match locked {
        Ok(()) => Ok(Some(Box::new(Held(file)))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(root.io("lock", &path, error)),
    }
}

/// Opens the lock file, making it if it is missing; `None` if it is missing, cannot be made
/// because nobody can write here, and is not needed.
fn open(root: &Root, path: &str, mode: LockMode) -> Result<Option<File>, Errno> {
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open = |flags| retry(|| rustix::fs::openat(&root.fd, path, flags, FILE_MODE));
    let write = || open(flags | OFlags::RDWR | OFlags::CREATE);
    let opened = match write() {
        // Neither file nor folder needs a sync: a lock does not outlive the system.
        Err(Errno::NOENT) => match rustix::fs::mkdirat(&root.fd, LOCKS, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => write(),
            Err(errno) => Err(errno),
        },
        answer => answer,
    };
    match opened {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(refused @ (Errno::ROFS | Errno::ACCESS | Errno::PERM)) if mode == LockMode::Shared => {
            match open(flags | OFlags::RDONLY) {
                Ok(fd) => Ok(Some(File::from(fd))),
                Err(Errno::NOENT) if refused == Errno::ROFS => Ok(None),
                Err(_) => Err(refused),
            }
        }
        Err(errno) => Err(errno),
    }
}
