//! Objects of the format. What is taken must encode to the very bytes that it was decoded from.

use strongroom::codec::Decoder;
use strongroom::digest::Digest;
use strongroom::format::header::{Header, StoreId};
use strongroom::format::journal::{EndedJournal, JournalRecord};
use strongroom::format::manifest::{Artifact, Entry, Generation};
use strongroom::format::page::{ChunkRef, Item, PageBuilder, PageRef};
use strongroom::format::record::Record;
use strongroom::format::removal::List;
use strongroom::format::segment::SegmentView;
use strongroom::format::{self, Error, page};
use strongroom::limits::CHUNK_BYTES_MAX;
use strongroom::values::Encoding;

use super::seal;

/// The store of the golden objects.
const STORE: StoreId = StoreId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

/// Decodes the input, and once more with a checksum that fits.
fn frame<T>(
    input: &[u8],
    decode: fn(&[u8]) -> Result<T, Error>,
    encode: fn(&T) -> Vec<u8>,
) -> bool {
    let one = |bytes: &[u8]| match decode(bytes) {
        Ok(value) => {
            assert!(encode(&value) == bytes, "it encodes to other bytes");
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            false
        }
    };
    let as_it_is = one(input);
    let sealed = seal::end(input).is_some_and(|sealed| one(&sealed));
    as_it_is || sealed
}

pub fn header(input: &[u8]) -> bool {
    let decode = |bytes: &[u8]| Header::decode(bytes).map(|(header, _)| header);
    frame(input, decode, Header::encode)
}

pub fn artifact(input: &[u8]) -> bool {
    frame(input, Artifact::decode, Artifact::encode)
}

pub fn generation(input: &[u8]) -> bool {
    frame(input, Generation::decode, Generation::encode)
}

pub fn commit_record(input: &[u8]) -> bool {
    frame(input, Record::decode, Record::encode)
}

pub fn removal_list(input: &[u8]) -> bool {
    frame(input, List::decode, List::encode)
}

pub fn journal_record(input: &[u8]) -> bool {
    frame(input, JournalRecord::decode, JournalRecord::encode)
}

pub fn ended_journal(input: &[u8]) -> bool {
    frame(input, EndedJournal::decode, EndedJournal::encode)
}

pub fn pack(input: &[u8]) -> bool {
    let one = |bytes: &[u8]| {
        let Ok(directory) = format::pack::directory_of(bytes, STORE) else { return false };
        for record in &directory.records {
            let at = record.offset as usize;
            assert!(bytes.get(at..at + record.stored_bytes as usize).is_some(), "outside");
            assert!(record.plain_bytes as usize <= CHUNK_BYTES_MAX);
        }
        true
    };
    let as_it_is = one(input);
    let sealed = seal::pack(input).is_some_and(|sealed| one(&sealed));
    as_it_is || sealed
}

pub fn segment(input: &[u8]) -> bool {
    let one = |bytes: &[u8]| {
        let Ok(view) = SegmentView::parse(bytes, STORE) else { return false };
        let is_whole = view.check(bytes).is_ok();
        for ordinal in 0..view.pack_count() {
            let _ = view.pack(bytes, ordinal);
        }
        assert!(view.pack(bytes, view.pack_count()).is_err());
        for ordinal in 0..view.entry_count() {
            let digest = view.digest(bytes, ordinal);
            // Whatever the tables say, what is found has the digest that was looked for.
            if let Some(found) = view.find(bytes, &digest) {
                assert!(found < view.entry_count() && view.digest(bytes, found) == digest);
            }
            if let Ok(entry) = view.entry(bytes, ordinal) {
                assert!((entry.pack as usize) < view.pack_count());
            }
        }
        assert!(view.entry(bytes, view.entry_count()).is_err());
        let _ = view.find(bytes, &Digest([0x80; 32]));
        for bits in [0, 1, 7] {
            let (first, end) = view.part(bytes, 0, bits);
            assert!(first <= view.entry_count() && end <= view.entry_count());
        }
        is_whole
    };
    let as_it_is = one(input);
    let sealed = seal::end(input).is_some_and(|sealed| one(&sealed));
    as_it_is || sealed
}

fn page<T: Item>(input: &[u8]) -> bool {
    let level = input.first().copied().unwrap_or(0);
    let Ok(items) = page::decode::<T>(input, level) else { return false };
    let mut page = PageBuilder::new::<T>(level);
    for item in &items {
        let _ = (page.push(item), item.key(), item.bytes());
    }
    assert!(page.take() == input, "it encodes to other bytes");
    true
}

pub fn page_chunks(input: &[u8]) -> bool {
    page::<ChunkRef>(input)
}

pub fn page_references(input: &[u8]) -> bool {
    page::<PageRef>(input)
}

pub fn page_entries(input: &[u8]) -> bool {
    page::<Entry>(input)
}

/// One byte for the encoding, three for the length, two for the length of the base, the base and
/// what is stored.
pub fn chunk(input: &[u8]) -> bool {
    let [kind, a, b, c, d, e, rest @ ..] = input else { return false };
    let Some(encoding) = Encoding::from_byte(*kind) else { return false };
    let plain_bytes = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
    let base_bytes = usize::from(u16::from_le_bytes([*d, *e])).min(rest.len());
    let (base, stored) = rest.split_at(base_bytes);
    let mut plain = vec![0; plain_bytes];
    let mut decoder = Decoder::new().expect("memory");
    let result = decoder.decode(encoding, stored, Some(base), &mut plain);
    if plain_bytes > CHUNK_BYTES_MAX {
        assert!(result.is_err(), "longer than a chunk may be");
    }
    result.is_ok()
}
