//! Any sequence of changes, backups, prunes, undos and pins in two deployments, with writers and
//! prunes that die in between, against a model: every visible generation is what was backed up, and
//! what is visible is what the model says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use strongroom::backend::MemoryBackend;
use strongroom::store::{Error, IngestOptions, Progress, PruneOptions, Retention, Scope, Store};
use tempfile::TempDir;

use super::crash::Mortal;
use super::{bytes_in, name};
use crate::support::{MEMBER, Tree, fast_temp, keys, noise, open, reference, source, text, verify};

const DEPLOYMENTS: [&str; 2] = ["orders", "mails"];

#[derive(Clone, Debug)]
enum Step {
    Write { deployment: usize, file: u8, seed: u64, kind: u8, len: usize },
    Edit { deployment: usize, at: usize, seed: u64 },
    Remove { deployment: usize, file: u8 },
    Backup { deployment: usize },
    DyingBackup { deployment: usize, changes: u64 },
    Prune { keep: u32, only: Option<usize>, at_once: bool, rewrite: u64 },
    DyingPrune { keep: u32, changes: u64 },
    Forget { deployment: usize, which: usize },
    Undo { all: bool, which: usize },
    Pin { deployment: usize, which: usize },
    Unpin { deployment: usize, which: usize },
    Reopen,
    Check { deployment: usize, which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let deployment = 0..DEPLOYMENTS.len();
    let which = 0..8usize;
    let len = prop_oneof![0..3000usize, 50_000..200_000usize];
    prop_oneof![
        6 => (deployment.clone(), 0..8u8, 0..12u64, 0..3u8, len)
            .prop_map(|(deployment, file, seed, kind, len)| {
                Step::Write { deployment, file, seed, kind, len }
            }),
        5 => (deployment.clone(), 0..1000usize, any::<u64>())
            .prop_map(|(deployment, at, seed)| Step::Edit { deployment, at, seed }),
        2 => (deployment.clone(), 0..8u8)
            .prop_map(|(deployment, file)| Step::Remove { deployment, file }),
        8 => deployment.clone().prop_map(|deployment| Step::Backup { deployment }),
        2 => (deployment.clone(), 0..9u64)
            .prop_map(|(deployment, changes)| Step::DyingBackup { deployment, changes }),
        6 => (1..4u32, prop::option::of(deployment.clone()), prop::bool::weighted(0.2),
              prop_oneof![Just(0u64), Just(100_000), Just(u64::MAX)])
            .prop_map(|(keep, only, at_once, rewrite)| {
                Step::Prune { keep, only, at_once, rewrite }
            }),
        4 => (1..4u32, 0..25u64)
            .prop_map(|(keep, changes)| Step::DyingPrune { keep, changes }),
        1 => (deployment.clone(), which.clone())
            .prop_map(|(deployment, which)| Step::Forget { deployment, which }),
        3 => (any::<bool>(), which.clone()).prop_map(|(all, which)| Step::Undo { all, which }),
        1 => (deployment.clone(), which.clone())
            .prop_map(|(deployment, which)| Step::Pin { deployment, which }),
        1 => (deployment.clone(), which.clone())
            .prop_map(|(deployment, which)| Step::Unpin { deployment, which }),
        2 => Just(Step::Reopen),
        2 => (deployment, which)
            .prop_map(|(deployment, which)| Step::Check { deployment, which }),
    ]
}

type Files = BTreeMap<String, Vec<u8>>;
/// Deployment and number.
type Name = (usize, u64);

struct World {
    _dir: TempDir,
    trees: Vec<Tree>,
    now: Vec<Files>,
    backend: MemoryBackend,
    store: Store,
    made: BTreeMap<Name, Files>,
    visible: BTreeSet<Name>,
    pinned: BTreeSet<Name>,
}

impl World {
    fn new() -> Self {
        let dir = fast_temp();
        let tree = |deployment: &&str| Tree::create(dir.path().join(deployment));
        let trees = DEPLOYMENTS.iter().map(tree).collect();
        let backend = MemoryBackend::new();
        let store = crate::support::create(backend.clone());
        let now = vec![Files::new(); DEPLOYMENTS.len()];
        let (made, visible, pinned) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { _dir: dir, trees, now, backend, store, made, visible, pinned }
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Write { deployment, file, seed, kind, len } => {
                let bytes = if kind == 0 { noise(seed, len) } else { text(seed, len) };
                self.write(deployment, format!("{file}"), bytes);
            }
            Step::Edit { deployment, at, seed } => self.edit(deployment, at, seed),
            Step::Remove { deployment, file } => {
                if self.now[deployment].remove(&file.to_string()).is_some() {
                    let path = self.trees[deployment].below(file.to_string());
                    std::fs::remove_file(path).unwrap();
                }
            }
            Step::Backup { deployment } => {
                let number = self.backup(&self.store, deployment);
                self.made(deployment, number.map_err(failed)?);
            }
            Step::DyingBackup { deployment, changes } => self.dying_backup(deployment, changes)?,
            Step::Prune { keep, only, at_once, rewrite } => {
                self.prune(keep, only, at_once, rewrite)?;
            }
            Step::DyingPrune { keep, changes } => self.dying_prune(keep, changes)?,
            Step::Forget { deployment, which } => self.forget(deployment, which)?,
            Step::Undo { all, which } => self.undo(all, which)?,
            Step::Pin { deployment, which } => {
                if let Some(found) = self.choose(deployment, which) {
                    self.store.pin(&names(found)).map_err(failed)?;
                    self.pinned.insert(found);
                }
            }
            Step::Unpin { deployment, which } => {
                if let Some(found) = self.choose(deployment, which) {
                    self.store.unpin(&names(found)).map_err(failed)?;
                    self.pinned.remove(&found);
                }
            }
            Step::Reopen => self.store = open(self.backend.clone()),
            Step::Check { deployment, which } => {
                if let Some(found) = self.choose(deployment, which) {
                    self.check(found)?;
                }
            }
        }
        self.compare()
    }

    fn write(&mut self, deployment: usize, file: String, bytes: Vec<u8>) {
        self.trees[deployment].file(&file, &bytes);
        self.now[deployment].insert(file, bytes);
    }

    /// Changes a few bytes of an image, so that the next backup stores differences.
    fn edit(&mut self, deployment: usize, at: usize, seed: u64) {
        const IMAGE: &str = "stable_memory.bin";
        let old = self.now[deployment].get(IMAGE).cloned();
        let mut bytes = old.unwrap_or_else(|| text(deployment as u64, 600_000));
        let at = bytes.len() * at / 1000;
        let end = (at + 100).min(bytes.len());
        bytes[at..end].copy_from_slice(&noise(seed, end - at));
        self.write(deployment, IMAGE.to_owned(), bytes);
    }

    fn backup(&self, store: &Store, deployment: usize) -> Result<u64, Error> {
        // A change within one tick of the file system's clock would leave no trace.
        std::thread::sleep(std::time::Duration::from_millis(11));
        let sources = [source(MEMBER, self.trees[deployment].path())];
        let (options, progress) = (IngestOptions::default(), Progress::default());
        let report = store.backup(DEPLOYMENTS[deployment], &sources, &options, &progress)?;
        Ok(report.generation.expect("a generation").number.0)
    }

    fn made(&mut self, deployment: usize, number: u64) {
        let old = self.made.insert((deployment, number), self.now[deployment].clone());
        assert!(old.is_none(), "a number was given twice");
        self.visible.insert((deployment, number));
    }

    fn dying_backup(&mut self, deployment: usize, changes: u64) -> Result<(), TestCaseError> {
        let mortal = open(Mortal::new(self.backend.clone(), changes));
        let _ = self.backup(&mortal, deployment);
        drop(mortal);
        let state = self.store.log().map_err(failed)?.state();
        for (generation, _) in state.promoted() {
            let own = DEPLOYMENTS.iter().position(|name| *name == generation.deployment).unwrap();
            if !self.made.contains_key(&(own, generation.number.0)) {
                prop_assert_eq!(own, deployment);
                self.made(own, generation.number.0);
            }
        }
        Ok(())
    }

    /// What the policy keeps.
    fn kept(&self, keep: u32, only: Option<usize>) -> BTreeSet<Name> {
        let mut kept = self.pinned.clone();
        for deployment in 0..DEPLOYMENTS.len() {
            let own = self.visible.iter().filter(|(own, _)| *own == deployment);
            let all = only.is_some_and(|only| only != deployment);
            kept.extend(own.rev().take(if all { usize::MAX } else { keep as usize }));
        }
        kept.intersection(&self.visible).copied().collect()
    }

    fn prune(
        &mut self,
        keep: u32,
        only: Option<usize>,
        at_once: bool,
        rewrite: u64,
    ) -> Result<(), TestCaseError> {
        let only = only.filter(|only| self.visible.iter().any(|(own, _)| own == only));
        let options = PruneOptions {
            deployments: only.iter().map(|only| DEPLOYMENTS[*only].to_owned()).collect(),
            grace_nanos: i64::from(!at_once),
            max_rewrite_bytes: rewrite,
            ..super::keep_last(keep)
        };
        let report = super::try_prune(&self.store, &options).map_err(failed)?;
        prop_assert_eq!(report.notes, <[String; 0]>::default());
        self.visible = self.kept(keep, only);
        Ok(())
    }

    fn dying_prune(&mut self, keep: u32, changes: u64) -> Result<(), TestCaseError> {
        let mortal = open(Mortal::new(self.backend.clone(), changes));
        let _ = super::try_prune(&mortal, &super::keep_last(keep));
        drop(mortal);
        let kept = self.kept(keep, None);
        let found = self.found()?;
        prop_assert!(found == kept || found == self.visible, "{:?}", found);
        self.visible = found;
        Ok(())
    }

    fn forget(&mut self, deployment: usize, which: usize) -> Result<(), TestCaseError> {
        let Some(found) = self.choose(deployment, which) else { return Ok(()) };
        let forget = vec![names(found)];
        let options = PruneOptions { forget, retention: None, ..super::keep_last(1) };
        match super::try_prune(&self.store, &options) {
            Ok(_) => {
                prop_assert!(!self.pinned.contains(&found));
                self.visible.remove(&found);
            }
            Err(Error::Pinned { .. }) => prop_assert!(self.pinned.contains(&found)),
            Err(error) => return Err(failed(error)),
        }
        Ok(())
    }

    fn undo(&mut self, all: bool, which: usize) -> Result<(), TestCaseError> {
        let gone: Vec<_> = self.made.keys().filter(|name| !self.visible.contains(name)).collect();
        let named: Vec<_> = match gone.get(which % gone.len().max(1)) {
            Some(found) if !all => vec![names(**found)],
            _ => Vec::new(),
        };
        match self.store.undo(&named) {
            Ok(brought) => {
                for name in brought {
                    let own = DEPLOYMENTS.iter().position(|own| *own == name.deployment).unwrap();
                    prop_assert!(self.visible.insert((own, name.generation.0)));
                }
            }
            Err(Error::Forgotten { can_return: false, .. } | Error::NothingForgotten) => {}
            Err(error) => return Err(failed(error)),
        }
        Ok(())
    }

    fn choose(&self, deployment: usize, which: usize) -> Option<Name> {
        let own: Vec<_> = self.visible.iter().filter(|(own, _)| *own == deployment).collect();
        own.get(which % own.len().max(1)).copied().copied()
    }

    fn found(&self) -> Result<BTreeSet<Name>, TestCaseError> {
        let log = self.store.log().map_err(failed)?;
        prop_assert!(log.damaged().is_empty());
        let place = |name: &str| DEPLOYMENTS.iter().position(|own| *own == name).unwrap();
        let visible = log.generations().into_iter();
        Ok(visible.map(|found| (place(&found.deployment), found.number.0)).collect())
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.found()?, self.visible.clone());
        Ok(())
    }

    fn check(&self, found: Name) -> Result<(), TestCaseError> {
        let expected = &self.made[&found];
        let tree = self.store.tree(&reference(&names(found).to_string())).map_err(failed)?;
        let mut files = Files::new();
        for entry in self.store.entries(&tree.members[0].artifact) {
            let entry = entry.map_err(|fault| TestCaseError::fail(fault.to_string()))?;
            if let Some(content) = entry.content() {
                let mut bytes = Vec::new();
                let written = self.store.write_content(content, &mut bytes);
                written.map_err(|error| TestCaseError::fail(format!("{found:?}: {error}")))?;
                files.insert(String::from_utf8(entry.path.clone()).unwrap(), bytes);
            }
        }
        prop_assert!(files == *expected, "{:?}", found);
        Ok(())
    }

    fn check_all(&self) -> Result<(), TestCaseError> {
        let report = verify(&self.store, Scope::Full);
        prop_assert!(report.is_clean(), "{:?} {:?}", report.damaged, report.unreadable);
        self.visible.iter().try_for_each(|found| self.check(*found))
    }
}

fn names((deployment, number): Name) -> strongroom::format::record::GenerationName {
    name(DEPLOYMENTS[deployment], number)
}

fn failed(error: Error) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(16),
        max_shrink_iters: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_visible_generation_is_what_was_backed_up_and_nothing_else_stays(
        steps in prop::collection::vec(step(), 10..70),
    ) {
        let mut world = World::new();
        for (number, step) in steps.into_iter().enumerate() {
            world.run(step)?;
            if number % 10 == 9 {
                world.check_all()?;
            }
        }
        world.check_all()?;
        world.store = open(world.backend.clone());
        world.check_all()?;
        // Removing everything removes everything.
        world.visible.clear();
        for found in world.pinned.clone() {
            world.store.unpin(&names(found)).map_err(failed)?;
        }
        let all = world.found()?.into_iter().map(names).collect();
        let forget = PruneOptions {
            retention: Some(Retention { last: Some(1), ..Retention::none() }),
            forget: all,
            grace_nanos: 1,
            max_rewrite_bytes: u64::MAX,
            ..PruneOptions::default()
        };
        super::try_prune(&world.store, &forget).map_err(failed)?;
        for _ in 0..3 {
            super::try_prune(&world.store, &super::collect_only()).map_err(failed)?;
        }
        for folder in ["packs", "pages", "manifests", "removals"] {
            prop_assert!(keys(&world.backend, folder).is_empty(), "{}", folder);
        }
        prop_assert_eq!(bytes_in(&world.backend, "index"), 0);
    }
}

#[test]
fn the_model_is_about_something() {
    let mut world = World::new();
    for step in [
        Step::Edit { deployment: 0, at: 500, seed: 1 },
        Step::Backup { deployment: 0 },
        Step::Edit { deployment: 0, at: 100, seed: 2 },
        Step::Backup { deployment: 0 },
        Step::Prune { keep: 1, only: None, at_once: false, rewrite: u64::MAX },
    ] {
        world.run(step).unwrap();
    }
    assert_eq!(world.visible, BTreeSet::from([(0, 2)]));
    let _ = Arc::new(world);
}
