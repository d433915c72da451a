//! A whole store: "Directory tree" and "Reading a store".

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;

use super::entry::{ChunkRef, Chunks, Content, Entry, ListRef, Node, PageRef};
use super::frame::{self, Artifact, Commit, Event, Generation, Header};
use super::pack::{self, Encoding, Pack, Record};
use super::page::{self, Page};
use super::segment::{self, Segment};
use super::{Bytes, Id, Result, demand};

/// Everything that a store's directory holds, decoded.
#[derive(Debug)]
pub struct Store {
    pub header: Header,
    pub commits: Vec<Commit>,
    pub generations: HashMap<Id, Generation>,
    pub artifacts: HashMap<Id, Artifact>,
    /// By folder and name.
    pub packs: BTreeMap<(String, Id), Pack>,
    pub segments: Vec<Segment>,
    /// Every plain chunk and page.
    plain: HashMap<Id, Vec<u8>>,
    /// How many chunks were decoded with a base.
    pub with_base: usize,
}

/// What became of a generation: "Commit log".
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Visible,
    Forgotten(u64),
    Collected,
}

/// An artifact with everything in it.
#[derive(Debug)]
pub struct Tree {
    pub artifact: Artifact,
    pub entries: Vec<Entry>,
}

impl Store {
    /// Reads the store in the directory `root`.
    pub fn read(root: &Path) -> Result<Self> {
        let header = frame::header(&read(&root.join("store"))?)?;
        let mut store = Self {
            header,
            commits: read_log(root)?,
            generations: HashMap::new(),
            artifacts: HashMap::new(),
            packs: BTreeMap::new(),
            segments: Vec::new(),
            plain: HashMap::new(),
            with_base: 0,
        };
        for (id, bytes) in named(&root.join("manifests"))? {
            if bytes.get(8..12) == Some(b"GENE") {
                store.generations.insert(id, frame::generation(&bytes)?);
            } else {
                store.artifacts.insert(id, frame::artifact(&bytes)?);
            }
        }
        let mut packs: Vec<_> =
            named(&root.join("pages"))?.into_iter().map(|p| ("pages", p)).collect();
        for byte in 0..=u8::MAX {
            let folder = root.join("packs").join(format!("{byte:02x}"));
            for (id, bytes) in named(&folder)? {
                demand(id.0[0] == byte, format!("pack {id} in {}", folder.display()))?;
                packs.push(("packs", (id, bytes)));
            }
        }
        store.take_packs(&packs)?;
        for (_, bytes) in named(&root.join("index"))? {
            store.segments.push(segment::decode(&bytes)?);
        }
        Ok(store)
    }

    /// Decodes packs and all chunks in them: first those without base, then the others.
    fn take_packs(&mut self, packs: &[(&str, (Id, Vec<u8>))]) -> Result<()> {
        let mut later: Vec<(Record, &[u8], Id)> = Vec::new();
        for (folder, (id, bytes)) in packs {
            let pack = pack::decode(bytes).map_err(|error| format!("{folder}/{id}: {error}"))?;
            demand(pack.store_id == self.header.store_id, format!("pack {id} of another store"))?;
            let is_pages = pack.content == pack::Content::Pages;
            demand(is_pages == (*folder == "pages"), format!("pack {id} in {folder}"))?;
            for stored in &pack.chunks {
                let body = &bytes[stored.offset as usize..][..stored.stored_bytes as usize];
                if let Encoding::ZstdWithBase(base) = stored.encoding {
                    later.push((*stored, body, base));
                } else {
                    self.plain.insert(stored.digest, pack::plain(stored, body, None)?);
                }
            }
            self.packs.insert(((*folder).to_owned(), *id), pack);
        }
        // Only what is stored without a base can be one, so nothing is added before the end.
        let mut decoded = Vec::new();
        for (stored, body, base) in later {
            let base = self.plain.get(&base).ok_or("a base that is not stored without a base")?;
            decoded.push((stored.digest, pack::plain(&stored, body, Some(base))?));
        }
        self.with_base = decoded.len();
        self.plain.extend(decoded);
        Ok(())
    }

    /// Returns a plain chunk or page.
    pub fn plain(&self, digest: &Id) -> Result<&[u8]> {
        self.plain.get(digest).map(Vec::as_slice).ok_or_else(|| format!("no chunk {digest}"))
    }

    /// Returns the visible generations: deployment, number, manifest.
    pub fn visible(&self) -> Vec<(&str, u64, Id)> {
        let mut all: Vec<(&str, u64, Id, Fate)> = Vec::new();
        let mut bases: HashMap<u64, u64> = HashMap::new();
        for commit in &self.commits {
            let mut set = |names: &[(String, u64)], from: fn(Fate) -> bool, to: Fate| {
                for (deployment, generation, _, fate) in &mut all {
                    let is_named =
                        |(name, number): &(String, u64)| name == deployment && number == generation;
                    if names.iter().any(is_named) && from(*fate) {
                        *fate = to;
                    }
                }
            };
            match &commit.event {
                Event::Promote { deployment, generation, manifest } => {
                    all.push((deployment, *generation, *manifest, Fate::Visible));
                }
                Event::Forget(names) => {
                    set(names, |fate| fate == Fate::Visible, Fate::Forgotten(commit.number));
                }
                Event::Undo(names) => {
                    set(names, |fate| matches!(fate, Fate::Forgotten(_)), Fate::Visible);
                }
                Event::Condemn { basis, .. } => drop(bases.insert(commit.number, *basis)),
                Event::Collect { condemned, .. } => {
                    let basis = bases.get(condemned).copied().unwrap_or(*condemned);
                    let gone = |fate| matches!(fate, Fate::Forgotten(by) if by <= basis);
                    for (.., fate) in all.iter_mut().filter(|(.., fate)| gone(*fate)) {
                        *fate = Fate::Collected;
                    }
                }
                _ => {}
            }
        }
        all.retain(|(.., fate)| *fate == Fate::Visible);
        all.into_iter().map(|(name, number, manifest, _)| (name, number, manifest)).collect()
    }

    /// Returns the trees of a generation.
    pub fn trees(&self, manifest: &Id) -> Result<Vec<Tree>> {
        let generation = self.generations.get(manifest).ok_or("no such manifest")?;
        let tree = |(member, id): &(String, Id)| {
            let artifact = self.artifacts.get(id).ok_or("no such artifact")?.clone();
            demand(artifact.member == *member, "a manifest of another member")?;
            let entries = self.entries(&artifact.entries)?;
            check_entries(&artifact, &entries)?;
            Ok(Tree { artifact, entries })
        };
        generation.members.iter().map(tree).collect()
    }

    /// Returns references to the pages of a list, level by level, the top first, checked against
    /// all references on the way.
    pub fn levels(&self, list: &ListRef) -> Result<Vec<Vec<PageRef>>> {
        let mut levels: Vec<Vec<PageRef>> = vec![list.top.iter().cloned().collect()];
        for level in (1..list.levels).rev() {
            let mut below = Vec::new();
            for reference in levels.last().into_iter().flatten() {
                match page::decode(self.plain(&reference.digest)?)? {
                    Page::Pages { level: actual, pages } if actual == level => {
                        let sum = |of: fn(&PageRef) -> u64| pages.iter().map(of).sum::<u64>();
                        let sums = (sum(|page| page.items), sum(|page| page.bytes));
                        demand(sums == (reference.items, reference.bytes), "sums of a page")?;
                        demand(pages[0].key == reference.key, "key of a page")?;
                        below.extend(pages);
                    }
                    other => return Err(format!("{other:?} at level {level}")),
                }
            }
            levels.push(below);
        }
        Ok(levels)
    }

    /// Returns the pages of level 0 of a list.
    fn leaves(&self, list: &ListRef) -> Result<Vec<(PageRef, Page)>> {
        let leaf = |reference: PageRef| {
            let page = page::decode(self.plain(&reference.digest)?)?;
            Ok((reference, page))
        };
        let lowest = self.levels(list)?.pop().unwrap_or_default();
        lowest.into_iter().map(leaf).collect()
    }

    pub fn entries(&self, list: &ListRef) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        for (reference, page) in self.leaves(list)? {
            let Page::Entries(entries) = page else { return Err("no page of entries".into()) };
            let bytes = entries.iter().map(content_bytes).sum::<u64>();
            let sums = (entries.len() as u64, bytes);
            demand(sums == (reference.items, reference.bytes), "sums of a page of entries")?;
            demand(entries[0].path == reference.key, "key of a page of entries")?;
            all.extend(entries);
        }
        Ok(all)
    }

    pub fn chunks(&self, content: &Content) -> Result<Vec<ChunkRef>> {
        let list = match &content.chunks {
            Chunks::Inline(chunks) => return Ok(chunks.clone()),
            Chunks::List(list) => list,
        };
        let mut all = Vec::new();
        for (reference, page) in self.leaves(list)? {
            let Page::Chunks(chunks) = page else { return Err("no page of chunks".into()) };
            let bytes = chunks.iter().map(|chunk| chunk.bytes).sum::<u64>();
            let sums = (chunks.len() as u64, bytes);
            demand(sums == (reference.items, reference.bytes), "sums of a page of chunks")?;
            demand(reference.key.0.is_empty(), "chunks have no key")?;
            all.extend(chunks);
        }
        Ok(all)
    }

    /// Returns a file's bytes, checked against its checksum.
    pub fn content(&self, content: &Content) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for chunk in self.chunks(content)? {
            match chunk.digest {
                None => bytes.resize(bytes.len() + chunk.bytes as usize, 0),
                Some(digest) => {
                    let plain = self.plain(&digest)?;
                    demand(plain.len() as u64 == chunk.bytes, "a chunk of another length")?;
                    bytes.extend_from_slice(plain);
                }
            }
        }
        demand(bytes.len() as u64 == content.bytes, "a file of another length")?;
        demand(Id::of(&bytes) == content.blake3, "a file of another checksum")?;
        Ok(bytes)
    }
}

fn content_bytes(entry: &Entry) -> u64 {
    if let Node::File(content) = &entry.node { content.bytes } else { 0 }
}

/// Checks order, hard links and counts of an artifact's entries.
fn check_entries(artifact: &Artifact, entries: &[Entry]) -> Result<()> {
    let components = |entry: &Entry| -> Vec<Bytes> {
        let path = &entry.path.0;
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.map(|name| Bytes(name.to_vec())).collect()
    };
    let in_order = entries.is_sorted_by(|a, b| components(a) < components(b));
    demand(in_order, "entries out of order")?;
    let mut files = HashSet::new();
    let mut counts = [0; 5];
    for entry in entries {
        let sorted = entry.xattrs.is_sorted_by(|a, b| a.0 < b.0);
        demand(sorted, format!("attributes of {:?} out of order", entry.path))?;
        counts[4] += content_bytes(entry);
        let kind = match &entry.node {
            Node::File(_) => {
                files.insert(&entry.path);
                0
            }
            Node::HardLink(target) => {
                demand(files.contains(target), format!("{:?} links to nothing", entry.path))?;
                0
            }
            Node::Dir => 1,
            Node::Symlink { .. } => 2,
            _ => 3,
        };
        counts[kind] += 1;
    }
    let Artifact { files, dirs, symlinks, specials, bytes, .. } = artifact;
    demand(counts == [*files, *dirs, *symlinks, *specials, *bytes], format!("counts {counts:?}"))
}

/// Reads the log and checks numbers and chain.
fn read_log(root: &Path) -> Result<Vec<Commit>> {
    let mut records = BTreeMap::new();
    for entry in fs::read_dir(root.join("log")).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        demand(name.len() == 20, format!("log/{name}"))?;
        let number: u64 = name.parse().map_err(|_| format!("log/{name}"))?;
        records.insert(number, read(&path)?);
    }
    let (mut commits, mut previous) = (Vec::new(), Id([0; 32]));
    for (expected, (number, bytes)) in (1..).zip(records) {
        let commit = frame::commit(&bytes)?;
        demand(number == expected && commit.number == number, format!("record {number}"))?;
        demand(commit.previous == previous, format!("record {number} breaks the chain"))?;
        previous = Id::of(&bytes);
        commits.push(commit);
    }
    Ok(commits)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads the objects of a folder that are named by the digest of their bytes, in order.
fn named(folder: &Path) -> Result<Vec<(Id, Vec<u8>)>> {
    let mut objects = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let bytes = read(&path)?;
        let id = Id::of(&bytes);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        demand(id.to_string() == name, format!("{} is {id}", path.display()))?;
        objects.insert(id, bytes);
    }
    Ok(objects.into_iter().collect())
}
