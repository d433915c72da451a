//! A tree that is read: the root and everything below it.
//!
//! Owns opening for reading. The walk is in `walk`, the metadata of an open file in `stat` and
//! `node`. A file is bound by its descriptor: what happens to its name later does not matter, and
//! whether its content changes is the caller's to notice (compare [`stat_of`](super::stat_of)
//! before and after).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::Resolver;
use super::error::{EntryPath, Error};
use super::node::{NodeFd, proc_path};
use super::stat::stat_fd;
use super::walk::{Walk, WalkOptions};
use super::{Kind, Xattr, check_components};

/// Reading a file: does not wait for a fifo's writer, takes no terminal.
const OPEN_FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

const OPEN_DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A tree to read, or a single file. Shared between threads.
#[derive(Debug)]
pub struct Source {
    root: Arc<Root>,
}

/// The root of a source, open with `O_PATH`.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) resolver: Resolver,
    is_dir: bool,
}

impl Source {
    /// Opens the tree at `root`, a directory or any other node. If `root` is a symlink it is
    /// followed, here and nowhere below. Permission to read is needed later, not here.
    ///
    /// # Errors
    /// The root does not exist or cannot be reached.
    pub fn open(root: &Path) -> Result<Self, Error> {
        Self::open_with(root, None)
    }

    pub(super) fn open_with(root: &Path, resolver: Option<Resolver>) -> Result<Self, Error> {
        let failed = |errno| Error::system("open", EntryPath::new(root, b""), errno);
        let fd = open_path(root).map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let resolver = match resolver {
            Some(resolver) => resolver,
            None if is_dir => Resolver::detect(fd.as_fd()),
            // Nothing is below it.
            None => Resolver::Components,
        };
        Ok(Self { root: Arc::new(Root { fd, path: root.to_path_buf(), resolver, is_dir }) })
    }

    /// Walks the tree, the root first. Several walks may run at once.
    #[must_use]
    pub fn walk(&self, options: WalkOptions) -> Walk {
        Walk::new(Arc::clone(&self.root), options)
    }

    /// Opens the regular file at `path` for reading, leaving its access time alone where the
    /// system allows it. Follows no symlink and never waits.
    ///
    /// # Errors
    /// [`Error::WrongKind`] if something else is there now, [`Error::Symlink`] for a symlink,
    /// [`Error::BadPath`], or the system's answer.
    pub fn open_file(&self, path: &[u8]) -> Result<File, Error> {
        let failed = |errno| self.system_error("open", path, errno);
        self.check(path)?;
        let fd = match self.open_node(path, OPEN_FILE | OFlags::NOATIME) {
            // Only the owner may ask for an unchanged access time.
            Err(Errno::PERM) => self.open_node(path, OPEN_FILE),
            result => result,
        }
        .map_err(failed)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let stat = stat_fd(fd.as_fd()).map_err(failed)?;
            return Err(self.wrong_kind(path, &Kind::File, &stat.kind));
        }
        Ok(File::from(fd))
    }

    /// Returns the extended attributes of the node at `path`, which is of the kind `kind`, sorted
    /// by name, exactly as the kernel lists them; none where the file system has none.
    ///
    /// For a file that is open anyway, [`xattrs_of_file`](super::xattrs_of_file) is faster. Nodes
    /// other than readable directories need `/proc`.
    ///
    /// # Errors
    /// [`Error::WrongKind`] if something else is there now, an attribute that is listed and cannot
    /// be read, and as for [`Self::open_file`].
    pub fn xattrs(&self, path: &[u8], kind: &Kind) -> Result<Vec<Xattr>, Error> {
        let failed = |errno| self.system_error("read the attributes of", path, errno);
        self.check(path)?;
        let node = self.open_for_xattrs(path, kind).map_err(failed)?;
        let stat = rustix::fs::fstat(node.as_fd()).map_err(failed)?;
        if FileType::from_raw_mode(stat.st_mode) != super::type_of(kind) {
            let stat = stat_fd(node.as_fd()).map_err(failed)?;
            return Err(self.wrong_kind(path, kind, &stat.kind));
        }
        node.xattrs().map_err(failed)
    }

    /// Returns the root as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root.path
    }

    /// Makes an error of this tree, for what the caller does with an open file of it: `action` is
    /// a verb such as `read`.
    #[must_use]
    pub fn error(&self, action: &'static str, path: &[u8], source: std::io::Error) -> Error {
        Error::Io { action, path: EntryPath::new(&self.root.path, path), source }
    }

    fn open_for_xattrs(&self, path: &[u8], kind: &Kind) -> rustix::io::Result<NodeFd<'static>> {
        if *kind == Kind::Dir {
            match self.open_node(path, OPEN_DIR) {
                Err(Errno::ACCESS) => {}
                result => return Ok(NodeFd::Owned(result?)),
            }
        }
        Ok(NodeFd::Path(self.open_node(path, OFlags::PATH)?))
    }

    fn open_node(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        if path.is_empty() && !self.root.is_dir {
            return self.open_root_file(flags);
        }
        let root = &self.root;
        root.resolver.open(root.fd.as_fd(), path, flags, Mode::empty())
    }

    /// Opens a root that is no directory again, for `flags`: through `/proc`, and without that by
    /// its path, if the same node is still there.
    fn open_root_file(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let root = &self.root;
        if flags.contains(OFlags::PATH) {
            return rustix::io::fcntl_dupfd_cloexec(&root.fd, 0);
        }
        let flags = flags | OFlags::CLOEXEC;
        match rustix::fs::open(proc_path(&root.fd), flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            result => return result,
        }
        let fd = rustix::fs::open(&root.path, flags, Mode::empty())?;
        let (there, ours) = (rustix::fs::fstat(&fd)?, rustix::fs::fstat(&root.fd)?);
        if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) {
            Ok(fd)
        } else {
            Err(Errno::STALE)
        }
    }

    fn check(&self, path: &[u8]) -> Result<(), Error> {
        check_components(path).map_err(|source| Error::BadPath {
            path: EntryPath::new(&self.root.path, path),
            source,
        })
    }

    fn system_error(&self, action: &'static str, path: &[u8], errno: Errno) -> Error {
        Error::system(action, EntryPath::new(&self.root.path, path), errno)
    }

    fn wrong_kind(&self, path: &[u8], expected: &Kind, actual: &Kind) -> Error {
        Error::WrongKind {
            path: EntryPath::new(&self.root.path, path),
            expected: expected.name(),
            actual: actual.name(),
        }
    }
}

/// Returns device and inode of the directory at `path`, for [`WalkOptions::exclude_dir`].
///
/// # Errors
/// [`Error::NotADirectory`], or the system's answer.
pub fn identity_of(path: &Path) -> Result<(u64, u64), Error> {
    let failed = |errno| Error::system("stat", EntryPath::new(path, b""), errno);
    let stat = stat_fd(open_path(path).map_err(failed)?.as_fd()).map_err(failed)?;
    if stat.kind != Kind::Dir {
        return Err(Error::NotADirectory {
            path: EntryPath::new(path, b""),
            actual: stat.kind.name(),
        });
    }
    Ok((stat.device, stat.inode))
}

/// Opens what the user named, following symlinks, without permission to read it.
fn open_path(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
}
