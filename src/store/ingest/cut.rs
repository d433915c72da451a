//! Cutting content where the chunker says, and, where bytes changed in place, where the previous
//! generation was cut.
//!
//! A change inside a chunk can move its end, and the chunk then resembles none of before. If the
//! previous end is followed by content that is cut as it was, nothing has moved: the previous end is
//! kept, and the changed chunk stands exactly where its base does.

use super::previous::Range;
use crate::chunker::Cutter;

/// Returns the lengths of the chunks that `bytes` begins with, which lie at `offset` of the file;
/// bytes behind the last of them need more bytes to be cut, unless `last`.
pub(super) fn cut(
    cutter: Cutter,
    bytes: &[u8],
    last: bool,
    offset: u64,
    previous: &Range,
) -> Vec<usize> {
    let (mut lens, mut at) = (Vec::new(), 0);
    while let Some(natural) = cutter.next_len(&bytes[at..], last) {
        let place = offset + at as u64;
        let kept = previous_len(previous, place).filter(|kept| {
            *kept != natural
                && bytes.get(at + kept..).is_some_and(|behind| {
                    let next = cutter.next_len(behind, last);
                    next.is_some() && next == previous_len(previous, place + *kept as u64)
                })
        });
        let len = kept.unwrap_or(natural);
        lens.push(len);
        at += len;
    }
    lens
}

/// Returns the length of the previous chunk that began at `place`.
fn previous_len(previous: &Range, place: u64) -> Option<usize> {
    previous.beginning_at(place).map(|chunk| chunk.bytes as usize)
}
