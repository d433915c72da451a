//! A small store of fixed values, object by object. Nothing in it depends on a clock, on chance or
//! on a compressor: the compressed bodies are given.

use std::path::PathBuf;

use strongroom::clock::UnixNanos;
use strongroom::digest::{Algorithm, Checksums, Digest};
use strongroom::format::header::{Header, StoreId};
use strongroom::format::journal::{EndedJournal, JournalRecord};
use strongroom::format::manifest::{
    Artifact, Chunks, Content, Counts, Entry, Extension, Generation, Member, Missing, Node,
};
use strongroom::format::pack::{self, Content as PackContent, Record as PackRecord};
use strongroom::format::page::{ChunkRef, Item, ListRef, PageBuilder, PageRef};
use strongroom::format::record::{CommitNumber, Event, GenerationName, GenerationNumber, Record};
use strongroom::format::removal;
use strongroom::format::segment::{self, Entry as SegmentEntry, PackEntry};
use strongroom::values::{Chunking, Encoding, Kind, Params, Time, Xattr};

use super::hex;

pub const STORE_ID: StoreId = StoreId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

/// 2023-11-14T22:13:20Z.
const TIME: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

/// Stored as it is, and the base of [`DELTA`].
pub const RAW: &str = "The strongroom keeps what was entrusted to it, bit for bit, \
                       whatever happens to the process or to the power.\n";
/// Stored against [`RAW`].
pub const DELTA: &str = "The strongroom keeps what was entrusted to it, byte for byte, \
                         whatever happens to the program or to the power.\n";

/// Stored as a zstd frame.
pub fn repeated() -> String {
    "All work and no play makes a dull backup.\n".repeat(12)
}

/// [`repeated`] as zstd 1.5 compresses it.
const REPEATED_BODY: [u8; 61] = [
    0x28, 0xb5, 0x2f, 0xfd, 0x60, 0xf8, 0x00, 0x9d, 0x01, 0x00, 0xa4, 0x02, 0x41, 0x6c, 0x6c, 0x20,
    0x77, 0x6f, 0x72, 0x6b, 0x20, 0x61, 0x6e, 0x64, 0x20, 0x6e, 0x6f, 0x20, 0x70, 0x6c, 0x61, 0x79,
    0x20, 0x6d, 0x61, 0x6b, 0x65, 0x73, 0x20, 0x61, 0x20, 0x64, 0x75, 0x6c, 0x6c, 0x20, 0x62, 0x61,
    0x63, 0x6b, 0x75, 0x70, 0x2e, 0x0a, 0x01, 0x00, 0x5a, 0x6e, 0xaa, 0x2a, 0x03,
];
/// [`DELTA`] as zstd 1.5 compresses it with [`RAW`] as prefix.
const DELTA_BODY: [u8; 33] = [
    0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x6f, 0xc5, 0x00, 0x00, 0x50, 0x79, 0x74, 0x65, 0x79, 0x74, 0x65,
    0x67, 0x72, 0x61, 0x6d, 0x04, 0x00, 0xe0, 0x11, 0x39, 0xee, 0x88, 0x03, 0x9b, 0xe0, 0x28, 0x00,
    0x01,
];

/// An object of fixed values.
pub struct Golden {
    /// The name of its file, without ending.
    pub name: &'static str,
    /// Its key in the golden store, if it is in it.
    pub key: Option<String>,
    pub bytes: Vec<u8>,
}

/// Returns where the bytes are kept.
pub fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/format/golden/{name}.hex"))
}

/// Returns the bytes that are kept.
pub fn kept(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(file(name));
    hex::parse(&text.unwrap_or_else(|error| panic!("{}: {error}", file(name).display())))
}

fn page<T: Item>(level: u8, items: &[T]) -> Vec<u8> {
    let mut page = PageBuilder::new::<T>(level);
    for item in items {
        page.push(item);
    }
    page.take()
}

fn chunk(plain: &str) -> ChunkRef {
    ChunkRef { bytes: plain.len() as u64, digest: Digest::of(plain.as_bytes()) }
}

/// The chunks of the file `big`: more than an entry holds.
pub fn big_chunks() -> Vec<ChunkRef> {
    let (raw, repeated, delta) = (chunk(RAW), chunk(&repeated()), chunk(DELTA));
    let hole = ChunkRef::hole(65_536);
    vec![raw, hole, repeated, hole, delta, hole, raw, hole, repeated, ChunkRef::hole(1), delta]
}

/// The bytes that [`big_chunks`] stand for.
pub fn big_bytes() -> Vec<u8> {
    let (mut bytes, repeated) = (Vec::new(), repeated());
    for chunk in big_chunks() {
        let is_named = |plain: &&str| Digest::of(plain.as_bytes()) == chunk.digest;
        match [RAW, DELTA, &repeated].into_iter().find(is_named) {
            Some(plain) => bytes.extend_from_slice(plain.as_bytes()),
            None => bytes.resize(bytes.len() + chunk.bytes as usize, 0),
        }
    }
    bytes
}

fn entry(path: &[u8], node: Node) -> Entry {
    Entry {
        path: path.to_vec(),
        node,
        mode: 0o755,
        uid: 1000,
        gid: 100,
        mtime: Time { secs: 1_600_000_000, nanos: 123_456_789 },
        ctime: Time { secs: 1_600_000_001, nanos: 5 },
        inode: 4711,
        xattrs: Vec::new(),
    }
}

fn content(bytes: &[u8], chunking: Chunking, sha256: bool, chunks: Chunks) -> Node {
    let (checksums, bytes) = (Checksums::of(bytes, sha256), bytes.len() as u64);
    Node::File(Content { bytes, chunking, checksums, chunks })
}

/// One entry of every kind.
fn entries(big: &ListRef) -> Vec<Entry> {
    let other = |path: &str, kind| entry(path.as_bytes(), Node::Other(kind));
    let raw = Chunks::Inline(vec![chunk(RAW)]);
    let cdc = Chunking::Cdc { min_bytes: 4096, avg_bytes: 16_384, max_bytes: 65_536 };
    let hole = Chunks::Inline(vec![ChunkRef::hole(131_072)]);
    let fixed = Chunking::Fixed { chunk_bytes: 65_536 };
    let name = |name: &str, value: &[u8]| Xattr { name: name.into(), value: value.to_vec() };
    vec![
        other("", Kind::Dir),
        Entry { mode: 0o1777, ..other("a", Kind::Dir) },
        entry(b"a/b", content(RAW.as_bytes(), Chunking::Whole, true, raw)),
        entry(b"a-b", Node::HardLink(b"a/b".to_vec())),
        entry(b"big", content(&big_bytes(), cdc, false, Chunks::List(big.clone()))),
        other("block", Kind::BlockDevice { major: 8, minor: 1 }),
        other("char", Kind::CharDevice { major: 5, minor: 1 }),
        entry(b"empty", content(b"", Chunking::Whole, false, Chunks::Inline(Vec::new()))),
        other("fifo", Kind::Fifo),
        Entry {
            xattrs: vec![name("user.empty", b""), name("user.origin", b"caf\xe9")],
            ..entry(b"n\xff", content(&vec![0; 131_072], fixed, false, hole))
        },
        Entry {
            mode: 0o777,
            mtime: Time { secs: -1, nanos: 999_999_999 },
            ..other("s", Kind::Symlink { target: b"a/b".to_vec() })
        },
        other("sock", Kind::Socket),
    ]
}

/// A chunk to be put into a pack: plain bytes, body, encoding, base.
type Body<'a> = (&'a [u8], &'a [u8], Encoding, Option<Digest>);

/// Builds a pack; returns its bytes and the records of its chunks.
fn pack_of(content: PackContent, bodies: &[Body<'_>]) -> (Vec<u8>, Vec<PackRecord>) {
    let mut bytes = pack::encode_head(content, STORE_ID).to_vec();
    let mut records = Vec::new();
    for (plain, body, encoding, base) in bodies {
        records.push(PackRecord {
            digest: Digest::of(plain),
            offset: bytes.len() as u32,
            stored_bytes: body.len() as u32,
            plain_bytes: plain.len() as u32,
            encoding: *encoding,
            base: *base,
        });
        bytes.extend_from_slice(body);
    }
    pack::append_directory(&mut bytes, &records);
    (bytes, records)
}

fn segment_of(packs: &[(&[u8], PackContent, &[PackRecord])]) -> Vec<u8> {
    let entry = |(bytes, content, _): &(&[u8], PackContent, _)| PackEntry {
        id: Digest::of(bytes),
        bytes: bytes.len() as u64,
        content: *content,
    };
    let entries: Vec<PackEntry> = packs.iter().map(entry).collect();
    let mut records = Vec::new();
    for (pack, (_, _, chunks)) in packs.iter().enumerate() {
        records.extend(chunks.iter().map(|&record| SegmentEntry { pack: pack as u32, record }));
    }
    records.sort_by_key(|entry| entry.record.digest);
    segment::encode(STORE_ID, &entries, &records)
}

/// A segment with a fan-out table, over digests that begin alike.
fn wide_segment() -> Vec<u8> {
    let record = |n: u32| {
        let mut digest = Digest::of(&n.to_le_bytes());
        digest.0[..2].copy_from_slice(&[0xab, 0xcd]);
        let base = n.is_multiple_of(5).then(|| Digest::of(b"base"));
        let encoding = if base.is_some() { Encoding::ZstdWithBase } else { Encoding::Zstd };
        let (offset, stored_bytes, plain_bytes) = (64 + n * 100, 100, 65_536);
        PackRecord { digest, offset, stored_bytes, plain_bytes, encoding, base }
    };
    let records: Vec<_> = (0..40).map(record).collect();
    segment_of(&[(b"some pack", PackContent::Chunks, &records)])
}

fn list(levels: u8, page: &[u8], items: u64, bytes: u64) -> ListRef {
    let digest = Digest::of(page);
    ListRef { levels, top: Some(PageRef { digest, items, bytes, key: Vec::new() }) }
}

fn artifact(entries: &[Entry], page: &[u8]) -> Artifact {
    let bytes = entries.iter().map(Item::bytes).sum();
    let files: Vec<_> = [("a/b", RAW.as_bytes()), ("a-b", RAW.as_bytes()), ("big", &big_bytes())]
        .into_iter()
        .chain([("empty", &b""[..])])
        .map(|(path, bytes)| (path.as_bytes().to_vec(), blake3::hash(bytes).to_hex().to_string()))
        .chain([(b"n\xff".to_vec(), blake3::hash(&vec![0; 131_072]).to_hex().to_string())])
        .collect();
    Artifact {
        member: "api".into(),
        source: b"/srv/api".to_vec(),
        started: TIME,
        counts: Counts { files: 5, dirs: 2, symlinks: 1, specials: 4, bytes },
        algorithm: Algorithm::Blake3,
        checksum: *blake3::hash(&super::checksum_lines(&files)).as_bytes(),
        entries: list(1, page, entries.len() as u64, bytes),
        extensions: vec![Extension { name: "receipt".into(), value: vec![1, 2, 3] }],
    }
}

fn generation(artifact: &[u8]) -> Generation {
    Generation {
        deployment: "orders".into(),
        started: TIME,
        finished: UnixNanos(TIME.0 + 2_500_000_000),
        members: vec![Member { name: "api".into(), artifact: Digest::of(artifact) }],
        missing: vec![Missing { name: "db".into(), reason: "permission denied".into() }],
        extensions: Vec::new(),
    }
}

fn record(number: u64, previous: Digest, event: Event) -> Vec<u8> {
    Record { number: CommitNumber(number), previous, time: TIME, event }.encode()
}

fn commits(generation: &[u8]) -> [Vec<u8>; 2] {
    let promote = Event::Promote {
        deployment: "orders".into(),
        generation: GenerationNumber(1),
        manifest: Digest::of(generation),
    };
    let first = record(1, Digest::ZERO, promote);
    let unknown = Event::Unknown { kind: 700, body: b"later".to_vec() };
    let second = record(2, Digest::of(&first), unknown);
    [first, second]
}

fn journal() -> Vec<u8> {
    let record = JournalRecord {
        run: "20231114t221320z-0a1b2c3d".into(),
        number: 1,
        previous: Digest::ZERO,
        time: TIME,
        event: br#"{"event":"abandoned","reason":"a test"}"#.to_vec(),
    };
    record.encode()
}

fn ended_journal() -> Vec<u8> {
    EndedJournal { records: vec![b"first".to_vec(), b"second".to_vec()] }.encode()
}

fn removal_list() -> Vec<u8> {
    let name = |byte| Digest([byte; 32]);
    let packs = vec![name(0x11), name(0x22)];
    removal::List { packs, pages: vec![name(0x33)], manifests: Vec::new() }.encode()
}

/// Records of all kinds that the golden store does not have.
fn apart_commits() -> Vec<(&'static str, Vec<u8>)> {
    let name = |deployment: &str, generation| GenerationName {
        deployment: deployment.into(),
        generation: GenerationNumber(generation),
    };
    let list = Digest::of(&removal_list());
    let two = vec![name("orders", 1), name("m\u{fc}nze", 300)];
    let events = [
        ("commit-forget", Event::Forget(two)),
        ("commit-undo", Event::Undo(vec![name("orders", 1)])),
        ("commit-pin", Event::Pin(name("orders", 2))),
        ("commit-unpin", Event::Unpin(name("orders", 2))),
        ("commit-condemn", Event::Condemn { basis: CommitNumber(5), list }),
        ("commit-collect", Event::Collect { condemned: CommitNumber(7), list }),
        ("commit-collected", Event::Collected { collect: CommitNumber(8) }),
    ];
    let numbers = 3u64..;
    let record =
        |(number, (name, event))| (name, record(number, Digest([number as u8; 32]), event));
    numbers.zip(events).map(record).collect()
}

/// Makes all golden objects.
pub fn all() -> Vec<Golden> {
    let (raw, delta, repeated) = (RAW.as_bytes(), DELTA.as_bytes(), repeated());
    let header = Header::new(STORE_ID, TIME, Params::default()).encode();
    let (pack, chunk_records) = pack_of(
        PackContent::Chunks,
        &[
            (raw, raw, Encoding::Raw, None),
            (repeated.as_bytes(), &REPEATED_BODY, Encoding::Zstd, None),
            (delta, &DELTA_BODY, Encoding::ZstdWithBase, Some(Digest::of(raw))),
        ],
    );
    let chunks = page(0, &big_chunks());
    let big = list(1, &chunks, big_chunks().len() as u64, big_bytes().len() as u64);
    let entries = entries(&big);
    let entries_page = page(0, &entries);
    let (pages, page_records) = pack_of(
        PackContent::Pages,
        &[
            (&chunks, &chunks, Encoding::Raw, None),
            (&entries_page, &entries_page, Encoding::Raw, None),
        ],
    );
    let segment = segment_of(&[
        (&pack, PackContent::Chunks, &chunk_records),
        (&pages, PackContent::Pages, &page_records),
    ]);
    let artifact = artifact(&entries, &entries_page).encode();
    let generation = generation(&artifact).encode();
    let [first, second] = commits(&generation);
    let reference = |key: &str, items, page: &[u8]| {
        let (digest, key) = (Digest::of(page), key.as_bytes().to_vec());
        PageRef { digest, items, bytes: items * 1000, key }
    };
    let references = page(1, &[reference("", 64, b"one"), reference("m/n", 17, b"two")]);
    let one = page(0, &entries[9..10]);

    let apart = |name, bytes| Golden { name, key: None, bytes };
    let stored = |name, folder: &str, bytes: Vec<u8>| {
        let key = Some(format!("{folder}/{}", Digest::of(&bytes)));
        Golden { name, key, bytes }
    };
    let at = |name, key: &str, bytes| Golden { name, key: Some(key.to_owned()), bytes };
    let mut all = vec![
        at("store-header", "store", header),
        stored("pack", "packs", pack),
        stored("page-pack", "pages", pages),
        stored("index-segment", "index", segment),
        apart("index-segment-wide", wide_segment()),
        apart("page-chunks", chunks),
        apart("page-entries", entries_page),
        apart("page-entry", one),
        apart("page-references", references),
        stored("artifact-manifest", "manifests", artifact),
        stored("generation-manifest", "manifests", generation),
        at("commit-promote", "log/00000000000000000001", first),
        at("commit-unknown", "log/00000000000000000002", second),
        at("journal-record", "runs/20231114t221320z-0a1b2c3d/00000000000000000001", journal()),
        at("ended-journal", "runs/20231114t221321z-0a1b2c3d/ended", ended_journal()),
        apart("removal-list", removal_list()),
    ];
    all.extend(apart_commits().into_iter().map(|(name, bytes)| apart(name, bytes)));
    all
}
