//! The directories between a root and the place where a traversal stands.
//!
//! Owns the listings, the path and the descriptors of a depth-first traversal; what is done with
//! an entry is the caller's ([`Walk`](super::Walk), removal of a tree).
//!
//! Invariants:
//! - At most [`DESCRIPTORS_MAX`] descriptors are open at any depth: those of the deepest
//!   directories. One that was closed is reached again from the root, component by component, and
//!   used only if it still is the same directory.
//! - A directory is listed in full before its first entry is given out, sorted by name.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::beneath::Resolver;
use super::node::proc_path;

/// Most directories open at once.
pub(super) const DESCRIPTORS_MAX: usize = 32;

/// Bytes of directory entries read with one system call.
const READ_BYTES: usize = 64 * 1024;

/// Listings of finished directories whose memory is kept for the next ones.
const SPARE_MAX: usize = 8;

/// Bytes of a kept listing.
const SPARE_BYTES_MAX: usize = 256 * 1024;

const OPEN_DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

const REOPEN_DIR: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Which directory it is: device and inode.
pub(super) type Identity = (u64, u64);

/// Why a directory cannot be entered or used any more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    /// The system refused or failed.
    System(&'static str, Errno),
    /// Another directory has taken its place.
    Changed,
}

/// What is to be done in the directories that are entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Read; access times stay as they are where the system allows it.
    Read,
    /// Remove what is in them: the owner's permissions are added where they lack, and other file
    /// systems are refused.
    Remove,
}

/// See the module.
pub(super) struct DirStack {
    resolver: Resolver,
    purpose: Purpose,
    /// The root's name below the base directory that every call is given.
    root: CString,
    /// The path below the root of the entry given out last.
    path: Vec<u8>,
    frames: Vec<Frame>,
    /// The frames from here on are open.
    open_from: usize,
    spare: Vec<Listing>,
    buffer: Box<[MaybeUninit<u8>]>,
    keep_atime: bool,
}

struct Frame {
    fd: Option<OwnedFd>,
    identity: Identity,
    path_bytes: usize,
    listing: Listing,
}

impl DirStack {
    /// Starts outside of the root, which is the entry `root` of the base directory.
    pub(super) fn new(resolver: Resolver, purpose: Purpose, root: CString) -> Self {
        Self {
            resolver,
            purpose,
            root,
            path: Vec::new(),
            frames: Vec::new(),
            open_from: 0,
            spare: Vec::new(),
            buffer: vec![MaybeUninit::uninit(); READ_BYTES].into_boxed_slice(),
            keep_atime: purpose == Purpose::Read,
        }
    }

    /// Returns the path of the entry given out last, or of the directory that [`Self::pop`] went
    /// back to.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Enters the entry given out last, or the root if none was, and lists it. With `expected`,
    /// only if it is that directory.
    pub(super) fn enter(
        &mut self,
        base: BorrowedFd<'_>,
        expected: Option<Identity>,
    ) -> Result<(), Failure> {
        let fd = self.open_current(base)?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| Failure::System("stat", errno))?;
        let identity = (stat.st_dev, stat.st_ino);
        if expected.is_some_and(|expected| expected != identity) {
            return Err(Failure::Changed);
        }
        if self.purpose == Purpose::Remove {
            self.prepare_removal(base, fd.as_fd(), &stat)?;
        }
        let mut listing = self.spare.pop().unwrap_or_default();
        listing
            .read(fd.as_fd(), &mut self.buffer)
            .map_err(|errno| Failure::System("list", errno))?;
        self.frames.push(Frame { fd: Some(fd), identity, path_bytes: self.path.len(), listing });
        if self.frames.len() - self.open_from > DESCRIPTORS_MAX {
            self.frames[self.open_from].fd = None;
            self.open_from += 1;
        }
        Ok(())
    }

    /// Gives out the next entry of the deepest directory: that directory and the name. `None` at
    /// its end, and without any directory.
    pub(super) fn next(
        &mut self,
        base: BorrowedFd<'_>,
    ) -> Option<Result<(BorrowedFd<'_>, &CStr, FileType), Failure>> {
        let frame = self.frames.last_mut()?;
        self.path.truncate(frame.path_bytes);
        if !frame.listing.advance() {
            return None;
        }
        if frame.fd.is_none()
            && let Err(failure) = self.reopen(base)
        {
            return Some(Err(failure));
        }
        let frame = self.frames.last()?;
        let (name, file_type) = frame.listing.current();
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.to_bytes());
        Some(Ok((frame.fd.as_ref()?.as_fd(), name, file_type)))
    }

    /// Leaves the deepest directory. Returns whether there was one.
    pub(super) fn pop(&mut self) -> bool {
        let Some(mut frame) = self.frames.pop() else {
            return false;
        };
        self.path.truncate(frame.path_bytes);
        self.open_from = self.open_from.min(self.frames.len());
        if self.spare.len() < SPARE_MAX && frame.listing.clear() <= SPARE_BYTES_MAX {
            self.spare.push(frame.listing);
        }
        true
    }

    /// Returns the deepest directory and the name of the entry it gave out last: after
    /// [`Self::pop`], the directory that was left. `None` if that was the root.
    pub(super) fn current(
        &mut self,
        base: BorrowedFd<'_>,
    ) -> Option<Result<(BorrowedFd<'_>, &CStr), Failure>> {
        if self.frames.last()?.fd.is_none()
            && let Err(failure) = self.reopen(base)
        {
            return Some(Err(failure));
        }
        let frame = self.frames.last()?;
        Some(Ok((frame.fd.as_ref()?.as_fd(), frame.listing.current().0)))
    }

    /// Makes sure that the entries of a directory may and can be removed.
    fn prepare_removal(
        &self,
        base: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        stat: &rustix::fs::Stat,
    ) -> Result<(), Failure> {
        let above = match self.frames.last() {
            Some(frame) => frame.identity.0,
            None => {
                rustix::fs::fstat(base)
                    .map_err(|errno| Failure::System("stat the parent of", errno))?
                    .st_dev
            }
        };
        if stat.st_dev != above {
            return Err(Failure::System("remove what is mounted at", Errno::XDEV));
        }
        if stat.st_mode & 0o700 == 0o700 {
            return Ok(());
        }
        rustix::fs::fchmod(dir, Mode::from_raw_mode(0o700))
            .map_err(|errno| Failure::System("make writable", errno))
    }

    fn open_current(&mut self, base: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
        let parent_open = self.frames.last().is_none_or(|frame| frame.fd.is_some());
        if !parent_open {
            self.reopen(base)?;
        }
        let (from, name) = match self.frames.last() {
            Some(frame) => {
                let fd = frame.fd.as_ref().map_or(base, AsFd::as_fd);
                (fd, frame.listing.current().0)
            }
            None => (base, self.root.as_c_str()),
        };
        let open = |flags| {
            rustix::io::retry_on_intr(|| rustix::fs::openat(from, name, flags, Mode::empty()))
        };
        if self.keep_atime {
            match open(OPEN_DIR | OFlags::NOATIME) {
                // Only the owner may ask for it.
                Err(Errno::PERM) => self.keep_atime = false,
                result => return result.map_err(|errno| Failure::System("open", errno)),
            }
        }
        let opened = match open(OPEN_DIR) {
            Err(Errno::ACCESS) if self.purpose == Purpose::Remove => {
                unlock(from, name).and_then(|()| open(OPEN_DIR))
            }
            result => result,
        };
        opened.map_err(|errno| Failure::System("open", errno))
    }

    /// Opens the deepest directory and those right above it again.
    fn reopen(&mut self, base: BorrowedFd<'_>) -> Result<(), Failure> {
        let first = self.frames.len().saturating_sub(DESCRIPTORS_MAX);
        let reopened = self.reopen_from(base, first);
        if reopened.is_ok() {
            self.open_from = first;
        } else {
            self.open_from = self.frames.len();
            for frame in &mut self.frames[first..] {
                frame.fd = None;
            }
        }
        reopened
    }

    fn reopen_from(&mut self, base: BorrowedFd<'_>, first: usize) -> Result<(), Failure> {
        let failed = |errno| Failure::System("open again", errno);
        for index in first..self.frames.len() {
            let path_bytes = self.frames[index].path_bytes;
            let above = match index.checked_sub(1) {
                Some(above) if index > first => self.frames[above].fd.as_ref(),
                _ => None,
            };
            let fd = if let Some(above) = above {
                let start = self.frames[index - 1].path_bytes;
                let name = &self.path[start + usize::from(start > 0)..path_bytes];
                let open = || rustix::fs::openat(above, name, REOPEN_DIR, Mode::empty());
                rustix::io::retry_on_intr(open)
            } else {
                let mut path = self.root.to_bytes().to_vec();
                if path_bytes > 0 {
                    path.push(b'/');
                    path.extend_from_slice(&self.path[..path_bytes]);
                }
                self.resolver.open(base, &path, REOPEN_DIR, Mode::empty())
            }
            .map_err(failed)?;
            let stat = rustix::fs::fstat(&fd).map_err(failed)?;
            if (stat.st_dev, stat.st_ino) != self.frames[index].identity {
                return Err(Failure::Changed);
            }
            self.frames[index].fd = Some(fd);
        }
        Ok(())
    }
}

/// Gives the owner of a directory all permissions on it, without opening it for reading.
fn unlock(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
    let fd = rustix::fs::openat(dir, name, REOPEN_DIR, Mode::empty())?;
    rustix::fs::chmod(proc_path(&fd), Mode::from_raw_mode(0o700))
}

/// The entries of one directory.
#[derive(Default)]
struct Listing {
    /// Names with their final NULs, one after the other, in the order of the system.
    names: Vec<u8>,
    entries: Vec<Entry>,
    /// Entries given out.
    given: usize,
}

struct Entry {
    /// The first eight bytes of the name, so that sorting seldom looks at `names`.
    prefix: u64,
    start: usize,
    /// Length with the NUL.
    bytes: u32,
    file_type: FileType,
}

impl Listing {
    fn read(
        &mut self,
        dir: BorrowedFd<'_>,
        buffer: &mut [MaybeUninit<u8>],
    ) -> rustix::io::Result<()> {
        let mut entries = RawDir::new(dir, buffer);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Err(Errno::INTR) => continue,
                entry => entry?,
            };
            let name = entry.file_name().to_bytes_with_nul();
            if matches!(name, b".\0" | b"..\0") {
                continue;
            }
            let mut prefix = [0; 8];
            let known = name.len().min(8);
            prefix[..known].copy_from_slice(&name[..known]);
            self.entries.push(Entry {
                prefix: u64::from_be_bytes(prefix),
                start: self.names.len(),
                bytes: u32::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?,
                file_type: entry.file_type(),
            });
            self.names.extend_from_slice(name);
        }
        let names = &self.names;
        self.entries.sort_unstable_by(|a, b| {
            a.prefix.cmp(&b.prefix).then_with(|| a.name(names).cmp(b.name(names)))
        });
        Ok(())
    }

    fn advance(&mut self) -> bool {
        let more = self.given < self.entries.len();
        self.given += usize::from(more);
        more
    }

    /// Returns the entry given out last.
    fn current(&self) -> (&CStr, FileType) {
        let Some(entry) = self.given.checked_sub(1).map(|last| &self.entries[last]) else {
            return (c"", FileType::Unknown);
        };
        let name = CStr::from_bytes_with_nul(entry.name(&self.names));
        (name.unwrap_or_default(), entry.file_type)
    }

    /// Forgets the entries and returns the bytes of memory kept for others.
    fn clear(&mut self) -> usize {
        self.names.clear();
        self.entries.clear();
        self.given = 0;
        self.names.capacity() + self.entries.capacity() * size_of::<Entry>()
    }
}

impl Entry {
    /// Returns the name with its NUL, which sorts below every byte of a name.
    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        &names[self.start..self.start + self.bytes as usize]
    }
}
