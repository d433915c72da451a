//! The walk over a source tree, in the order of [`compare_paths`](super::compare_paths).
//!
//! Owns the decision which directories are entered. Each entry costs one `statx` (and each symlink
//! one `readlink`), each directory an open and its reads; see `DirStack` for the bounds.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::AtFlags;

use super::dirstack::{DirStack, Failure, Identity, Purpose};
use super::error::{EntryPath, Error};
use super::source::Root;
use super::stat::{stat_at, stat_fd};
use super::{Kind, Stat};

/// What a walk leaves out.
#[derive(Clone, Debug, Default)]
pub struct WalkOptions {
    /// Directories on other file systems than the root's are given out but not entered.
    pub one_file_system: bool,
    /// Directories, as (device, inode), that are neither given out nor entered: see
    /// [`identity_of`](super::identity_of). A walk whose root is one of them is empty.
    pub exclude_dir: Vec<(u64, u64)>,
}

/// A node of a source tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its path inside the tree; empty for the root. May be longer than a store accepts
    /// ([`check_path`](super::check_path) tells).
    pub path: Vec<u8>,
    /// What the system says about it.
    pub stat: Stat,
}

/// A running walk: the root, then everything below it, each directory before its children.
///
/// An `Err` names the entry that vanished before it could be looked at, or the directory that
/// could not be read or has been replaced; that directory's remaining children are missing then,
/// and the walk goes on with its siblings. Whether the tree changes while it is walked is the
/// caller's to notice.
pub struct Walk {
    root: Arc<Root>,
    options: WalkOptions,
    stack: DirStack,
    started: bool,
    root_device: u64,
    /// The directory that was given out last and is entered next.
    pending: Option<Identity>,
}

impl Walk {
    pub(super) fn new(root: Arc<Root>, options: WalkOptions) -> Self {
        let stack = DirStack::new(root.resolver, Purpose::Read, c".".to_owned());
        Self { root, options, stack, started: false, root_device: 0, pending: None }
    }

    fn error(&self, failure: Failure, path: &[u8]) -> Error {
        let path = EntryPath::new(&self.root.path, path);
        match failure {
            Failure::System(action, errno) => Error::system(action, path, errno),
            Failure::Changed => Error::Changed { path },
        }
    }

    /// Decides about a node: `None` if it is left out, and what is entered next.
    fn admit(&mut self, stat: Stat) -> Option<Node> {
        if stat.kind == Kind::Dir {
            let identity = (stat.device, stat.inode);
            if self.options.exclude_dir.contains(&identity) {
                return None;
            }
            if !self.options.one_file_system || stat.device == self.root_device {
                self.pending = Some(identity);
            }
        }
        Some(Node { path: self.stack.path().to_vec(), stat })
    }

    fn start(&mut self) -> Result<Option<Node>, Error> {
        let stat = stat_fd(self.root.fd.as_fd())
            .map_err(|errno| self.error(Failure::System("stat", errno), b""))?;
        self.root_device = stat.device;
        Ok(self.admit(stat))
    }

    /// Goes one step, which may give out nothing (`Ok(None)`); `None` at the end.
    fn step(&mut self) -> Option<Result<Option<Node>, Error>> {
        if !self.started {
            self.started = true;
            return Some(self.start());
        }
        if let Some(identity) = self.pending.take() {
            return match self.stack.enter(self.root.fd.as_fd(), Some(identity)) {
                Ok(()) => Some(Ok(None)),
                Err(failure) => Some(Err(self.error(failure, self.stack.path()))),
            };
        }
        let mut flags = AtFlags::SYMLINK_NOFOLLOW;
        // A mount on demand is made when it is to be entered, and left alone when not.
        flags.set(AtFlags::NO_AUTOMOUNT, self.options.one_file_system);
        let stat = match self.stack.next(self.root.fd.as_fd()) {
            None => return self.stack.pop().then_some(Ok(None)),
            Some(Ok((dir, name, _))) => stat_at(dir, name, flags),
            Some(Err(failure)) => {
                let error = self.error(failure, self.stack.path());
                self.stack.pop();
                return Some(Err(error));
            }
        };
        match stat {
            Ok(stat) => Some(Ok(self.admit(stat))),
            Err(errno) => {
                let failure = Failure::System("stat", errno);
                Some(Err(self.error(failure, self.stack.path())))
            }
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Node, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step()? {
                Ok(None) => {}
                Ok(Some(node)) => return Some(Ok(node)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
