//! One open node: extended attributes, and changing owner, mode and times by descriptor.
//!
//! A node that can be opened for reading is used through its descriptor. Others (symlinks,
//! special files, files without read permission) are opened with `O_PATH`, which the calls for
//! attributes and modes do not take; the kernel's name of the descriptor, `/proc/self/fd/N`, leads
//! to the very same node and follows nothing further. Owns no decisions about which attributes
//! matter.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Time, Xattr};

/// Longest list of names that the kernel returns (`XATTR_LIST_MAX`), and its longest value
/// (`XATTR_SIZE_MAX`), in bytes.
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// Bytes that nearly every list and value fits into.
const XATTR_BYTES_USUAL: usize = 1024;

/// Returns the extended attributes of an open file, sorted by name, exactly as the kernel lists
/// them; none where the file system has none. An attribute that is removed between listing and
/// reading is left out (the file's change time tells).
///
/// # Errors
/// An attribute that is listed and cannot be read. The file is the caller's, so the path is too.
pub fn xattrs_of_file(file: &File) -> io::Result<Vec<Xattr>> {
    Ok(NodeFd::Open(file.as_fd()).xattrs()?)
}

/// An open node.
pub(super) enum NodeFd<'a> {
    /// Open for reading or writing, borrowed.
    Open(BorrowedFd<'a>),
    /// Open for reading.
    Owned(OwnedFd),
    /// Open with `O_PATH`.
    Path(OwnedFd),
}

impl NodeFd<'_> {
    /// Returns the attributes sorted by name.
    pub(super) fn xattrs(&self) -> rustix::io::Result<Vec<Xattr>> {
        let mut xattrs = Vec::new();
        for name in self.xattr_names()? {
            if let Some(value) = self.xattr(&name)? {
                xattrs.push(Xattr { name, value });
            }
        }
        xattrs.sort_unstable();
        Ok(xattrs)
    }

    /// Returns the names of the attributes in the kernel's order.
    pub(super) fn xattr_names(&self) -> rustix::io::Result<Vec<Vec<u8>>> {
        let list = read_xattr_bytes(|buffer| match self {
            Self::Path(fd) => rustix::fs::listxattr(proc_path(fd), buffer),
            _ => rustix::fs::flistxattr(self.as_fd(), buffer),
        });
        match list {
            Ok(list) => Ok(list
                .split(|&byte| byte == 0)
                .filter(|name| !name.is_empty())
                .map(<[u8]>::to_vec)
                .collect()),
            Err(Errno::NOTSUP) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }

    /// Returns the value of an attribute, `None` if the node does not have it.
    pub(super) fn xattr(&self, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
        let value = read_xattr_bytes(|buffer| match self {
            Self::Path(fd) => rustix::fs::getxattr(proc_path(fd), name, buffer),
            _ => rustix::fs::fgetxattr(self.as_fd(), name, buffer),
        });
        match value {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Sets an attribute, new or not.
    pub(super) fn set_xattr(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::Path(fd) => rustix::fs::setxattr(proc_path(fd), name, value, XattrFlags::empty()),
            _ => rustix::fs::fsetxattr(self.as_fd(), name, value, XattrFlags::empty()),
        }
    }

    /// Removes an attribute; one that is gone already is fine.
    pub(super) fn remove_xattr(&self, name: &[u8]) -> rustix::io::Result<()> {
        let removed = match self {
            Self::Path(fd) => rustix::fs::removexattr(proc_path(fd), name),
            _ => rustix::fs::fremovexattr(self.as_fd(), name),
        };
        match removed {
            Err(Errno::NODATA) => Ok(()),
            result => result,
        }
    }

    /// Gives the node to another owner and group, neither of them `u32::MAX`.
    pub(super) fn set_owner(&self, uid: u32, gid: u32) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(self.as_fd(), c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
    }

    /// Sets permissions, set-id and sticky bits.
    pub(super) fn set_mode(&self, mode: u32) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::Path(fd) => rustix::fs::chmod(proc_path(fd), mode),
            _ => rustix::fs::fchmod(self.as_fd(), mode),
        }
    }

    /// Sets the time of the last change of content; the time of the last access stays.
    pub(super) fn set_mtime(&self, mtime: Time) -> rustix::io::Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.secs, tv_nsec: i64::from(mtime.nanos) },
        };
        let Self::Path(fd) = self else {
            return rustix::fs::futimens(self.as_fd(), &times);
        };
        match rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH) {
            // Linux before 5.8 does not take an empty path here.
            Err(Errno::INVAL) => {
                rustix::fs::utimensat(rustix::fs::CWD, proc_path(fd), &times, AtFlags::empty())
            }
            result => result,
        }
    }
}

impl AsFd for NodeFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(fd) => *fd,
            Self::Owned(fd) | Self::Path(fd) => fd.as_fd(),
        }
    }
}

/// Returns the kernel's own name for an open descriptor.
pub(super) fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Calls `read` with a small buffer, and once more with the largest if that is too small.
fn read_xattr_bytes(
    read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; XATTR_BYTES_USUAL];
    match read(&mut small) {
        Ok(bytes) => Ok(small[..bytes].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; XATTR_BYTES_MAX];
            let bytes = read(&mut large)?;
            large.truncate(bytes);
            large.shrink_to_fit();
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}
