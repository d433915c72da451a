//! The last stage: publishes packs and, when enough of them are durable, an index segment.

use crossbeam_channel::{Receiver, Sender};

use super::{Error, Shared};
use crate::backend::Put;
use crate::format::pack::Content;
use crate::format::segment::PackEntry;
use crate::index::SegmentBuilder;
use crate::limits::PENDING_CHUNKS_MAX;
use crate::pack::PackBuilder;

/// What was published.
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// New packs.
    pub packs: Vec<PackEntry>,
    /// Bytes of index segments written.
    pub index_bytes: u64,
}

/// Publishes packs until there are no more, then an index segment for the rest of them.
pub(super) fn run(
    shared: &Shared<'_>,
    packing: &Receiver<PackBuilder>,
    spent: &Sender<Vec<u8>>,
) -> Result<Packed, Error> {
    let backend = shared.store.backend();
    let mut packed = Packed::default();
    let mut segment = SegmentBuilder::default();
    for pack in packing {
        let pack = pack.finish();
        if pack.publish(backend)? == Put::Created {
            packed.packs.push(pack.entry);
        }
        segment.add_pack(pack.entry, &pack.records);
        if pack.entry.content == Content::Chunks {
            let _ = spent.try_send(pack.bytes);
        }
        if segment.len() >= PENDING_CHUNKS_MAX {
            flush(shared, &mut segment, &mut packed)?;
        }
    }
    flush(shared, &mut segment, &mut packed)?;
    Ok(packed)
}

fn flush(
    shared: &Shared<'_>,
    segment: &mut SegmentBuilder,
    packed: &mut Packed,
) -> Result<(), Error> {
    if segment.is_empty() {
        return Ok(());
    }
    segment.flush(shared.index, shared.store.backend())?;
    let snapshot = shared.index.snapshot();
    if let Some(written) = snapshot.segments().last() {
        packed.index_bytes += written.bytes_len();
        shared.claims.release(written.entries().filter_map(Result::ok).map(|e| e.record.digest));
    }
    Ok(())
}
