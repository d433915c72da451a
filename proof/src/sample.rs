//! A very small store in memory with every kind of object, and what it must say of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use strongroom::backend::{Backend, Key, MemoryBackend};
use strongroom::clock::UnixNanos;
use strongroom::digest::Digest;
use strongroom::format::record::{Event, Record};
use strongroom::format::removal::List;
use strongroom::log::Log;
use strongroom::run::executor::{DirExecutor, Executor};
use strongroom::run::facts::{Quiescence, Scope};
use strongroom::run::inventory::{Inventory, Row};
use strongroom::run::plan::{AuthorityNeeded, Checksum, Plan, Request};
use strongroom::run::runner::{Notice, Options, Parts, Runner};
use strongroom::store::{
    Entry, GenerationName, IngestOptions, MemberSource, Progress, PruneOptions, Reference, Store,
    StoreConfig,
};

use crate::scene::{DEPLOYMENT, MEMBER, noise, text};

/// The deployment that is backed up by runs.
pub const FLEET: &str = "fleet";

/// Everything in a generation: entries with the bytes of files.
pub type All = Vec<(Entry, Option<Vec<u8>>)>;

/// Objects by their keys.
pub type Objects = Vec<(Key, Vec<u8>)>;

/// Grace period between the two condemnations of the sample.
const GRACE: Duration = Duration::from_millis(50);

/// Makes the objects of the sample.
pub fn make() -> anyhow::Result<Objects> {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("source");
    fs::create_dir_all(source.join("dir"))?;
    fs::write(source.join("noise"), noise(1, 100))?;
    fs::write(source.join("hole"), [0; 50])?;
    std::os::unix::fs::symlink("noise", source.join("link"))?;
    let backend = MemoryBackend::new();
    let store = Store::create(Arc::new(backend.clone()), StoreConfig::default())?;
    let back_up = |bytes: usize| -> anyhow::Result<()> {
        fs::write(source.join("text"), text(2, bytes))?;
        let sources = [MemberSource { member: MEMBER.to_owned(), path: source.clone() }];
        let options = IngestOptions { reread: true, ..IngestOptions::default() };
        store.backup(DEPLOYMENT, &sources, &options, &Progress::default())?;
        Ok(())
    };
    for bytes in [400, 390, 380] {
        back_up(bytes)?;
    }
    store.pin(&name(1))?;
    store.unpin(&name(1))?;
    store.pin(&name(2))?;
    prune(&store, &[1], GRACE_LONG)?;
    store.undo(&[name(1)])?;
    prune(&store, &[1], Duration::ZERO)?;
    for bytes in [370, 360] {
        back_up(bytes)?;
    }
    prune(&store, &[3], GRACE_LONG)?;
    std::thread::sleep(GRACE);
    runs(&store, dir.path())?;
    prune(&store, &[4], GRACE_LONG)?;
    let before = objects(&backend)?;
    // What was condemned last has to wait.
    prune(&store, &[], GRACE)?;
    in_the_middle_of_a_collection(before, &backend)
}

/// Longer than anybody waits.
const GRACE_LONG: Duration = Duration::from_hours(24);

fn name(number: u64) -> GenerationName {
    let generation = strongroom::store::GenerationNumber(number);
    GenerationName { deployment: DEPLOYMENT.to_owned(), generation }
}

fn prune(store: &Store, forget: &[u64], grace: Duration) -> anyhow::Result<()> {
    let options = PruneOptions {
        forget: forget.iter().map(|number| name(*number)).collect(),
        collect_only: forget.is_empty(),
        grace_nanos: grace.as_nanos() as i64,
        roots: strongroom::run::roots(store)?,
        ..PruneOptions::default()
    };
    let plan = store.plan_prune(&options, &Progress::default())?;
    let _ = store.prune(&plan, &Progress::default())?;
    Ok(())
}

/// One run that has ended, and one that has not.
fn runs(store: &Store, dir: &Path) -> anyhow::Result<()> {
    let member = dir.join("member");
    fs::create_dir(&member)?;
    fs::write(member.join("state"), noise(3, 60))?;
    let executor = DirExecutor::new([("m".to_owned(), member)]);
    let rows = vec![Row { id: "m".to_owned(), ..Row::default() }];
    let request = Request {
        deployment: FLEET.to_owned(),
        executor: executor.name().into(),
        environment: executor.environment().into(),
        scope: Scope::MaintenanceRoot,
        selector: None,
        root: None,
        quiescence: Quiescence::CrashConsistent,
        checksum: Checksum::Blake3,
        authority: AuthorityNeeded::Declared,
        fixed: vec![],
        snapshots: executor.capabilities().snapshots,
    };
    let plan = Plan::build(request, &Inventory::new(rows)?)?;
    let (progress, silent) = (Progress::default(), |_: Notice| {});
    let parts = Parts { store, executor: &executor, progress: &progress, observer: &silent };
    let options = Options::new(dir.join("staging"));
    Runner::start(parts, &plan, options.clone())?.run()?;
    let few = Options { steps_max: Some(2), ..options };
    match Runner::start(parts, &plan, few)?.run() {
        Err(error) if error.is_interrupted() => Ok(()),
        _ => bail!("the run was to be interrupted"),
    }
}

/// Returns the objects as they are when a collection has been written down, and nothing has been
/// removed yet.
fn in_the_middle_of_a_collection(
    before: Objects,
    after: &MemoryBackend,
) -> anyhow::Result<Objects> {
    let log = Log::read(after)?;
    let is_collect = |record: &&Record| matches!(record.event, Event::Collect { .. });
    let collect = log.records().iter().rfind(is_collect).context("nothing was collected")?;
    let Event::Collect { list: id, .. } = &collect.event else { bail!("unreachable") };
    let now = objects(after)?;
    let is_there = |key: &Key| now.iter().any(|(other, _)| other == key);
    let gone = |folder: &str| -> Vec<Digest> {
        let gone = before.iter().map(|(key, _)| key).filter(|key| !is_there(key));
        let of = gone.filter(|key| key.as_str().starts_with(folder));
        of.filter_map(|key| key.name().parse().ok()).collect()
    };
    let (packs, pages) = (gone("packs/"), gone("pages/"));
    let list = List { packs, pages, manifests: gone("manifests/") }.encode();
    if Digest::of(&list) != *id {
        bail!("the list of the collection is another one");
    }
    let mut objects = before;
    let record = strongroom::log::key(collect.number);
    let (key, bytes) = now.into_iter().find(|(key, _)| *key == record).context("no record")?;
    objects.push((key, bytes));
    objects.push((Key::new(format!("removals/{id}"))?, list));
    objects.sort_by(|a, b| a.0.cmp(&b.0));
    objects.dedup_by(|a, b| a.0 == b.0);
    Ok(objects)
}

/// Returns the objects that a store is about to remove.
pub fn collected(store: &Store) -> anyhow::Result<Vec<Key>> {
    let mut keys = Vec::new();
    for collection in store.log()?.state().collecting() {
        let list =
            store.backend().read(&Key::new(format!("removals/{}", collection.list))?, u64::MAX)?;
        let list = List::decode(&list)?;
        let all = [("packs", list.packs), ("pages", list.pages), ("manifests", list.manifests)];
        for (folder, ids) in all {
            for id in ids {
                keys.push(Key::new(format!("{folder}/{id}"))?);
            }
        }
    }
    Ok(keys)
}

/// Returns all objects of a store.
pub fn objects(backend: &MemoryBackend) -> anyhow::Result<Objects> {
    let mut keys = Vec::new();
    backend.list("", &mut |key, _| keys.push(key))?;
    let read = |key: Key| Ok((key.clone(), backend.read(&key, u64::MAX)?.to_vec()));
    keys.into_iter().map(read).collect()
}

/// Makes a store of objects.
pub fn backend_of(objects: &Objects) -> MemoryBackend {
    let backend = MemoryBackend::new();
    for (key, bytes) in objects {
        backend.replace(key, bytes.clone());
    }
    backend
}

/// What the log says, apart from its records.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    visible: BTreeSet<String>,
    pinned: BTreeSet<String>,
    all: Vec<String>,
}

/// Returns what the log says.
pub fn said(store: &Store) -> Result<Said, String> {
    let log = store.log().map_err(|error| error.to_string())?;
    let state = log.state();
    let visible = log.generations().iter().map(|found| found.name().to_string()).collect();
    let pinned = state.pins().iter().map(ToString::to_string).collect();
    let fate = |(generation, fate): &(strongroom::log::Generation, _)| {
        format!("{} {fate:?} {}", generation.name(), generation.manifest)
    };
    Ok(Said { visible, pinned, all: state.promoted().iter().map(fate).collect() })
}

/// Returns the names of the generations that can be seen.
pub fn names(store: &Store) -> anyhow::Result<Vec<String>> {
    Ok(said(store).map_err(anyhow::Error::msg)?.visible.into_iter().collect())
}

/// Reads everything in a generation.
pub fn read_all(store: &Store, name: &str) -> Result<All, String> {
    let reference = Reference::parse(name.as_bytes()).map_err(|error| error.to_string())?;
    let tree = store.tree(&reference).map_err(|error| error.to_string())?;
    if let Some((_, reason)) = tree.unreadable.first() {
        return Err(reason.clone());
    }
    let mut all = Vec::new();
    for member in &tree.members {
        for entry in store.entries(&member.artifact) {
            let entry = entry.map_err(|fault| fault.to_string())?;
            let mut bytes = None;
            if let Some(content) = entry.content() {
                let into = bytes.insert(Vec::new());
                store.write_content(content, into).map_err(|error| error.to_string())?;
            }
            all.push((entry, bytes));
        }
    }
    Ok(all)
}

/// Returns where each run stands; what cannot be followed is an error.
pub fn runs_of(store: &Store) -> Result<BTreeMap<String, Result<String, String>>, String> {
    let runs =
        strongroom::run::journal::runs(store.backend()).map_err(|error| error.to_string())?;
    let look = |run: &String| {
        let state = strongroom::run::runner::look(store, run);
        state.map(|state| format!("{state:?}")).map_err(|error| error.to_string())
    };
    Ok(runs.iter().map(|run| (run.clone(), look(run))).collect())
}

/// Prunes everything that is forgotten, as far as it is allowed.
pub fn prune_all(store: &Store, accept_damaged_log: bool) -> Result<(), String> {
    let roots = strongroom::run::roots(store).map_err(|error| error.to_string())?;
    // Whatever is condemned is due.
    let options = PruneOptions {
        collect_only: true,
        grace_nanos: 1,
        roots,
        accept_damaged_log,
        ..PruneOptions::default()
    };
    let started = UnixNanos::now();
    while UnixNanos::now().0 < started.0 + 2 {}
    let progress = Progress::default();
    let plan = store.plan_prune(&options, &progress).map_err(|error| error.to_string())?;
    store.prune(&plan, &progress).map(drop).map_err(|error| error.to_string())
}
