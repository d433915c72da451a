//! Prune: what is forgotten, what is removed, and that nothing else ever is.
//!
//! | module | what |
//! |---|---|
//! | `basics` | forgetting, grace, undo, pins, refusals, and that space comes back |
//! | `fence` | writers and readers beside a whole prune |
//! | `crash` | a prune that dies after any of its operations |
//! | `damage` | what cannot be read is not removed, and nothing that it may need |
//! | `command` | the real command |
//! | `model` | any sequence of operations against a model in memory |

mod basics;
mod command;
mod crash;
mod damage;
mod fence;
mod model;

use std::path::Path;

use strongroom::backend::Backend;
use strongroom::format::record::{GenerationName, GenerationNumber};
use strongroom::store::{
    Error, IngestOptions, Progress, PruneOptions, PruneReport, Retention, Store,
};
use tempfile::TempDir;

use crate::support::{MEMBER, Tree, assert_restores, fast_temp, noise, source, text};

/// No time at all, but not none: in two phases.
pub const A_MOMENT: i64 = 1;

/// A policy that keeps the newest so many.
pub fn keep_last(count: u32) -> PruneOptions {
    let retention = Some(Retention { last: Some(count), ..Retention::none() });
    PruneOptions { retention, grace_nanos: A_MOMENT, ..PruneOptions::default() }
}

/// Forgets nothing.
pub fn collect_only() -> PruneOptions {
    PruneOptions { collect_only: true, grace_nanos: A_MOMENT, ..PruneOptions::default() }
}

pub fn name(deployment: &str, generation: u64) -> GenerationName {
    GenerationName { deployment: deployment.into(), generation: GenerationNumber(generation) }
}

/// Plans and executes.
pub fn try_prune(store: &Store, options: &PruneOptions) -> Result<PruneReport, Error> {
    let progress = Progress::default();
    let plan = store.plan_prune(options, &progress)?;
    store.prune(&plan, &progress)
}

#[track_caller]
pub fn prune(store: &Store, options: &PruneOptions) -> PruneReport {
    let report = try_prune(store, options).unwrap();
    assert_eq!(report.notes, <[String; 0]>::default());
    report
}

/// Prunes until there is nothing left to be done.
#[track_caller]
pub fn prune_all(store: &Store, options: &PruneOptions) {
    // Copies of live chunks get names by chance, and with them other copies may be chosen.
    for _ in 0..10 {
        prune(store, options);
        if store.plan_prune(options, &Progress::default()).unwrap().is_empty() {
            return;
        }
    }
    let plan = store.plan_prune(options, &Progress::default()).unwrap();
    assert!(plan.is_empty(), "{:?} {:?} {:?}", plan.forgotten, plan.due, plan.condemned);
}

/// Returns the length of all objects in a folder.
pub fn bytes_in(backend: &dyn Backend, folder: &str) -> u64 {
    let mut sum = 0;
    backend.list(folder, &mut |_, bytes| sum += bytes).unwrap();
    sum
}

/// Generations of one deployment, with the trees that they were made of.
pub struct History {
    dir: TempDir,
    pub deployment: String,
    pub trees: Vec<Tree>,
}

impl History {
    pub fn new(deployment: &str) -> Self {
        Self { dir: fast_temp(), deployment: deployment.into(), trees: Vec::new() }
    }

    /// Makes the next tree: a copy of the last, changed.
    pub fn tree(&mut self, change: impl FnOnce(&Tree)) -> &Tree {
        let tree = Tree::create(self.dir.path().join(self.trees.len().to_string()));
        if let Some(last) = self.trees.last() {
            copy(last.path(), tree.path());
        }
        change(&tree);
        self.trees.push(tree);
        self.trees.last().unwrap()
    }

    /// Makes the next tree and backs it up.
    pub fn backup(&mut self, store: &Store, change: impl FnOnce(&Tree)) {
        let tree = self.tree(change).path().to_owned();
        self.backup_last(store, &tree).unwrap();
    }

    pub fn backup_last(&self, store: &Store, path: &Path) -> Result<u64, Error> {
        let (options, progress) = (IngestOptions::default(), Progress::default());
        let report =
            store.backup(&self.deployment, &[source(MEMBER, path)], &options, &progress)?;
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        Ok(report.generation.unwrap().number.0)
    }

    /// Fails unless every visible generation of the deployment is what was backed up: those beyond
    /// the trees are of the last one. Returns their numbers.
    #[track_caller]
    pub fn assert_restores(&self, store: &Store) -> Vec<u64> {
        let log = store.log().unwrap();
        let own = log.generations().into_iter().filter(|g| g.deployment == self.deployment);
        let numbers: Vec<_> = own.map(|generation| generation.number.0).collect();
        for number in &numbers {
            let tree = self.trees.get(*number as usize - 1).or(self.trees.last()).unwrap();
            assert_restores(store, &format!("{}@g{number}", self.deployment), tree.path());
        }
        numbers
    }
}

fn copy(from: &Path, to: &Path) {
    for item in std::fs::read_dir(from).unwrap() {
        let (path, name) = {
            let item = item.unwrap();
            (item.path(), item.file_name())
        };
        if path.is_dir() {
            std::fs::create_dir(to.join(&name)).unwrap();
            copy(&path, &to.join(&name));
        } else {
            std::fs::copy(&path, to.join(&name)).unwrap();
        }
    }
}

/// Five generations: some content stays, some comes and goes, one image changes in places (so that
/// there are deltas), and there are lists of pages.
pub fn five_generations(store: &Store, deployment: &str, seed: u64) -> History {
    let mut history = History::new(deployment);
    for generation in 0..5 {
        history.backup(store, |tree| {
            if generation == 0 {
                tree.file("stays", noise(seed, 150_000));
                tree.file("stable_memory.bin", text(seed + 1, 2_000_000));
            }
            let own = seed + 10 * (generation + 1);
            tree.file("changes", noise(own, 150_000));
            tree.file(format!("of/{generation}"), noise(own + 1, 120_000));
            if generation >= 2 {
                std::fs::remove_file(tree.below(format!("of/{}", generation - 2))).unwrap();
            }
            for at in 0..6 {
                tree.write_at("stable_memory.bin", at * 300_000 + 5000 * generation, &[7; 300]);
            }
            for number in 0..30 {
                let seed = seed + number + if number < 25 { 0 } else { 100 * generation };
                tree.file(format!("small/{number}"), text(seed, 2000));
            }
        });
    }
    history
}
