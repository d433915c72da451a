//! Input that is wrong: names, references, targets, and stores of another version.

use std::sync::Arc;

use strongroom::backend::{Key, LocalBackend, MemoryBackend};
use strongroom::format::header::{Access, Header, READ_VERSION, WRITE_VERSION};
use strongroom::store::{
    Error, IngestOptions, MemberSource, Progress, RestoreOptions, Scope, Store, StoreConfig,
};

use crate::support::{
    DEPLOYMENT, Tree, assert_clean, assert_restores, backup, copy_of, fast_temp, memory_store,
    noise, reference, restore_with, snapshot, source, temp, try_backup,
};

/// A store with one generation, and its source.
fn sample(tree: &Tree) -> (MemoryBackend, Store) {
    tree.file("dir/file", noise(1, 3000));
    tree.file("top", b"2");
    let (backend, store) = memory_store();
    backup(&store, tree.path());
    (backend, store)
}

#[test]
fn what_does_not_exist_is_named_with_what_does() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (_, store) = sample(&tree);
    let error = |text: &str| store.tree(&reference(text)).unwrap_err();
    match error("invoices") {
        Error::UnknownDeployment { name, known } => {
            assert_eq!((name.as_str(), &known[..]), ("invoices", &[DEPLOYMENT.to_owned()][..]));
        }
        other => panic!("{other:?}"),
    }
    match error("orders@g7") {
        Error::UnknownGeneration { generation, newest, .. } => {
            assert_eq!((generation.0, newest.0), (7, 1));
        }
        other => panic!("{other:?}"),
    }
    match error("orders:fils/top") {
        Error::UnknownMember { member, known, .. } => {
            assert_eq!((member.as_str(), &known[..]), ("fils", &["files".to_owned()][..]));
        }
        other => panic!("{other:?}"),
    }
    for path in ["nothing", "dir/nothing", "top/below a file", "dir/file/below", "di", "zzz"] {
        let tree = store.tree(&reference(&format!("orders:files/{path}"))).unwrap();
        let target = temp();
        let progress = Progress::default();
        let result = store.restore(&tree, target.path(), &RestoreOptions::default(), &progress);
        assert!(matches!(result, Err(Error::UnknownPath { .. })), "{path}: {result:?}");
        assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0, "{path}");
    }
    let tree = store.tree(&reference(DEPLOYMENT)).unwrap();
    let not_a_file = store.content(&tree.members[0], b"dir");
    assert!(matches!(not_a_file, Err(Error::NotAFile { .. })), "{not_a_file:?}");
    let unknown = store.verify(Scope::Full, &[reference("invoices")], &Progress::default());
    assert!(matches!(unknown, Err(Error::UnknownDeployment { .. })));
}

#[test]
fn names_and_members_that_cannot_be_are_refused_before_anything_is_read() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (_, store) = sample(&tree);
    let back_up = |deployment: &str, sources: &[MemberSource]| {
        store.backup(deployment, sources, &IngestOptions::default(), &Progress::default())
    };
    let long = "x".repeat(129);
    let bad = ["", ".", "..", ".x", "a/b", "a@b", "a:b", "a=b", "-a", "a\0b", "a\nb", &long];
    for name in bad {
        let result = back_up(name, &[source("files", tree.path())]);
        assert!(matches!(result, Err(Error::BadLabel(_))), "deployment {name:?}: {result:?}");
        let result = back_up(DEPLOYMENT, &[source(name, tree.path())]);
        assert!(matches!(result, Err(Error::BadLabel(_))), "member {name:?}: {result:?}");
    }
    let twice = [source("one", tree.path()), source("one", dir.path())];
    assert!(matches!(back_up(DEPLOYMENT, &twice), Err(Error::DuplicateMember { .. })));
    assert!(matches!(back_up(DEPLOYMENT, &[]), Err(Error::Members { count: 0 })));
    assert_eq!(store.log().unwrap().generations().len(), 1);
}

/// A store whose header asks for other versions.
fn with_header(backend: &MemoryBackend, change: impl FnOnce(&mut Header)) -> MemoryBackend {
    let copy = copy_of(backend);
    let mut header = *Store::open(Arc::new(copy.clone())).unwrap().header();
    change(&mut header);
    copy.replace(&Key::new("store").unwrap(), header.encode());
    copy
}

#[test]
fn a_store_that_only_newer_programs_may_write_to_is_read() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (backend, _) = sample(&tree);
    let changes: [fn(&mut Header); 2] = [
        |header| header.write_version = WRITE_VERSION + 1,
        |header| header.write_features = 1 << 40,
    ];
    for change in changes {
        let newer = with_header(&backend, change);
        let store = Store::open(Arc::new(newer.clone())).unwrap();
        assert_eq!(store.access(), Access::ReadOnly);
        assert_restores(&store, DEPLOYMENT, tree.path());
        assert_clean(&store);
        let objects = crate::support::keys(&newer, "").len();
        let error = try_backup(&store, tree.path()).unwrap_err();
        assert!(matches!(error, Error::NeedsNewer { .. }), "{error:?}");
        assert!(error.needs_newer() && !error.is_damage());
        assert_eq!(crate::support::keys(&newer, "").len(), objects);
        // Also when the index would have to be made anew.
        for key in crate::support::keys(&newer, "index") {
            crate::support::lose(&newer, &key);
        }
        let store = Store::open(Arc::new(newer.clone())).unwrap();
        assert_restores(&store, DEPLOYMENT, tree.path());
        assert_eq!(crate::support::keys(&newer, "index").len(), 0);
    }
}

#[test]
fn a_store_that_only_newer_programs_may_read_is_refused_as_such() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (backend, _) = sample(&tree);
    let changes: [fn(&mut Header); 2] =
        [|header| header.read_version = READ_VERSION + 1, |header| header.read_features = 1];
    for change in changes {
        let newer = with_header(&backend, change);
        let error = Store::open(Arc::new(newer)).unwrap_err();
        assert!(error.needs_newer() && !error.is_damage(), "{error}");
        assert!(error.to_string().contains("newer"), "{error}");
    }
}

#[test]
fn a_pack_of_another_store_is_not_used() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (ours, store) = sample(&tree);
    let (theirs, _) = sample(&Tree::create(dir.path().join("other")));
    let foreign = crate::support::keys(&theirs, "packs").pop().unwrap();
    ours.replace(&foreign, crate::support::object(&theirs, &foreign));
    let report = crate::support::verify(&store, Scope::Full);
    assert_eq!(report.damaged.len(), 1, "{:?}", report.damaged);
    assert!(report.damaged[0].reason.contains("belongs to store"), "{:?}", report.damaged);
    assert_restores(&store, DEPLOYMENT, tree.path());
}

#[test]
fn opening_what_is_no_store_says_so() {
    let empty: Arc<MemoryBackend> = Arc::default();
    assert!(matches!(Store::open(empty.clone()), Err(Error::NotAStore { .. })));
    let config = StoreConfig::default();
    Store::create(empty.clone(), config).unwrap();
    assert!(matches!(Store::create(empty, config), Err(Error::Exists { .. })));
    let dir = temp();
    std::fs::write(dir.path().join("file"), "1").unwrap();
    assert!(LocalBackend::open(dir.path().join("nothing")).is_err());
    assert!(LocalBackend::open(dir.path().join("file")).is_err());
    assert!(LocalBackend::create(dir.path()).is_err(), "the directory is in use");
    let local = LocalBackend::open(dir.path()).unwrap();
    assert!(matches!(Store::open(Arc::new(local)), Err(Error::NotAStore { .. })));
}

#[test]
fn a_target_that_is_in_use_is_left_alone() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (_, store) = sample(&tree);
    let opened = store.tree(&reference(DEPLOYMENT)).unwrap();
    let targets = Tree::create(dir.path().join("targets"));
    targets.file("a file", b"1");
    targets.file("in use/something", b"2");
    targets.symlink("link to use", "in use");
    let before = snapshot(targets.path());
    for (path, expected) in
        [("a file", "not a directory"), ("in use", "not empty"), ("link to use", "not empty")]
    {
        let to = targets.below(path);
        let options = RestoreOptions::default();
        let error = store.restore(&opened, &to, &options, &Progress::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{path}: {error}");
    }
    let below_a_file = targets.below("a file/below");
    let options = RestoreOptions::default();
    assert!(store.restore(&opened, &below_a_file, &options, &Progress::default()).is_err());
    crate::support::assert_same_snapshot(
        &before,
        &snapshot(targets.path()),
        crate::support::Compare::ALL,
    );
}

#[test]
fn symlinks_planted_in_the_target_lead_nothing_outside() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let (_, store) = sample(&tree);
    tree.file("dir/deeper/file", b"3");
    backup(&store, tree.path());
    let outside = Tree::create(dir.path().join("outside"));
    outside.file("victim", b"untouched");
    outside.dir("deeper");
    let before = snapshot(outside.path());
    for planted in ["files", "files/dir", "files/dir/deeper", "files/top"] {
        let target = fast_temp();
        let to = target.path().join(planted);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let leads =
            if planted == "files/top" { outside.below("victim") } else { outside.below("") };
        std::os::unix::fs::symlink(leads, &to).unwrap();
        let overwrite = RestoreOptions { overwrite: true, ..RestoreOptions::default() };
        let report = restore_with(&store, DEPLOYMENT, target.path(), &overwrite);
        let is_dir = planted != "files/top";
        assert_eq!(!report.failures.is_empty(), is_dir, "{planted}: {:?}", report.failures);
        assert!(report.failures.iter().all(|failure| !failure.damage));
        crate::support::assert_same_snapshot(
            &before,
            &snapshot(outside.path()),
            crate::support::Compare::ALL,
        );
    }
}
