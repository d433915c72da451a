//! Codec: how a chunk's plain bytes become stored bytes, and back.
//!
//! Knows nothing of packs, digests or files. The encoding byte is part of the format ("Encodings"
//! in `store-format.md`); compression levels are not, and may change from release to release.
//! Decoding follows one rule: the declared plain length is checked against its bound first, the
//! output buffer is fixed, and anything but exactly that many bytes is an error.

use zstd_safe::{CCtx, CParameter, DCtx, ResetDirective};

use crate::limits::{CHUNK_BYTES_MAX, STORED_BYTES_MAX};

pub use crate::values::Encoding;

/// What can go wrong in encoding and decoding.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A length is outside its bound.
    #[error("{what} of {actual} bytes, at most {bytes_max} allowed")]
    Length {
        /// Which length.
        what: &'static str,
        /// Its value.
        actual: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The stored bytes do not decode.
    #[error("stored bytes do not decode: {reason}")]
    Decode {
        /// The decoder's words.
        reason: &'static str,
    },
    /// Decoding gave another number of bytes than was declared.
    #[error("decoded to {actual} bytes, {expected} expected")]
    DecodedLength {
        /// The declared length.
        expected: usize,
        /// The length that came out.
        actual: usize,
    },
    /// The chunk needs a base and none was given.
    #[error("a base chunk is needed to decode this chunk")]
    BaseMissing,
    /// The compressor's memory could not be had.
    #[error("no memory for a compression context")]
    NoMemory,
}

/// How hard to compress: what the compressor is told. Zero is its own choice for the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    zstd: i32,
    /// Logarithm of the entries of its table of matches.
    hash_log: u32,
    /// Shortest match that it looks for, in bytes.
    min_match: u32,
    /// How far it goes on after each place without a match, in bytes.
    acceleration: u32,
}

impl Level {
    /// For memory images, where compression is the budget of a backup: measured on images of stable
    /// structures, 1.26 times the speed of zstd's level 1 for 0.7% more bytes. The larger table pays
    /// for most of what the acceleration costs.
    pub const IMAGE: Self = Self { zstd: 1, hash_log: 15, min_match: 5, acceleration: 2 };
    /// For other page-structured content: 0.8% fewer bytes than zstd's level 1 at 0.96 times its
    /// speed, which is 1.3 times that of level 3.
    pub const PAGED: Self = Self { acceleration: 0, ..Self::IMAGE };
    /// For chunks with a base: zstd's level 1.
    pub const DELTA: Self = Self { zstd: 1, hash_log: 0, min_match: 0, acceleration: 0 };
    /// For files cut by content, trees and list pages: 3 stores 5% less than 1 on source trees.
    pub const DENSE: Self = Self { zstd: 3, ..Self::DELTA };

    /// Returns the level for the same content where it has a base.
    #[must_use]
    pub fn with_base(self) -> Self {
        if self == Self::DENSE { self } else { Self::DELTA }
    }
}

/// A chunk is stored compressed only where that saves at least one part in this many; otherwise
/// raw, which restores faster.
const SAVING_DIVISOR: usize = 32;

/// Compresses chunks; `'base` is how long the bases live that it is given.
pub struct Encoder<'base> {
    context: CCtx<'base>,
    level: Option<Level>,
    /// Where a frame is made before its length is known. It is filled with zeros once, and not for
    /// every chunk anew, as the end of a growing output would have to be.
    frame: Vec<u8>,
}

impl<'base> Encoder<'base> {
    /// Makes an encoder.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn new() -> Result<Self, Error> {
        let context = CCtx::try_create().ok_or(Error::NoMemory)?;
        Ok(Self { context, level: None, frame: Vec::new() })
    }

    /// Appends the stored form of `plain` to `out` and returns how it is encoded.
    ///
    /// Incompressible bytes are stored raw: the compressor is given too little room for a result
    /// that does not save, so it gives up early.
    pub fn encode(&mut self, plain: &[u8], level: Level, out: &mut Vec<u8>) -> Encoding {
        let room = plain.len() - plain.len() / SAVING_DIVISOR;
        if plain.len() >= 64 && self.compress(plain, level, room - 1, out) {
            return Encoding::Zstd;
        }
        out.extend_from_slice(plain);
        Encoding::Raw
    }

    /// Appends `plain` encoded against `base` to `out` if the result takes at most
    /// `stored_bytes_max` bytes; otherwise leaves `out` as it was and returns `false`.
    pub fn encode_with_base(
        &mut self,
        plain: &[u8],
        base: &'base [u8],
        level: Level,
        stored_bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        self.set_level(level);
        let fits = self.context.ref_prefix(base).is_ok()
            && self.compress(plain, level, stored_bytes_max, out);
        if !fits {
            // The prefix holds for one frame; a refused frame must not leave it behind.
            let _ = self.context.reset(ResetDirective::SessionOnly);
        }
        fits
    }

    fn compress(&mut self, plain: &[u8], level: Level, room: usize, out: &mut Vec<u8>) -> bool {
        self.set_level(level);
        if self.frame.len() < room {
            self.frame.resize(room, 0);
        }
        if let Ok(written) = self.context.compress2(&mut self.frame[..room], plain) {
            out.extend_from_slice(&self.frame[..written]);
            true
        } else {
            let _ = self.context.reset(ResetDirective::SessionOnly);
            false
        }
    }

    fn set_level(&mut self, level: Level) {
        if self.level == Some(level) {
            return;
        }
        let parameters = [
            CParameter::CompressionLevel(level.zstd),
            CParameter::HashLog(level.hash_log),
            CParameter::MinMatch(level.min_match),
            CParameter::TargetLength(level.acceleration),
        ];
        for parameter in parameters {
            let set = self.context.set_parameter(parameter);
            debug_assert!(set.is_ok(), "the level is within zstd's range");
        }
        self.level = Some(level);
    }
}

/// Decodes chunks; `'base` is how long the bases live that it is given.
pub struct Decoder<'base> {
    context: DCtx<'base>,
}

impl<'base> Decoder<'base> {
    /// Makes a decoder.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn new() -> Result<Self, Error> {
        DCtx::try_create().map(|context| Self { context }).ok_or(Error::NoMemory)
    }

    /// Decodes `stored` into `plain`, which has the declared length of the chunk.
    ///
    /// # Errors
    /// Any [`Error`]; `plain` then holds undefined bytes.
    pub fn decode(
        &mut self,
        encoding: Encoding,
        stored: &[u8],
        base: Option<&'base [u8]>,
        plain: &mut [u8],
    ) -> Result<(), Error> {
        check_length("chunk", plain.len(), CHUNK_BYTES_MAX)?;
        check_length("stored chunk", stored.len(), STORED_BYTES_MAX)?;
        let actual = match encoding {
            Encoding::Raw => {
                if stored.len() == plain.len() {
                    plain.copy_from_slice(stored);
                }
                stored.len()
            }
            Encoding::Zstd => self.decompress(stored, plain)?,
            Encoding::ZstdWithBase => {
                let base = base.ok_or(Error::BaseMissing)?;
                self.context.ref_prefix(base).map_err(decode_error)?;
                self.decompress(stored, plain)?
            }
        };
        if actual == plain.len() {
            Ok(())
        } else {
            Err(Error::DecodedLength { expected: plain.len(), actual })
        }
    }

    fn decompress(&mut self, stored: &[u8], plain: &mut [u8]) -> Result<usize, Error> {
        self.context.decompress(plain, stored).map_err(|code| {
            let _ = self.context.reset(ResetDirective::SessionOnly);
            decode_error(code)
        })
    }
}

fn decode_error(code: usize) -> Error {
    Error::Decode { reason: zstd_safe::get_error_name(code) }
}

fn check_length(what: &'static str, actual: usize, bytes_max: usize) -> Result<(), Error> {
    if actual <= bytes_max { Ok(()) } else { Err(Error::Length { what, actual, bytes_max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn round_trip(plain: &[u8]) -> (Encoding, usize) {
        let mut stored = Vec::new();
        let encoding = Encoder::new().unwrap().encode(plain, Level::PAGED, &mut stored);
        let mut back = vec![1; plain.len()];
        Decoder::new().unwrap().decode(encoding, &stored, None, &mut back).unwrap();
        assert_eq!(back, plain);
        (encoding, stored.len())
    }

    #[test]
    fn compressible_is_compressed_and_noise_is_raw() {
        assert_eq!(round_trip(&[]), (Encoding::Raw, 0));
        assert_eq!(round_trip(&noise(1, 65536)), (Encoding::Raw, 65536));
        let (encoding, stored) = round_trip(&b"strongroom ".repeat(5000));
        assert_eq!(encoding, Encoding::Zstd);
        assert!(stored < 200, "{stored}");
    }

    #[test]
    fn a_change_of_a_few_bytes_costs_a_few_bytes_with_a_base() {
        let base = noise(2, 65536);
        let mut plain = base.clone();
        plain[30_000..30_016].copy_from_slice(&[7; 16]);
        let mut stored = Vec::new();
        let mut encoder = Encoder::new().unwrap();
        assert!(encoder.encode_with_base(&plain, &base, Level::PAGED, 4096, &mut stored));
        assert!(stored.len() < 200, "{}", stored.len());
        let mut back = vec![0; plain.len()];
        let mut decoder = Decoder::new().unwrap();
        decoder.decode(Encoding::ZstdWithBase, &stored, Some(&base), &mut back).unwrap();
        assert_eq!(back, plain);
        let without = decoder.decode(Encoding::ZstdWithBase, &stored, None, &mut back);
        assert_eq!(without, Err(Error::BaseMissing));
    }

    #[test]
    fn a_refused_base_leaves_no_trace_in_the_next_chunk() {
        let (base, other) = (noise(3, 65536), b"abcd".repeat(9000));
        let mut encoder = Encoder::new().unwrap();
        let mut stored = vec![9];
        assert!(!encoder.encode_with_base(
            &noise(4, 65536),
            &base,
            Level::PAGED,
            1000,
            &mut stored
        ));
        assert_eq!(stored, [9]);
        assert_eq!(encoder.encode(&other, Level::PAGED, &mut stored), Encoding::Zstd);
        let mut back = vec![0; other.len()];
        Decoder::new().unwrap().decode(Encoding::Zstd, &stored[1..], None, &mut back).unwrap();
        assert_eq!(back, other);
    }

    #[test]
    fn wrong_lengths_and_garbage_are_errors() {
        let mut decoder = Decoder::new().unwrap();
        let mut plain = [0; 10];
        assert_eq!(
            decoder.decode(Encoding::Raw, b"123", None, &mut plain),
            Err(Error::DecodedLength { expected: 10, actual: 3 })
        );
        assert!(decoder.decode(Encoding::Zstd, b"garbage", None, &mut plain).is_err());
        let mut stored = Vec::new();
        Encoder::new().unwrap().encode(&[5; 4096], Level::PAGED, &mut stored);
        assert!(decoder.decode(Encoding::Zstd, &stored, None, &mut plain).is_err());
        assert_eq!(Encoding::from_byte(3), None);
    }
}
