//! Damage: what is damaged is found and named, what it touches is named, and all the rest restores.

use std::collections::BTreeSet;
use std::path::Path;

use strongroom::backend::{Key, MemoryBackend};
use strongroom::digest::Digest;
use strongroom::format::pack::{HEAD_BYTES, TAIL_BYTES};
use strongroom::index::Location;
use strongroom::log;
use strongroom::store::{Chunks, DamageKind, IngestOptions, Progress, Scope, Store, VerifyReport};
use tempfile::TempDir;

use crate::support::{
    Compare, DEPLOYMENT, MEMBER, Snapshot, Tree, assert_clean, change, copy_of, differences,
    fast_temp, keys, lose, memory_store, noise, object, of_kind, open, reference, restore,
    snapshot, source, temp, text, touched, verify,
};

const SCOPES: [Scope; 3] = [Scope::Structure, Scope::Read(1.0), Scope::Full];

/// A store of two generations of two members, and what each generation should restore to.
struct Sample {
    dir: TempDir,
    backend: MemoryBackend,
    generations: Vec<Snapshot>,
}

impl Sample {
    fn new() -> Self {
        let dir = temp();
        let tree = Tree::create(dir.path().join("source"));
        for member in ["files", "other"] {
            tree.dir(member);
        }
        for number in 0..300 {
            tree.file(format!("files/many/{number:03}"), text(number, 300));
        }
        tree.file("files/small", noise(1, 3000));
        tree.file("files/large", noise(2, 9 << 20));
        tree.file("files/stable_memory.bin", noise(3, 2 << 20));
        tree.file("other/one", noise(4, 5000));
        tree.file("other/two", noise(5, 70_000));
        let (backend, store) = memory_store();
        let mut generations = Vec::new();
        for generation in 0..2 {
            if generation == 1 {
                tree.file("files/new", noise(6, 4000));
                tree.write_at("files/stable_memory.bin", 1000, b"changed");
            }
            let sources = ["files", "other"].map(|member| source(member, &tree.below(member)));
            let options = IngestOptions::default();
            let report = store.backup(DEPLOYMENT, &sources, &options, &Progress::default());
            assert!(report.unwrap().failed.is_empty());
            generations.push(snapshot(tree.path()));
        }
        Self { dir, backend, generations }
    }

    /// Returns a copy of the store, to be damaged.
    fn copy(&self) -> MemoryBackend {
        copy_of(&self.backend)
    }

    fn store(&self) -> Store {
        open(self.backend.clone())
    }

    /// Returns where the first chunk of a file is stored.
    fn place_of(&self, what: &str, path: &str) -> Location {
        let store = self.store();
        let tree = store.tree(&reference(what)).unwrap();
        let content = store.content(&tree.members[0], path.as_bytes()).unwrap();
        let chunk = store.chunks(&content).next().unwrap().unwrap();
        self.find(&chunk.digest)
    }

    fn find(&self, digest: &Digest) -> Location {
        self.store().index().unwrap().snapshot().find(digest).expect("a stored chunk")
    }

    /// Restores a generation of a damaged store. Fails unless everything that came back is right,
    /// and everything that did not come back is reported as damaged. Returns what did not.
    fn restore(&self, store: &Store, generation: usize) -> BTreeSet<String> {
        let target = fast_temp();
        let report = restore(store, &format!("{DEPLOYMENT}@g{generation}"), target.path());
        let (expected, mut seen) = (&self.generations[generation - 1], snapshot(target.path()));
        let lost: BTreeSet<String> = expected
            .keys()
            .filter(|path| !seen.contains_key(*path))
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect();
        let mut expected = expected.clone();
        expected.retain(|path, _| seen.contains_key(path));
        forget_root(&mut expected);
        forget_root(&mut seen);
        let found = differences(&expected, &seen, Compare::PLAIN);
        // A directory that lost its entry is made for what is in it, without its attributes.
        let found: Vec<_> = found.iter().filter(|line| !is_bare_directory(line)).collect();
        assert!(found.is_empty() || !report.failures.is_empty(), "{found:?}");
        assert!(found.iter().all(|line| line.contains("many:")), "{found:?}");
        assert_eq!(lost.is_empty(), report.failures.is_empty(), "{lost:?} {:?}", report.failures);
        assert!(report.failures.iter().all(|failure| failure.damage), "{:?}", report.failures);
        lost
    }

    /// Fails unless both generations restore entirely.
    #[track_caller]
    fn assert_restores(&self, backend: &MemoryBackend) {
        for generation in [1, 2] {
            assert!(self.restore(&open(backend.clone()), generation).is_empty());
        }
    }
}

fn is_bare_directory(line: &str) -> bool {
    ["files: mode", "other: mode"].iter().any(|begin| line.starts_with(begin))
}

/// The directory that holds the members is the test's own.
fn forget_root(snapshot: &mut Snapshot) {
    snapshot.remove(&b""[..]);
}

/// Flips one bit of an object.
fn flip(backend: &MemoryBackend, key: &Key, at: usize) {
    change(backend, key, |bytes| bytes[at] ^= 0x10);
}

fn key_of(location: &Location) -> Key {
    strongroom::pack::key(location.pack.content, &location.pack.id)
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// Fails unless exactly one thing is damaged, of this kind, and names these paths.
#[track_caller]
fn assert_finds(report: &VerifyReport, kind: DamageKind, paths: &[&str]) {
    assert_eq!(report.damaged.len(), 1, "{:?}", report.damaged);
    assert_eq!(report.damaged[0].kind, kind, "{:?}", report.damaged);
    assert_eq!(touched(report), strings(paths), "{:?}", report.damaged);
    assert_eq!(report.unreadable, []);
}

#[test]
fn a_whole_store_is_clean_at_every_depth() {
    let sample = Sample::new();
    assert_clean(&sample.store());
    sample.assert_restores(&sample.backend);
    let full = verify(&sample.store(), Scope::Full);
    assert!(full.chunks_checked > 500 && full.generations == 2, "{full:?}");
    let structure = verify(&sample.store(), Scope::Structure);
    assert_eq!((structure.chunks_checked, structure.bytes_read), (0, 0));
    assert!(structure.objects_checked >= 2 + 6 + 4, "{structure:?}");
}

#[test]
fn a_flipped_bit_in_a_chunk_is_found_by_reading_and_touches_the_files_that_need_it() {
    let sample = Sample::new();
    let place = sample.place_of("orders@g1:files", "small");
    let backend = sample.copy();
    flip(&backend, &key_of(&place), place.record.offset as usize + 7);
    let paths = ["orders@g1:files/small", "orders@g2:files/small"];
    assert!(verify(&open(backend.clone()), Scope::Structure).is_clean());
    let read = verify(&open(backend.clone()), Scope::Read(1.0));
    assert_finds(&read, DamageKind::Pack, &paths);
    let full = verify(&open(backend.clone()), Scope::Full);
    assert_finds(&full, DamageKind::Chunk, &paths);
    assert!(full.damaged[0].object.starts_with(key_of(&place).as_str()), "{:?}", full.damaged);
    for generation in [1, 2] {
        let lost = sample.restore(&open(backend.clone()), generation);
        assert_eq!(Vec::from_iter(lost), ["files/small"]);
    }
}

#[test]
fn a_flipped_bit_in_a_large_file_or_an_image_takes_only_that_file() {
    let sample = Sample::new();
    for path in ["large", "stable_memory.bin"] {
        let place = sample.place_of("orders@g1:files", path);
        let backend = sample.copy();
        flip(&backend, &key_of(&place), place.record.offset as usize);
        let full = verify(&open(backend.clone()), Scope::Full);
        // The image's first chunk is the base of the changed one.
        let names = [format!("orders@g1:files/{path}"), format!("orders@g2:files/{path}")];
        assert_eq!(touched(&full), names);
        for generation in [1, 2] {
            let lost = sample.restore(&open(backend.clone()), generation);
            assert_eq!(Vec::from_iter(lost), [format!("files/{path}")]);
        }
    }
}

/// Heads, directories and tails of packs repeat what the index has, so nothing is lost by them.
#[test]
fn a_pack_damaged_outside_of_its_chunks_is_found_by_structure_and_loses_nothing() {
    let sample = Sample::new();
    for folder in ["packs", "pages"] {
        for key in keys(&sample.backend, folder) {
            let len = object(&sample.backend, &key).len();
            let places = [3, HEAD_BYTES - 1, len - TAIL_BYTES - 1, len - TAIL_BYTES + 3, len - 1];
            for place in places {
                let backend = sample.copy();
                flip(&backend, &key, place);
                for scope in SCOPES {
                    let report = verify(&open(backend.clone()), scope);
                    assert_finds(&report, DamageKind::Pack, &[]);
                    assert_eq!(report.damaged[0].object, key.as_str());
                }
                sample.assert_restores(&backend);
            }
        }
    }
}

#[test]
fn a_truncated_pack_touches_what_was_cut_off() {
    let sample = Sample::new();
    let (first, last) =
        (sample.place_of("orders:files", "large"), sample.place_of("orders:other", "two"));
    assert_eq!(first.pack.id, last.pack.id);
    let backend = sample.copy();
    let keep = last.record.offset as usize + 10;
    change(&backend, &key_of(&first), |bytes| bytes.truncate(keep));
    for scope in SCOPES {
        let report = verify(&open(backend.clone()), scope);
        assert_finds(&report, DamageKind::Pack, &["orders@g1:other/two", "orders@g2:other/two"]);
    }
    for generation in [1, 2] {
        let lost = sample.restore(&open(backend.clone()), generation);
        assert_eq!(Vec::from_iter(lost), ["other/two"]);
    }
}

#[test]
fn a_removed_pack_is_missed_and_touches_all_that_was_in_it() {
    let sample = Sample::new();
    let place = sample.place_of("orders@g2:files", "new");
    let backend = sample.copy();
    lose(&backend, &key_of(&place));
    for scope in SCOPES {
        let report = verify(&open(backend.clone()), scope);
        let paths = ["orders@g2:files/new", "orders@g2:files/stable_memory.bin"];
        assert_finds(&report, DamageKind::Pack, &paths);
    }
    assert!(sample.restore(&open(backend.clone()), 1).is_empty());
    let lost = sample.restore(&open(backend), 2);
    assert_eq!(Vec::from_iter(lost), ["files/new", "files/stable_memory.bin"]);
}

#[test]
fn a_removed_pack_is_reported_when_the_index_is_lost_with_it() {
    let sample = Sample::new();
    let backend = sample.copy();
    lose(&backend, &key_of(&sample.place_of("orders@g2:files", "new")));
    keys(&backend, "index").iter().for_each(|key| lose(&backend, key));
    let report = verify(&open(backend.clone()), Scope::Structure);
    assert_eq!(of_kind(&report, DamageKind::Chunk).len(), report.damaged.len());
    let paths = ["orders@g2:files/new", "orders@g2:files/stable_memory.bin"];
    assert_eq!(touched(&report), strings(&paths));
    assert_eq!(sample.restore(&open(backend), 2).len(), 2);
}

#[test]
fn two_packs_that_changed_their_names_are_found_by_structure() {
    let sample = Sample::new();
    for folder in ["packs", "pages"] {
        let packs = keys(&sample.backend, folder);
        let backend = sample.copy();
        let bytes: Vec<_> = packs.iter().map(|key| object(&backend, key)).collect();
        backend.replace(&packs[0], bytes[1].clone());
        backend.replace(&packs[1], bytes[0].clone());
        for scope in SCOPES {
            let report = verify(&open(backend.clone()), scope);
            let damaged = of_kind(&report, DamageKind::Pack);
            assert!(damaged.len() == 2, "{folder} {scope:?}: {:?}", report.damaged);
            assert!(!touched(&report).is_empty());
        }
        for generation in [1, 2] {
            assert!(!sample.restore(&open(backend.clone()), generation).is_empty());
        }
        // The bytes are all there: an index made from them finds them again.
        keys(&backend, "index").iter().for_each(|key| lose(&backend, key));
        sample.assert_restores(&backend);
    }
}

/// Nothing but their bytes tells them apart: neither their lengths nor their own directories.
#[test]
fn two_packs_of_one_length_that_changed_their_names_are_found_by_structure() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (backend, store) = memory_store();
    for name in ["one", "two"] {
        tree.file(name, noise(name.as_bytes()[0].into(), 5000));
        crate::support::backup(&store, tree.path());
    }
    let packs = keys(&backend, "packs");
    let bytes: Vec<_> = packs.iter().map(|key| object(&backend, key)).collect();
    assert!(bytes.len() == 2 && bytes[0].len() == bytes[1].len());
    backend.replace(&packs[0], bytes[1].clone());
    backend.replace(&packs[1], bytes[0].clone());
    for scope in SCOPES {
        let report = verify(&open(backend.clone()), scope);
        assert_eq!(of_kind(&report, DamageKind::Pack).len(), 2, "{scope:?}: {:?}", report.damaged);
        let paths = ["orders@g1:files/one", "orders@g2:files/one", "orders@g2:files/two"];
        assert_eq!(touched(&report), strings(&paths));
    }
    assert!(restore(&open(backend), DEPLOYMENT, fast_temp().path()).failures.len() == 2);
}

#[test]
fn manifests_that_changed_their_names_are_found_though_each_is_whole() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (backend, store) = memory_store();
    let mut artifacts = Vec::new();
    for number in 1..=2 {
        tree.file("file", noise(number, 5000));
        artifacts.push(crate::support::backup(&store, tree.path()).artifacts[0].manifest);
    }
    let keys = artifacts.iter().map(|id| Key::new(format!("manifests/{id}")).unwrap());
    let keys: Vec<_> = keys.collect();
    let bytes: Vec<_> = keys.iter().map(|key| object(&backend, key)).collect();
    backend.replace(&keys[0], bytes[1].clone());
    backend.replace(&keys[1], bytes[0].clone());
    let report = verify(&open(backend.clone()), Scope::Structure);
    assert_eq!(of_kind(&report, DamageKind::Manifest).len(), 2, "{:?}", report.damaged);
    for generation in 1..=2 {
        let what = format!("{DEPLOYMENT}@g{generation}");
        assert!(crate::support::cat(&open(backend.clone()), &what, b"file").is_err());
    }
}

/// Flips a bit in a page and returns the copy.
fn damaged_page(sample: &Sample, page: &Digest) -> MemoryBackend {
    let (place, backend) = (sample.find(page), sample.copy());
    flip(&backend, &key_of(&place), place.record.offset as usize + 20);
    backend
}

#[test]
fn a_damaged_page_of_entries_is_found_by_structure_and_takes_only_its_own_entries() {
    let sample = Sample::new();
    let store = sample.store();
    let tree = store.tree(&reference("orders@g1:files")).unwrap();
    let top = tree.members[0].artifact.entries.top.clone().unwrap();
    let bytes = strongroom_chunk(&store, &top.digest);
    let pages: Vec<strongroom::format::page::PageRef> =
        strongroom::format::page::decode(&bytes, 1).unwrap();
    assert!(pages.len() > 2);
    for page in &pages {
        let backend = damaged_page(&sample, &page.digest);
        for scope in SCOPES {
            let report = verify(&open(backend.clone()), scope);
            let damaged = of_kind(&report, DamageKind::Page);
            assert!(!damaged.is_empty(), "{scope:?}: {:?}", report.damaged);
            assert!(touched(&report).iter().any(|path| path.starts_with("orders@g1:files")));
        }
        let lost = sample.restore(&open(backend), 1);
        assert!(
            !lost.is_empty() && lost.len() as u64 <= page.items,
            "{} of {}",
            lost.len(),
            page.items
        );
    }
    let backend = damaged_page(&sample, &top.digest);
    assert!(!verify(&open(backend.clone()), Scope::Structure).is_clean());
    let lost = sample.restore(&open(backend), 1);
    assert!(lost.iter().all(|path| path.starts_with("files")), "the other member is whole");
}

/// Returns the plain bytes of a page.
fn strongroom_chunk(store: &Store, digest: &Digest) -> Vec<u8> {
    use strongroom::store::{ChunkReader, ChunkRef, Wanted};
    let index = store.index().unwrap().snapshot();
    let bytes = index.find(digest).unwrap().record.plain_bytes;
    let mut out = vec![0; bytes as usize];
    let chunk = ChunkRef { bytes: bytes.into(), digest: *digest };
    let faults = ChunkReader::new(store, index).read(&[Wanted { chunk, at: 0 }], &mut out);
    assert!(faults.is_empty());
    out
}

#[test]
fn a_damaged_page_of_chunks_takes_only_its_file() {
    let sample = Sample::new();
    let content = {
        let store = sample.store();
        let tree = store.tree(&reference("orders@g1:files")).unwrap();
        store.content(&tree.members[0], b"large").unwrap()
    };
    let Chunks::List(list) = content.chunks else { panic!("a large file has a list") };
    let backend = damaged_page(&sample, &list.top.unwrap().digest);
    for scope in SCOPES {
        let report = verify(&open(backend.clone()), scope);
        assert!(!of_kind(&report, DamageKind::Page).is_empty(), "{:?}", report.damaged);
        let paths = touched(&report);
        assert!(paths.contains(&"orders@g1:files/large".to_owned()), "{paths:?}");
        assert!(paths.iter().all(|path| path.contains(":files/large")), "{paths:?}");
    }
    for generation in [1, 2] {
        let lost = sample.restore(&open(backend.clone()), generation);
        assert_eq!(Vec::from_iter(lost), ["files/large"]);
    }
}

#[test]
fn a_damaged_or_missing_manifest_of_an_artifact_takes_only_that_member_of_that_generation() {
    let sample = Sample::new();
    let id = sample.store().tree(&reference("orders@g1:other")).unwrap().members[0].id;
    let key = Key::new(format!("manifests/{id}")).unwrap();
    let damages: [fn(&MemoryBackend, &Key); 3] = [
        |backend, key| flip(backend, key, 40),
        lose,
        |backend, key| change(backend, key, Vec::clear),
    ];
    for damage in damages {
        let backend = sample.copy();
        damage(&backend, &key);
        for scope in SCOPES {
            let report = verify(&open(backend.clone()), scope);
            assert_finds(&report, DamageKind::Manifest, &["orders@g1:other"]);
            assert_eq!(report.damaged[0].object, key.as_str());
        }
        let lost = sample.restore(&open(backend.clone()), 1);
        assert!(lost.iter().all(|path| path.starts_with("other")), "{lost:?}");
        assert!(sample.restore(&open(backend), 2).is_empty());
    }
}

#[test]
fn a_damaged_or_missing_manifest_of_a_generation_takes_only_that_generation() {
    let sample = Sample::new();
    let id = sample.store().resolve(&reference("orders@g1")).unwrap().manifest;
    let key = Key::new(format!("manifests/{id}")).unwrap();
    let damages: [fn(&MemoryBackend, &Key); 2] = [|backend, key| flip(backend, key, 40), lose];
    for damage in damages {
        let backend = sample.copy();
        damage(&backend, &key);
        for scope in SCOPES {
            let report = verify(&open(backend.clone()), scope);
            assert_finds(&report, DamageKind::Manifest, &["orders@g1:"]);
        }
        let store = open(backend);
        let error = store.tree(&reference("orders@g1")).unwrap_err();
        assert!(error.is_damage(), "{error}");
        assert!(sample.restore(&store, 2).is_empty());
        // The next backup goes by what can be read.
        let report =
            crate::support::backup_much_later(&store, &sample.dir.path().join("source/files"));
        assert_eq!((report.stats.packs_written, report.stats.bytes_read), (0, 0));
    }
}

#[test]
fn a_damaged_commit_record_hides_only_its_own_generation() {
    let sample = Sample::new();
    let damages: [fn(&MemoryBackend, &Key); 3] = [
        |backend, key| flip(backend, key, 30),
        lose,
        |backend, key| change(backend, key, Vec::clear),
    ];
    for damage in damages {
        let backend = sample.copy();
        damage(&backend, &log::key(strongroom::format::record::CommitNumber(1)));
        for scope in SCOPES {
            let report = verify(&open(backend.clone()), scope);
            assert_finds(&report, DamageKind::Commit, &["orders@g1:"]);
        }
        let store = open(backend);
        assert!(store.tree(&reference("orders@g1")).is_err());
        assert!(sample.restore(&store, 2).is_empty());
        let next = crate::support::backup(&store, &sample.dir.path().join("source/files"));
        assert_eq!(next.generation.unwrap().number.0, 3, "no number is given twice");
    }
}

#[test]
fn a_damaged_last_commit_record_is_found_and_its_number_is_not_given_again() {
    let sample = Sample::new();
    let backend = sample.copy();
    flip(&backend, &log::key(strongroom::format::record::CommitNumber(2)), 60);
    let report = verify(&open(backend.clone()), Scope::Structure);
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(report.damaged[0].kind, DamageKind::Commit);
    assert!(touched(&report)[0].starts_with("orders@g2:"), "{:?}", touched(&report));
    let store = open(backend);
    assert!(sample.restore(&store, 1).is_empty());
    let next = crate::support::backup(&store, &sample.dir.path().join("source/files"));
    assert_eq!(next.generation.unwrap().number.0, 3);
}

#[test]
fn a_damaged_header_is_said_to_be_damaged() {
    let sample = Sample::new();
    let key = Key::new("store").unwrap();
    let len = object(&sample.backend, &key).len();
    for at in 0..len {
        let backend = sample.copy();
        flip(&backend, &key, at);
        let error = Store::open(std::sync::Arc::new(backend)).unwrap_err();
        assert!(error.is_damage(), "byte {at}: {error}");
    }
}

#[test]
fn a_hard_link_to_a_damaged_file_is_reported_as_damaged_too() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("first", noise(1, 3000));
    tree.hard_link("second", "first");
    tree.file("whole", noise(2, 3000));
    let (backend, store) = memory_store();
    crate::support::backup(&store, tree.path());
    let chunk = Digest::of(&noise(1, 3000));
    let place = store.index().unwrap().snapshot().find(&chunk).unwrap();
    flip(&backend, &key_of(&place), place.record.offset as usize);
    let target = fast_temp();
    let report = restore(&open(backend), DEPLOYMENT, target.path());
    let mut failed: Vec<_> = report.failures.iter().map(|f| (f.path.as_str(), f.damage)).collect();
    failed.sort_unstable();
    assert_eq!(failed, [("files/first", true), ("files/second", true)]);
    assert_absent(&target.path().join(MEMBER), &["first", "second"]);
    assert_eq!(std::fs::read(target.path().join("files/whole")).unwrap().len(), 3000);
}

#[track_caller]
fn assert_absent(root: &Path, names: &[&str]) {
    for name in names {
        assert!(!root.join(name).exists(), "{name}");
    }
}

#[test]
fn verifying_a_part_looks_at_that_part() {
    let sample = Sample::new();
    let backend = sample.copy();
    let place = sample.place_of("orders@g2:files", "new");
    flip(&backend, &key_of(&place), place.record.offset as usize);
    let store = open(backend);
    let of =
        |text: &str| store.verify(Scope::Full, &[reference(text)], &Progress::default()).unwrap();
    assert!(of("orders@g1").is_clean());
    assert_eq!(touched(&of("orders@g2")), ["orders@g2:files/new"]);
}
