//! Format: every byte of the store, without I/O and without a clock.
//!
//! `store-format.md` is the normative text; the tests tie its tables to the constants here.
//! Encoders assert our own bugs, decoders return [`Error`] and never panic, whatever the input:
//! every length is checked against a bound before anything is allocated.

pub mod frame;
pub mod header;
pub mod journal;
pub mod manifest;
pub mod pack;
pub mod page;
pub mod record;
pub mod removal;
pub mod segment;

use crate::digest::Digest;

/// What can be wrong with stored bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Fewer bytes than the structure needs.
    #[error("{what}: {actual} bytes, at least {expected} needed")]
    TooShort {
        /// The structure.
        what: &'static str,
        /// Bytes needed.
        expected: u64,
        /// Bytes there.
        actual: u64,
    },
    /// The bytes do not begin (or end) as this kind of object does.
    #[error("{what}: not an object of this kind (bad magic)")]
    Magic {
        /// The structure.
        what: &'static str,
    },
    /// The bytes do not have the checksum that they carry.
    #[error("{what}: checksum mismatch (expected {expected}, found {actual})")]
    Checksum {
        /// The structure.
        what: &'static str,
        /// The checksum that the object carries.
        expected: Digest,
        /// The checksum of its bytes.
        actual: Digest,
    },
    /// A field has a value that the format does not allow.
    #[error("{what}: {field} is {actual}, {allowed} allowed")]
    Field {
        /// The structure.
        what: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        actual: u64,
        /// What would be valid.
        allowed: &'static str,
    },
    /// A payload does not decode.
    #[error("{what}: payload does not decode: {reason}")]
    Payload {
        /// The structure.
        what: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// The object was written by a newer version; it is not damaged.
    #[error(
        "{what}: written by a newer version (format {actual}, this program reads up to {supported})"
    )]
    Newer {
        /// The structure.
        what: &'static str,
        /// Its version.
        actual: u64,
        /// The newest version that this program reads.
        supported: u64,
    },
    /// The object is sealed (encrypted), which this version cannot read.
    #[error("{what}: sealed with method {method}, which this version cannot open")]
    Sealed {
        /// The structure.
        what: &'static str,
        /// The method.
        method: u8,
    },
    /// The object belongs to another store.
    #[error("{what}: belongs to store {actual}, this is {expected}")]
    OtherStore {
        /// The structure.
        what: &'static str,
        /// This store's id.
        expected: header::StoreId,
        /// The object's.
        actual: header::StoreId,
    },
}

impl Error {
    /// Says whether the bytes are wrong; what is newer or sealed is not.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Newer { .. } | Self::Sealed { .. })
    }
}

/// The value of every `seal` byte in this version: not sealed. Other values are reserved.
pub const SEAL_NONE: u8 = 0;

/// Refuses sealed objects.
pub(crate) fn check_seal(what: &'static str, seal: u8) -> Result<(), Error> {
    if seal == SEAL_NONE { Ok(()) } else { Err(Error::Sealed { what, method: seal }) }
}

/// Encodes and decodes payloads: `bincode` with fixed-width little-endian integers, the only
/// place that names it.
pub(crate) mod payload {
    use super::Error;
    use crate::limits::RECORD_BYTES_MAX;

    fn config() -> impl bincode::config::Config {
        bincode::config::standard()
            .with_little_endian()
            .with_fixed_int_encoding()
            .with_limit::<RECORD_BYTES_MAX>()
    }

    /// Encodes `value`.
    ///
    /// # Panics
    /// If the value is larger than the format allows: callers bound what they build.
    pub fn encode<T: bincode::Encode>(value: &T) -> Vec<u8> {
        bincode::encode_to_vec(value, config()).expect("payload within the limits of the format")
    }

    /// Appends the encoding of `value` to `out`.
    pub fn encode_into<T: bincode::Encode>(value: &T, out: &mut Vec<u8>) {
        bincode::encode_into_std_write(value, out, config())
            .expect("payload within the limits of the format");
    }

    /// Decodes a value that takes all of `bytes`.
    pub fn decode<T: bincode::Decode<()>>(what: &'static str, bytes: &[u8]) -> Result<T, Error> {
        let (value, used) = decode_first(what, bytes)?;
        if used == bytes.len() {
            Ok(value)
        } else {
            Err(Error::Payload { what, reason: format!("{} bytes left over", bytes.len() - used) })
        }
    }

    /// Decodes a value from the beginning of `bytes` and returns how many it took.
    pub fn decode_first<T: bincode::Decode<()>>(
        what: &'static str,
        bytes: &[u8],
    ) -> Result<(T, usize), Error> {
        bincode::decode_from_slice(bytes, config())
            .map_err(|error| Error::Payload { what, reason: error.to_string() })
    }
}

/// Reads little-endian integers at fixed places; the caller has checked the length.
pub(crate) mod le {
    pub fn u16(bytes: &[u8], at: usize) -> u16 {
        u16::from_le_bytes(array(bytes, at))
    }

    pub fn u32(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(array(bytes, at))
    }

    pub fn u64(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(array(bytes, at))
    }

    /// Returns `N` bytes at `at`, or zeros where `bytes` ends before (callers check lengths).
    pub fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        let mut array = [0; N];
        if let Some(source) = bytes.get(at..at + N) {
            array.copy_from_slice(source);
        } else {
            debug_assert!(false, "length checked by the caller");
        }
        array
    }
}
