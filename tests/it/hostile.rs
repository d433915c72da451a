//! Manifests from somebody who means harm: nothing is written outside of the target, nothing
//! panics, memory stays bounded, and what is wrong is reported.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use strongroom::backend::MemoryBackend;
use strongroom::digest::{Checksums, Digest};
use strongroom::format::pack::Content as PackContent;
use strongroom::format::page::{ListRef, PageRef};
use strongroom::fstree::{Kind, Time, Xattr, compare_paths};
use strongroom::store::{
    ChunkRef, Chunks, Content, Entry, Node, Progress, RestoreOptions, RestoreReport, Scope, Store,
};
use strongroom::values::Chunking;

use crate::support::{
    Child, DEPLOYMENT, Forge, Tree, backup_much_later, cat, dir, entry_of, fast_temp, file,
    memory_store, reference, snapshot, symlink, temp, touched, try_backup, verify,
};

/// A directory with a target inside, and things around it that must stay as they are.
struct Arena {
    dir: tempfile::TempDir,
}

impl Arena {
    fn new() -> Self {
        let dir = fast_temp();
        let tree = Tree::at(dir.path());
        tree.file("victim", b"untouched");
        tree.dir("around");
        tree.dir("target");
        Self { dir }
    }

    /// Restores everything, in both ways, and fails if anything around the target changed.
    fn restore(&self, store: &Store) -> Vec<RestoreReport> {
        let around = || {
            let mut all = snapshot(self.dir.path());
            all.retain(|path, _| !path.starts_with(b"target") && !path.is_empty());
            all
        };
        let before = around();
        let mut reports = Vec::new();
        for overwrite in [false, true] {
            let options =
                RestoreOptions { overwrite, special_files: true, ..RestoreOptions::default() };
            let to = self.dir.path().join("target");
            let Ok(tree) = store.tree(&reference(DEPLOYMENT)) else { continue };
            if let Ok(report) = store.restore(&tree, &to, &options, &Progress::default()) {
                reports.push(report);
            }
            assert!(around() == before, "something outside of the target changed");
        }
        reports
    }
}

/// Does everything with a forged generation that a user may do.
fn use_it(store: &Store) -> Vec<RestoreReport> {
    let arena = Arena::new();
    for scope in [Scope::Structure, Scope::Full] {
        let _ = store.verify(scope, &[], &Progress::default());
    }
    let _ = store.stats(&[], &Progress::default());
    for path in ["", "a", "a/b", "../victim", "link/x", "/etc/passwd"] {
        let _ = cat(store, DEPLOYMENT, path.as_bytes());
    }
    if let Ok(tree) = store.tree(&reference(DEPLOYMENT)) {
        let _ = store.diff(&tree, &tree, &Progress::default(), &mut |_| {});
    }
    let source = temp();
    Tree::at(source.path()).file("a", b"1");
    let _ = try_backup(store, source.path());
    let forged = store.tree(&reference("orders@g1"));
    assert!(forged.is_ok() || forged.is_err_and(|error| error.is_damage()));
    arena.restore(store)
}

/// Makes a store whose newest generation has these entries, sorted.
fn forged(entries: impl FnOnce(&Forge<'_>) -> Vec<Entry>) -> (MemoryBackend, Store) {
    forged_unsorted(|forge| {
        let mut entries = entries(forge);
        entries.sort_by(|a, b| compare_paths(&a.path, &b.path));
        entries
    })
}

/// The same in the order given.
fn forged_unsorted(entries: impl FnOnce(&Forge<'_>) -> Vec<Entry>) -> (MemoryBackend, Store) {
    let (backend, store) = memory_store();
    let forge = Forge { backend: &backend, store: &store };
    let entries = entries(&forge);
    forge.commit(forge.entries(&entries));
    (backend, store)
}

/// Restores a forged generation to a new place and returns the report and what came of it.
fn restored(store: &Store) -> (RestoreReport, BTreeSet<String>) {
    let arena = Arena::new();
    let report = arena.restore(store).remove(0);
    let seen = snapshot(&arena.dir.path().join("target"));
    let names = seen.keys().map(|path| String::from_utf8_lossy(path).into_owned());
    (report, names.filter(|name| !name.is_empty()).collect())
}

#[test]
fn paths_that_lead_out_are_refused_with_their_page() {
    let long = "x".repeat(256);
    let deep = "d/".repeat(40_000) + "d";
    let paths: [&[u8]; 12] = [
        b"..",
        b"../victim",
        b"a/../../victim",
        b"/etc/victim",
        b"a//b",
        b"a/",
        b".",
        b"a/./b",
        b"a\0b",
        b"\0",
        long.as_bytes(),
        deep.as_bytes(),
    ];
    for path in paths {
        let (_, store) = forged(|forge| {
            let chunk = forge.chunk(b"overwritten");
            vec![dir(""), file(path, chunk), dir("zzz")]
        });
        assert!(
            !verify(&store, Scope::Structure).is_clean(),
            "{:?}",
            path.escape_ascii().to_string()
        );
        let (report, names) = restored(&store);
        assert!(report.failures.iter().all(|failure| failure.damage), "{:?}", report.failures);
        assert_eq!((report.files, names.len()), (0, 0), "{names:?}");
        use_it(&store);
        let (_, store) = forged(|_| vec![dir(""), entry_of("a", Node::HardLink(path.to_vec()))]);
        assert!(!verify(&store, Scope::Structure).is_clean());
        use_it(&store);
    }
}

#[test]
fn nothing_is_written_through_a_symlink_of_the_same_backup() {
    for leads in ["..", "/", "../..", "../../around", "."] {
        let (_, store) = forged(|forge| {
            let chunk = forge.chunk(b"overwritten");
            let large = large_file("link/large", forge, 40);
            let pipe = entry_of("link/pipe", Node::Other(Kind::Fifo));
            vec![
                dir(""),
                symlink("link", leads),
                file("link/victim", chunk),
                large,
                dir("link/made"),
                symlink("link/second", "/etc"),
                pipe,
                entry_of("link/linked", Node::HardLink(b"plain".to_vec())),
                file("plain", chunk),
            ]
        });
        let (report, names) = restored(&store);
        assert_eq!(Vec::from_iter(names), ["files", "files/link", "files/plain"], "{leads}");
        assert_eq!(report.failures.len(), 6, "{:?}", report.failures);
        use_it(&store);
    }
}

/// A file of `chunks` pieces of 64 KiB.
fn large_file(path: &str, forge: &Forge<'_>, chunks: usize) -> Entry {
    let piece = vec![7; 1 << 16];
    let chunk = forge.chunk(&piece);
    let list = ListRef { levels: 1, top: Some(forge.page(0, &vec![chunk; chunks])) };
    let content = Content {
        bytes: (chunks << 16) as u64,
        chunking: Chunking::Fixed { chunk_bytes: 1 << 16 },
        checksums: Checksums::of(&piece.repeat(chunks), false),
        chunks: Chunks::List(list),
    };
    entry_of(path, Node::File(content))
}

#[test]
fn a_file_with_entries_below_it_is_a_file() {
    let (_, store) = forged(|forge| {
        let chunk = forge.chunk(b"1");
        vec![dir(""), file("a", chunk), file("a/b", chunk), dir("a/c")]
    });
    let (report, names) = restored(&store);
    assert_eq!(Vec::from_iter(names), ["files", "files/a"]);
    assert_eq!(report.failures.len(), 2);
    use_it(&store);

    // Also where the member itself is one.
    let (_, store) = forged(|forge| {
        let chunk = forge.chunk(b"1");
        vec![file("", chunk), file("a", chunk)]
    });
    let (report, names) = restored(&store);
    assert_eq!((names.len(), report.failures.len()), (1, 1));
    use_it(&store);
}

#[test]
fn entries_out_of_order_or_twice_are_reported() {
    let cases: [&[&str]; 4] =
        [&["", "a", "a"], &["", "b", "a"], &["", "", ""], &["", "a-b", "a/b"]];
    for paths in cases {
        let (_, store) = forged_unsorted(|forge| {
            let chunk = forge.chunk(b"1");
            let entry = |path: &&str| if path.is_empty() { dir("") } else { file(path, chunk) };
            paths.iter().map(entry).collect()
        });
        let report = verify(&store, Scope::Structure);
        assert!(!report.is_clean(), "{paths:?} pass as a list of entries");
        let (report, _) = restored(&store);
        assert!(!report.failures.is_empty(), "{paths:?}");
        use_it(&store);
    }
}

#[test]
fn hard_links_to_nothing_to_themselves_and_to_directories_fail_alone() {
    let (_, store) = forged(|forge| {
        let chunk = forge.chunk(b"1");
        let link = |path: &str, to: &str| entry_of(path, Node::HardLink(to.as_bytes().to_vec()));
        vec![
            dir(""),
            file("1", chunk),
            link("2 itself", "2 itself"),
            link("3 nothing", "nothing"),
            link("4 forward", "5 back"),
            link("5 back", "4 forward"),
            link("6 directory", "7"),
            dir("7"),
            link("8 root", ""),
            link("9 good", "1"),
        ]
    });
    let (report, names) = restored(&store);
    assert_eq!(Vec::from_iter(names), ["files", "files/1", "files/7", "files/9 good"]);
    assert_eq!(report.failures.len(), 6, "{:?}", report.failures);
    use_it(&store);
    for path in ["2 itself", "3 nothing", "4 forward", "6 directory", "8 root"] {
        let tree = store.tree(&reference("orders@g1")).unwrap();
        assert!(store.content(&tree.members[0], path.as_bytes()).is_err(), "{path}");
    }
}

#[test]
fn lengths_that_lie_are_found() {
    let liars: [fn(&Forge<'_>) -> Content; 6] = [
        |forge| content(forge, 1 << 62, vec![]),
        |forge| content(forge, 10, vec![ChunkRef { bytes: 9, ..forge.chunk(b"123456789") }]),
        |forge| content(forge, u64::MAX, vec![ChunkRef::hole(u64::MAX), ChunkRef::hole(5)]),
        // A sum that is right, over a chunk that is longer or shorter than that.
        |forge| content(forge, 5, vec![ChunkRef { bytes: 5, ..forge.chunk(b"123456789") }]),
        |forge| content(forge, 90, vec![ChunkRef { bytes: 90, ..forge.chunk(b"123456789") }]),
        |forge| content(forge, 2 << 20, vec![ChunkRef { bytes: 2 << 20, ..forge.chunk(b"1") }]),
    ];
    for (number, liar) in liars.into_iter().enumerate() {
        let (_, store) =
            forged(|forge| vec![dir(""), entry_of("liar", Node::File(liar(forge))), dir("zzz")]);
        let (report, names) = restored(&store);
        assert!(!report.failures.is_empty(), "{number}");
        assert!(!names.contains("files/liar"), "{number}");
        assert!(cat(&store, DEPLOYMENT, b"liar").is_err(), "{number}");
        let found = verify(&store, Scope::Structure);
        let touched = touched(&found);
        // What no true page could say spoils the page; the others lie about a chunk that is there.
        let is_plausible = matches!(number, 3 | 4);
        let spoilt = if is_plausible { "orders@g1:files/liar" } else { "orders@g1:files" };
        assert_eq!(touched, [spoilt], "{number}: {:?}", found.damaged);
        use_it(&store);
    }
}

fn content(_: &Forge<'_>, bytes: u64, chunks: Vec<ChunkRef>) -> Content {
    Content {
        bytes,
        chunking: Chunking::Whole,
        checksums: Checksums { blake3: Digest([1; 32]), sha256: None },
        chunks: Chunks::Inline(chunks),
    }
}

#[test]
fn a_checksum_that_does_not_fit_the_chunks_fails_the_file() {
    let (_, store) = forged(|forge| {
        let one = forge.chunk(b"one");
        let two = forge.chunk(b"two");
        let wrong = content(forge, 6, vec![two, one]);
        let mut large = large_file("wrong large", forge, 40);
        if let Node::File(content) = &mut large.node {
            content.checksums.blake3 = Digest([9; 32]);
        }
        vec![dir(""), file("good", one), entry_of("wrong", Node::File(wrong)), large]
    });
    let (report, names) = restored(&store);
    assert_eq!(Vec::from_iter(names), ["files", "files/good"]);
    assert!(report.failures.iter().all(|failure| failure.damage));
    assert_eq!(report.failures.len(), 2);
}

#[test]
fn attributes_that_cannot_be_fail_their_entry_or_their_page() {
    let odd: [fn(&mut Entry); 7] = [
        |entry| entry.mode = u32::MAX,
        |entry| entry.mtime.nanos = 2_000_000_000,
        |entry| entry.mtime = Time { secs: i64::MAX, nanos: 999_999_999 },
        |entry| entry.mtime = Time { secs: i64::MIN, nanos: 0 },
        |entry| entry.xattrs = vec![Xattr { name: vec![0; 10], value: vec![] }],
        |entry| entry.xattrs = vec![Xattr { name: b"user.x".to_vec(), value: vec![1; 70_000] }],
        |entry| (entry.uid, entry.gid) = (u32::MAX, u32::MAX),
    ];
    for change in odd {
        let (_, store) = forged(|forge| {
            let mut entry = file("odd", forge.chunk(b"1"));
            change(&mut entry);
            vec![dir(""), entry]
        });
        use_it(&store);
    }
    let targets: [&[u8]; 3] = [b"", b"a\0b", &[b'x'; 5000]];
    for target in targets {
        let (_, store) = forged(|_| vec![dir(""), symlink("odd", target)]);
        let (report, names) = restored(&store);
        assert_eq!((report.symlinks, report.failures.len()), (0, 1));
        assert!(!names.contains("files/odd"));
        use_it(&store);
    }
}

#[test]
fn devices_and_set_id_bits_do_not_come_from_a_backup_unasked() {
    let (_, store) = forged(|forge| {
        let mut shell = file("shell", forge.chunk(b"#!/bin/sh"));
        shell.mode = 0o6755;
        let device = Kind::BlockDevice { major: 8, minor: 0 };
        vec![dir(""), entry_of("disk", Node::Other(device)), shell]
    });
    let target = fast_temp();
    let report = crate::support::restore(&store, DEPLOYMENT, target.path());
    assert_eq!((report.specials, report.specials_skipped), (0, 1));
    let seen = snapshot(target.path());
    assert_eq!(seen[&b"files/shell"[..]].mode, 0o755);
    assert!(!seen.contains_key(&b"files/disk"[..]));
}

/// Pages that say they hold more than they do, and pages in other roles than their own.
#[test]
fn pages_that_lie_about_their_level_count_or_size_are_found() {
    let (backend, store) = memory_store();
    let forge = Forge { backend: &backend, store: &store };
    let entries = [dir(""), file("a", forge.chunk(b"1"))];
    let page = forge.page(0, &entries);
    let list = |levels, top: PageRef| ListRef { levels, top: Some(top) };
    let above = forge.page(1, std::slice::from_ref(&page));
    let lists = [
        list(2, page.clone()),
        list(16, page.clone()),
        list(1, above.clone()),
        list(1, PageRef { items: 3, ..page.clone() }),
        list(1, PageRef { bytes: 2, ..page.clone() }),
        list(2, PageRef { items: u64::MAX, ..above }),
        list(1, PageRef { digest: Digest([5; 32]), ..page.clone() }),
        list(1, PageRef { digest: forge.chunk(b"no page").digest, ..page }),
    ];
    for (number, list) in lists.into_iter().enumerate() {
        forge.commit(list);
        let what = format!("orders@g{}", number + 1);
        let tree = store.tree(&reference(&what)).unwrap();
        let report = store.verify(Scope::Structure, &[reference(&what)], &Progress::default());
        assert!(!report.unwrap().is_clean(), "{number}");
        let target = fast_temp();
        let options = RestoreOptions::default();
        let report = store.restore(&tree, target.path(), &options, &Progress::default()).unwrap();
        assert!(report.failures.iter().any(|failure| failure.damage), "{number}");
        assert!(!target.path().join("files/a").exists(), "{number}");
    }
}

/// Builds 15 levels of pages, each of which holds the one below `width` times: a few objects that
/// claim `width` to the power of 15 entries.
fn bomb(forge: &Forge<'_>, width: usize) -> ListRef {
    let entries: Vec<_> = (0..width).map(|number| dir(format!("{number:04}"))).collect();
    let mut page = forge.page(0, &entries);
    for level in 1..16 {
        let children = vec![page.clone(); width];
        let items = page.items.saturating_mul(width as u64);
        page = PageRef { items, ..forge.page(level, &children) };
    }
    ListRef { levels: 16, top: Some(page) }
}

/// In a process of its own, because what is measured is the process.
#[test]
fn a_bomb_of_pages_neither_hangs_nor_fills_the_memory() {
    let output = Child::new("bomb", &[]).run();
    assert!(output.status.success(), "{output:?}");
}

/// A part for `child.rs`.
pub fn play_bomb() {
    let before = peak_bytes();
    for width in [2, 50] {
        let (backend, store) = memory_store();
        let forge = Forge { backend: &backend, store: &store };
        forge.commit(bomb(&forge, width));
        let started = Instant::now();
        let report = verify(&store, Scope::Full);
        assert!(!report.is_clean());
        assert!(report.damaged.len() < 1000, "{} damages", report.damaged.len());
        let (report, names) = restored(&store);
        assert!(!report.failures.is_empty() && report.failures.len() < 1000);
        assert!(names.len() < 1000);
        let source = temp();
        let _ = try_backup(&store, source.path());
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    }
    let used = peak_bytes() - before;
    assert!(used < 200 << 20, "{used} bytes");
}

/// Returns the most memory that this process has had resident.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_previous_generation_from_somebody_else_does_not_get_into_the_next_backup() {
    let source = temp();
    let tree = Tree::at(source.path());
    tree.file("a", b"honest");
    let (_, store) = forged(|forge| {
        let chunk = forge.chunk(b"forged");
        vec![dir(""), file("../../a", chunk), file("a", chunk), file("z/../../b", chunk)]
    });
    backup_much_later(&store, tree.path());
    assert_eq!(cat(&store, DEPLOYMENT, b"a").unwrap(), b"honest");
    crate::support::assert_restores(&store, "orders@g2", tree.path());
}

#[test]
fn manifests_and_pages_of_noise_are_damage_and_nothing_else() {
    use crate::support::noise;
    for seed in 0..40 {
        let (backend, store) = memory_store();
        let forge = Forge { backend: &backend, store: &store };
        let bytes = noise(seed, 50 * seed as usize + 1);
        forge.pack(PackContent::Pages, &[&bytes]);
        let top = PageRef { digest: Digest::of(&bytes), items: 3, bytes: 5, key: Vec::new() };
        forge.commit(ListRef { levels: 1 + (seed % 3) as u8, top: Some(top) });
        let noise_manifest = forge.manifest(&bytes);
        forge.commit_members(&[("noise", noise_manifest)]);
        assert!(!verify(&store, Scope::Structure).is_clean());
        use_it(&store);
    }
}
