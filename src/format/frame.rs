//! Frames: small records (store header, manifests, commit records) with kind, version and
//! checksum. See "Frames" in `store-format.md`.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `STRONGRM` |
//! | 8 | 4 | kind |
//! | 12 | 2 | version of the kind |
//! | 14 | 1 | seal |
//! | 15 | 1 | zero |
//! | 16 | 8 | payload length |
//! | 24 | n | payload |
//! | 24 + n | 32 | BLAKE3 of all bytes before |

use super::{Error, SEAL_NONE, check_seal, le, payload};
use crate::digest::{DIGEST_BYTES, Digest};
use crate::limits::RECORD_BYTES_MAX;

/// First bytes of every frame.
pub const MAGIC: [u8; 8] = *b"STRONGRM";
/// Bytes before the payload.
pub const HEAD_BYTES: usize = 24;
/// Bytes of a frame beside its payload.
pub const OVERHEAD_BYTES: usize = HEAD_BYTES + DIGEST_BYTES;
/// Largest frame.
pub const FRAME_BYTES_MAX: usize = RECORD_BYTES_MAX + OVERHEAD_BYTES;

/// A kind of frame: its name in messages, its tag, and the newest version that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Name in messages.
    pub name: &'static str,
    /// The four bytes of the frame.
    pub tag: [u8; 4],
    /// The version that is written, and the newest that is read.
    pub version: u16,
}

/// The store header.
pub const STORE: Kind = Kind { name: "store header", tag: *b"STOR", version: 1 };
/// The manifest of an artifact.
pub const ARTIFACT: Kind = Kind { name: "artifact manifest", tag: *b"ARTI", version: 1 };
/// The manifest of a generation.
pub const GENERATION: Kind = Kind { name: "generation manifest", tag: *b"GENE", version: 1 };
/// A list of objects to be removed.
pub const REMOVAL: Kind = Kind { name: "removal list", tag: *b"REMO", version: 1 };
/// A record of the commit log.
pub const COMMIT: Kind = Kind { name: "commit record", tag: *b"COMM", version: 1 };
/// A record of a run's journal.
pub const JOURNAL: Kind = Kind { name: "journal record", tag: *b"JRNL", version: 1 };
/// The whole journal of a run that has ended.
pub const ENDED_JOURNAL: Kind = Kind { name: "ended journal", tag: *b"JEND", version: 1 };

/// Returns the frame of `value`.
///
/// # Panics
/// If the payload exceeds [`RECORD_BYTES_MAX`]; callers bound what they build.
#[must_use]
pub fn encode<T: bincode::Encode>(kind: Kind, value: &T) -> Vec<u8> {
    let body = payload::encode(value);
    assert!(body.len() <= RECORD_BYTES_MAX, "payload within the limits of the format");
    let mut bytes = Vec::with_capacity(body.len() + OVERHEAD_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&kind.tag);
    bytes.extend_from_slice(&kind.version.to_le_bytes());
    bytes.extend_from_slice(&[SEAL_NONE, 0]);
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&body);
    let checksum = Digest::of(&bytes);
    bytes.extend_from_slice(&checksum.0);
    bytes
}

/// Decodes a frame of `kind` that takes all of `bytes`.
///
/// # Errors
/// Every [`Error`] but [`Error::OtherStore`].
pub fn decode<T: bincode::Decode<()>>(kind: Kind, bytes: &[u8]) -> Result<T, Error> {
    payload::decode(kind.name, open(kind, bytes)?)
}

/// Checks a frame and returns its payload.
///
/// # Errors
/// As [`decode`].
pub fn open(kind: Kind, bytes: &[u8]) -> Result<&[u8], Error> {
    let what = kind.name;
    let actual = bytes.len() as u64;
    if bytes.len() < OVERHEAD_BYTES {
        return Err(Error::TooShort { what, expected: OVERHEAD_BYTES as u64, actual });
    }
    if bytes[..8] != MAGIC || bytes[8..12] != kind.tag {
        return Err(Error::Magic { what });
    }
    let (signed, carried) = bytes.split_at(bytes.len() - DIGEST_BYTES);
    let (expected, found) = (Digest(le::array(carried, 0)), Digest::of(signed));
    if expected != found {
        return Err(Error::Checksum { what, expected, actual: found });
    }
    let version = le::u16(bytes, 12);
    if version > kind.version {
        let (actual, supported) = (u64::from(version), u64::from(kind.version));
        return Err(Error::Newer { what, actual, supported });
    }
    check_seal(what, bytes[14])?;
    if version == 0 || bytes[15] != 0 {
        let actual = u64::from(version);
        return Err(Error::Field { what, field: "version", actual, allowed: "1 and up" });
    }
    let length = le::u64(bytes, 16);
    if length != (signed.len() - HEAD_BYTES) as u64 {
        return Err(Error::Field {
            what,
            field: "payload length",
            actual: length,
            allowed: "exactly the bytes between head and checksum",
        });
    }
    Ok(&signed[HEAD_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found() {
        let frame = encode(COMMIT, &(7u64, vec![1u8, 2, 3]));
        assert_eq!(decode::<(u64, Vec<u8>)>(COMMIT, &frame), Ok((7, vec![1, 2, 3])));
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<(u64, Vec<u8>)>(COMMIT, &bad).is_err(), "bit {bit}");
        }
        for len in 0..frame.len() {
            assert!(decode::<(u64, Vec<u8>)>(COMMIT, &frame[..len]).is_err(), "length {len}");
        }
        assert_eq!(open(STORE, &frame), Err(Error::Magic { what: "store header" }));
    }

    #[test]
    fn newer_is_not_damaged_and_left_over_bytes_are() {
        let newer = encode(Kind { version: 2, ..COMMIT }, &1u8);
        let error = Error::Newer { what: "commit record", actual: 2, supported: 1 };
        assert_eq!(decode::<u8>(COMMIT, &newer), Err(error));
        let longer = encode(COMMIT, &(1u8, 2u8));
        assert!(matches!(decode::<u8>(COMMIT, &longer), Err(Error::Payload { .. })));
    }

    #[test]
    fn a_length_from_input_does_not_reach_the_allocator() {
        let huge = encode(COMMIT, &u64::MAX);
        assert!(matches!(decode::<Vec<u8>>(COMMIT, &huge), Err(Error::Payload { .. })));
        assert!(matches!(decode::<Vec<[u64; 4]>>(COMMIT, &huge), Err(Error::Payload { .. })));
    }
}
