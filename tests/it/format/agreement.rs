//! Encoders, decoders and the independent reader agree on the golden bytes, and on what is wrong
//! with bytes that are damaged.

use std::path::Path;
use std::sync::Arc;

use strongroom::backend::{Backend as _, Key, MemoryBackend, Put};
use strongroom::digest::Digest;
use strongroom::format::header::Header;
use strongroom::format::journal::{EndedJournal, JournalRecord};
use strongroom::format::manifest::{Artifact, Entry, Generation, Node as LibraryNode};
use strongroom::format::page::{self, ChunkRef, PageRef};
use strongroom::format::record::Record;
use strongroom::format::removal;
use strongroom::format::segment::SegmentView;
use strongroom::format::{frame, pack};
use strongroom::store::{Progress, Reference, Scope, Store};

use super::decoder::entry::Node;
use super::decoder::frame as own_frame;
use super::decoder::page::Page;
use super::decoder::store::Store as OwnStore;
use super::decoder::{self, Id};
use super::golden::{self, Golden, STORE_ID, kept};
use super::hex;

/// Frames of the golden store, with their kinds.
const FRAMES: [(&str, frame::Kind); 15] = [
    ("store-header", frame::STORE),
    ("artifact-manifest", frame::ARTIFACT),
    ("generation-manifest", frame::GENERATION),
    ("commit-promote", frame::COMMIT),
    ("commit-unknown", frame::COMMIT),
    ("journal-record", frame::JOURNAL),
    ("ended-journal", frame::ENDED_JOURNAL),
    ("commit-forget", frame::COMMIT),
    ("commit-undo", frame::COMMIT),
    ("commit-pin", frame::COMMIT),
    ("commit-unpin", frame::COMMIT),
    ("commit-condemn", frame::COMMIT),
    ("commit-collect", frame::COMMIT),
    ("commit-collected", frame::COMMIT),
    ("removal-list", frame::REMOVAL),
];

fn library_reads_frame(kind: frame::Kind, bytes: &[u8]) -> bool {
    match kind {
        frame::STORE => Header::decode(bytes).is_ok(),
        frame::ARTIFACT => Artifact::decode(bytes).is_ok(),
        frame::GENERATION => Generation::decode(bytes).is_ok(),
        frame::JOURNAL => JournalRecord::decode(bytes).is_ok(),
        frame::ENDED_JOURNAL => EndedJournal::decode(bytes).is_ok(),
        frame::REMOVAL => removal::List::decode(bytes).is_ok(),
        _ => Record::decode(bytes).is_ok(),
    }
}

fn own_reader_reads_frame(kind: frame::Kind, bytes: &[u8]) -> bool {
    match kind {
        frame::STORE => own_frame::header(bytes).is_ok(),
        frame::ARTIFACT => own_frame::artifact(bytes).is_ok(),
        frame::GENERATION => own_frame::generation(bytes).is_ok(),
        frame::JOURNAL => own_frame::journal(bytes).is_ok(),
        frame::ENDED_JOURNAL => own_frame::ended_journal(bytes).is_ok(),
        frame::REMOVAL => own_frame::removal(bytes).is_ok(),
        _ => own_frame::commit(bytes).is_ok(),
    }
}

fn library_reads_segment(bytes: &[u8]) -> bool {
    let view = SegmentView::parse(bytes, STORE_ID);
    view.is_ok_and(|view| view.check(bytes).is_ok())
}

/// Every change of one bit, and every byte set to 0 and to 255.
fn damaged(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    let values = |byte: u8| (0..8).map(move |bit| byte ^ (1 << bit)).chain([0, 255]);
    (0..bytes.len()).flat_map(move |at| {
        values(bytes[at]).filter(move |value| *value != bytes[at]).map(move |value| {
            let mut bad = bytes.to_vec();
            bad[at] = value;
            (at, bad)
        })
    })
}

/// Puts the golden store into memory.
fn golden_store() -> Store {
    let backend = MemoryBackend::new();
    for (key, bytes) in objects() {
        assert_eq!(backend.put(&Key::new(key).unwrap(), &[&bytes]).unwrap(), Put::Created);
    }
    Store::open(Arc::new(backend)).unwrap()
}

/// The kept objects of the golden store.
fn objects() -> impl Iterator<Item = (String, Vec<u8>)> {
    golden::all().into_iter().filter_map(|Golden { name, key, .. }| Some((key?, kept(name))))
}

/// Writes the golden store into a directory.
fn write_golden_store(root: &Path) {
    for (key, bytes) in objects() {
        let path = match key.strip_prefix("packs/") {
            Some(name) => root.join("packs").join(&name[..2]).join(name),
            None => root.join(key),
        };
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    for byte in 0..=255 {
        std::fs::create_dir_all(root.join(format!("packs/{byte:02x}"))).unwrap();
    }
}

#[test]
fn encoders_write_exactly_the_golden_bytes() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut expected = Vec::new();
    for Golden { name, bytes, .. } in golden::all() {
        if update {
            std::fs::write(golden::file(name), hex::dump(&bytes)).unwrap();
        }
        assert_eq!(hex::dump(&bytes), hex::dump(&kept(name)), "{name}");
        let text = std::fs::read_to_string(golden::file(name)).unwrap();
        assert_eq!(text, hex::dump(&bytes), "the text of {name}");
        expected.push(golden::file(name));
    }
    let folder = golden::file("x").parent().unwrap().to_owned();
    for found in std::fs::read_dir(folder).unwrap() {
        assert!(expected.contains(&found.as_ref().unwrap().path()), "{found:?} is not golden");
    }
}

#[test]
fn the_independent_reader_reads_the_golden_bytes_to_the_expected_values() {
    macro_rules! expect {
        ($name:literal, $decode:path) => {
            insta::assert_debug_snapshot!($name, $decode(&kept($name)).unwrap());
        };
    }
    expect!("store-header", own_frame::header);
    expect!("pack", decoder::pack::decode);
    expect!("page-pack", decoder::pack::decode);
    expect!("index-segment", decoder::segment::decode);
    expect!("index-segment-wide", decoder::segment::decode);
    expect!("page-chunks", decoder::page::decode);
    expect!("page-entries", decoder::page::decode);
    expect!("page-entry", decoder::page::decode);
    expect!("page-references", decoder::page::decode);
    expect!("artifact-manifest", own_frame::artifact);
    expect!("generation-manifest", own_frame::generation);
    expect!("commit-promote", own_frame::commit);
    expect!("commit-unknown", own_frame::commit);
    expect!("journal-record", own_frame::journal);
    expect!("ended-journal", own_frame::ended_journal);
    expect!("commit-forget", own_frame::commit);
    expect!("commit-undo", own_frame::commit);
    expect!("commit-pin", own_frame::commit);
    expect!("commit-unpin", own_frame::commit);
    expect!("commit-condemn", own_frame::commit);
    expect!("commit-collect", own_frame::commit);
    expect!("commit-collected", own_frame::commit);
    expect!("removal-list", own_frame::removal);
}

#[test]
fn the_library_reads_the_golden_store_and_finds_it_whole() {
    let store = golden_store();
    let progress = Progress::default();
    let report = store.verify(Scope::Full, &[], &progress).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.generations, report.chunks_checked), (1, 5));
    let tree = store.tree(&Reference::parse(b"orders@g1").unwrap()).unwrap();
    let read = |path: &[u8]| {
        let (mut out, content) = (Vec::new(), store.content(&tree.members[0], path).unwrap());
        store.write_content(&content, &mut out).unwrap();
        out
    };
    assert_eq!(read(b"a/b"), golden::RAW.as_bytes());
    assert_eq!(read(b"a-b"), golden::RAW.as_bytes());
    assert_eq!(read(b"big"), golden::big_bytes());
    assert_eq!(read(b"empty"), b"");
    assert_eq!(read(b"n\xff"), vec![0; 131_072]);
}

#[test]
fn the_independent_reader_restores_the_golden_store() {
    let folder = tempfile::tempdir().unwrap();
    write_golden_store(folder.path());
    let store = OwnStore::read(folder.path()).unwrap();
    let visible = store.visible();
    assert_eq!(visible.len(), 1);
    assert_eq!((visible[0].0, visible[0].1), ("orders", 1));
    let trees = store.trees(&visible[0].2).unwrap();
    let mut contents = Vec::new();
    for entry in &trees[0].entries {
        if let Node::File(content) = &entry.node {
            contents.push((&entry.path.0[..], store.content(content).unwrap()));
        }
    }
    let expected: [(&[u8], Vec<u8>); 4] = [
        (b"a/b", golden::RAW.into()),
        (b"big", golden::big_bytes()),
        (b"empty", Vec::new()),
        (b"n\xff", vec![0; 131_072]),
    ];
    assert_eq!(contents, expected);
    assert_eq!(store.with_base, 1);
    let plain = store.plain(&Id::of(golden::DELTA.as_bytes())).unwrap();
    assert_eq!(plain, golden::DELTA.as_bytes());
}

#[test]
fn a_chunk_with_a_base_does_not_decode_without_it() {
    let bytes = kept("pack");
    let pack = decoder::pack::decode(&bytes).unwrap();
    let delta = &pack.chunks[2];
    let body = &bytes[delta.offset as usize..][..delta.stored_bytes as usize];
    let decoded = |base| decoder::pack::plain(delta, body, base);
    assert!(decoded(Some(golden::RAW.as_bytes())).is_ok());
    assert!(decoded(None).is_err());
    assert!(decoded(Some(golden::repeated().as_bytes())).is_err());
}

#[test]
fn every_damage_to_a_frame_or_a_segment_is_found_by_both_readers() {
    for (name, kind) in FRAMES {
        let bytes = kept(name);
        assert!(library_reads_frame(kind, &bytes) && own_reader_reads_frame(kind, &bytes));
        for (at, bad) in damaged(&bytes) {
            assert!(!library_reads_frame(kind, &bad), "{name} at {at}: the library");
            assert!(!own_reader_reads_frame(kind, &bad), "{name} at {at}: the independent reader");
        }
    }
    for name in ["index-segment", "index-segment-wide"] {
        let bytes = kept(name);
        assert!(library_reads_segment(&bytes) && decoder::segment::decode(&bytes).is_ok());
        for (at, bad) in damaged(&bytes) {
            assert!(!library_reads_segment(&bad), "{name} at {at}: the library");
            assert!(decoder::segment::decode(&bad).is_err(), "{name} at {at}");
        }
    }
}

#[test]
fn every_damage_to_a_pack_outside_of_its_bodies_is_found_by_both_readers() {
    for name in ["pack", "page-pack"] {
        let bytes = kept(name);
        let chunks = decoder::pack::decode(&bytes).unwrap().chunks;
        let bodies = 64..64 + chunks.iter().map(|chunk| chunk.stored_bytes as usize).sum::<usize>();
        assert!(pack::directory_of(&bytes, STORE_ID).is_ok());
        for (at, bad) in damaged(&bytes).filter(|(at, _)| !bodies.contains(at)) {
            assert!(pack::directory_of(&bad, STORE_ID).is_err(), "{name} at {at}: the library");
            assert!(decoder::pack::decode(&bad).is_err(), "{name} at {at}");
        }
    }
}

/// Damage that carries a right checksum: what a hostile writer could make.
#[test]
fn both_readers_accept_and_refuse_the_same_payloads() {
    let mut accepted = 0;
    for (name, kind) in FRAMES {
        let bytes = kept(name);
        for (at, mut bad) in damaged(&bytes[..bytes.len() - 32]) {
            let checksum = Digest::of(&bad);
            bad.extend_from_slice(&checksum.0);
            let reads = library_reads_frame(kind, &bad);
            assert_eq!(reads, own_reader_reads_frame(kind, &bad), "{name} at {at}");
            accepted += usize::from(reads);
        }
    }
    assert!(accepted > 1000, "{accepted} accepted: the comparison was about something");
}

#[test]
fn both_readers_accept_and_refuse_the_same_pages() {
    let mut counts = [0, 0];
    for name in ["page-chunks", "page-entries", "page-entry", "page-references"] {
        let bytes = kept(name);
        for (at, bad) in damaged(&bytes) {
            let library = match name {
                "page-chunks" => page::decode::<ChunkRef>(&bad, 0).is_ok(),
                "page-references" => page::decode::<PageRef>(&bad, 1).is_ok(),
                _ => page::decode::<Entry>(&bad, 0).is_ok(),
            };
            let own = match (name, decoder::page::decode(&bad)) {
                ("page-references", Ok(Page::Pages { level, .. })) => level == 1,
                (_, Ok(Page::Chunks(_))) => name == "page-chunks",
                (_, Ok(Page::Entries(_))) => name.starts_with("page-entr"),
                _ => false,
            };
            assert_eq!(library, own, "{name} at {at}");
            counts[usize::from(own)] += 1;
        }
    }
    assert!(counts.iter().all(|count| *count > 1000), "{counts:?} refused and accepted");
}

#[test]
fn both_readers_accept_and_refuse_the_same_names() {
    let mut names: Vec<String> =
        (0..=0x24f).filter_map(char::from_u32).map(|c| format!("a{c}b")).collect();
    names.extend(["", ".a", "-a", "a.", "a-", "größe", "\u{85}"].map(str::to_owned));
    names.extend([127, 128, 129].map(|len| "n".repeat(len)));
    let mut artifact = Artifact::decode(&kept("artifact-manifest")).unwrap();
    let mut refused = Vec::new();
    for name in names {
        artifact.member.clone_from(&name);
        let bytes = artifact.encode();
        let reads = library_reads_frame(frame::ARTIFACT, &bytes);
        assert_eq!(reads, own_reader_reads_frame(frame::ARTIFACT, &bytes), "{name:?}");
        if !reads {
            refused.push(name);
        }
    }
    for name in ["a/b", "a@b", "a:b", "a=b", "a\u{85}b", "", ".a", "-a"] {
        assert!(refused.iter().any(|refused| refused == name), "{name:?} is not refused");
    }
    // The four characters above, 65 control characters, and what begins or ends wrongly.
    assert_eq!(refused.len(), 4 + 65 + 5, "{refused:?}");
}

#[test]
fn both_readers_accept_and_refuse_the_same_paths() {
    let entries = page::decode::<Entry>(&kept("page-entry"), 0).unwrap();
    let long = |len: usize| vec![b'n'; len];
    let deep = |len: usize| {
        let mut path = b"n/".repeat((len - 1) / 2);
        path.resize(len, b'n');
        path
    };
    let good = [&b""[..], b"a", b"a/b", b"...", b"..a", b".a", b"a/.b", b"\xff", b"a b"];
    let bad = [&b"/"[..], b"/a", b"a/", b"a//b", b".", b"..", b"a/..", b"./a", b"a\0b"];
    let paths = good.iter().map(|path| (path.to_vec(), true));
    let paths = paths.chain(bad.iter().map(|path| (path.to_vec(), false)));
    let lengths =
        [(long(255), true), (long(256), false), (deep(65_536), true), (deep(65_537), false)];
    for (path, is_good) in paths.chain(lengths) {
        let entry = Entry { path: path.clone(), ..entries[0].clone() };
        let link = Entry { node: LibraryNode::HardLink(path.clone()), ..entries[0].clone() };
        for entry in [entry, link] {
            let mut builder = page::PageBuilder::new::<Entry>(0);
            builder.push(&entry);
            let bytes = builder.take();
            let name = path.escape_ascii();
            assert_eq!(page::decode::<Entry>(&bytes, 0).is_ok(), is_good, "{name}: the library");
            assert_eq!(decoder::page::decode(&bytes).is_ok(), is_good, "{name}");
        }
    }
}
