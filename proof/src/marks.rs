//! Marks: how much memory the plan of a prune takes on a store with very many chunks. The store is
//! made up: its index, lists and manifests are real, its packs are only as long as they should be.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use strongroom::backend::{Key, LocalBackend};
use strongroom::clock::UnixNanos;
use strongroom::codec::Encoding;
use strongroom::digest::{Algorithm, Checksums, Digest};
use strongroom::format::manifest::{Artifact, Counts, Generation, Member};
use strongroom::format::pack::{Content as PackContent, Record};
use strongroom::format::page::{Item, ListRef, PageBuilder, PageRef};
use strongroom::format::segment::{Entry as IndexEntry, PackEntry};
use strongroom::fstree::Time;
use strongroom::index::{Index, SegmentBuilder};
use strongroom::log::Log;
use strongroom::pack::PackBuilder;
use strongroom::store::{ChunkRef, Chunks, Content, Entry, Node, Store, StoreConfig};
use strongroom::values::Chunking;

use crate::report::Row;
use crate::scene::{DEPLOYMENT, MEMBER};
use crate::tool::{Tool, told};
use crate::volume;

/// Files whose chunks are all different; each generation has all but one of them.
const FILES: u64 = 10;
const PARTS: u64 = 128;
/// Chunks of 64 KiB at a ratio of 2, in a pack of 24 MiB.
const CHUNKS_PER_PACK: u64 = 768;
const CHUNK_BYTES: u64 = 64 << 10;
const STORED_BYTES: u32 = 31_000;
const PACK_BYTES: u64 = 24 << 20;
/// Memory of its own that the plan may take: so much in any case, and so much for each chunk.
const OWN_BYTES_MAX: u64 = 16 << 20;
const CHUNK_BYTES_MAX: u64 = 1;

/// Plans a prune of a store of so many chunks.
pub fn prove(tool: &Tool, references: u64) -> anyhow::Result<Row> {
    let mut row = Row::new("marks of a prune");
    let dir = tempfile::tempdir_in(volume::roomy_dir())?;
    let place = dir.path().join("store");
    let each = references.div_ceil(FILES);
    let packs = make(&place, each)?;
    let chunks = each * FILES;

    let arguments = ["prune", "--keep-last", "1", "--json"].map(AsRef::as_ref);
    let mut command = tool.command(&place, &arguments);
    let (stdout, stderr) = (dir.path().join("stdout"), dir.path().join("stderr"));
    command.stdout(File::create(&stdout)?).stderr(File::create(stderr)?).stdin(Stdio::null());
    let (own_bytes, all_bytes) = watch(command.spawn()?)?;
    let plan = fs::read_to_string(&stdout)?;
    if !plan
        .contains("\"applied\":false,\"forgotten\":[\n{\"deployment\":\"orders\",\"generation\":1")
    {
        row.found(format!("another plan: {plan}"));
    }
    // What only the first generation has is in packs of its own, but for the last one of each part.
    let condemned = number_behind(&plan, "\"condemned\":{\"packs\":")?;
    if condemned < each / CHUNKS_PER_PACK - PARTS {
        row.found(format!("{condemned} packs are condemned, of {packs}"));
    }
    if number_behind(&plan, "\"lost_chunks\":")? != 0 {
        row.found("chunks are lost");
    }
    let allowed = OWN_BYTES_MAX + chunks * CHUNK_BYTES_MAX;
    if own_bytes > allowed {
        row.found(format!("{own_bytes} bytes of memory, {allowed} are allowed"));
    }
    row.tried(chunks, "chunks in two generations");
    row.tried(2 * (FILES - 1) * each, "references");
    row.tried(own_bytes >> 10, "KiB of memory at most");
    row.tried(own_bytes * 100 / chunks.max(1), "hundredths of a byte a chunk");
    row.tried(all_bytes >> 20, "MiB with maps of the index");
    Ok(row)
}

fn number_behind(text: &str, name: &str) -> anyhow::Result<u64> {
    let (_, rest) = text.split_once(name).with_context(|| format!("no {name} in {text}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

/// Waits for a command that must succeed, and returns the most memory of its own, and with all that
/// it has mapped, in bytes.
fn watch(mut child: Child) -> anyhow::Result<(u64, u64)> {
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let (mut own, mut all) = (0, 0);
    loop {
        if let Some(ended) = child.try_wait()? {
            if !ended.success() {
                bail!("the plan ended with {}", told(&child.wait_with_output()?));
            }
            if own == 0 {
                bail!("the plan was too fast to be measured");
            }
            return Ok((own, all));
        }
        if let Ok(text) = fs::read_to_string(&status) {
            own = own.max(field(&text, "RssAnon:"));
            all = all.max(field(&text, "VmHWM:"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns a field of a status, in bytes; 0 if it is not there (any more).
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

/// Makes the store; returns how many packs it has.
fn make(place: &Path, each: u64) -> anyhow::Result<u64> {
    let backend: Arc<LocalBackend> = Arc::new(LocalBackend::create(place)?);
    let store = Store::create(backend, StoreConfig::default())?;
    let index = Index::open(store.backend(), store.id())?;
    let packs = make_index(&store, &index, place, each * FILES)?;
    let mut pages = Pages {
        store: &store,
        pack: PackBuilder::new(PackContent::Pages, store.id(), Vec::new()),
        segment: SegmentBuilder::default(),
    };
    let mut entries = Vec::new();
    for file in 0..FILES {
        let chunks = (file * each..(file + 1) * each)
            .map(|number| ChunkRef { bytes: CHUNK_BYTES, digest: digest(number) });
        let list = pages.list(chunks)?;
        entries.push(entry(file, each * CHUNK_BYTES, list));
    }
    let last = entries.len() - 1;
    for some in [&entries[..last], &entries[1..]] {
        let entries = pages.list(some.iter().cloned())?;
        commit(&store, entries)?;
    }
    pages.publish()?;
    pages.segment.flush(&index, store.backend())?;
    Ok(packs)
}

/// The digest of a made-up chunk: its first bits are its part, so that parts can be sorted alone.
fn digest(number: u64) -> Digest {
    let mut digest = Digest::of(&number.to_le_bytes());
    digest.0[0] = (digest.0[0] & 1) | ((number % PARTS) as u8) << 1;
    digest
}

fn make_index(store: &Store, index: &Index, place: &Path, chunks: u64) -> anyhow::Result<u64> {
    let mut count = 0;
    for part in 0..PARTS {
        let (mut packs, mut entries): (Vec<PackEntry>, Vec<IndexEntry>) = (Vec::new(), Vec::new());
        for (position, number) in (0..).zip((part..chunks).step_by(PARTS as usize)) {
            if u64::is_multiple_of(position, CHUNKS_PER_PACK) {
                let id = Digest::of(&[part.to_le_bytes(), position.to_le_bytes()].concat());
                packs.push(PackEntry { id, bytes: PACK_BYTES, content: PackContent::Chunks });
                let name = id.to_string();
                let file = File::create(place.join("packs").join(&name[..2]).join(name))?;
                file.set_len(PACK_BYTES)?;
            }
            let record = Record {
                digest: digest(number),
                offset: 64 + (position % CHUNKS_PER_PACK) as u32 * STORED_BYTES,
                stored_bytes: STORED_BYTES,
                plain_bytes: CHUNK_BYTES as u32,
                encoding: Encoding::Zstd,
                base: None,
            };
            entries.push(IndexEntry { pack: packs.len() as u32 - 1, record });
        }
        count += packs.len() as u64;
        index.write_segment(store.backend(), &packs, entries)?;
    }
    Ok(count)
}

/// Where list pages go.
struct Pages<'s> {
    store: &'s Store,
    pack: PackBuilder,
    segment: SegmentBuilder,
}

impl Pages<'_> {
    /// Stores a list, level by level.
    fn list<T: Item>(&mut self, items: impl Iterator<Item = T>) -> anyhow::Result<ListRef> {
        let mut refs = self.level(0, items, |_| 1)?;
        let mut levels = 1;
        while refs.len() > 1 {
            refs = self.level(levels, refs.into_iter(), |page| page.items)?;
            levels += 1;
        }
        Ok(ListRef { levels, top: refs.pop() })
    }

    fn level<T: Item>(
        &mut self,
        level: u8,
        items: impl Iterator<Item = T>,
        stands_for: impl Fn(&T) -> u64,
    ) -> anyhow::Result<Vec<PageRef>> {
        let mut refs = Vec::new();
        let mut page = PageBuilder::new::<T>(level);
        let mut next = PageRef { digest: Digest::of(b""), items: 0, bytes: 0, key: Vec::new() };
        for item in items {
            if page.count() == 0 {
                next.key = item.key().to_vec();
            }
            next.items += stands_for(&item);
            next.bytes += item.bytes();
            if page.push(&item) {
                refs.push(self.page(&mut page, &mut next)?);
            }
        }
        if page.count() > 0 {
            refs.push(self.page(&mut page, &mut next)?);
        }
        Ok(refs)
    }

    fn page(&mut self, page: &mut PageBuilder, next: &mut PageRef) -> anyhow::Result<PageRef> {
        let bytes = page.take();
        if !self.pack.has_room(bytes.len()) {
            self.publish()?;
        }
        next.digest = Digest::of(&bytes);
        self.pack.push(next.digest, bytes.len() as u32, Encoding::Raw, None, &bytes);
        let empty = PageRef { digest: next.digest, items: 0, bytes: 0, key: Vec::new() };
        Ok(std::mem::replace(next, empty))
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        let empty = PackBuilder::new(PackContent::Pages, self.store.id(), Vec::new());
        let pack = std::mem::replace(&mut self.pack, empty).finish();
        let _ = pack.publish(self.store.backend())?;
        self.segment.add_pack(pack.entry, &pack.records);
        Ok(())
    }
}

fn entry(file: u64, bytes: u64, list: ListRef) -> Entry {
    let checksums = Checksums { blake3: Digest::of(&file.to_le_bytes()), sha256: None };
    let chunks = Chunks::List(list);
    let content = Content { bytes, chunking: Chunking::Whole, checksums, chunks };
    let time = Time { secs: 0, nanos: 0 };
    Entry {
        path: format!("image-{file}").into_bytes(),
        node: Node::File(content),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: time,
        ctime: time,
        inode: 1,
        xattrs: Vec::new(),
    }
}

/// Makes a generation visible.
fn commit(store: &Store, entries: ListRef) -> anyhow::Result<()> {
    let artifact = Artifact {
        member: MEMBER.to_owned(),
        source: b"/".to_vec(),
        started: UnixNanos(0),
        counts: Counts::default(),
        algorithm: Algorithm::Blake3,
        checksum: [0; 32],
        entries,
        extensions: Vec::new(),
    };
    let artifact = manifest(store, &artifact.encode())?;
    let generation = Generation {
        deployment: DEPLOYMENT.to_owned(),
        started: UnixNanos(0),
        finished: UnixNanos(0),
        members: vec![Member { name: MEMBER.to_owned(), artifact }],
        missing: Vec::new(),
        extensions: Vec::new(),
    };
    let id = manifest(store, &generation.encode())?;
    Log::read(store.backend())?.promote(store.backend(), UnixNanos::now(), DEPLOYMENT, id)?;
    Ok(())
}

fn manifest(store: &Store, frame: &[u8]) -> anyhow::Result<Digest> {
    let id = Digest::of(frame);
    let _ = store.backend().put(&Key::new(format!("manifests/{id}"))?, &[frame])?;
    Ok(id)
}
