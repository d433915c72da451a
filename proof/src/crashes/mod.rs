//! Simulated crashes: the system calls of the real command are recorded, and everything that may be
//! on the disk after a power cut between any two of them is built and recovered from.
//!
//! | module | what |
//! |---|---|
//! | `record` | what a command did to the disk, in order |
//! | `disk` | what may be left of that |
//! | `recover` | the real code on each of these |
//!
//! The first level are crashes of the work itself. The second are crashes of the recovery from each
//! of them: of its system calls, recorded again, for some; after every change, for all.

mod disk;
mod record;
mod recover;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use anyhow::ensure;

use crate::parallel;
use crate::report::Row;
use crate::scene;
use crate::stage::{Stage, Work};
use crate::tool::Tool;
use crate::tracer::{self, End};
use disk::{Content, Disk};
use record::{Op, Recorder};

/// The works that are recorded.
const WORKS: [Work; 7] =
    [Work::First, Work::Next, Work::Merge, Work::Forget, Work::Collect, Work::AtOnce, Work::Run];

/// Recoveries that are recorded at a time.
const PARALLEL: usize = 8;
/// Most states of a level whose recovery is recorded.
const LEVEL_MAX: usize = 1500;

/// What may be found after a crash, and whether the command had said that it was done.
type State = (Content, bool);

/// What was built.
struct States {
    /// All, those that are alike included.
    count: u64,
    /// One of each.
    distinct: Vec<State>,
}

/// Tries about so many states.
pub fn prove(tool: &Tool, states: u64) -> anyhow::Result<Row> {
    let mut row = Row::new("simulated crashes, and crashes of the recovery");
    let dir = tempfile::tempdir_in(scene::fast_dir())?;
    let mut stages = Vec::new();
    for work in WORKS {
        let stage = Stage::new(tool, work, dir.path().join(format!("{work:?}")))?;
        let place = tempfile::tempdir_in(dir.path())?;
        stage.copy(place.path())?;
        let found = record_and_build(tool, &stage, place.path())?;
        println!("{work:?}: {} states, {} of them distinct", found.count, found.distinct.len());
        row.tried(found.count, "states");
        stages.push((stage, found.distinct));
    }
    let (stages, found): (Vec<_>, Vec<_>) = stages.into_iter().unzip();
    without_syncs(tool, &stages, dir.path(), &mut row)?;
    for (stage, distinct) in stages.iter().zip(&found) {
        first_level(tool, stage, distinct, dir.path(), &mut row);
        die_again(stage, distinct, &mut row);
    }
    let level = found.into_iter().enumerate();
    let level = level.flat_map(|(at, states)| states.into_iter().map(move |state| (at, state)));
    deeper(tool, &stages, level.collect(), states, dir.path(), &mut row)?;
    Ok(row)
}

/// Runs the work on the store in `place`, and returns what it did.
fn record(tool: &Tool, stage: &Stage, place: &Path) -> anyhow::Result<Vec<Op>> {
    let mut recorder = Recorder::new(&place.join("store"));
    let end = tracer::run(&stage.command(tool, place), &mut recorder)?;
    ensure!(end == End::Exited(0), "{:?} ended with {end:?}", stage.work);
    ensure!(recorder.unknown.is_empty(), "not understood: {:?}", recorder.unknown);
    ensure!(recorder.ops.contains(&Op::Acknowledge), "{:?} said nothing", stage.work);
    Ok(recorder.ops)
}

/// Runs the work on the store in `place`, and builds what it may leave behind.
fn record_and_build(tool: &Tool, stage: &Stage, place: &Path) -> anyhow::Result<States> {
    let disk = Disk::read(&place.join("store"))?;
    let ops = record(tool, stage, place)?;
    Ok(build(disk, ops.iter()))
}

fn build<'o>(mut disk: Disk, ops: impl Iterator<Item = &'o Op>) -> States {
    let mut states = States { count: 0, distinct: Vec::new() };
    let mut seen = HashSet::new();
    let mut is_acknowledged = false;
    for op in [None].into_iter().chain(ops.map(Some)) {
        if let Some(op) = op {
            is_acknowledged |= *op == Op::Acknowledge;
            disk.apply(op);
        }
        disk.crashes(|content| {
            states.count += 1;
            if seen.insert((digest(&content), is_acknowledged)) {
                states.distinct.push((content, is_acknowledged));
            }
        });
    }
    states
}

/// What a state is known by; unfinished objects and locks do not count.
fn digest(content: &Content) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for (path, bytes) in content {
        if path.starts_with("tmp/") || path.starts_with("locks/") {
            continue;
        }
        hasher.update(&(path.len() as u64).to_le_bytes()).update(path.as_bytes());
        if let Some(bytes) = bytes {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
    }
    hasher.finalize()
}

/// Recovers from each state in memory, and from some on a disk with the command.
fn first_level(tool: &Tool, stage: &Stage, distinct: &[State], dir: &Path, row: &mut Row) {
    // A run can only be gone on with by the command.
    let step = if stage.work == Work::Run { 1 } else { 8 };
    let numbered: Vec<_> = distinct.iter().enumerate().collect();
    let results = parallel::map(&numbered, |(at, (content, is_acknowledged))| {
        let mut wrong = in_memory(stage, content, *is_acknowledged);
        if at % step == 0 {
            wrong.extend(on_disk(tool, stage, content, dir));
        }
        let told = |wrong: &String| format!("{:?} state {at}: {wrong}", stage.work);
        wrong.iter().map(told).collect::<Vec<_>>()
    });
    row.tried(distinct.len() as u64, "distinct recovered from");
    row.tried(distinct.len().div_ceil(step) as u64, "with the command");
    results.into_iter().flatten().for_each(|wrong| row.found(wrong));
}

fn in_memory(stage: &Stage, content: &Content, is_acknowledged: bool) -> Vec<String> {
    match recover::load(content) {
        Ok(Some(backend)) if stage.work == Work::Run => {
            recover::look(stage, &backend, is_acknowledged)
        }
        Ok(Some(backend)) => recover::recover(stage, &backend, is_acknowledged),
        Ok(None) => vec!["there is no store".to_owned()],
        Err(error) => vec![format!("{error:#}")],
    }
}

fn on_disk(tool: &Tool, stage: &Stage, content: &Content, dir: &Path) -> Vec<String> {
    let result = tempfile::tempdir_in(dir)
        .map_err(anyhow::Error::from)
        .and_then(|place| recover::recover_on_disk(tool, stage, content, place.path()));
    result.unwrap_or_else(|error| vec![format!("{error:#}")])
}

/// Lets the recovery from every state die after each of its changes.
fn die_again(stage: &Stage, distinct: &[State], row: &mut Row) {
    if stage.work == Work::Run {
        return;
    }
    let results = parallel::map(distinct, |(content, _)| recover::die_again(stage, content));
    for result in results {
        match result {
            Ok((deaths, wrong)) => {
                row.tried(deaths, "states");
                row.tried(deaths, "distinct recovered from");
                wrong.into_iter().for_each(|w| row.found(format!("{:?}: {w}", stage.work)));
            }
            Err(error) => row.found(format!("{:?}: {error:#}", stage.work)),
        }
    }
}

/// Records the recovery from states, and recovers from what may be left of that; then the recovery
/// from these, until there are so many states.
fn deeper(
    tool: &Tool,
    stages: &[Stage],
    mut level: Vec<(usize, State)>,
    states: u64,
    dir: &Path,
    row: &mut Row,
) -> anyhow::Result<()> {
    for depth in 2.. {
        let mut next = Vec::new();
        for some in level.chunks(PARALLEL) {
            if row.count("states") >= states {
                println!("{depth} levels deep");
                return Ok(());
            }
            let results = parallel::map(some, |(at, state)| {
                (*at, one_deeper(tool, &stages[*at], state, dir))
            });
            for (at, result) in results {
                let (found, wrong) = result?;
                row.tried(found.count, "states");
                row.tried(1, "recoveries recorded");
                row.tried(found.distinct.len() as u64, "distinct recovered from");
                let work = stages[at].work;
                wrong.into_iter().for_each(|w| row.found(format!("{work:?}, {depth} deep: {w}")));
                next.extend(found.distinct.into_iter().map(|state| (at, state)));
            }
        }
        // Evenly over everything that was found.
        let step = next.len() / LEVEL_MAX + 1;
        level = next.into_iter().step_by(step).collect();
        if level.is_empty() {
            break;
        }
    }
    Ok(())
}

fn one_deeper(
    tool: &Tool,
    stage: &Stage,
    (content, _): &State,
    dir: &Path,
) -> anyhow::Result<(States, Vec<String>)> {
    let place = tempfile::tempdir_in(dir)?;
    disk::write(content, &place.path().join("store"))?;
    let found = record_and_build(tool, stage, place.path())?;
    let states = found.distinct.iter();
    let wrong = states.flat_map(|(content, done)| in_memory(stage, content, *done)).collect();
    Ok((found, wrong))
}

/// Leaves one kind of sync out of what was recorded, for each kind that there is: each time something
/// must be found, or the sync is for nothing, or nothing is proven here.
fn without_syncs(tool: &Tool, stages: &[Stage], dir: &Path, row: &mut Row) -> anyhow::Result<()> {
    let mut edges: BTreeMap<String, bool> = BTreeMap::new();
    for stage in stages.iter().filter(|stage| stage.work != Work::Run) {
        let place = tempfile::tempdir_in(dir)?;
        stage.copy(place.path())?;
        let before = Disk::read(&place.path().join("store"))?;
        let ops = record(tool, stage, place.path())?;
        let kinds: BTreeSet<String> = ops.iter().filter_map(sync_kind).collect();
        for kind in kinds {
            let is_found = edges.entry(kind.clone()).or_default();
            if *is_found {
                continue;
            }
            let left = ops.iter().filter(|op| sync_kind(op).as_ref() != Some(&kind));
            let states = build(before.clone(), left);
            let any = |(content, done): &State| !in_memory(stage, content, *done).is_empty();
            *is_found = parallel::map(&states.distinct, any).contains(&true);
        }
    }
    for (kind, is_found) in edges {
        row.tried(1, "kinds of sync left out");
        println!("without {kind}: {}", if is_found { "loss is found" } else { "nothing is found" });
        if !is_found {
            row.found(format!("nothing is lost without {kind}"));
        }
    }
    Ok(())
}

/// Names a sync by what it is for.
fn sync_kind(op: &Op) -> Option<String> {
    match op {
        Op::SyncFile { .. } => Some("syncs of files".to_owned()),
        // The folders in the root are there since the store was made: see the syncs of making one.
        Op::SyncFolder { path } if path.is_empty() => None,
        Op::SyncFolder { path } => {
            let folder = path.split('/').next().unwrap_or_default();
            Some(format!("syncs of the folder {folder:?}"))
        }
        _ => None,
    }
}
