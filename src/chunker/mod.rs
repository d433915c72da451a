//! Chunker: where content is cut. Knows no digests and no storage.
//!
//! Two ways, chosen per file and recorded in its entry so that a later generation is cut the same
//! way: fixed pieces for content that changes in place, and `FastCDC` for everything else. Part of
//! the format in the sense of "Chunking" in `store-format.md`: a reader needs none of this, but a
//! writer that cuts differently stores everything again.

mod policy;

pub use policy::{Probe, choose, is_memory_image};

pub use crate::values::{Chunking, Params};

use fastcdc::v2020::{Normalization, cut, select_masks};

/// Finds the ends of chunks in bytes that arrive in pieces.
#[derive(Clone, Copy, Debug)]
pub enum Cutter {
    /// Everything is one chunk.
    Whole,
    /// See [`Chunking::Fixed`].
    Fixed(usize),
    /// See [`Chunking::Cdc`]: least, average and greatest length and the two masks.
    Cdc([usize; 3], [u64; 2]),
}

impl Cutter {
    /// Makes the cutter for `chunking`.
    #[must_use]
    pub fn new(chunking: Chunking) -> Self {
        match chunking {
            Chunking::Whole => Self::Whole,
            Chunking::Fixed { chunk_bytes } => Self::Fixed(chunk_bytes as usize),
            Chunking::Cdc { min_bytes, avg_bytes, max_bytes } => {
                let (strict, relaxed) = select_masks(avg_bytes as usize, Normalization::Level1);
                let lengths = [min_bytes as usize, avg_bytes as usize, max_bytes as usize];
                Self::Cdc(lengths, [strict, relaxed])
            }
        }
    }

    /// Returns the length of the first chunk of `bytes`, or `None` if more bytes are needed to
    /// tell. `last` says that no more follow; then, for non-empty `bytes`, there is always one.
    #[must_use]
    pub fn next_len(&self, bytes: &[u8], last: bool) -> Option<usize> {
        if bytes.is_empty() {
            return None;
        }
        let known = match *self {
            Self::Whole => None,
            Self::Fixed(len) => (bytes.len() >= len).then_some(len),
            Self::Cdc([min, avg, max], [strict, relaxed]) => {
                if bytes.len() < max && !last {
                    return None;
                }
                Some(cut(bytes, min, avg, max, strict, relaxed, strict << 1, relaxed << 1).1)
            }
        };
        known.or(last.then_some(bytes.len()))
    }
}

/// Says whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, tail) = bytes.as_chunks::<64>();
    words.iter().all(|word| word.iter().fold(0, |any, byte| any | byte) == 0)
        && tail.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(b"chunker").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cut_all(cutter: Cutter, bytes: &[u8], step: usize) -> Vec<usize> {
        let (mut lens, mut start, mut end) = (Vec::new(), 0, 0);
        while start < bytes.len() {
            end = (end + step).min(bytes.len());
            while let Some(len) = cutter.next_len(&bytes[start..end], end == bytes.len()) {
                lens.push(len);
                start += len;
            }
        }
        lens
    }

    #[test]
    fn cuts_do_not_depend_on_how_the_bytes_arrive() {
        let bytes = noise(1_000_003);
        for chunking in [Params::default().cdc(), Params::default().fixed(), Chunking::Whole] {
            let cutter = Cutter::new(chunking);
            let whole = cut_all(cutter, &bytes, bytes.len());
            assert_eq!(whole.iter().sum::<usize>(), bytes.len());
            assert_eq!(cut_all(cutter, &bytes, 70_001), whole);
            assert_eq!(cut_all(cutter, &bytes, 4096), whole);
        }
    }

    #[test]
    fn cdc_lengths_keep_their_bounds_and_cuts_move_with_the_content() {
        let bytes = noise(2_000_000);
        let cutter = Cutter::new(Params::default().cdc());
        let ends = |bytes: &[u8]| {
            let mut end = 0;
            let lens = cut_all(cutter, bytes, bytes.len());
            assert!(lens[..lens.len() - 1].iter().all(|len| (4096..=65536).contains(len)));
            lens.into_iter().map(|len| (end += len, bytes.len() - end).1).collect::<Vec<_>>()
        };
        let mut longer = noise(100);
        longer.extend_from_slice(&bytes);
        let (before, after) = (ends(&bytes), ends(&longer));
        let shared = after.iter().filter(|end| before.contains(end)).count();
        assert!(shared + 5 > before.len(), "{shared} of {} cuts found again", before.len());
    }

    #[test]
    fn the_cuts_of_the_format_have_not_moved() {
        let lens = cut_all(Cutter::new(Params::default().cdc()), &noise(200_000), 200_000);
        assert_eq!(lens[..4], GOLDEN_CUTS, "{lens:?}");
    }

    /// Cuts of the first 200,000 bytes of BLAKE3 extended output over `chunker`.
    const GOLDEN_CUTS: [usize; 4] = [24574, 30647, 18023, 21287];

    #[test]
    fn zero_is_found_and_one_bit_is_not_missed() {
        let mut bytes = vec![0; 1000];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 63, 64, 500, 999] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
    }

    #[test]
    fn default_parameters_are_valid() {
        assert!(Params::default().are_valid());
        let odd = Params { fixed_bytes: 5000, ..Params::default() };
        assert!(!odd.are_valid());
    }
}
