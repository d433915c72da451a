//! From the system's `statx` to [`Stat`].
//!
//! Owns the translation only; which node is asked about, and how it was reached, is the caller's.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};

use super::{Kind, Stat, Time};

/// Bytes in the unit in which the system counts allocated space.
const ALLOCATION_UNIT_BYTES: u64 = 512;

/// Room for a symlink's target: Linux `PATH_MAX`, which bounds targets too.
const TARGET_BYTES_MAX: usize = 4096;

/// Returns what the system says about an open file.
///
/// # Errors
/// The system's answer; the file is the caller's, so the path is too.
pub fn stat_of(file: &File) -> io::Result<Stat> {
    Ok(stat_fd(file.as_fd())?)
}

/// Returns what the system says about the node that `fd` is open on, also with `O_PATH`.
pub(super) fn stat_fd(fd: BorrowedFd<'_>) -> rustix::io::Result<Stat> {
    stat_at(fd, c"", AtFlags::EMPTY_PATH)
}

/// Returns what the system says about the entry `name` of a directory.
pub(super) fn stat_at<P: rustix::path::Arg + Copy>(
    dir: BorrowedFd<'_>,
    name: P,
    flags: AtFlags,
) -> rustix::io::Result<Stat> {
    let statx = rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?;
    let kind = match file_type(&statx) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink { target: read_target(dir, name)? },
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => {
            Kind::CharDevice { major: statx.stx_rdev_major, minor: statx.stx_rdev_minor }
        }
        FileType::BlockDevice => {
            Kind::BlockDevice { major: statx.stx_rdev_major, minor: statx.stx_rdev_minor }
        }
        // The seven kinds above are all that Linux has.
        FileType::Unknown => return Err(rustix::io::Errno::NOTSUP),
    };
    Ok(Stat {
        kind,
        mode: u32::from(statx.stx_mode) & 0o7777,
        uid: statx.stx_uid,
        gid: statx.stx_gid,
        mtime: time(statx.stx_mtime),
        ctime: time(statx.stx_ctime),
        inode: statx.stx_ino,
        device: rustix::fs::makedev(statx.stx_dev_major, statx.stx_dev_minor),
        links: u64::from(statx.stx_nlink),
        size_bytes: statx.stx_size,
        allocated_bytes: statx.stx_blocks.saturating_mul(ALLOCATION_UNIT_BYTES),
    })
}

fn file_type(statx: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(statx.stx_mode))
}

fn time(time: StatxTimestamp) -> Time {
    Time { secs: time.tv_sec, nanos: time.tv_nsec }
}

fn read_target<P: rustix::path::Arg>(dir: BorrowedFd<'_>, name: P) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); TARGET_BYTES_MAX];
    let (target, rest) = rustix::fs::readlinkat_raw(dir, name, &mut buffer)?;
    if rest.is_empty() {
        return Err(rustix::io::Errno::NAMETOOLONG);
    }
    Ok(target.to_vec())
}
