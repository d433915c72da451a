//! Opening below a directory: never through a symlink, never outside, at any length of path.
//!
//! The kernel does it in one call where it has `openat2` (Linux 5.6, and not filtered by a
//! container); otherwise one component is opened after the other. Owns no knowledge of what is
//! opened.
//!
//! Invariant: the caller has checked that no component is empty, `.` or `..`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Longest path that one system call takes, in bytes: Linux `PATH_MAX` without the final NUL.
const CALL_PATH_BYTES_MAX: usize = 4095;

/// Tries before a lookup that keeps racing with renames is done by components.
const RACES_MAX: usize = 8;

/// Flags of a directory that is only passed through.
const PASSAGE: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How paths are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolver {
    /// By `openat2`.
    Kernel,
    /// One component at a time, with `O_NOFOLLOW`.
    Components,
}

impl Resolver {
    /// Returns what the running system can do.
    pub(super) fn detect(dir: BorrowedFd<'_>) -> Self {
        static DETECTED: OnceLock<Resolver> = OnceLock::new();
        *DETECTED.get_or_init(|| {
            match open_by_kernel(dir, b".", PASSAGE, Mode::empty()) {
                Ok(_) => Self::Kernel,
                // Whatever the refusal is (filters invent their own), the other way works.
                Err(_) => Self::Components,
            }
        })
    }

    /// Opens `path` below `dir`; the empty path is the directory itself. `O_NOFOLLOW` and
    /// `O_CLOEXEC` are added to `flags`.
    ///
    /// # Errors
    /// `ELOOP` if any component is a symlink (the last one may be opened with `O_PATH`).
    pub(super) fn open(
        self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
    ) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut passed: Option<OwnedFd> = None;
        let mut rest = if path.is_empty() { b"." } else { path };
        while rest.len() > CALL_PATH_BYTES_MAX {
            let slash = rest[..=CALL_PATH_BYTES_MAX]
                .iter()
                .rposition(|&byte| byte == b'/')
                .ok_or(Errno::NAMETOOLONG)?;
            let from = passed.as_ref().map_or(dir, AsFd::as_fd);
            passed = Some(self.open_short(from, &rest[..slash], PASSAGE, Mode::empty())?);
            rest = &rest[slash + 1..];
        }
        let from = passed.as_ref().map_or(dir, AsFd::as_fd);
        self.open_short(from, rest, flags, mode)
    }

    fn open_short(
        self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        mode: Mode,
    ) -> rustix::io::Result<OwnedFd> {
        if self == Self::Kernel {
            for _ in 0..RACES_MAX {
                match open_by_kernel(dir, path, flags, mode) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    result => return result,
                }
            }
        }
        open_by_components(dir, path, flags, mode)
    }
}

fn open_by_kernel(
    dir: BorrowedFd<'_>,
    path: &[u8],
    mut flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // Symlinks are refused by `resolve`. Together with `O_DIRECTORY` this flag would only change
    // the answer about the last one from `ELOOP` to `ENOTDIR`.
    if flags.contains(OFlags::DIRECTORY) {
        flags.remove(OFlags::NOFOLLOW);
    }
    rustix::fs::openat2(dir, path, flags, mode, resolve)
}

fn open_by_components(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let mut passed: Option<OwnedFd> = None;
    let mut names = path.split(|&byte| byte == b'/').peekable();
    while let Some(name) = names.next() {
        let from = passed.as_ref().map_or(dir, AsFd::as_fd);
        let (flags, mode) = match names.peek() {
            Some(_) => (PASSAGE, Mode::empty()),
            None => (flags, mode),
        };
        let opened = rustix::io::retry_on_intr(|| rustix::fs::openat(from, name, flags, mode));
        match opened {
            Ok(fd) => passed = Some(fd),
            // A directory was wanted. The kernel's own lookup says `ELOOP` for a symlink here.
            Err(Errno::NOTDIR) if is_symlink(from, name) => return Err(Errno::LOOP),
            Err(errno) => return Err(errno),
        }
    }
    passed.ok_or(Errno::NOENT)
}

fn is_symlink(dir: BorrowedFd<'_>, name: &[u8]) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}
