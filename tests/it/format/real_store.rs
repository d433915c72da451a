//! A real store, read by somebody who has only the document.
//!
//! What the trees held is recorded with the standard library alone before each backup; the
//! independent reader must give back exactly that.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use strongroom::backend::LocalBackend;
use strongroom::digest::Algorithm;
use strongroom::store::{IngestOptions, MemberSource, Progress, Store, StoreConfig};
use strongroom::values::Params;

use super::decoder::entry::{Chunking, Entry, ListRef, Node};
use super::decoder::frame;
use super::decoder::store::{Store as OwnStore, Tree};
use super::decoder::{Bytes, Id, page};
use super::markdown;

/// Something in a tree, as it was before a backup.
struct Seen {
    path: Vec<u8>,
    metadata: Metadata,
    /// A file's content or a symlink's target.
    bytes: Vec<u8>,
}

/// Records a tree in the order of its paths, component by component.
fn see(root: &Path) -> Vec<Seen> {
    let mut seen = Vec::new();
    see_below(root, b"", &mut seen);
    seen
}

fn see_below(path: &Path, inside: &[u8], seen: &mut Vec<Seen>) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let bytes = if metadata.is_file() {
        fs::read(path).unwrap()
    } else if metadata.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
    } else {
        Vec::new()
    };
    let is_dir = metadata.is_dir();
    seen.push(Seen { path: inside.to_vec(), metadata, bytes });
    if is_dir {
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for name in names {
            let separator = if inside.is_empty() { &b""[..] } else { b"/" };
            let inside = [inside, separator, name.as_bytes()].concat();
            see_below(&path.join(&name), &inside, seen);
        }
    }
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A tree with everything that a tree can hold and an ordinary user can make.
fn make_tree(root: &Path) {
    fs::create_dir_all(root.join("a/deep/er")).unwrap();
    fs::create_dir(root.join("empty-folder")).unwrap();
    let write = |path: &str, bytes: &[u8]| fs::write(root.join(path), bytes).unwrap();
    write("a-b", b"sorts behind what is in a");
    write("a/b", b"small");
    write("a/deep/er/text", "one line and then another\n".repeat(300).as_bytes());
    write("empty", b"");
    write("exactly-small", &noise(1, 16 << 10));
    write("one-more", &noise(2, (16 << 10) + 1));
    write("cut-by-content", &noise(3, 3_000_001));
    write("zeros", &vec![0; 200_000]);
    let mut image = noise(4, 1 << 20);
    image[100_000..500_000].fill(0);
    write("disk.img", &image);
    let sparse = File::create(root.join("sparse.img")).unwrap();
    sparse.set_len((16 << 20) + 77).unwrap();
    sparse.write_all_at(&noise(5, 10_000), 5 << 20).unwrap();
    fs::hard_link(root.join("a/b"), root.join("another-name")).unwrap();
    fs::hard_link(root.join("a/b"), root.join("a/third")).unwrap();
    std::os::unix::fs::symlink("a/b", root.join("link")).unwrap();
    std::os::unix::fs::symlink(OsStr::from_bytes(b"no\xffwhere"), root.join("dangling")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"na\xffme")), b"not UTF-8").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let mode = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("a/b", 0o4750);
    mode("empty-folder", 0o1700);
    // Not every file system has attributes; where they are missing there is nothing to compare.
    for (name, value) in [("user.second", &b"\0\xff"[..]), ("user.first", b"")] {
        let flags = rustix::fs::XattrFlags::empty();
        let _ = rustix::fs::setxattr(root.join("a-b"), name, value, flags);
    }
    let old = std::time::UNIX_EPOCH - std::time::Duration::from_millis(1500);
    File::open(root.join("zeros")).unwrap().set_modified(old).unwrap();
}

/// Changes what [`make_tree`] made: a few bytes in place, an insertion, a new file.
fn change_tree(root: &Path) {
    let image = File::options().write(true).open(root.join("disk.img")).unwrap();
    image.write_all_at(b"changed in place", 700_000).unwrap();
    let mut bytes = fs::read(root.join("cut-by-content")).unwrap();
    bytes.splice(1_000_000..1_000_000, noise(9, 777));
    fs::write(root.join("cut-by-content"), bytes).unwrap();
    fs::write(root.join("new"), b"new").unwrap();
    fs::remove_file(root.join("empty")).unwrap();
}

fn back_up(store: &Store, deployment: &str, sources: &[(&str, PathBuf)], algorithm: Algorithm) {
    let source = |(member, path): &(&str, PathBuf)| MemberSource {
        member: (*member).to_owned(),
        path: path.clone(),
    };
    let sources: Vec<_> = sources.iter().map(source).collect();
    let options = IngestOptions { algorithm, ..IngestOptions::default() };
    let report = store.backup(deployment, &sources, &options, &Progress::default()).unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
}

/// Checks that a tree is what was seen: every path, its metadata, its bytes and its checksums.
fn assert_same(store: &OwnStore, tree: &Tree, seen: &[Seen], root: &Path) {
    let path = |entry: &Entry| String::from_utf8_lossy(&entry.path.0).into_owned();
    let found: Vec<_> = tree.entries.iter().map(|entry| &entry.path.0).collect();
    assert_eq!(found, seen.iter().map(|seen| &seen.path).collect::<Vec<_>>());
    let mut firsts: HashMap<u64, Vec<u8>> = HashMap::new();
    for (entry, seen) in tree.entries.iter().zip(seen) {
        let (metadata, name) = (&seen.metadata, path(entry));
        assert_eq!(entry.mode, metadata.mode() & 0o7777, "mode of {name}");
        assert_eq!((entry.uid, entry.gid), (metadata.uid(), metadata.gid()), "owner of {name}");
        let mtime = (metadata.mtime(), metadata.mtime_nsec() as u32);
        assert_eq!(entry.mtime, mtime, "mtime of {name}");
        let ctime = (metadata.ctime(), metadata.ctime_nsec() as u32);
        assert_eq!(entry.ctime, ctime, "ctime of {name}");
        assert_eq!(entry.inode, metadata.ino(), "inode of {name}");
        match &entry.node {
            Node::Dir => assert!(metadata.is_dir(), "{name}"),
            Node::Symlink { target } => assert_eq!(target.0, seen.bytes, "{name}"),
            Node::Fifo => assert_eq!(metadata.mode() & 0o170_000, 0o010_000, "{name}"),
            Node::HardLink(target) => {
                assert_eq!(Some(&target.0), firsts.get(&metadata.ino()), "{name}");
            }
            Node::File(content) => {
                assert!(metadata.is_file(), "{name}");
                assert_eq!(store.content(content).unwrap(), seen.bytes, "{name}");
                let sha256 = Id(Sha256::digest(&seen.bytes).into());
                assert!(content.sha256.is_none_or(|stored| stored == sha256), "{name}");
                let wanted = tree.artifact.algorithm == frame::Algorithm::Sha256;
                assert!(!wanted || content.sha256.is_some(), "SHA-256 of {name}");
                firsts.entry(metadata.ino()).or_insert_with(|| seen.path.clone());
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(tree.artifact.checksum, checksum(seen, tree.artifact.algorithm));
    assert_eq!(tree.artifact.source.0, root.as_os_str().as_bytes());
}

/// "Directory checksum".
fn checksum(seen: &[Seen], algorithm: frame::Algorithm) -> Id {
    let digest = |bytes: &[u8]| match algorithm {
        frame::Algorithm::Blake3 => Id::of(bytes),
        frame::Algorithm::Sha256 => Id(Sha256::digest(bytes).into()),
    };
    if let [Seen { path, metadata, bytes }] = seen
        && path.is_empty()
        && metadata.is_file()
    {
        return digest(bytes);
    }
    let files = seen.iter().filter(|seen| seen.metadata.is_file());
    let files: Vec<_> =
        files.map(|seen| (seen.path.clone(), digest(&seen.bytes).to_string())).collect();
    digest(&super::checksum_lines(&files))
}

/// Every chunk of every pack stands in a segment, as the pack says.
fn assert_segments_agree_with_packs(store: &OwnStore) {
    let mut unknown: HashSet<_> = store.packs.keys().map(|(_, id)| *id).collect();
    for segment in &store.segments {
        assert_eq!(segment.store_id, store.header.store_id);
        for (ordinal, stored) in &segment.entries {
            let (id, _, content) = &segment.packs[*ordinal as usize];
            let folder = if store.packs.contains_key(&("packs".to_owned(), *id)) {
                "packs"
            } else {
                "pages"
            };
            let pack = &store.packs[&(folder.to_owned(), *id)];
            assert_eq!(pack.content, *content);
            assert!(pack.chunks.contains(stored), "{stored:?}");
            assert_eq!(segment.find(&stored.digest).map(|(_, found)| found), Some(stored));
        }
        for (id, ..) in &segment.packs {
            unknown.remove(id);
        }
    }
    assert!(unknown.is_empty(), "{unknown:?} in no segment");
    for pack in store.packs.values() {
        for chunk in &pack.chunks {
            let found = store.segments.iter().any(|segment| segment.find(&chunk.digest).is_some());
            assert!(found, "{chunk:?}");
        }
    }
}

/// Returns the entry at a path.
fn at<'t>(tree: &'t Tree, path: &str) -> &'t Entry {
    tree.entries.iter().find(|entry| entry.path.0 == path.as_bytes()).unwrap()
}

#[test]
fn the_independent_reader_restores_every_file_of_a_real_store() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, place) = (folder.path().join("tree"), folder.path().join("store"));
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let backend = LocalBackend::create(&place).unwrap();
    let store = Store::create(Arc::new(backend), StoreConfig::default()).unwrap();
    let first = see(&tree);
    back_up(&store, "orders", &[("api", tree.clone())], Algorithm::Blake3);
    change_tree(&tree);
    let second = see(&tree);
    back_up(&store, "orders", &[("api", tree.clone())], Algorithm::Blake3);
    let single = tree.join("a/deep/er/text");
    let sources = [("whole", tree.clone()), ("file", single.clone())];
    back_up(&store, "hashed", &sources, Algorithm::Sha256);

    let own = OwnStore::read(&place).unwrap();
    let generations = own.visible();
    let names: Vec<_> = generations.iter().map(|found| (found.0, found.1)).collect();
    assert_eq!(names, [("orders", 1), ("orders", 2), ("hashed", 1)]);
    let trees: Vec<_> = generations.iter().map(|found| own.trees(&found.2).unwrap()).collect();
    assert_same(&own, &trees[0][0], &first, &tree);
    assert_same(&own, &trees[1][0], &second, &tree);
    assert_same(&own, &trees[2][0], &second, &tree);
    assert_same(&own, &trees[2][1], &see(&single), &single);
    assert_segments_agree_with_packs(&own);
    assert!(own.with_base > 0, "the change in place is stored against what was there");
    assert_contents_are_cut_as_they_say(&own, &trees[1][0]);

    let xattrs = rustix::fs::listxattr(tree.join("a-b"), &mut [0u8; 4096]).unwrap_or(0);
    if xattrs > 0 {
        let user =
            at(&trees[0][0], "a-b").xattrs.iter().filter(|(name, _)| name.0.starts_with(b"user."));
        let expected = [("user.first", &b""[..]), ("user.second", b"\0\xff")];
        let expected = expected.map(|(name, value)| (Bytes(name.into()), Bytes(value.into())));
        assert_eq!(user.cloned().collect::<Vec<_>>(), expected);
    }
}

/// "Chunking", as far as a reader can see it.
fn assert_contents_are_cut_as_they_say(store: &OwnStore, tree: &Tree) {
    let content = |path: &str| match &at(tree, path).node {
        Node::File(content) => (content.chunking.clone(), store.chunks(content).unwrap()),
        other => panic!("{path}: {other:?}"),
    };
    let lengths = |path: &str| {
        content(path).1.iter().map(|c| (c.bytes, c.digest.is_none())).collect::<Vec<_>>()
    };
    let cdc = Chunking::Cdc { min_bytes: 4096, avg_bytes: 16_384, max_bytes: 65_536 };
    let fixed = Chunking::Fixed { chunk_bytes: 65_536 };
    assert_eq!(content("exactly-small").0, Chunking::Whole);
    assert_eq!(lengths("exactly-small"), [(16_384, false)]);
    assert_eq!(content("one-more").0, cdc);
    assert_eq!(lengths("zeros"), [(200_000, true)]);
    assert_eq!(content("disk.img").0, fixed);
    let (piece, hole) = ((65_536, false), (5 * 65_536, true));
    assert_eq!(lengths("disk.img")[..4], [piece, piece, hole, piece]);
    assert_eq!(content("sparse.img").0, fixed);
    let sparse = [(5 << 20, true), piece, ((11 << 20) + 77 - 65_536, true)];
    assert_eq!(lengths("sparse.img"), sparse);
    let cut = lengths("cut-by-content");
    assert!(cut[..cut.len() - 1].iter().all(|(bytes, _)| (4096..=65_536).contains(bytes)));
    assert!(cut.len() > 100, "{} chunks", cut.len());
}

#[test]
fn pages_are_cut_where_the_document_says() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, place) = (folder.path().join("tree"), folder.path().join("store"));
    fs::create_dir(&tree).unwrap();
    for n in 0..2000 {
        fs::write(tree.join(format!("file-{n}")), n.to_string()).unwrap();
    }
    fs::write(tree.join("large"), noise(1, 20 << 20)).unwrap();
    // Small chunks make long lists.
    let chunking = Params {
        cdc_min_bytes: 64,
        cdc_avg_bytes: 256,
        cdc_max_bytes: 1024,
        small_bytes_max: 256,
        ..Params::default()
    };
    let backend = LocalBackend::create(&place).unwrap();
    let store = Store::create(Arc::new(backend), StoreConfig { chunking }).unwrap();
    back_up(&store, "orders", &[("files", tree)], Algorithm::Blake3);

    let own = OwnStore::read(&place).unwrap();
    let tree = own.trees(&own.visible()[0].2).unwrap().remove(0);
    let cuts = assert_cut(&own, &tree.artifact.entries, 64);
    assert!(cuts[0] >= 20, "{cuts:?} pages of entries");
    let Node::File(content) = &at(&tree, "large").node else { panic!("large is a file") };
    let super::decoder::entry::Chunks::List(list) = &content.chunks else { panic!("inline") };
    let cuts = assert_cut(&own, list, 256);
    assert!(cuts.len() >= 3 && cuts[1] >= 2, "{cuts:?} pages of chunks and references");
}

/// Checks every place where a page of a list ends, and where none ends. Returns the number of pages
/// of each level, the lowest first.
fn assert_cut(store: &OwnStore, list: &ListRef, page_items: usize) -> Vec<usize> {
    let mut counts = Vec::new();
    for (level, pages) in store.levels(list).unwrap().iter().rev().enumerate() {
        let page_items = if level == 0 { page_items } else { 128 };
        for (ordinal, reference) in pages.iter().enumerate() {
            let marks = page::cut_marks(store.plain(&reference.digest).unwrap()).unwrap();
            for (item, (page_bytes, hash)) in marks.iter().enumerate() {
                let ends = page::ends(page_items, item + 1, *page_bytes, *hash);
                let (last_item, last_page) = (item + 1 == marks.len(), ordinal + 1 == pages.len());
                let place = format!("item {item} of page {ordinal} of level {level}");
                assert!(ends == last_item || (last_item && last_page), "{place}");
            }
        }
        counts.push(pages.len());
    }
    counts
}

#[test]
fn a_stores_directory_looks_as_the_document_says() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, place) = (folder.path().join("tree"), folder.path().join("store"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), b"content").unwrap();
    let backend = LocalBackend::create(&place).unwrap();
    let store = Store::create(Arc::new(backend), StoreConfig::default()).unwrap();
    back_up(&store, "orders", &[("api", tree)], Algorithm::Blake3);
    let mut top = Vec::new();
    for seen in see(&place) {
        let path = String::from_utf8(seen.path).unwrap();
        let expected = if seen.metadata.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(seen.metadata.mode() & 0o7777, expected, "mode of {path}");
        if !path.is_empty() && !path.contains('/') {
            top.push(path);
        }
    }
    let text = markdown::text();
    let keys = markdown::table(&text, "Directory tree", "key | object | written | may be removed");
    let folders = markdown::table(&text, "Directory tree", "folder | what");
    let names = keys.rows.iter().chain(&folders.rows).map(|row| markdown::code(&row[0]).unwrap());
    let mut expected: Vec<_> = names.map(|name| name.split('/').next().unwrap()).collect();
    expected.sort_unstable();
    assert_eq!(top, expected);
    assert_eq!(fs::read_dir(place.join("packs")).unwrap().count(), 256);
    assert_eq!(fs::read_dir(place.join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::metadata(place.join("locks/store")).unwrap().len(), 0);
    assert!(place.join("log/00000000000000000001").exists());
}
