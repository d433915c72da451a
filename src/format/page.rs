//! List pages: content-addressed trees of items, cut at content-defined places, so that equal
//! stretches of two lists share their pages. See "List pages" in `store-format.md`.
//!
//! A page of level 0 holds items; a page of level n holds references to pages of level n − 1.
//! Knows no storage: who builds and walks lists is `store::list`.

use bincode::{Decode, Encode};

use super::{Error, le, payload};
use crate::digest::Digest;
use crate::limits::{LIST_LEVELS_MAX, PAGE_BYTES_MAX};

/// Bytes before the items of a page.
pub const HEAD_BYTES: usize = 8;

const WHAT: &str = "list page";

/// A chunk in a file's content, or a hole. 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct ChunkRef {
    /// The chunk's plain length, or the hole's length, in bytes.
    pub bytes: u64,
    /// The chunk's name, or [`Digest::ZERO`] for a hole.
    pub digest: Digest,
}

impl ChunkRef {
    /// A run of `bytes` zero bytes.
    #[must_use]
    pub fn hole(bytes: u64) -> Self {
        Self { bytes, digest: Digest::ZERO }
    }

    /// Says whether this is a hole.
    #[must_use]
    pub fn is_hole(&self) -> bool {
        self.digest == Digest::ZERO
    }
}

/// A reference to a page.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PageRef {
    /// The page's name: the digest of its bytes.
    pub digest: Digest,
    /// Items below it.
    pub items: u64,
    /// Bytes that the items below it stand for (content of chunks; content of entries).
    pub bytes: u64,
    /// The key of the first item below it (an entry's path; empty for chunks).
    pub key: Vec<u8>,
}

/// A whole list: its top page, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ListRef {
    /// Levels of pages; 0 for the empty list.
    pub levels: u8,
    /// The top page, exactly if there are levels.
    pub top: Option<PageRef>,
}

impl ListRef {
    /// The empty list.
    pub const EMPTY: Self = Self { levels: 0, top: None };

    /// Returns the number of items.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.top.as_ref().map_or(0, |top| top.items)
    }

    /// Checks what any list must satisfy.
    pub(super) fn check(&self, what: &'static str) -> Result<(), Error> {
        let actual = u64::from(self.levels);
        if self.levels > LIST_LEVELS_MAX || (self.levels == 0) != self.top.is_none() {
            let allowed = "0 without a top page, 1 to 16 with one";
            return Err(Error::Field { what, field: "list levels", actual, allowed });
        }
        Ok(())
    }
}

/// An item of a list.
pub trait Item: Encode + Decode<()> + Clone {
    /// The page's item kind.
    const KIND: u8;
    /// Items aimed at in one page; a power of two. Pages hold a quarter to four times as many.
    const PAGE_ITEMS: usize;

    /// Bytes that the item stands for.
    fn bytes(&self) -> u64;

    /// The key of the item, by which the list is sorted (empty where it is not).
    fn key(&self) -> &[u8];

    /// A number that decides whether a page ends after this item; depends on the item alone, and
    /// stays the same while the item is "the same" to a person.
    fn cut_hash(&self) -> u64;

    /// Checks what the format demands of an item.
    ///
    /// # Errors
    /// [`Error::Field`].
    fn check(&self) -> Result<(), Error>;
}

impl Item for ChunkRef {
    const KIND: u8 = 0;
    const PAGE_ITEMS: usize = 256;

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn key(&self) -> &[u8] {
        &[]
    }

    fn cut_hash(&self) -> u64 {
        le::u64(&self.digest.0, 24)
    }

    fn check(&self) -> Result<(), Error> {
        let bytes_max = if self.is_hole() {
            crate::limits::FILE_BYTES_MAX
        } else {
            crate::limits::CHUNK_BYTES_MAX as u64
        };
        if self.bytes == 0 || self.bytes > bytes_max {
            let allowed = "1 to 1 MiB (2^60 for a hole)";
            let actual = self.bytes;
            return Err(Error::Field { what: WHAT, field: "chunk length", actual, allowed });
        }
        Ok(())
    }
}

impl Item for PageRef {
    const KIND: u8 = 2;
    const PAGE_ITEMS: usize = 128;

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn cut_hash(&self) -> u64 {
        le::u64(&self.digest.0, 24)
    }

    fn check(&self) -> Result<(), Error> {
        if self.items == 0 {
            let allowed = "at least 1";
            return Err(Error::Field { what: WHAT, field: "items of a page", actual: 0, allowed });
        }
        Ok(())
    }
}

/// Says whether a page that has `count` items ends after an item with this hash.
#[must_use]
pub fn ends_page(count: usize, bytes: usize, page_items: usize, cut_hash: u64) -> bool {
    let mask = page_items as u64 - 1;
    count >= page_items * 4
        || bytes >= PAGE_BYTES_MAX / 2
        || (count >= page_items / 4 && cut_hash & mask == mask)
}

/// Returns the head of a page.
fn head(level: u8, kind: u8, count: usize) -> [u8; HEAD_BYTES] {
    let count = (count as u32).to_le_bytes();
    [level, kind, 0, 0, count[0], count[1], count[2], count[3]]
}

/// Collects the items of one page.
#[derive(Debug)]
pub struct PageBuilder {
    level: u8,
    kind: u8,
    count: usize,
    bytes: Vec<u8>,
}

impl PageBuilder {
    /// Starts a page of items `T` at `level`.
    #[must_use]
    pub fn new<T: Item>(level: u8) -> Self {
        Self { level, kind: T::KIND, count: 0, bytes: vec![0; HEAD_BYTES] }
    }

    /// Appends an item and says whether the page ends here.
    pub fn push<T: Item>(&mut self, item: &T) -> bool {
        debug_assert_eq!(self.kind, T::KIND, "one kind of item in a page");
        payload::encode_into(item, &mut self.bytes);
        self.count += 1;
        ends_page(self.count, self.bytes.len(), T::PAGE_ITEMS, item.cut_hash())
    }

    /// Returns the number of items.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the page's bytes and starts over.
    pub fn take(&mut self) -> Vec<u8> {
        self.bytes[..HEAD_BYTES].copy_from_slice(&head(self.level, self.kind, self.count));
        self.count = 0;
        std::mem::replace(&mut self.bytes, vec![0; HEAD_BYTES])
    }
}

/// Decodes the items of a page that must have this level.
///
/// # Errors
/// The page is damaged or is another kind of page.
pub fn decode<T: Item>(bytes: &[u8], level: u8) -> Result<Vec<T>, Error> {
    let actual = bytes.len() as u64;
    let field = |field, actual, allowed| Error::Field { what: WHAT, field, actual, allowed };
    if bytes.len() < HEAD_BYTES || bytes.len() > PAGE_BYTES_MAX {
        return Err(field("length", actual, "8 bytes to 1 MiB"));
    }
    if bytes[0] != level || bytes[1] != T::KIND || bytes[2..4] != [0, 0] {
        let actual = u64::from(le::u32(bytes, 0));
        return Err(field("level and kind", actual, "those that its parent says"));
    }
    let count = le::u32(bytes, 4) as usize;
    let mut rest = &bytes[HEAD_BYTES..];
    if count == 0 || count > rest.len() {
        return Err(field("count", count as u64, "1 to the number of bytes"));
    }
    let mut items = Vec::with_capacity(count.min(T::PAGE_ITEMS * 4));
    for _ in 0..count {
        let (item, used): (T, usize) = payload::decode_first(WHAT, rest)?;
        item.check()?;
        items.push(item);
        rest = &rest[used..];
    }
    if rest.is_empty() { Ok(items) } else { Err(field("count", count as u64, "all items")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_survive_and_are_refused_in_another_role() {
        let items = [ChunkRef { bytes: 65536, digest: Digest::of(b"a") }, ChunkRef::hole(1 << 40)];
        let mut page = PageBuilder::new::<ChunkRef>(0);
        for item in &items {
            page.push(item);
        }
        let bytes = page.take();
        assert_eq!(bytes.len(), HEAD_BYTES + 80);
        assert_eq!(decode::<ChunkRef>(&bytes, 0), Ok(items.to_vec()));
        assert!(decode::<ChunkRef>(&bytes, 1).is_err());
        assert!(decode::<PageRef>(&bytes, 0).is_err());
        for len in 0..bytes.len() {
            assert!(decode::<ChunkRef>(&bytes[..len], 0).is_err());
        }
    }

    #[test]
    fn impossible_items_are_refused() {
        for bad in [ChunkRef { bytes: 0, digest: Digest::of(b"a") }, ChunkRef::hole(0)] {
            let mut page = PageBuilder::new::<ChunkRef>(0);
            page.push(&bad);
            assert!(decode::<ChunkRef>(&page.take(), 0).is_err());
        }
    }
}
