//! The store header, object `store`: versions, features, identity and chunking parameters. See
//! "Store header" in `store-format.md`.

use std::fmt;

use super::{Error, frame};
use crate::clock::UnixNanos;
use crate::values::Params;

/// The version that readers of this program understand, and that it writes.
pub const READ_VERSION: u32 = 1;
/// The version that writers of this program understand, and that it writes.
pub const WRITE_VERSION: u32 = 1;
/// Features without which a store cannot be read, that this program knows.
pub const READ_FEATURES_KNOWN: u64 = 0;
/// Features without which a store cannot be written, that this program knows.
pub const WRITE_FEATURES_KNOWN: u64 = 0;

/// A store's identity: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::digest::hex(&self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The payload of the object `store`. Written once, never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Header {
    /// A program whose [`READ_VERSION`] is lower must not read the store.
    pub read_version: u32,
    /// A program whose [`WRITE_VERSION`] is lower must not write to the store; it may read.
    pub write_version: u32,
    /// Bits of features that a reader must know.
    pub read_features: u64,
    /// Bits of features that a writer must know.
    pub write_features: u64,
    /// The store's identity.
    pub store_id: StoreId,
    /// When the store was made.
    pub created: UnixNanos,
    /// How content is cut.
    pub chunking: Params,
}

/// What this program may do with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Only read: the store needs a newer program to write.
    ReadOnly,
}

impl Header {
    /// Makes the header of a new store.
    #[must_use]
    pub fn new(store_id: StoreId, created: UnixNanos, chunking: Params) -> Self {
        Self {
            read_version: READ_VERSION,
            write_version: WRITE_VERSION,
            read_features: 0,
            write_features: 0,
            store_id,
            created,
            chunking,
        }
    }

    /// Returns the header's frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(frame::STORE, self)
    }

    /// Decodes a header and says what may be done with its store.
    ///
    /// # Errors
    /// [`Error::Newer`] if the store needs a newer program to be read; others if it is damaged.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Access), Error> {
        let header: Self = frame::decode(frame::STORE, bytes)?;
        let what = frame::STORE.name;
        if header.read_version > READ_VERSION {
            let (actual, supported) = (u64::from(header.read_version), u64::from(READ_VERSION));
            return Err(Error::Newer { what, actual, supported });
        }
        if header.read_features & !READ_FEATURES_KNOWN != 0 {
            return Err(Error::Newer {
                what: "store header (features)",
                actual: header.read_features,
                supported: READ_FEATURES_KNOWN,
            });
        }
        if !header.chunking.are_valid() {
            let actual = u64::from(header.chunking.fixed_bytes);
            let allowed = "the bounds of \"Chunking\"";
            return Err(Error::Field { what, field: "chunking parameters", actual, allowed });
        }
        let writable = header.write_version <= WRITE_VERSION
            && header.write_features & !WRITE_FEATURES_KNOWN == 0;
        Ok((header, if writable { Access::ReadWrite } else { Access::ReadOnly }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header::new(StoreId([7; 16]), UnixNanos(1), Params::default())
    }

    #[test]
    fn a_newer_write_version_is_read_only_and_a_newer_read_version_is_refused() {
        assert_eq!(Header::decode(&header().encode()), Ok((header(), Access::ReadWrite)));
        let newer = Header { write_version: 2, ..header() };
        assert_eq!(Header::decode(&newer.encode()), Ok((newer, Access::ReadOnly)));
        let feature = Header { write_features: 1, ..header() };
        assert_eq!(Header::decode(&feature.encode()), Ok((feature, Access::ReadOnly)));
        for refused in
            [Header { read_version: 2, ..header() }, Header { read_features: 1 << 63, ..header() }]
        {
            assert!(matches!(Header::decode(&refused.encode()), Err(Error::Newer { .. })));
        }
    }

    #[test]
    fn impossible_chunking_is_refused() {
        let chunking = Params { fixed_bytes: 0, ..Params::default() };
        let bad = Header { chunking, ..header() };
        assert!(matches!(Header::decode(&bad.encode()), Err(Error::Field { .. })));
    }
}
