//! Small files: read together, written one by one.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Failure, Shared, read_existing, target_error};
use crate::digest::Digest;
use crate::format::manifest::{Content, Entry};
use crate::format::page::ChunkRef;
use crate::fstree::Kind;
use crate::store::buffers::Buffer;
use crate::store::chunks::Wanted;

/// One file of a batch: where its content lies in the buffer.
struct Planned {
    path: Vec<u8>,
    entry: Entry,
    start: usize,
    chunks: Vec<ChunkRef>,
    /// Position of its first chunk among those wanted.
    first_wanted: usize,
    failure: Option<Failure>,
}

/// Restores a batch.
pub(super) fn run(shared: &Shared<'_>, files: Vec<(Vec<u8>, Entry)>, mut buffer: Buffer) {
    let (mut planned, mut wanted, mut end) = (Vec::with_capacity(files.len()), Vec::new(), 0);
    for (path, entry) in files {
        let Some(content) = entry.content() else { continue };
        let (start, first_wanted) = (end, wanted.len());
        let (mut chunks, mut failure) = (Vec::new(), None);
        for chunk in shared.store.chunks(content) {
            match chunk {
                Ok(chunk) => chunks.push(chunk),
                Err(fault) => failure = Some(Failure::store(fault)),
            }
        }
        if failure.is_none() {
            let mut at = start;
            for chunk in &chunks {
                if !chunk.is_hole() {
                    wanted.push(Wanted { chunk: *chunk, at });
                }
                at += chunk.bytes as usize;
            }
            // The chunks sum up to the length: the decoder of entries and lists has checked it.
            end = at;
        }
        planned.push(Planned { path, entry, start, chunks, first_wanted, failure });
    }
    // Holes stay zero; everything else is overwritten.
    buffer.clear();
    buffer.resize(end, 0);
    for (order, fault) in shared.with_reader(|reader| reader.read(&wanted, &mut buffer)) {
        let owner = planned.partition_point(|planned| planned.first_wanted <= order);
        if let Some(planned) = planned.get_mut(owner.wrapping_sub(1)) {
            planned.failure.get_or_insert_with(|| Failure::store(fault));
        }
    }
    for mut planned in planned {
        let failure = planned.failure.take().or_else(|| write(shared, &planned, &buffer).err());
        if let Some(failure) = failure {
            if !shared.target.keeps_what_was() {
                let _ = shared.target.tree().remove_file(&planned.path);
            }
            shared.fail(&planned.path, failure);
        }
    }
}

fn write(shared: &Shared<'_>, planned: &Planned, buffer: &[u8]) -> Result<(), Failure> {
    let Planned { path, entry, start, chunks, .. } = planned;
    let Some(content) = entry.content() else { return Ok(()) };
    let bytes = &buffer[*start..start + content.bytes as usize];
    check(content, chunks, bytes)?;
    let sparse = chunks.iter().any(ChunkRef::is_hole);
    let (file, existed) =
        shared.target.open_file(path, content.bytes, sparse).map_err(Failure::target)?;
    let written = write_bytes(&file, existed, chunks, bytes)
        .map_err(|error| Failure::target(target_error(shared, "write", path, error)))?;
    shared.report(|report| {
        report.files += 1;
        report.bytes += content.bytes;
        report.bytes_written += written;
        report.bytes_kept += if existed { content.bytes - written } else { 0 };
    });
    shared.progress.add(content.bytes);
    shared.finish(path, entry, &Kind::File, Some(&file));
    Ok(())
}

/// Compares the content with its checksum; a single chunk was compared when it was read.
fn check(content: &Content, chunks: &[ChunkRef], bytes: &[u8]) -> Result<(), Failure> {
    let actual = match chunks {
        [chunk] if !chunk.is_hole() => chunk.digest,
        _ => Digest::of(bytes),
    };
    let expected = content.checksums.blake3;
    if actual == expected {
        Ok(())
    } else {
        let text = format!("checksum mismatch (expected {expected}, found {actual})");
        Err(Failure::store(text))
    }
}

/// Writes the content, or only what differs from what was there. Returns the bytes written.
fn write_bytes(
    file: &File,
    existed: bool,
    chunks: &[ChunkRef],
    bytes: &[u8],
) -> std::io::Result<u64> {
    if existed {
        let mut before = vec![0; bytes.len()];
        if read_existing(file, &mut before, 0) && before == bytes {
            return Ok(0);
        }
        file.write_all_at(bytes, 0)?;
        return Ok(bytes.len() as u64);
    }
    let (mut at, mut written) = (0usize, 0);
    let mut run = 0..0;
    for chunk in chunks {
        let end = at + chunk.bytes as usize;
        if chunk.is_hole() {
            file.write_all_at(&bytes[run.clone()], run.start as u64)?;
            written += run.len() as u64;
            run = end..end;
        } else {
            run.end = end;
        }
        at = end;
    }
    file.write_all_at(&bytes[run.clone()], run.start as u64)?;
    Ok(written + run.len() as u64)
}
