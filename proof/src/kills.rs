//! The command killed at every system call of a backup, a prune and a restore.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::changes;
use crate::parallel;
use crate::report::Row;
use crate::scene;
use crate::stage::{Stage, Work};
use crate::tool::Tool;
use crate::tracer::{self, Action, Call, End, Watch};
use anyhow::ensure;
use nix::sys::signal::Signal;

/// Kills at one event: those before and those behind system calls are counted together.
struct Killer {
    events: u64,
    at: u64,
}

impl Watch for Killer {
    fn stop(&mut self) -> Option<Action> {
        self.events += 1;
        Some(if self.events == self.at { Action::Kill } else { Action::Go })
    }
}

/// Those that are killed.
const WORKS: [Work; 7] =
    [Work::First, Work::Next, Work::Forget, Work::Collect, Work::AtOnce, Work::Restore, Work::Run];

/// Sees which events belong to system calls that change something.
struct Counter {
    below: PathBuf,
    events: u64,
    changes: Vec<u64>,
}

impl Watch for Counter {
    fn enter(&mut self, call: &Call) -> Action {
        self.events += 1;
        if changes::is_change_below(call, &self.below) {
            // Before it and behind it.
            self.changes.extend([self.events, self.events + 1]);
        }
        Action::Go
    }

    fn exit(&mut self, _: &Call, _: i64) -> Action {
        self.events += 1;
        Action::Go
    }
}

/// Kills every work before and behind every system call; if that would be more than `kills` in all,
/// only at so many, and at all that change something.
pub fn prove(tool: &Tool, kills: u64) -> anyhow::Result<Row> {
    let mut row = Row::new("real kills at system calls, then repeated");
    let dir = tempfile::tempdir_in(scene::fast_dir())?;
    let mut stages = Vec::new();
    for work in WORKS {
        let stage = Stage::new(tool, work, dir.path().join(format!("{work:?}")))?;
        let counter = count(tool, &stage, dir.path())?;
        println!(
            "{work:?}: {} moments before and behind system calls, {} where something changes",
            counter.events,
            counter.changes.len()
        );
        stages.push((stage, counter));
    }
    let all: u64 = stages.iter().map(|(_, counter)| counter.events).sum();
    let kills = kills.min(all);
    for (stage, counter) in &stages {
        let is_chosen = |at: &u64| at * kills / all != (at - 1) * kills / all;
        let every = (1..=counter.events).filter(is_chosen);
        let moments: BTreeSet<u64> = every.chain(counter.changes.iter().copied()).collect();
        let moments: Vec<u64> = moments.into_iter().collect();
        let results = parallel::map(&moments, |at| one(tool, stage, *at, dir.path()));
        for (at, result) in moments.iter().zip(results) {
            match result {
                Ok(None) => row.tried(1, "ended before"),
                Ok(Some(wrong)) => {
                    row.tried(1, "kills");
                    for wrong in wrong {
                        row.found(format!("{:?} at {at}: {wrong}", stage.work));
                    }
                }
                Err(error) => row.found(format!("{:?} at {at}: {error:#}", stage.work)),
            }
        }
    }
    row.expect_at_least(kills, "kills");
    Ok(row)
}

fn count(tool: &Tool, stage: &Stage, dir: &Path) -> anyhow::Result<Counter> {
    let place = tempfile::tempdir_in(dir)?;
    stage.copy(place.path())?;
    let below = place.path().to_owned();
    let mut counter = Counter { below, events: 0, changes: Vec::new() };
    let end = tracer::run(&stage.command(tool, place.path()), &mut counter)?;
    ensure!(end == End::Exited(0), "{:?} ended with {end:?}", stage.work);
    Ok(counter)
}

/// Kills one; `None` if it had ended before.
fn one(tool: &Tool, stage: &Stage, at: u64, dir: &Path) -> anyhow::Result<Option<Vec<String>>> {
    let place = tempfile::tempdir_in(dir)?;
    stage.copy(place.path())?;
    let mut killer = Killer { events: 0, at };
    match tracer::run(&stage.command(tool, place.path()), &mut killer)? {
        End::Killed(Signal::SIGKILL) => Ok(Some(stage.check(tool, place.path())?)),
        End::Exited(0) => Ok(None),
        end => Ok(Some(vec![format!("ended with {end:?}")])),
    }
}
