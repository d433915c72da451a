//! A tree that is written: every kind of node, created below one directory and never outside.
//!
//! Owns creation, renaming and syncing. Metadata is applied by [`Destination::apply`] (`apply`),
//! trees are removed by [`Destination::remove_tree`] (`remove`). Decides nothing about what may be
//! replaced: creation never replaces, and removal is a call of its own.
//!
//! Invariants:
//! - Paths are untrusted. Every call resolves its path anew from the root's descriptor, through
//!   real directories only, so that a symlink restored or swapped in earlier stops it.
//! - New files are 0600 and new directories 0700 until their metadata is applied.
//!
//! No descriptors of parents are cached: the kernel resolves a path of six components in less time
//! than the difference between two runs (25 µs to create and write a file of 4 KiB on ext4, either
//! way), and a fresh look-up notices what happened to the tree.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::PathError;
use super::beneath::Resolver;
use super::error::{EntryPath, Error};
use super::stat::{stat_at, stat_fd};
use super::{Kind, Stat, check_path};

/// Mode of a new directory: the owner's alone.
const NEW_DIR: Mode = Mode::RWXU;
/// Mode of a new file: the owner's alone.
const NEW_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

const ROOT: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Longest target of a symlink, in bytes: Linux `PATH_MAX` without the final NUL.
const TARGET_BYTES_MAX: usize = 4095;
/// Largest numbers of a device that Linux can tell apart: 12 and 20 bits.
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;

/// A directory into which a tree is written. Shared between threads.
#[derive(Debug)]
pub struct Destination {
    pub(super) root: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) resolver: Resolver,
}

/// The directory that a path's last name is in.
pub(super) enum Parent<'a> {
    Root(BorrowedFd<'a>),
    Below(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => *fd,
            Self::Below(fd) => fd.as_fd(),
        }
    }
}

impl Destination {
    /// Opens the directory `dir`, which exists. If `dir` is a symlink it is followed, here and
    /// nowhere below.
    ///
    /// # Errors
    /// [`Error::NotADirectory`], or the system's answer.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_with(dir, None)
    }

    pub(super) fn open_with(dir: &Path, resolver: Option<Resolver>) -> Result<Self, Error> {
        let opened = rustix::io::retry_on_intr(|| rustix::fs::open(dir, ROOT, Mode::empty()));
        let root = opened.map_err(|errno| {
            let path = EntryPath::new(dir, b"");
            match stat_at(rustix::fs::CWD, dir, AtFlags::empty()) {
                Ok(Stat { kind, .. }) if kind != Kind::Dir => {
                    Error::NotADirectory { path, actual: kind.name() }
                }
                _ => Error::system("open", path, errno),
            }
        })?;
        let resolver = resolver.unwrap_or_else(|| Resolver::detect(root.as_fd()));
        Ok(Self { root, path: dir.to_path_buf(), resolver })
    }

    /// Opens the directory `path` below this one as a destination of its own; it is created if
    /// nothing is there.
    ///
    /// # Errors
    /// As for [`Self::make_dir`].
    pub fn subdirectory(&self, path: &[u8]) -> Result<Self, Error> {
        self.make_dir(path)?;
        let root = self.open_node("open", path, ROOT)?;
        Ok(Self { root, path: self.path.join(as_path(path)), resolver: self.resolver })
    }

    /// Returns the root as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tells whether the root has no entries.
    ///
    /// # Errors
    /// The system's answer.
    pub fn is_empty(&self) -> Result<bool, Error> {
        self.is_empty_but(b".")
    }

    /// Tells whether the root has no entries but perhaps one called `name`.
    ///
    /// # Errors
    /// The system's answer.
    pub fn is_empty_but(&self, name: &[u8]) -> Result<bool, Error> {
        let failed = |errno| self.system_error("list", b"", errno);
        for entry in Dir::read_from(&self.root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let found = entry.file_name().to_bytes();
            if !matches!(found, b"." | b"..") && found != name {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns what is at `path`, `None` if nothing is. A symlink is not followed.
    ///
    /// # Errors
    /// [`Error::Symlink`] if a directory on the way is a symlink, or the system's answer.
    pub fn stat(&self, path: &[u8]) -> Result<Option<Stat>, Error> {
        let stat = if path.is_empty() {
            stat_fd(self.root.as_fd())
        } else {
            let (parent, name) = match self.parent("stat", path) {
                Err(error) if error.is_not_found() => return Ok(None),
                result => result?,
            };
            stat_at(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
        };
        match stat {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.system_error("stat", path, errno)),
        }
    }

    /// Creates a directory; one that is there already is left as it is. Returns whether it is new.
    ///
    /// # Errors
    /// [`Error::NotADirectory`] if something else is there, a symlink to a directory included.
    pub fn make_dir(&self, path: &[u8]) -> Result<bool, Error> {
        if path.is_empty() {
            return Ok(false);
        }
        let (parent, name) = self.parent("create directory", path)?;
        match rustix::fs::mkdirat(parent.as_fd(), name, NEW_DIR) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => match self.stat(path)? {
                Some(stat) if stat.kind == Kind::Dir => Ok(false),
                Some(stat) => {
                    Err(Error::NotADirectory { path: self.entry(path), actual: stat.kind.name() })
                }
                None => Err(self.system_error("create directory", path, Errno::EXIST)),
            },
            Err(errno) => Err(self.system_error("create directory", path, errno)),
        }
    }

    /// Creates a file of `size_bytes` bytes, all of them a hole, open for reading and writing.
    ///
    /// # Errors
    /// The system's answer: whatever is there already, a dangling symlink included, is neither
    /// opened nor changed.
    pub fn create_file(&self, path: &[u8], size_bytes: u64) -> Result<File, Error> {
        self.check_below_root(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let file = self
            .resolver
            .open(self.root.as_fd(), path, flags, NEW_FILE)
            .map_err(|errno| self.system_error("create", path, errno))?;
        if size_bytes > 0 {
            rustix::io::retry_on_intr(|| rustix::fs::ftruncate(&file, size_bytes))
                .map_err(|errno| self.system_error("set the length of", path, errno))?;
        }
        Ok(File::from(file))
    }

    /// Removes what is at `path`, unless it is a directory, and creates a file as
    /// [`Self::create_file`] does. Not atomic.
    ///
    /// # Errors
    /// As for [`Self::remove_file`] and [`Self::create_file`].
    pub fn replace_file(&self, path: &[u8], size_bytes: u64) -> Result<File, Error> {
        self.remove_file(path)?;
        self.create_file(path, size_bytes)
    }

    /// Removes what is at `path`, unless it is a directory. Returns whether something was there.
    ///
    /// # Errors
    /// The system's answer, for a directory too.
    pub fn remove_file(&self, path: &[u8]) -> Result<bool, Error> {
        let (parent, name) = self.parent("remove", path)?;
        match rustix::fs::unlinkat(parent.as_fd(), name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.system_error("remove", path, errno)),
        }
    }

    /// Opens the regular file at `path` for reading and writing; `None` if nothing is there.
    ///
    /// A file with several names (`Stat::links`) changes under all of them, some of which may be
    /// outside of this tree: replace it instead.
    ///
    /// # Errors
    /// [`Error::WrongKind`] if something else is there, a symlink included;
    /// [`Error::Symlink`] if a directory on the way is a symlink.
    pub fn open_existing(&self, path: &[u8]) -> Result<Option<File>, Error> {
        self.check_below_root(path)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY;
        let wrong_kind = |stat: &Stat| Error::WrongKind {
            path: self.entry(path),
            expected: Kind::File.name(),
            actual: stat.kind.name(),
        };
        let opened = self.resolver.open(self.root.as_fd(), path, flags, Mode::empty());
        match opened {
            Ok(fd) => {
                let stat =
                    stat_fd(fd.as_fd()).map_err(|errno| self.system_error("stat", path, errno))?;
                match stat.kind {
                    Kind::File => Ok(Some(File::from(fd))),
                    _ => Err(wrong_kind(&stat)),
                }
            }
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => match self.stat(path)? {
                Some(stat) if stat.kind != Kind::File => Err(wrong_kind(&stat)),
                _ => Err(self.system_error("open", path, errno)),
            },
        }
    }

    /// Creates a symlink to `target`, which may be anything: it is not looked at.
    ///
    /// # Errors
    /// [`Error::BadTarget`], or the system's answer.
    pub fn make_symlink(&self, path: &[u8], target: &[u8]) -> Result<(), Error> {
        if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains(&0) {
            return Err(Error::BadTarget { path: self.entry(path), bytes: target.len() });
        }
        let (parent, name) = self.parent("create symlink", path)?;
        rustix::fs::symlinkat(target, parent.as_fd(), name)
            .map_err(|errno| self.system_error("create symlink", path, errno))
    }

    /// Gives the node at `from` (a symlink itself, not what it points to) the second name `to`.
    ///
    /// # Errors
    /// The system's answer, which is about `to`.
    pub fn make_hard_link(&self, from: &[u8], to: &[u8]) -> Result<(), Error> {
        let (from_parent, from_name) = self.parent("link", from)?;
        let (to_parent, to_name) = self.parent("create hard link", to)?;
        let (from_parent, to_parent) = (from_parent.as_fd(), to_parent.as_fd());
        rustix::fs::linkat(from_parent, from_name, to_parent, to_name, AtFlags::empty())
            .map_err(|errno| self.system_error("create hard link", to, errno))
    }

    /// Creates a fifo, a socket's name or a device with at most the permissions of `mode`.
    ///
    /// # Errors
    /// [`Error::WrongKind`] for other kinds, [`Error::OutOfRange`] for a device's numbers that
    /// Linux cannot tell apart, or the system's answer (devices need privileges).
    pub fn make_special(&self, path: &[u8], kind: &Kind, mode: u32) -> Result<(), Error> {
        let device = match *kind {
            Kind::Fifo | Kind::Socket => 0,
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                self.check_range(path, "major", major.into(), MAJOR_MAX.into())?;
                self.check_range(path, "minor", minor.into(), MINOR_MAX.into())?;
                rustix::fs::makedev(major, minor)
            }
            Kind::File | Kind::Dir | Kind::Symlink { .. } => {
                return Err(Error::WrongKind {
                    path: self.entry(path),
                    expected: "special file",
                    actual: kind.name(),
                });
            }
        };
        let (parent, name) = self.parent("create", path)?;
        let mode = Mode::from_raw_mode(mode & 0o777);
        rustix::fs::mknodat(parent.as_fd(), name, super::type_of(kind), mode, device)
            .map_err(|errno| self.system_error("create", path, errno))
    }

    /// Moves the node at `from_path` to `to_path` of another destination on the same file system,
    /// or of the same one. What is there already is never replaced.
    ///
    /// # Errors
    /// The system's answer, which is about `to_path`; `EEXIST` if something is there.
    pub fn rename_noreplace(
        from: &Self,
        from_path: &[u8],
        to: &Self,
        to_path: &[u8],
    ) -> Result<(), Error> {
        let failed = |errno| to.system_error("rename to", to_path, errno);
        let (from_parent, from_name) = from.parent("rename", from_path)?;
        let (to_parent, to_name) = to.parent("rename to", to_path)?;
        let (from_parent, to_parent) = (from_parent.as_fd(), to_parent.as_fd());
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(from_parent, from_name, to_parent, to_name, flags) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            result => return result.map_err(failed),
        }
        rename_without_flag((from_parent, from_name), (to_parent, to_name)).map_err(failed)
    }

    /// Makes everything on the destination's file system durable, this tree included.
    ///
    /// # Errors
    /// Something that was written since the destination was opened may be lost; a second try
    /// would not tell.
    pub fn sync_all(&self) -> Result<(), Error> {
        rustix::fs::syncfs(&self.root).map_err(|errno| self.system_error("sync", b"", errno))
    }

    /// Makes the names in the root directory durable, not what they name.
    ///
    /// # Errors
    /// As for [`Self::sync_all`].
    pub fn sync_dir(&self) -> Result<(), Error> {
        rustix::fs::fsync(&self.root).map_err(|errno| self.system_error("sync", b"", errno))
    }

    /// Creates the directory `path` and those above it that are missing, 0700, and makes their
    /// names durable. `path` is the user's: symlinks in it are followed.
    ///
    /// # Errors
    /// [`Error::NotADirectory`] if something else is in the way, or the system's answer.
    pub fn create_dir_all_synced(path: &Path) -> Result<(), Error> {
        let mut missing = Vec::new();
        let mut at = path;
        loop {
            let failed = |errno| Error::system("stat", EntryPath::new(at, b""), errno);
            match stat_at(rustix::fs::CWD, or_here(at), AtFlags::empty()) {
                Ok(stat) if stat.kind == Kind::Dir => break,
                Ok(stat) => {
                    return Err(Error::NotADirectory {
                        path: EntryPath::new(at, b""),
                        actual: stat.kind.name(),
                    });
                }
                Err(Errno::NOENT | Errno::NOTDIR) => missing.push(at),
                Err(errno) => return Err(failed(errno)),
            }
            at = at.parent().ok_or_else(|| failed(Errno::NOENT))?;
        }
        // The deepest one that exists may be left from a process that ended before it synced.
        match at.parent().map(sync_parent) {
            None | Some(Ok(()) | Err(Errno::ACCESS | Errno::PERM)) => {}
            Some(Err(errno)) => {
                return Err(Error::system("sync the name of", EntryPath::new(at, b""), errno));
            }
        }
        for dir in missing.into_iter().rev() {
            let failed = |errno| Error::system("create directory", EntryPath::new(dir, b""), errno);
            match rustix::fs::mkdirat(rustix::fs::CWD, dir, NEW_DIR) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
            dir.parent().map_or(Ok(()), sync_parent).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes an error of this tree, for what the caller does with an open file of it: `action` is
    /// a verb such as `write`.
    #[must_use]
    pub fn error(&self, action: &'static str, path: &[u8], source: io::Error) -> Error {
        Error::Io { action, path: self.entry(path), source }
    }

    /// Opens the directory that `path`'s last name is in, and returns it and that name.
    pub(super) fn parent<'a>(
        &'a self,
        action: &'static str,
        path: &'a [u8],
    ) -> Result<(Parent<'a>, &'a [u8]), Error> {
        self.check_below_root(path)?;
        let Some(slash) = path.iter().rposition(|&byte| byte == b'/') else {
            return Ok((Parent::Root(self.root.as_fd()), path));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let parent = self
            .resolver
            .open(self.root.as_fd(), &path[..slash], flags, Mode::empty())
            .map_err(|errno| self.system_error(action, path, errno))?;
        Ok((Parent::Below(parent), &path[slash + 1..]))
    }

    /// Opens what is at `path`, which may be the root itself.
    pub(super) fn open_node(
        &self,
        action: &'static str,
        path: &[u8],
        flags: OFlags,
    ) -> Result<OwnedFd, Error> {
        self.check(path)?;
        self.resolver
            .open(self.root.as_fd(), path, flags, Mode::empty())
            .map_err(|errno| self.system_error(action, path, errno))
    }

    fn check(&self, path: &[u8]) -> Result<(), Error> {
        check_path(path).map_err(|source| Error::BadPath { path: self.entry(path), source })
    }

    fn check_below_root(&self, path: &[u8]) -> Result<(), Error> {
        if path.is_empty() {
            return Err(Error::BadPath { path: self.entry(path), source: PathError::Root });
        }
        self.check(path)
    }

    pub(super) fn check_range(
        &self,
        path: &[u8],
        field: &'static str,
        value: u64,
        value_max: u64,
    ) -> Result<(), Error> {
        if value <= value_max {
            return Ok(());
        }
        Err(Error::OutOfRange { path: self.entry(path), field, value, value_max })
    }

    pub(super) fn entry(&self, path: &[u8]) -> EntryPath {
        EntryPath::new(&self.path, path)
    }

    pub(super) fn system_error(&self, action: &'static str, path: &[u8], errno: Errno) -> Error {
        Error::system(action, self.entry(path), errno)
    }
}

/// Renames without replacing where the file system has no flag for it. A link never replaces, and a
/// directory replaces only an empty one, which is ours if we could create it.
pub(super) fn rename_without_flag(
    (from_parent, from_name): (BorrowedFd<'_>, &[u8]),
    (to_parent, to_name): (BorrowedFd<'_>, &[u8]),
) -> rustix::io::Result<()> {
    let stat = stat_at(from_parent, from_name, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.kind != Kind::Dir {
        rustix::fs::linkat(from_parent, from_name, to_parent, to_name, AtFlags::empty())?;
        return rustix::fs::unlinkat(from_parent, from_name, AtFlags::empty());
    }
    rustix::fs::mkdirat(to_parent, to_name, NEW_DIR)?;
    let renamed = rustix::fs::renameat(from_parent, from_name, to_parent, to_name);
    if renamed.is_err() {
        // Removes the empty one only; the first error is the one to report.
        let _ = rustix::fs::unlinkat(to_parent, to_name, AtFlags::REMOVEDIR);
    }
    renamed
}

/// Makes the names in `dir` durable; an empty path is the working directory.
fn sync_parent(dir: &Path) -> rustix::io::Result<()> {
    rustix::fs::fsync(rustix::fs::open(or_here(dir), ROOT, Mode::empty())?)
}

fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

fn as_path(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path))
}
