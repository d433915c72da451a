//! Checksums made anew, so that a change of bytes gets behind them.

use strongroom::digest::{DIGEST_BYTES, Digest};
use strongroom::format::{frame, pack};

/// Gives a frame, or anything else that ends with the digest of all before, the right one; the
/// length in a frame's head becomes right too.
#[must_use]
pub fn end(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut sealed = bytes.to_vec();
    let signed = bytes.len().checked_sub(DIGEST_BYTES)?;
    if sealed.starts_with(&frame::MAGIC) {
        let payload = signed.checked_sub(frame::HEAD_BYTES)? as u64;
        sealed[16..24].copy_from_slice(&payload.to_le_bytes());
    }
    let digest = Digest::of(&sealed[..signed]);
    sealed[signed..].copy_from_slice(&digest.0);
    Some(sealed)
}

/// Gives a pack a tail whose place of the directory and checksum are right.
#[must_use]
pub fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut sealed = bytes.to_vec();
    let tail_at = bytes.len().checked_sub(pack::TAIL_BYTES)?;
    let count = |at: usize| -> Option<usize> {
        let field = bytes.get(tail_at + at..tail_at + at + 4)?;
        Some(u32::from_le_bytes(field.try_into().ok()?) as usize)
    };
    let directory_bytes = count(8)? * pack::ENTRY_BYTES + count(12)? * pack::BASE_BYTES;
    let directory_at = tail_at.checked_sub(directory_bytes)?;
    if directory_at < pack::HEAD_BYTES {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..pack::HEAD_BYTES]);
    hasher.update(&bytes[directory_at..tail_at]);
    sealed[tail_at..tail_at + 8].copy_from_slice(&(directory_at as u64).to_le_bytes());
    sealed[tail_at + 16..tail_at + 48].copy_from_slice(hasher.finalize().as_bytes());
    Some(sealed)
}
