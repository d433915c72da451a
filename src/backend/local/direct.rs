//! Writing an object's bytes into a new file.
//!
//! Large objects are written past the page cache (`O_DIRECT`) from a few buffers that are used
//! again and again: what makes buffered writing slow is that every page of it is touched for the
//! first time. That needs addresses, offsets and lengths in multiples of a block, so the last
//! block is padded and the file cut to its length afterwards. Where the file system refuses, the
//! same code writes through the page cache.
//!
//! The buffers are of huge pages, because the device is handed fewer and larger pieces then.
//! Objects of 24 MiB, medians of runs in turn: 10 ms so, 14 ms from buffers of small pages, 17 to
//! 58 ms through the page cache. Space is not reserved beforehand; that made no difference.

use std::fs::File;
use std::sync::{Mutex, PoisonError};

use memmap2::{Advice, MmapMut};
use rustix::io::Errno;

use super::root::{Root, retry};

/// Addresses, offsets and lengths of unbuffered writes are multiples of this: the largest logical
/// block of common devices, and the smallest page.
const BLOCK_BYTES: usize = 4096;

/// The usual huge page.
const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Objects of this size and more are written past the page cache. Smaller ones are mostly read
/// again soon (index segments, manifests, records), and gain little.
pub(super) const DIRECT_BYTES_MIN: usize = 1024 * 1024;

/// How much is written at once. Between 1 and 8 MiB it makes no difference.
const BUFFER_BYTES: usize = 2 * HUGE_PAGE_BYTES;

/// Buffers kept for the next object: as many as the threads that usually write packs.
const BUFFERS_KEPT_MAX: usize = 2;

/// What was tried, and the system's answer.
type Failure = (&'static str, Errno);

/// A few aligned buffers.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Aligned>>);

impl Buffers {
    /// Writes the concatenation of `parts` into the new, empty `file`.
    pub(super) fn write(
        &self,
        root: &Root,
        file: &File,
        path: &str,
        parts: &[&[u8]],
    ) -> Result<(), Failure> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut writer = Writer { root, file, path, offset: 0, direct: false };
        if total < DIRECT_BYTES_MIN {
            return match parts {
                [only] => writer.write_all(only),
                _ => writer.write_all(&parts.concat()),
            };
        }
        writer.start_direct()?;
        let mut buffer = self.take()?;
        let answer = writer.write_parts(parts, buffer.bytes());
        self.give_back(buffer);
        answer?;
        writer.cut(total)
    }

    fn take(&self) -> Result<Aligned, Failure> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.map_or_else(Aligned::new, Ok)
    }

    fn give_back(&self, buffer: Aligned) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < BUFFERS_KEPT_MAX {
            kept.push(buffer);
        }
    }
}

/// [`BUFFER_BYTES`] at a multiple of [`HUGE_PAGE_BYTES`].
#[derive(Debug)]
struct Aligned {
    storage: MmapMut,
    start: usize,
}

impl Aligned {
    fn new() -> Result<Self, Failure> {
        // The room for alignment is never touched, so it costs addresses and no memory.
        let storage = MmapMut::map_anon(BUFFER_BYTES + HUGE_PAGE_BYTES)
            .map_err(|_| ("find memory to write", Errno::NOMEM))?;
        let _ = storage.advise(Advice::HugePage); // Without huge pages it is slower, not wrong.
        let start = storage.as_ptr().addr().wrapping_neg() % HUGE_PAGE_BYTES;
        Ok(Self { storage, start })
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + BUFFER_BYTES]
    }
}

struct Writer<'a> {
    root: &'a Root,
    file: &'a File,
    path: &'a str,
    offset: u64,
    direct: bool,
}

impl Writer<'_> {
    fn start_direct(&mut self) -> Result<(), Failure> {
        match retry(|| self.root.set_direct(self.file, self.path, true)) {
            Ok(()) => self.direct = true,
            Err(Errno::INVAL) => {}
            Err(errno) => return Err(("set up", errno)),
        }
        Ok(())
    }

    fn write_parts(&mut self, parts: &[&[u8]], buffer: &mut [u8]) -> Result<(), Failure> {
        let mut filled = 0;
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                if filled == 0 && writes_in_place(rest) {
                    let (blocks, tail) = rest.split_at(rest.len() - rest.len() % BLOCK_BYTES);
                    self.write_all(blocks)?;
                    rest = tail;
                    continue;
                }
                let taken = rest.len().min(buffer.len() - filled);
                buffer[filled..filled + taken].copy_from_slice(&rest[..taken]);
                filled += taken;
                rest = &rest[taken..];
                if filled == buffer.len() {
                    self.write_all(buffer)?;
                    filled = 0;
                }
            }
        }
        let padded = filled.next_multiple_of(BLOCK_BYTES);
        buffer[filled..padded].fill(0);
        self.write_all(&buffer[..padded])
    }

    /// Writes all of `bytes` at the current offset; through the page cache if the file system or
    /// the device turns out to need other alignment.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match retry(|| self.root.write_some(self.file, self.path, rest, self.offset)) {
                Ok(0) => return Err(("write", Errno::IO)),
                Ok(written) => {
                    self.offset += written as u64;
                    rest = &rest[written..];
                }
                Err(Errno::INVAL) if self.direct => {
                    self.direct = false;
                    retry(|| self.root.set_direct(self.file, self.path, false))
                        .map_err(|errno| ("set up", errno))?;
                }
                Err(errno) => return Err(("write", errno)),
            }
        }
        Ok(())
    }

    /// Cuts the padding off.
    fn cut(&self, total: usize) -> Result<(), Failure> {
        if self.offset == total as u64 {
            return Ok(());
        }
        retry(|| self.root.truncate(self.file, self.path, total as u64))
            .map_err(|errno| ("set the length of", errno))
    }
}

/// Returns whether `bytes` may as well be written from where they are. Only what looks like huge
/// pages: writing from small ones takes longer than copying to ours and writing from there.
fn writes_in_place(bytes: &[u8]) -> bool {
    bytes.len() >= HUGE_PAGE_BYTES && bytes.as_ptr().addr().is_multiple_of(HUGE_PAGE_BYTES)
}
