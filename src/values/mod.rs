//! Values that several of the lower modules share, and that are stored: how content is cut and
//! encoded, what an entry is, which paths there may be. Pure data; what is done with it is the
//! business of `chunker`, `codec` and `fstree`, which pass these on under their own names.

mod node;
mod path;

pub use node::{Kind, Time, Xattr};
pub(crate) use path::check_components;
pub use path::{PathError, check_path, compare_paths};

/// How a chunk is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// The plain bytes themselves.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
    /// One zstd frame whose decoder is given another chunk's plain bytes as prefix.
    ZstdWithBase = 2,
}

impl Encoding {
    /// The value reserved for sealed (encrypted) chunks; refused by this version.
    pub const SEALED_RESERVED: u8 = 3;

    /// Parses the encoding byte; `None` for a value that this version cannot decode.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            2 => Some(Self::ZstdWithBase),
            _ => None,
        }
    }
}

/// How a file's content is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum Chunking {
    /// One chunk, or a hole; for content up to [`Params::small_bytes_max`].
    Whole,
    /// Pieces of the same length from offset 0.
    Fixed {
        /// Length of every piece but the last, in bytes.
        chunk_bytes: u32,
    },
    /// `FastCDC` (version 2020, normalization level 1, the gear table of the crate `fastcdc` 5).
    Cdc {
        /// Least length of a chunk but the last, in bytes.
        min_bytes: u32,
        /// Length aimed at, in bytes.
        avg_bytes: u32,
        /// Greatest length of a chunk, in bytes.
        max_bytes: u32,
    },
}

impl Chunking {
    /// Says whether the chunkers support it: the bounds are those of [`Params`].
    #[must_use]
    pub fn is_valid(self) -> bool {
        let params = match self {
            Self::Whole => Params::default(),
            Self::Fixed { chunk_bytes } => Params { fixed_bytes: chunk_bytes, ..Params::default() },
            Self::Cdc { min_bytes, avg_bytes, max_bytes } => Params {
                cdc_min_bytes: min_bytes,
                cdc_avg_bytes: avg_bytes,
                cdc_max_bytes: max_bytes,
                ..Params::default()
            },
        };
        params.are_valid()
    }
}

/// A store's chunking parameters, chosen when it is made and kept in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Params {
    /// Piece length for page-structured content, in bytes.
    pub fixed_bytes: u32,
    /// Least chunk length of content-defined chunking, in bytes.
    pub cdc_min_bytes: u32,
    /// Chunk length aimed at by content-defined chunking, in bytes.
    pub cdc_avg_bytes: u32,
    /// Greatest chunk length of content-defined chunking, in bytes.
    pub cdc_max_bytes: u32,
    /// Content up to this length is one chunk.
    pub small_bytes_max: u32,
}

impl Default for Params {
    /// 64 KiB fixed and 4/16/64 KiB by content: see "Decisions" D3 for the measurements.
    fn default() -> Self {
        Self {
            fixed_bytes: 64 << 10,
            cdc_min_bytes: 4 << 10,
            cdc_avg_bytes: 16 << 10,
            cdc_max_bytes: 64 << 10,
            small_bytes_max: 16 << 10,
        }
    }
}

impl Params {
    /// Says whether the parameters are within what the chunkers and the format support.
    #[must_use]
    pub fn are_valid(&self) -> bool {
        let within = |value: u32, low: u32, high: u32| (low..=high).contains(&value);
        let even = |value: u32| value.is_multiple_of(2);
        within(self.fixed_bytes, 4 << 10, 1 << 20)
            && self.fixed_bytes.is_power_of_two()
            && within(self.cdc_min_bytes, 64, 512 << 10)
            && within(self.cdc_avg_bytes, 256, 1 << 20)
            && self.cdc_avg_bytes.is_power_of_two()
            && within(self.cdc_max_bytes, 1 << 10, 1 << 20)
            && even(self.cdc_min_bytes)
            && even(self.cdc_max_bytes)
            && self.cdc_min_bytes <= self.cdc_avg_bytes
            && self.cdc_avg_bytes <= self.cdc_max_bytes
            && self.small_bytes_max <= 1 << 20
    }

    /// The parameters as content-defined chunking.
    #[must_use]
    pub fn cdc(&self) -> Chunking {
        Chunking::Cdc {
            min_bytes: self.cdc_min_bytes,
            avg_bytes: self.cdc_avg_bytes,
            max_bytes: self.cdc_max_bytes,
        }
    }

    /// The parameters as fixed chunking.
    #[must_use]
    pub fn fixed(&self) -> Chunking {
        Chunking::Fixed { chunk_bytes: self.fixed_bytes }
    }
}
