//! Any sequence of changes, backups, restores and losses of the index, against a model in memory:
//! every committed generation comes back exactly.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use strongroom::backend::{Backend, MemoryBackend};
use strongroom::clock::UnixNanos;
use strongroom::store::{Error, IngestOptions, Progress, Scope, Store};
use tempfile::TempDir;

use crate::support::{
    DEPLOYMENT, MEMBER, Tree, create, fast_temp, keys, noise, open, restore, source, text, verify,
};

const FILE_BYTES_MAX: usize = 300 << 10;
const IMAGE: &str = "stable_memory.bin";
const IMAGE_BYTES_MAX: usize = 1 << 20;

/// Content that compresses, that does not, or that is a hole; the same seed gives the same bytes.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    kind: u8,
    seed: u64,
    len: usize,
}

impl Bytes {
    fn make(self) -> Vec<u8> {
        match self.kind {
            0 => noise(self.seed, self.len),
            1 => text(self.seed, self.len),
            _ => vec![0; self.len],
        }
    }
}

/// `which` chooses among the files that there are, `at` a place in thousandths of its length.
#[derive(Clone, Debug)]
enum Step {
    Create { name: u8, bytes: Bytes },
    Overwrite { which: u8, at: usize, bytes: Bytes },
    Append { which: u8, bytes: Bytes },
    Insert { which: u8, at: usize, bytes: Bytes },
    Truncate { which: u8, at: usize },
    Delete { which: u8 },
    Rename { which: u8, name: u8 },
    MakeDir { name: u8 },
    Symlink { name: u8, target: u8 },
    Image { seed: u64, len: usize },
    Pages { seed: u64, count: usize },
    Backup { deltas: bool, reread: bool, trusting: bool },
    Restore { which: u8 },
    LoseIndex,
    Reopen,
    Verify { full: bool },
}

fn bytes(len_max: usize) -> impl Strategy<Value = Bytes> {
    let len = prop_oneof![0..100usize, 0..20_000usize, 0..=len_max];
    (0..3u8, 0..12u64, len).prop_map(|(kind, seed, len)| Bytes { kind, seed, len })
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..=1000usize;
    let byte = any::<u8>();
    let (change, image) = (bytes(20_000).boxed(), 300_000..=IMAGE_BYTES_MAX);
    prop_oneof![
        4 => (byte, bytes(FILE_BYTES_MAX)).prop_map(|(name, bytes)| Step::Create { name, bytes }),
        2 => (byte, at.clone(), change.clone())
            .prop_map(|(which, at, bytes)| Step::Overwrite { which, at, bytes }),
        1 => (byte, change.clone()).prop_map(|(which, bytes)| Step::Append { which, bytes }),
        2 => (byte, at.clone(), change)
            .prop_map(|(which, at, bytes)| Step::Insert { which, at, bytes }),
        1 => (byte, at).prop_map(|(which, at)| Step::Truncate { which, at }),
        1 => byte.prop_map(|which| Step::Delete { which }),
        1 => (byte, byte).prop_map(|(which, name)| Step::Rename { which, name }),
        1 => byte.prop_map(|name| Step::MakeDir { name }),
        1 => (byte, byte).prop_map(|(name, target)| Step::Symlink { name, target }),
        1 => (0..4u64, image).prop_map(|(seed, len)| Step::Image { seed, len }),
        3 => (any::<u64>(), 1..8usize).prop_map(|(seed, count)| Step::Pages { seed, count }),
        5 => (prop::bool::weighted(0.8), prop::bool::weighted(0.2), any::<bool>())
            .prop_map(|(deltas, reread, trusting)| Step::Backup { deltas, reread, trusting }),
        2 => byte.prop_map(|which| Step::Restore { which }),
        1 => Just(Step::LoseIndex),
        1 => Just(Step::Reopen),
        1 => any::<bool>().prop_map(|full| Step::Verify { full }),
    ]
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    File(Vec<u8>),
    Dir,
    Symlink(String),
}

type Model = BTreeMap<String, Node>;

/// A store, a directory that is backed up, and what both should hold.
struct World {
    dir: TempDir,
    tree: Tree,
    backend: MemoryBackend,
    store: Store,
    now: Model,
    generations: Vec<Model>,
}

impl World {
    fn new() -> Self {
        let dir = fast_temp();
        let tree = Tree::create(dir.path().join("source"));
        let backend = MemoryBackend::new();
        let store = create(backend.clone());
        let (now, generations) = (Model::new(), Vec::new());
        Self { dir, tree, backend, store, now, generations }
    }

    /// Returns a name at the root or in one of the directories.
    fn name(&self, number: u8) -> String {
        let dirs: Vec<_> = self.now.iter().filter(|(_, node)| **node == Node::Dir).collect();
        match dirs.get(usize::from(number) % (dirs.len() + 2)) {
            Some((dir, _)) => format!("{dir}/{}", number % 16),
            None => format!("f{}", number % 16),
        }
    }

    fn file(&self, which: u8) -> Option<(String, Vec<u8>)> {
        let files = self.now.iter().filter_map(|(name, node)| match node {
            Node::File(bytes) => Some((name, bytes)),
            _ => None,
        });
        let files: Vec<_> = files.collect();
        let (name, bytes) = files.get(usize::from(which) % files.len().max(1))?;
        Some(((*name).clone(), (*bytes).clone()))
    }

    fn write(&mut self, name: String, bytes: Vec<u8>) {
        if matches!(self.now.get(&name), None | Some(Node::File(_))) {
            self.tree.file(&name, &bytes);
            self.tree.mode(&name, 0o644);
            self.now.insert(name, Node::File(bytes));
        }
    }

    /// Changes one of the files that there are.
    fn change(&mut self, which: u8, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some((name, mut bytes)) = self.file(which) {
            change(&mut bytes);
            bytes.truncate(if name == IMAGE { IMAGE_BYTES_MAX } else { FILE_BYTES_MAX });
            self.write(name, bytes);
        }
    }

    fn remove(&mut self, name: &str) {
        std::fs::remove_file(self.tree.below(name)).unwrap();
        self.now.remove(name);
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Create { name, bytes } => self.write(self.name(name), bytes.make()),
            Step::Overwrite { which, at, bytes } => self.change(which, |old| {
                let (at, new) = (old.len() * at / 1000, bytes.make());
                let end = (at + new.len()).min(old.len());
                old.splice(at..end, new);
            }),
            Step::Append { which, bytes } => self.change(which, |old| old.extend(bytes.make())),
            Step::Insert { which, at, bytes } => self.change(which, |old| {
                let at = old.len() * at / 1000;
                old.splice(at..at, bytes.make());
            }),
            Step::Truncate { which, at } => {
                self.change(which, |old| old.truncate(old.len() * at / 1000));
            }
            Step::Image { seed, len } => self.write(IMAGE.to_owned(), noise(seed, len)),
            Step::Pages { seed, count } => self.edit_pages(seed, count),
            Step::Delete { which } => {
                if let Some((name, _)) = self.file(which) {
                    self.remove(&name);
                }
            }
            Step::Rename { which, name } => self.rename(which, self.name(name)),
            Step::MakeDir { name } => {
                let name = format!("d{}", name % 4);
                self.tree.dir(&name);
                self.now.insert(name, Node::Dir);
            }
            Step::Symlink { name, target } => {
                let (name, target) = (self.name(name), format!("../{target}"));
                if !self.now.contains_key(&name) {
                    self.tree.symlink(&name, &target);
                    self.now.insert(name, Node::Symlink(target));
                }
            }
            Step::Backup { deltas, reread, trusting } => self.backup(deltas, reread, trusting)?,
            Step::Restore { which } if !self.generations.is_empty() => {
                self.check(usize::from(which) % self.generations.len())?;
            }
            Step::Restore { .. } => {}
            Step::LoseIndex => self.lose_index(),
            Step::Reopen => self.store = open(self.backend.clone()),
            Step::Verify { full } => self.verify(full)?,
        }
        Ok(())
    }

    fn edit_pages(&mut self, seed: u64, count: usize) {
        let Some(Node::File(mut bytes)) = self.now.get(IMAGE).cloned() else { return };
        for number in 0..count as u64 {
            let seed = seed.wrapping_add(number);
            let at = (seed as usize % bytes.len().max(1)) & !4095;
            let end = (at + 300).min(bytes.len());
            bytes[at..end].copy_from_slice(&noise(seed, end - at));
        }
        self.write(IMAGE.to_owned(), bytes);
    }

    fn rename(&mut self, which: u8, to: String) {
        let Some((from, bytes)) = self.file(which) else { return };
        if matches!(self.now.get(&to), None | Some(Node::File(_))) {
            std::fs::rename(self.tree.below(&from), self.tree.below(&to)).unwrap();
            self.now.remove(&from);
            self.now.insert(to, Node::File(bytes));
        }
    }

    /// Backs up, as if the generation before had been long ago if `trusting`: then files that look
    /// unchanged are not read.
    fn backup(&mut self, deltas: bool, reread: bool, trusting: bool) -> Result<(), TestCaseError> {
        let options = IngestOptions { deltas, reread, ..IngestOptions::default() };
        let sources = [source(MEMBER, self.tree.path())];
        let failed = |error: Error| TestCaseError::fail(format!("backup: {error}"));
        let mut previous = self.store.previous_artifacts(DEPLOYMENT, &sources).map_err(failed)?;
        if trusting {
            previous.iter_mut().flatten().for_each(|found| found.started = UnixNanos(i64::MAX));
        }
        let staged = self.store.ingest(&sources, &previous, &options, &Progress::default());
        let verified = staged.and_then(|staged| staged.verify()).map_err(failed)?;
        let report = self.store.commit(DEPLOYMENT, verified.promote().map_err(failed)?);
        let report = report.map_err(failed)?;
        prop_assert!(report.failed.is_empty(), "{:?}", report.failed);
        prop_assert!(deltas || report.stats.chunks_delta == 0);
        self.generations.push(self.now.clone());
        // A change within one tick of the file system's clock would leave no trace.
        std::thread::sleep(std::time::Duration::from_millis(11));
        Ok(())
    }

    /// Somebody removes the index; a store that has it open does not notice.
    fn lose_index(&mut self) {
        for key in keys(&self.backend, "index") {
            self.backend.delete(&key).unwrap();
        }
        self.store = open(self.backend.clone());
    }

    fn verify(&self, full: bool) -> Result<(), TestCaseError> {
        let report = verify(&self.store, if full { Scope::Full } else { Scope::Structure });
        prop_assert!(report.is_clean(), "{:?} {:?}", report.damaged, report.unreadable);
        Ok(())
    }

    fn check(&self, number: usize) -> Result<(), TestCaseError> {
        let name = format!("{DEPLOYMENT}@g{}", number + 1);
        let to = tempfile::tempdir_in(self.dir.path()).unwrap();
        let report = restore(&self.store, &name, to.path());
        prop_assert_eq!(&report.failures, &[], "{}", name);
        prop_assert_eq!(&report.warnings, &<[String; 0]>::default(), "{}", name);
        let mut found = Model::new();
        look(&to.path().join(MEMBER), "", &mut found);
        let expected = &self.generations[number];
        let paths = |model: &Model| model.keys().cloned().collect::<Vec<_>>();
        prop_assert_eq!(paths(&found), paths(expected), "{}", name);
        for (path, node) in expected {
            prop_assert!(found[path] == *node, "{}: {}", name, path);
        }
        Ok(())
    }
}

fn look(dir: &Path, prefix: &str, model: &mut Model) {
    for item in std::fs::read_dir(dir).unwrap() {
        let path = item.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
        let stat = path.symlink_metadata().unwrap();
        let node = if stat.is_symlink() {
            Node::Symlink(std::fs::read_link(&path).unwrap().to_str().unwrap().to_owned())
        } else if stat.is_dir() {
            look(&path, &format!("{name}/"), model);
            Node::Dir
        } else {
            assert_eq!(stat.permissions().mode() & 0o7777, 0o644, "{name}");
            Node::File(std::fs::read(&path).unwrap())
        };
        model.insert(name, node);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        // The environment variable goes before this.
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(24),
        max_shrink_iters: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_committed_generation_comes_back_exactly(
        steps in prop::collection::vec(step(), 10..80),
    ) {
        let mut world = World::new();
        for step in steps {
            world.run(step)?;
        }
        world.backup(true, false, true)?;
        world.verify(true)?;
        world.store = open(world.backend.clone());
        for number in 0..world.generations.len() {
            world.check(number)?;
        }
    }
}
