//! List pages: "List pages".

use super::cursor::Cursor;
use super::entry::{self, ChunkRef, Entry, PageRef};
use super::{Id, Result, demand};

/// A page of level 0, or of references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    Chunks(Vec<ChunkRef>),
    Entries(Vec<Entry>),
    Pages { level: u8, pages: Vec<PageRef> },
}

pub fn decode(bytes: &[u8]) -> Result<Page> {
    demand(bytes.len() <= 1 << 20, format!("a page of {} bytes", bytes.len()))?;
    let mut at = Cursor::new(bytes);
    let (level, kind) = (at.u8()?, at.u8()?);
    at.zero(2)?;
    let count = at.u32()? as usize;
    demand((1..=at.left()).contains(&count), format!("a page of {count} items"))?;
    let page = match (level, kind) {
        (0, 0) => Page::Chunks(items(&mut at, count, entry::chunk_ref)?),
        (0, 1) => Page::Entries(items(&mut at, count, entry::entry)?),
        (1..=15, 2) => {
            let pages = items(&mut at, count, entry::page_ref)?;
            demand(pages.iter().all(|page| page.items > 0), "a page without items")?;
            Page::Pages { level, pages }
        }
        _ => return Err(format!("a page of level {level} and kind {kind}")),
    };
    at.end()?;
    Ok(page)
}

fn items<'a, T>(
    at: &mut Cursor<'a>,
    count: usize,
    item: impl Fn(&mut Cursor<'a>) -> Result<T>,
) -> Result<Vec<T>> {
    (0..count).map(|_| item(at)).collect()
}

/// Says whether a page ends after its last item so far: "How pages are cut".
///
/// `page_bytes` is the page's length with that item, `hash` the last eight bytes of the digest that
/// the item is cut by.
pub fn ends(page_items: usize, count: usize, page_bytes: usize, hash: [u8; 8]) -> bool {
    let mask = page_items as u64 - 1;
    let chosen = u64::from_le_bytes(hash) & mask == mask;
    count >= 4 * page_items || page_bytes >= 1 << 19 || (count >= page_items / 4 && chosen)
}

/// What decides, item by item, where a page ends: the page's length with the item, and the last
/// eight bytes of the digest that the item is cut by.
pub fn cut_marks(bytes: &[u8]) -> Result<Vec<(usize, [u8; 8])>> {
    let mut at = Cursor::new(bytes);
    let (_, kind) = (at.u8()?, at.u8()?);
    at.zero(2)?;
    let mut marks = Vec::new();
    for _ in 0..at.u32()? {
        let digest = match kind {
            0 => entry::chunk_ref(&mut at)?.digest.unwrap_or(Id([0; 32])),
            1 => Id::of(&entry::entry(&mut at)?.path.0),
            _ => entry::page_ref(&mut at)?.digest,
        };
        let mut hash = [0; 8];
        hash.copy_from_slice(&digest.0[24..]);
        marks.push((bytes.len() - at.left(), hash));
    }
    Ok(marks)
}
