//! Large files: restored range by range. Several threads read and decode, one at a time writes
//! (several writers on one inode only spin on its lock).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::ScopeFifo;

use super::direct::{Aligned, Mode};
use super::{Failure, Shared, read_existing, target_error};
use crate::digest::Digest;
use crate::format::manifest::{Content, Entry};
use crate::format::page::ChunkRef;
use crate::fstree::Kind;
use crate::limits::UNIT_BYTES;
use crate::store::Error;
use crate::store::buffers::Buffer;
use crate::store::checksum::{OrderedChecksum, Part};
use crate::store::chunks::Wanted;

/// A file being restored. Whoever finishes the last range finishes the file.
struct LargeFile {
    path: Vec<u8>,
    entry: Entry,
    file: File,
    existed: bool,
    writing: Mutex<Mode>,
    checksum: OrderedChecksum,
    pending: AtomicUsize,
    written: AtomicU64,
    failure: Mutex<Option<Failure>>,
}

/// Hands out the ranges of a file.
pub(super) fn restore<'s: 'scope, 'scope>(
    shared: &'scope Shared<'s>,
    units: &ScopeFifo<'scope>,
    path: Vec<u8>,
    entry: Entry,
) -> Result<(), Error> {
    let Some(content) = entry.content().cloned() else { return Ok(()) };
    let (file, existed) = match shared.target.open_file(&path, content.bytes, true) {
        Ok(opened) => opened,
        Err(error) => {
            shared.fail(&path, Failure::target(error));
            return Ok(());
        }
    };
    let large = Arc::new(LargeFile {
        path,
        entry,
        file,
        existed,
        writing: Mutex::new(Mode::new(!existed)),
        checksum: OrderedChecksum::new(),
        pending: AtomicUsize::new(1),
        written: AtomicU64::new(0),
        failure: Mutex::new(None),
    });
    let result = hand_out(shared, units, &large, &content);
    if result.is_err() {
        large.fail(Failure::target("interrupted"));
    }
    large.done(shared);
    result
}

fn hand_out<'s: 'scope, 'scope>(
    shared: &'scope Shared<'s>,
    units: &ScopeFifo<'scope>,
    large: &Arc<LargeFile>,
    content: &Content,
) -> Result<(), Error> {
    let (mut start, mut end, mut run) = (0, 0, Vec::new());
    let spawn = |start: u64, run: Vec<ChunkRef>| {
        if run.is_empty() {
            return;
        }
        let (large, buffer) = (Arc::clone(large), shared.buffers.take_used());
        large.pending.fetch_add(1, Ordering::Relaxed);
        units.spawn_fifo(move |_| {
            large.range(shared, start, &run, buffer);
            large.done(shared);
        });
    };
    for chunk in shared.store.chunks(content) {
        shared.progress.check()?;
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(fault) => {
                large.fail(Failure::store(fault));
                return Ok(());
            }
        };
        if chunk.is_hole() || end - start + chunk.bytes > UNIT_BYTES as u64 {
            spawn(start, std::mem::take(&mut run));
            start = end;
        }
        end += chunk.bytes;
        if chunk.is_hole() {
            large.hole(start, chunk.bytes);
            shared.progress.add(chunk.bytes);
            start = end;
        } else {
            run.push(chunk);
        }
    }
    spawn(start, run);
    Ok(())
}

impl LargeFile {
    fn fail(&self, failure: Failure) {
        self.checksum.abandon();
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(failure);
    }

    fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// A range of zeros: nothing is written where nothing was.
    fn hole(&self, start: u64, bytes: u64) {
        if self.existed {
            use rustix::fs::FallocateFlags;
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let punched = rustix::fs::fallocate(&self.file, flags, start, bytes).is_ok();
            if !punched && let Err(error) = self.write_zeros(start, bytes) {
                self.fail(Failure::target(error));
            }
        }
        self.checksum.submit(start, Part::Zeros(bytes), false);
    }

    fn write_zeros(&self, mut start: u64, mut bytes: u64) -> std::io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while bytes > 0 {
            let take = bytes.min(ZEROS.len() as u64);
            self.file.write_all_at(&ZEROS[..take as usize], start)?;
            start += take;
            bytes -= take;
        }
        Ok(())
    }

    /// Restores one range without holes.
    fn range(&self, shared: &Shared<'_>, start: u64, chunks: &[ChunkRef], mut buffer: Buffer) {
        if self.has_failed() {
            return;
        }
        let len = chunks.iter().map(|chunk| chunk.bytes as usize).sum();
        buffer.resize(len, 0);
        let compare = self.existed && read_existing(&self.file, &mut buffer, start);
        let (mut wanted, mut at) = (Vec::with_capacity(chunks.len()), 0);
        for chunk in chunks {
            let end = at + chunk.bytes as usize;
            if !compare || Digest::of(&buffer[at..end]) != chunk.digest {
                wanted.push(Wanted { chunk: *chunk, at });
            }
            at = end;
        }
        let faults = shared.with_reader(|reader| reader.read(&wanted, &mut buffer));
        if let Some((_, fault)) = faults.into_iter().next() {
            return self.fail(Failure::store(fault));
        }
        let written = {
            let mut mode = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            self.write(&mut mode, &shared.aligned, start, &wanted, &buffer)
        };
        match written {
            Ok(written) => self.written.fetch_add(written, Ordering::Relaxed),
            Err(error) => {
                let error = target_error(shared, "write", &self.path, error);
                return self.fail(Failure::target(error));
            }
        };
        shared.progress.add(len as u64);
        self.checksum.submit(start, Part::Bytes(Arc::new(buffer), 0..len), false);
    }

    /// Writes the chunks that were read, adjacent ones together.
    fn write(
        &self,
        mode: &mut Mode,
        aligned: &Aligned,
        start: u64,
        wanted: &[Wanted],
        buffer: &[u8],
    ) -> std::io::Result<u64> {
        let (mut written, mut run) = (0, 0..0);
        for want in wanted {
            if want.at != run.end {
                mode.write(&self.file, &buffer[run.clone()], start + run.start as u64, aligned)?;
                written += run.len() as u64;
                run = want.at..want.at;
            }
            run.end = want.at + want.chunk.bytes as usize;
        }
        mode.write(&self.file, &buffer[run.clone()], start + run.start as u64, aligned)?;
        Ok(written + run.len() as u64)
    }

    /// Counts down; the last one checks the whole and gives the file its metadata.
    fn done(&self, shared: &Shared<'_>) {
        if self.pending.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let Some(content) = self.entry.content() else { return };
        if !self.has_failed() {
            match self.checksum.finish(content.bytes) {
                Ok((checksums, _)) if checksums.blake3 == content.checksums.blake3 => {}
                Ok((checksums, _)) => self.fail(Failure::store(format!(
                    "checksum mismatch (expected {}, found {})",
                    content.checksums.blake3, checksums.blake3
                ))),
                Err(error) => self.fail(Failure::target(error)),
            }
        }
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(failure) = failure {
            if !self.existed || !shared.target.keeps_what_was() {
                let _ = shared.target.tree().remove_file(&self.path);
            }
            return shared.fail(&self.path, failure);
        }
        let written = self.written.load(Ordering::Relaxed);
        shared.report(|report| {
            report.files += 1;
            report.bytes += content.bytes;
            report.bytes_written += written;
            report.bytes_kept +=
                if self.existed { content.bytes.saturating_sub(written) } else { 0 };
        });
        shared.finish(&self.path, &self.entry, &Kind::File, Some(&self.file));
    }
}
