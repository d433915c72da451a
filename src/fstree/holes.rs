//! Where a sparse file has data.
//!
//! Owns the question only; reading, and noticing that the file changed meanwhile, is the caller's.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Returns the next range of `file` at or after `offset` that may hold data, cut at
/// `length_bytes` (the file's length as it was when it was opened); `None` if only a hole follows.
///
/// What lies between the ranges reads as zeros. A file system that does not tell holes has one
/// range of data. A file that has shrunk since looks as if it ended in a hole: compare its length
/// and times after the last read. Moves the file's position, so read with offsets
/// (`FileExt::read_at`); safe from several threads.
///
/// # Errors
/// The system's answer; the file is the caller's, so the path is too.
pub fn next_data(file: &File, offset: u64, length_bytes: u64) -> io::Result<Option<Range<u64>>> {
    if offset >= length_bytes {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) if start >= length_bytes => return Ok(None),
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::NOTTY) => {
            return Ok(Some(offset..length_bytes));
        }
        Err(errno) => return Err(errno.into()),
    };
    let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) => end.min(length_bytes),
        // The file was cut between the two calls: reading finds out.
        Err(Errno::NXIO) => length_bytes,
        Err(errno) => return Err(errno.into()),
    };
    // A hole was made at `start` between the two calls: take it as data, so that a caller who
    // goes on at `end` always advances.
    let end = if end <= start { length_bytes } else { end };
    Ok(Some(start..end))
}
