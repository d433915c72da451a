//! Removing a tree.
//!
//! Owns the order: what is in a directory, then the directory. Uses no recursion and a bounded
//! number of descriptors, follows no symlink, and does not enter other file systems.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::PathError;
use super::destination::Destination;
use super::dirstack::{DirStack, Failure, Purpose};
use super::error::{EntryPath, Error};

impl Destination {
    /// Removes what is at `path` and everything below it, read-only directories included. Nothing
    /// there is fine.
    ///
    /// # Errors
    /// The first thing that cannot be removed, or a mounted file system; what was removed before
    /// stays removed, and a second call goes on.
    pub fn remove_tree(&self, path: &[u8]) -> Result<(), Error> {
        let (parent, name) = match self.parent("remove", path) {
            Err(error) if error.is_not_found() => return Ok(()),
            result => result?,
        };
        let base = parent.as_fd();
        match rustix::fs::unlinkat(base, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(self.system_error("remove", path, errno)),
        }
        let root = CString::new(name)
            .map_err(|_| Error::BadPath { path: self.entry(path), source: PathError::Nul })?;
        let mut stack = DirStack::new(self.resolver, Purpose::Remove, root);
        match empty(&mut stack, base) {
            Ok(()) => {}
            Err(failure) => return Err(self.removal_error(path, stack.path(), failure)),
        }
        match rustix::fs::unlinkat(base, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.system_error("remove", path, errno)),
        }
    }

    fn removal_error(&self, path: &[u8], below: &[u8], failure: Failure) -> Error {
        let mut full = path.to_vec();
        if !below.is_empty() {
            full.push(b'/');
            full.extend_from_slice(below);
        }
        let path = EntryPath::new(&self.path, &full);
        match failure {
            Failure::System(action, errno) => Error::system(action, path, errno),
            Failure::Changed => Error::Changed { path },
        }
    }
}

/// Removes everything in the root of `stack`, but not the root.
fn empty(stack: &mut DirStack, base: BorrowedFd<'_>) -> Result<(), Failure> {
    stack.enter(base, None)?;
    loop {
        if let Some(entry) = stack.next(base) {
            let (dir, name, file_type) = entry?;
            if file_type == FileType::Directory || remove_entry(dir, name)? {
                stack.enter(base, None)?;
            }
            continue;
        }
        stack.pop();
        let Some(entry) = stack.current(base) else {
            return Ok(());
        };
        let (dir, name) = entry?;
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Failure::System("remove", errno)),
        }
    }
}

/// Removes a node, unless it turns out to be a directory: then it returns true.
fn remove_entry(dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Failure> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::ISDIR) => Ok(true),
        Err(errno) => Err(Failure::System("remove", errno)),
    }
}
