//! Several writers at once, and writers that must wait.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use strongroom::backend::{Backend, Key, LocalBackend, LockMode, MemoryBackend};
use strongroom::format::removal::List;
use strongroom::lease::STORE_LOCK;
use strongroom::store::{
    Error, GenerationName, GenerationNumber, IngestOptions, Progress, PruneOptions, Scope, Store,
};

use crate::support::{
    Child, DEPLOYMENT, MEMBER, TestBackend, Tree, When, assert_clean, assert_restores, backup,
    create, memory_store, noise, object, open, source, temp, text, try_backup, verify,
};

/// Each writer has its own source, with much in common with the others'.
fn fill(tree: &Tree, writer: u64) {
    for number in 0..30 {
        tree.file(format!("common/{number}"), text(number, 2000));
        tree.file(format!("own/{number}"), text(1000 * writer + number, 2000));
    }
    tree.file("common/large", noise(1, 2 << 20));
    tree.file("own/large", noise(100 + writer, 2 << 20));
}

/// Fails unless the log is whole and every generation restores to its writer's source.
fn assert_all_committed(store: &Store, trees: &[Tree], deployment: impl Fn(usize) -> String) {
    let log = store.log().unwrap();
    assert_eq!(log.damaged(), []);
    let generations = log.generations();
    let numbers: Vec<_> = generations.iter().map(|g| g.commit.0).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_clean(store);
    for (writer, tree) in trees.iter().enumerate() {
        let name = deployment(writer);
        let own = generations.iter().filter(|g| g.deployment == name);
        let sources: Vec<_> = own
            .filter(|generation| {
                let manifest = store.generation(&generation.manifest).unwrap();
                let artifact = store.artifact(&manifest.members[0].artifact).unwrap();
                artifact.source == tree.path().as_os_str().as_encoded_bytes()
            })
            .collect();
        assert!(!sources.is_empty(), "writer {writer} committed");
        for generation in sources {
            assert_restores(store, &format!("{name}@{}", generation.number), tree.path());
        }
    }
}

/// Runs writers in threads, each with a store value of its own over the same backend.
fn run_writers(same_deployment: bool, backend: impl Fn() -> Arc<dyn Backend> + Sync) {
    const WRITERS: usize = 4;
    const ROUNDS: usize = 3;
    let dir = temp();
    let deployment = |writer| {
        if same_deployment { DEPLOYMENT.to_owned() } else { format!("deployment-{writer}") }
    };
    let trees: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let tree = Tree::create(dir.path().join(format!("source-{writer}")));
            fill(&tree, writer as u64);
            tree
        })
        .collect();
    let barrier = Barrier::new(WRITERS);
    std::thread::scope(|scope| {
        for (writer, tree) in trees.iter().enumerate() {
            let (barrier, backend, name) = (&barrier, &backend, deployment(writer));
            scope.spawn(move || {
                let store = Store::open(backend()).unwrap();
                for _ in 0..ROUNDS {
                    barrier.wait();
                    let sources = [source(MEMBER, tree.path())];
                    let (options, progress) = (IngestOptions::default(), Progress::default());
                    let report = store.backup(&name, &sources, &options, &progress).unwrap();
                    assert!(report.failed.is_empty() && report.generation.is_some());
                }
            });
        }
    });
    let store = Store::open(backend()).unwrap();
    assert_eq!(store.log().unwrap().generations().len(), WRITERS * ROUNDS);
    assert_all_committed(&store, &trees, deployment);
}

#[test]
fn writers_of_one_deployment_in_threads_all_commit() {
    let backend = MemoryBackend::new();
    create(backend.clone());
    run_writers(true, || Arc::new(backend.clone()));
}

#[test]
fn writers_of_different_deployments_in_threads_all_commit() {
    let backend = MemoryBackend::new();
    create(backend.clone());
    run_writers(false, || Arc::new(backend.clone()));
}

#[test]
fn writers_in_threads_on_a_directory_all_commit() {
    let dir = temp();
    let place = dir.path().join("store");
    create(LocalBackend::create(&place).unwrap());
    run_writers(true, || Arc::new(LocalBackend::open(&place).unwrap()));
}

#[test]
fn one_open_store_serves_several_writers_at_once() {
    let dir = temp();
    let (_, store) = memory_store();
    let trees: Vec<_> = (0..3)
        .map(|writer| {
            let tree = Tree::create(dir.path().join(format!("source-{writer}")));
            fill(&tree, writer);
            tree
        })
        .collect();
    std::thread::scope(|scope| {
        for tree in &trees {
            scope.spawn(|| (0..3).for_each(|_| drop(backup(&store, tree.path()))));
        }
    });
    assert_all_committed(&store, &trees, |_| DEPLOYMENT.to_owned());
}

/// A writer's part for `child.rs`: the place of the store, the deployment and the source.
pub fn play(place: &Path, deployment: &str, source_path: &Path) {
    let store = open(LocalBackend::open(place).unwrap());
    for _ in 0..3 {
        let sources = [source(MEMBER, source_path)];
        let (options, progress) = (IngestOptions::default(), Progress::default());
        let report = store.backup(deployment, &sources, &options, &progress).unwrap();
        assert!(report.generation.is_some());
    }
}

#[test]
fn writers_in_processes_all_commit() {
    for deployments in [["same", "same"], ["one", "two"]] {
        let dir = temp();
        let place = dir.path().join("store");
        create(LocalBackend::create(&place).unwrap());
        let trees: Vec<_> = (0..2)
            .map(|writer| {
                let tree = Tree::create(dir.path().join(format!("source-{writer}")));
                fill(&tree, writer);
                tree
            })
            .collect();
        let children: Vec<_> = trees
            .iter()
            .zip(deployments)
            .map(|(tree, deployment)| {
                let arguments: [&OsStr; 3] =
                    [place.as_ref(), deployment.as_ref(), tree.path().as_ref()];
                Child::new("writer", &arguments).start()
            })
            .collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        let store = open(LocalBackend::open(&place).unwrap());
        assert_eq!(store.log().unwrap().generations().len(), 6);
        assert_all_committed(&store, &trees, |writer| deployments[writer].to_owned());
    }
}

#[test]
fn a_store_that_somebody_holds_alone_is_not_written_to_and_is_read() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("file", b"1");
    let place = dir.path().join("store");
    create(LocalBackend::create(&place).unwrap());
    let memory = MemoryBackend::new();
    create(memory.clone());
    let backends: [Arc<dyn Backend>; 2] =
        [Arc::new(memory), Arc::new(LocalBackend::open(&place).unwrap())];
    for backend in backends {
        let store = Store::open(Arc::clone(&backend)).unwrap();
        backup(&store, tree.path());
        let lock = backend.try_lock(STORE_LOCK, LockMode::Exclusive).unwrap().unwrap();
        let error = try_backup(&store, tree.path()).unwrap_err();
        assert!(matches!(error, Error::Lease(strongroom::lease::Error::Held)), "{error:?}");
        assert!(error.to_string().contains("locked exclusively"), "{error}");
        assert_restores(&store, DEPLOYMENT, tree.path());
        assert_clean(&store);
        drop(lock);
        backup(&store, tree.path());
        // While artifacts are staged nobody gets the store alone.
        let (options, progress) = (IngestOptions::default(), Progress::default());
        let staged =
            store.ingest(&[source(MEMBER, tree.path())], &[None], &options, &progress).unwrap();
        assert!(backend.try_lock(STORE_LOCK, LockMode::Exclusive).unwrap().is_none());
        drop(staged);
        assert!(backend.try_lock(STORE_LOCK, LockMode::Exclusive).unwrap().is_some());
    }
}

/// The answer to a commit is lost, though the record is there: repeating it makes another
/// generation of the same content, and both are whole.
#[test]
fn a_commit_whose_answer_was_lost_can_be_repeated() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("file", noise(1, 1000));
    let backend = TestBackend::new(MemoryBackend::new());
    let store = create(backend.clone());
    // Packs, pages, index, two manifests, and the record.
    backend.fail_put(6, rustix::io::Errno::IO, When::After);
    assert!(try_backup(&store, tree.path()).is_err());
    assert!(backend.has_failed());
    let generations = store.log().unwrap().generations().len();
    assert_eq!(generations, 1, "the record was written");
    let report = backup(&store, tree.path());
    assert_eq!(report.generation.unwrap().number.0, 2);
    assert_eq!(report.stats.packs_written, 0);
    assert_clean(&store);
}

/// Packs that a backup adds while a verification is at work are not in its index: their deltas were
/// reported as damaged.
#[test]
fn a_backup_in_the_middle_of_a_verification_is_no_damage() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let mut image = noise(1, 1 << 20);
    tree.file("stable_memory.bin", &image);
    let memory = MemoryBackend::new();
    backup(&create(memory.clone()), tree.path());
    let deltas = Arc::new(AtomicU64::new(0));
    let hook = {
        let (tree, memory, deltas) = (tree.path().to_owned(), memory.clone(), Arc::clone(&deltas));
        image[300_000] ^= 1;
        let is_done = AtomicBool::new(false);
        move |key: &Key| {
            // Index and packs were looked at before.
            if key.as_str().starts_with("manifests/") && !is_done.swap(true, Ordering::SeqCst) {
                std::fs::write(tree.join("stable_memory.bin"), &image).unwrap();
                let report = backup(&open(memory.clone()), &tree);
                deltas.store(report.stats.chunks_delta, Ordering::SeqCst);
            }
        }
    };
    let backend = TestBackend::new(memory.clone()).before_read(hook);
    let report = verify(&open(backend), Scope::Full);
    assert_ne!(deltas.load(Ordering::SeqCst), 0, "the backup has stored deltas meanwhile");
    assert!(report.is_clean(), "{:?} {:?}", report.damaged, report.unreadable);
    assert_clean(&open(memory));
}

/// The index that a verification reads may name packs that prune is about to delete, since it was
/// interrupted or is at work: deltas in them were looked at, and were "no such object".
#[test]
fn packs_that_are_removed_in_the_middle_of_a_verification_are_no_damage() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    let mut image = noise(1, 1 << 20);
    let memory = MemoryBackend::new();
    let failing = TestBackend::new(memory.clone());
    let switch = failing.clone();
    // Three generations, one forgotten, what it needed condemned, and collected.
    let store = create(failing.after_put(move |key| {
        if key.as_str() == "log/00000000000000000006" {
            switch.fail_all_puts(Some(rustix::io::Errno::IO));
        }
    }));
    for bit in [1, 1, 0] {
        tree.file("stable_memory.bin", &image);
        backup(&store, tree.path());
        image[300_000] ^= bit;
    }
    let forgotten =
        GenerationName { deployment: DEPLOYMENT.into(), generation: GenerationNumber(2) };
    let options =
        PruneOptions { forget: vec![forgotten], grace_nanos: 0, ..PruneOptions::default() };
    let plan = store.plan_prune(&options, &Progress::default()).unwrap();
    assert!(plan.condemned.packs > 1, "a pack of chunks and one of pages: {plan:?}");
    assert!(store.prune(&plan, &Progress::default()).is_err());

    let log = open(memory.clone()).log().unwrap();
    let list = log.state().collecting().next().expect("a collection is open").list;
    let list = object(&memory, &Key::new(format!("removals/{list}")).unwrap());
    let list = List::decode(&list).unwrap();
    assert_ne!(list.packs, []);
    let hook = {
        let memory = memory.clone();
        move |key: &Key| {
            if key.as_str().starts_with("packs/") {
                for id in &list.packs {
                    let _ = memory.remove_raw(&Key::new(format!("packs/{id}")).unwrap());
                }
            }
        }
    };
    let report = verify(&open(TestBackend::new(memory).before_read(hook)), Scope::Full);
    assert!(report.is_clean(), "{:?} {:?}", report.damaged, report.unreadable);
}
