//! Writing past the page cache, for large new files: a restored image is written once and not read
//! soon, and touching fresh memory for it costs more than everything else. Where a file system
//! refuses, writing goes through the cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use memmap2::MmapMut;
use rustix::fs::OFlags;

use crate::limits::UNIT_BYTES;

/// Offset, length and address of a direct write are multiples of this: the largest logical block
/// in use.
const ALIGN_BYTES: usize = 4096;

/// Aligned buffers, used again.
#[derive(Default)]
pub(super) struct Aligned(Mutex<Vec<MmapMut>>);

impl Aligned {
    fn take(&self) -> io::Result<MmapMut> {
        if let Some(buffer) = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(buffer);
        }
        let buffer = MmapMut::map_anon(UNIT_BYTES)?;
        // Only a wish: fewer and larger pages to set up.
        let _ = buffer.advise(memmap2::Advice::HugePage);
        Ok(buffer)
    }

    fn put(&self, buffer: MmapMut) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// How a file is written to at the moment.
pub(super) struct Mode {
    /// Whether direct writes may be tried.
    wanted: bool,
    /// Whether the descriptor is set to them.
    is_direct: bool,
}

impl Mode {
    pub fn new(wanted: bool) -> Self {
        Self { wanted, is_direct: false }
    }

    fn set(&mut self, file: &File, direct: bool) -> io::Result<()> {
        if self.is_direct != direct {
            let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
            rustix::fs::fcntl_setfl(file, flags)?;
            self.is_direct = direct;
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`: directly as far as whole blocks go, the rest through the cache.
    pub fn write(
        &mut self,
        file: &File,
        bytes: &[u8],
        offset: u64,
        buffers: &Aligned,
    ) -> io::Result<()> {
        let mut done = 0;
        if self.wanted && offset.is_multiple_of(ALIGN_BYTES as u64) {
            done = bytes.len() - bytes.len() % ALIGN_BYTES;
            if done > 0 && !self.write_blocks(file, &bytes[..done], offset, buffers)? {
                self.wanted = false;
                done = 0;
            }
        }
        if done < bytes.len() {
            self.set(file, false)?;
            file.write_all_at(&bytes[done..], offset + done as u64)?;
        }
        Ok(())
    }

    /// Writes whole blocks directly; `false` if the file system does not do that.
    fn write_blocks(
        &mut self,
        file: &File,
        bytes: &[u8],
        offset: u64,
        buffers: &Aligned,
    ) -> io::Result<bool> {
        if self.set(file, true).is_err() {
            return Ok(false);
        }
        let mut buffer = buffers.take()?;
        let mut at = offset;
        for part in bytes.chunks(buffer.len()) {
            buffer[..part.len()].copy_from_slice(part);
            match file.write_all_at(&buffer[..part.len()], at) {
                Ok(()) => at += part.len() as u64,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    buffers.put(buffer);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        buffers.put(buffer);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_at_any_offset_is_written_exactly() {
        for dir in [std::env::temp_dir(), "/dev/shm".into()] {
            let Ok(dir) = tempfile::tempdir_in(dir) else { continue };
            let file = File::create_new(dir.path().join("file")).unwrap();
            let (buffers, mut mode) = (Aligned::default(), Mode::new(true));
            let bytes: Vec<u8> = (0..UNIT_BYTES + 5000).map(|n| (n % 251) as u8).collect();
            let mut expected = vec![0; UNIT_BYTES * 3];
            for (offset, len) in
                [(0, bytes.len()), (8192, 4096), (4096, 17), (100, 9000), (UNIT_BYTES * 2, 8193)]
            {
                mode.write(&file, &bytes[..len], offset as u64, &buffers).unwrap();
                expected[offset..offset + len].copy_from_slice(&bytes[..len]);
            }
            expected.truncate(UNIT_BYTES * 2 + 8193);
            assert!(std::fs::read(dir.path().join("file")).unwrap() == expected);
        }
    }
}
