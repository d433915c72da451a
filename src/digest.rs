//! Digests: the names of chunks, pages, manifests and packs, and whole-content checksums.
//!
//! A [`Digest`] is BLAKE3-256 of plain bytes (of the object's bytes for packs, index segments and
//! manifests), so `b3sum` computes the same value. SHA-256 appears only as a content checksum.
//! Does not own: what is hashed. See "Names" in `store-format.md`.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

/// Bytes in a digest of either algorithm.
pub const DIGEST_BYTES: usize = 32;

/// A BLAKE3-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct Digest(pub [u8; DIGEST_BYTES]);

impl Digest {
    /// The all-zero value. No content has this digest; list pages use it to mark a hole.
    pub const ZERO: Self = Self([0; DIGEST_BYTES]);

    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the digest as 64 lowercase hexadecimal digits.
    #[must_use]
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// Returns the first 12 hexadecimal digits, for messages to people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_hex()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// A text that is not 64 lowercase hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a digest of 64 lowercase hexadecimal digits")]
pub struct ParseDigestError;

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ParseDigestError);
        }
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| ParseDigestError)
    }
}

/// The algorithm of a whole-content checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum Algorithm {
    /// BLAKE3-256, equal to what `b3sum` prints.
    Blake3,
    /// SHA-256, equal to what `sha256sum` prints.
    Sha256,
}

impl Algorithm {
    /// Returns the name used on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The checksums of one content: BLAKE3 always, SHA-256 where it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Checksums {
    /// BLAKE3-256 of the whole content.
    pub blake3: Digest,
    /// SHA-256 of the whole content.
    pub sha256: Option<[u8; DIGEST_BYTES]>,
}

impl Checksums {
    /// Returns the checksums of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8], with_sha256: bool) -> Self {
        let mut hasher = ChecksumHasher::new(with_sha256);
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Computes [`Checksums`] over content that arrives in pieces.
#[derive(Debug, Clone)]
pub struct ChecksumHasher {
    blake3: Box<blake3::Hasher>,
    sha256: Option<sha2::Sha256>,
}

impl ChecksumHasher {
    /// Starts a checksum of empty content.
    #[must_use]
    pub fn new(with_sha256: bool) -> Self {
        Self {
            blake3: Box::new(blake3::Hasher::new()),
            sha256: with_sha256.then(sha2::Sha256::new),
        }
    }

    /// Appends `bytes` to the content.
    pub fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// Appends `count` zero bytes to the content.
    pub fn update_zeros(&mut self, mut count: u64) {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        while count > 0 {
            let take = usize::try_from(count).map_or(ZEROS.len(), |n| n.min(ZEROS.len()));
            self.update(&ZEROS[..take]);
            count -= take as u64;
        }
    }

    /// Returns the checksums of everything appended.
    #[must_use]
    pub fn finish(self) -> Checksums {
        Checksums {
            blake3: Digest(*self.blake3.finalize().as_bytes()),
            sha256: self.sha256.map(|sha256| sha256.finalize().into()),
        }
    }
}

/// Formats bytes as lowercase hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text_and_nothing_else_parses() {
        let digest = Digest::of(b"strongroom");
        assert_eq!(digest.to_hex().parse(), Ok(digest));
        assert_eq!(digest.to_hex().to_uppercase().parse::<Digest>(), Err(ParseDigestError));
        assert_eq!("00".parse::<Digest>(), Err(ParseDigestError));
    }

    #[test]
    fn zeros_by_count_equal_zeros_by_bytes() {
        let mut counted = ChecksumHasher::new(true);
        counted.update(b"x");
        counted.update_zeros(200_000);
        let mut bytes = vec![0; 200_001];
        bytes[0] = b'x';
        assert_eq!(counted.finish(), Checksums::of(&bytes, true));
    }
}
