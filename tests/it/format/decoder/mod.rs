//! A reader of stores written from `store-format.md` alone.
//!
//! It shares no code with the library: only the standard library, BLAKE3 and zstd. It reads a
//! directory as a stranger would who has the document and a damaged or missing index: log →
//! manifests → list pages → chunks, which it finds by scanning the packs. Index segments are
//! decoded separately and compared.
//!
//! Clear before fast: everything is read whole.

pub mod cursor;
pub mod entry;
pub mod frame;
pub mod pack;
pub mod page;
pub mod segment;
pub mod store;

use std::fmt;

/// What is wrong, in words.
pub type Result<T> = std::result::Result<T, String>;

/// Fails with `message` unless `good`.
pub fn demand(good: bool, message: impl fmt::Display) -> Result<()> {
    if good { Ok(()) } else { Err(message.to_string()) }
}

/// A 32-byte digest or checksum; prints as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 32]);

impl Id {
    /// BLAKE3-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A store's identity; prints as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Bytes that mean nothing here; print as text with escapes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}
