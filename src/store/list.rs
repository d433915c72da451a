//! Lists: building and walking trees of list pages, so that memory holds only a path through them.

use super::chunks::{ChunkFault, read_chunk};
use super::{Error, Store};
use crate::digest::Digest;
use crate::format;
use crate::format::manifest::Entry;
use crate::format::page::{self, Item, ListRef, PageBuilder, PageRef};
use crate::values::compare_paths;

/// Where finished pages go.
pub(super) trait PageSink {
    /// Stores a page unless it is there already, and returns its name. `base` is a page that it
    /// is likely to resemble.
    fn page(&mut self, bytes: Vec<u8>, base: Option<Digest>) -> Result<Digest, Error>;
}

/// Builds a list from items in order.
pub(super) struct ListBuilder<'s, T> {
    /// One open page a level, items first.
    open: Vec<OpenPage>,
    /// Pages of the list that this one replaces.
    previous: Option<LeafRefs<'s, T>>,
    /// Bytes that the closed pages of items stand for.
    closed_bytes: u64,
    /// If set, pages of items end at multiples of this many bytes of what the list stands for, and
    /// not where items say. For content cut at fixed places, which never moves: then every page
    /// covers what the one that it replaces did, however many items changed.
    span_bytes: Option<u64>,
    items: std::marker::PhantomData<fn(T)>,
}

#[derive(Debug)]
struct OpenPage {
    page: PageBuilder,
    key: Vec<u8>,
    items: u64,
    bytes: u64,
}

impl OpenPage {
    fn new<T: Item>(level: u8) -> Self {
        Self { page: PageBuilder::new::<T>(level), key: Vec::new(), items: 0, bytes: 0 }
    }

    /// Appends an item that stands for `items` items and says whether the page ends.
    fn push<T: Item>(&mut self, item: &T, items: u64) -> bool {
        if self.page.count() == 0 {
            self.key = item.key().to_vec();
        }
        self.items += items;
        self.bytes = self.bytes.saturating_add(item.bytes());
        self.page.push(item)
    }

    fn close(&mut self, base: Option<Digest>, sink: &mut dyn PageSink) -> Result<PageRef, Error> {
        let digest = sink.page(self.page.take(), base)?;
        let (items, bytes) = (std::mem::take(&mut self.items), std::mem::take(&mut self.bytes));
        Ok(PageRef { digest, items, bytes, key: std::mem::take(&mut self.key) })
    }
}

impl<'s, T: Item> ListBuilder<'s, T> {
    /// Starts a list that replaces `previous`.
    pub fn new(store: &'s Store, previous: Option<&ListRef>) -> Self {
        Self {
            open: vec![OpenPage::new::<T>(0)],
            previous: previous.map(|list| LeafRefs::new(store, list)),
            closed_bytes: 0,
            span_bytes: None,
            items: std::marker::PhantomData,
        }
    }

    /// Ends pages of items at multiples of `span_bytes`.
    pub fn with_span(mut self, span_bytes: Option<u64>) -> Self {
        self.span_bytes = span_bytes;
        self
    }

    /// Appends an item.
    pub fn push(&mut self, item: &T, sink: &mut dyn PageSink) -> Result<(), Error> {
        let ends = self.open[0].push(item, 1);
        if self.span_bytes.map_or(ends, |span| self.ends_span::<T>(span, item.bytes())) {
            let child = self.close_leaf(sink)?;
            self.push_child(1, child, sink)?;
        }
        Ok(())
    }

    /// Says whether an item of `item_bytes` that was just appended reaches a multiple of `span`.
    fn ends_span<U: Item>(&self, span: u64, item_bytes: u64) -> bool {
        let leaf = &self.open[0];
        let end = self.closed_bytes + leaf.bytes;
        end / span > (end - item_bytes) / span || leaf.page.count() >= U::PAGE_ITEMS * 4
    }

    fn close_leaf(&mut self, sink: &mut dyn PageSink) -> Result<PageRef, Error> {
        let leaf = &mut self.open[0];
        let start = self.closed_bytes;
        self.closed_bytes = start.saturating_add(leaf.bytes);
        let base = self.previous.as_mut().and_then(|previous| {
            if leaf.key.is_empty() { previous.at_bytes(start) } else { previous.at_key(&leaf.key) }
        });
        leaf.close(base, sink)
    }

    fn push_child(
        &mut self,
        level: usize,
        mut child: PageRef,
        sink: &mut dyn PageSink,
    ) -> Result<(), Error> {
        for level in level.. {
            if level == self.open.len() {
                self.open.push(OpenPage::new::<PageRef>(level as u8));
            }
            let items = child.items;
            if !self.open[level].push(&child, items) {
                break;
            }
            child = self.open[level].close(None, sink)?;
        }
        Ok(())
    }

    /// Closes all open pages and returns the list.
    pub fn finish(mut self, sink: &mut dyn PageSink) -> Result<ListRef, Error> {
        let mut level = 0;
        loop {
            let last = level + 1 == self.open.len();
            let open = &mut self.open[level];
            if open.page.count() == 0 {
                if last {
                    return Ok(ListRef::EMPTY);
                }
            } else {
                let child =
                    if level == 0 { self.close_leaf(sink)? } else { open.close(None, sink)? };
                if last {
                    return Ok(ListRef { levels: level as u8 + 1, top: Some(child) });
                }
                self.push_child(level + 1, child, sink)?;
            }
            level += 1;
        }
    }
}

/// The pages of items of a list, in order, without reading them.
struct LeafRefs<'s, T> {
    walk: ListIter<'s, T>,
    /// Bytes before `current`.
    start: u64,
    current: Option<PageRef>,
}

impl<'s, T: Item> LeafRefs<'s, T> {
    fn new(store: &'s Store, list: &ListRef) -> Self {
        let mut leaves = Self { walk: ListIter::new(store, list), start: 0, current: None };
        leaves.current = leaves.next_leaf();
        leaves
    }

    fn next_leaf(&mut self) -> Option<PageRef> {
        while let Some((level, page)) = self.walk.pending.pop() {
            if level == 0 {
                return Some(page);
            }
            // Pages that cannot be read are not used as bases; that is all.
            let _ = self.walk.follow(level, &page);
        }
        None
    }

    fn advance(&mut self) {
        let bytes = self.current.take().map_or(0, |page| page.bytes);
        self.start = self.start.saturating_add(bytes);
        self.current = self.next_leaf();
    }

    /// Returns the page that holds byte `at` of what the list stands for. Offsets must not
    /// decrease.
    fn at_bytes(&mut self, at: u64) -> Option<Digest> {
        while self.current.as_ref().is_some_and(|page| self.start.saturating_add(page.bytes) <= at)
        {
            self.advance();
        }
        self.current.as_ref().map(|page| page.digest)
    }

    /// Returns the page that begins with `key`, or the last one before it. Keys must not decrease.
    fn at_key(&mut self, key: &[u8]) -> Option<Digest> {
        let mut found = None;
        while let Some(page) = self
            .current
            .as_ref()
            .filter(|page| crate::values::compare_paths(&page.key, key).is_le())
        {
            found = Some(page.digest);
            if page.key == key {
                break;
            }
            self.advance();
        }
        found
    }
}

/// A list page that cannot be read. Items below it are unknown; the others are not touched.
#[derive(Debug, thiserror::Error)]
#[error("list page {digest}{}: {reason}", page_range(.first, .after.as_deref()))]
pub struct PageFault {
    /// The page.
    pub digest: Digest,
    /// Key of its first item: the first path that is lost.
    pub first: Vec<u8>,
    /// Key of the first item after it, if there is one: the first path that is not lost.
    pub after: Option<Vec<u8>>,
    /// What is wrong.
    pub reason: Box<PageReason>,
}

impl PageFault {
    /// Says whether stored bytes are missing or wrong (and not only could not be read this time).
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match &*self.reason {
            PageReason::Chunk(fault) => fault.is_damage(),
            PageReason::Format(error) => error.is_damage(),
            PageReason::Parent { .. } => true,
        }
    }
}

fn page_range(first: &[u8], after: Option<&[u8]>) -> String {
    if first.is_empty() && after.is_none() {
        return String::new();
    }
    let from = String::from_utf8_lossy(first);
    match after {
        Some(after) => format!(" (from {from:?} to before {:?})", String::from_utf8_lossy(after)),
        None => format!(" (from {from:?} on)"),
    }
}

/// What is wrong with a list page.
#[derive(Debug, thiserror::Error)]
pub enum PageReason {
    /// Its chunk cannot be read.
    #[error(transparent)]
    Chunk(Box<ChunkFault>),
    /// Its bytes are no page of the kind expected.
    #[error(transparent)]
    Format(format::Error),
    /// It does not hold what its parent says.
    #[error("holds {actual} {what}, its parent says {expected}")]
    Parent {
        /// Items or bytes.
        what: &'static str,
        /// What the parent says.
        expected: u64,
        /// What the page holds.
        actual: u64,
    },
}

/// Walks the items of a list in order. After a page that cannot be read it goes on behind it.
pub struct ListIter<'s, T> {
    store: &'s Store,
    /// References still to be followed, in reverse order, with the level of their pages.
    pending: Vec<(u8, PageRef)>,
    items: std::vec::IntoIter<T>,
}

impl<'s, T: Item> ListIter<'s, T> {
    /// Starts at the first item.
    #[must_use]
    pub fn new(store: &'s Store, list: &ListRef) -> Self {
        let top = list.top.clone().map(|top| (list.levels.saturating_sub(1), top));
        Self { store, pending: top.into_iter().collect(), items: Vec::new().into_iter() }
    }

    fn fail(&self, page: &PageRef, reason: PageReason) -> PageFault {
        let after = self.pending.last().map(|(_, next)| next.key.clone());
        let reason = Box::new(reason);
        PageFault { digest: page.digest, first: page.key.clone(), after, reason }
    }

    /// Reads one page: items become available, or references are put before those pending.
    fn follow(&mut self, level: u8, page: &PageRef) -> Result<(), PageFault> {
        let bytes = read_chunk(self.store, &page.digest)
            .map_err(|fault| self.fail(page, PageReason::Chunk(Box::new(fault))))?;
        let format = |error| self.fail(page, PageReason::Format(error));
        let expect = |what, expected: u64, actual: u64| {
            if expected == actual {
                return Ok(());
            }
            Err(self.fail(page, PageReason::Parent { what, expected, actual }))
        };
        if level == 0 {
            let items = page::decode::<T>(&bytes, 0).map_err(format)?;
            expect("items", page.items, items.len() as u64)?;
            let sum = items.iter().fold(0u64, |sum, item| sum.saturating_add(item.bytes()));
            expect("bytes", page.bytes, sum)?;
            self.check_order(page, &items)?;
            self.items = items.into_iter();
        } else {
            let children = page::decode::<PageRef>(&bytes, level).map_err(format)?;
            let sum = children.iter().fold(0u64, |sum, child| sum.saturating_add(child.items));
            expect("items", page.items, sum)?;
            let sum = children.iter().fold(0u64, |sum, child| sum.saturating_add(child.bytes));
            expect("bytes", page.bytes, sum)?;
            self.check_order(page, &children)?;
            self.pending.extend(children.into_iter().rev().map(|child| (level - 1, child)));
        }
        Ok(())
    }

    /// Checks that the keys of a page of a sorted list ascend, from the one that its parent says to
    /// before the next page's, and that what is in a page of another stands for some bytes. Behind
    /// a page that breaks this nothing is followed: pages that repeat could stand for more items
    /// than anybody can count.
    fn check_order<I: Item>(&mut self, page: &PageRef, items: &[I]) -> Result<(), PageFault> {
        let in_order = if T::KIND == Entry::KIND {
            let next = self.pending.last().map(|(_, next)| next.key.as_slice());
            let keys = items.iter().map(Item::key).chain(next);
            let begins = items.first().is_some_and(|first| first.key() == page.key);
            begins && keys.is_sorted_by(|a, b| compare_paths(a, b).is_lt())
        } else {
            items.iter().all(|item| item.bytes() > 0)
        };
        if in_order {
            return Ok(());
        }
        let reason = "what it holds is not in order".to_owned();
        self.pending.clear();
        Err(self
            .fail(page, PageReason::Format(format::Error::Payload { what: "list page", reason })))
    }

    /// Moves forward to the first item at or after byte `offset` of the content that the list
    /// stands for, without reading the pages before it. Returns the offset of the item that comes
    /// next. Only for lists not yet walked.
    ///
    /// # Errors
    /// A page on the way cannot be read.
    pub fn skip_bytes(&mut self, offset: u64) -> Result<u64, PageFault> {
        let mut at = 0u64;
        while let Some((level, page)) = self.pending.pop() {
            if at.saturating_add(page.bytes) <= offset {
                at += page.bytes;
                continue;
            }
            self.follow(level, &page)?;
            if level == 0 {
                while let Some(item) = self.items.as_slice().first() {
                    if at.saturating_add(item.bytes()) > offset {
                        break;
                    }
                    at += item.bytes();
                    self.items.next();
                }
                break;
            }
        }
        Ok(at)
    }

    /// Moves forward to the first item whose key is not before `key` by `before`, without reading
    /// pages that lie before it entirely. Only for sorted lists not yet walked.
    ///
    /// # Errors
    /// A page on the way cannot be read.
    pub fn skip_to(&mut self, before: impl Fn(&[u8]) -> bool) -> Result<(), PageFault> {
        while let Some((level, page)) = self.pending.pop() {
            // The page may hold the item unless the next page begins before it too.
            if self.pending.last().is_some_and(|(_, next)| before(&next.key)) {
                continue;
            }
            self.follow(level, &page)?;
            if level == 0 {
                while self.items.as_slice().first().is_some_and(|item| before(item.key())) {
                    self.items.next();
                }
                break;
            }
        }
        Ok(())
    }

    /// Walks all items, leaving out every page (with all below it) that `enter` refuses: for walks
    /// over many lists that share pages.
    pub(super) fn walk(
        mut self,
        mut enter: impl FnMut(&Digest) -> bool,
        mut each: impl FnMut(Result<T, PageFault>),
    ) {
        while let Some((level, page)) = self.pending.pop() {
            if enter(&page.digest) {
                match self.follow(level, &page) {
                    Ok(()) => self.items.by_ref().for_each(|item| each(Ok(item))),
                    Err(fault) => each(Err(fault)),
                }
            }
        }
    }
}

impl<T: Item> Iterator for ListIter<'_, T> {
    type Item = Result<T, PageFault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.items.next() {
                return Some(Ok(item));
            }
            let (level, page) = self.pending.pop()?;
            if let Err(fault) = self.follow(level, &page) {
                return Some(Err(fault));
            }
        }
    }
}
