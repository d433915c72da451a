//! A store before some work, the work, and what must be there when it had an accident.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::scene::{self, Expected, Source};
use crate::tool::{Tool, told};

/// What has an accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A backup into an empty store.
    First,
    /// A backup that stores differences.
    Next,
    /// A prune that forgets, writes packs anew and condemns.
    Forget,
    /// A prune that collects what was condemned.
    Collect,
    /// A prune that does all of it at once.
    AtOnce,
    /// A restore into an empty folder.
    Restore,
    /// A backup behind which index segments are merged.
    Merge,
    /// A run over the members of a configured deployment.
    Run,
}

/// A store before some work, to be copied for each case.
pub struct Stage {
    pub work: Work,
    pub dir: PathBuf,
    pub source: Source,
    /// What it holds, and what it holds when the work is done.
    pub before: Expected,
    pub after: Expected,
}

impl Stage {
    /// Prepares a store below `dir`.
    pub fn new(tool: &Tool, work: Work, dir: PathBuf) -> anyhow::Result<Self> {
        let generations = match work {
            Work::First => 0,
            Work::Next | Work::Run => 2,
            // One segment fewer than are merged.
            Work::Merge => 12,
            _ => 4,
        };
        fs::create_dir_all(&dir)?;
        let (mut source, before) = scene::store(tool, &dir, generations)?;
        let store = dir.join("store");
        let mut after = before.clone();
        match work {
            Work::First | Work::Next | Work::Merge | Work::Run => {
                if work != Work::First {
                    source.change()?;
                }
                after.generations.insert(generations + 1, source.files()?);
                after.acknowledged.insert(generations + 1);
            }
            Work::Collect => {
                tool.must(&store, &PRUNE.map(AsRef::as_ref))?;
                after.acknowledged = [3, 4].into();
                after.generations.retain(|number, _| *number >= 3);
            }
            Work::Forget | Work::AtOnce => {
                after.acknowledged = [3, 4].into();
                after.generations.retain(|number, _| *number >= 3);
            }
            Work::Restore => {}
        }
        if work == Work::Run {
            fs::write(dir.join(CONFIG), configuration(source.path()))?;
        }
        let mut stage = Self { work, dir, source, before, after };
        if work == Work::Collect {
            stage.before = stage.after.clone();
        }
        Ok(stage)
    }

    /// What a store holds in the middle of the work: what it held before or after.
    pub fn between(&self) -> Expected {
        let mut between = self.after_repeat();
        between.generations.extend(self.before.generations.clone());
        between.acknowledged.clone_from(&self.before.acknowledged);
        between.acknowledged.retain(|number| self.after.acknowledged.contains(number));
        between
    }

    /// What a store holds when the work was repeated: a backup that was done, and had not come to
    /// say so, is there twice.
    pub fn after_repeat(&self) -> Expected {
        let mut after = self.after.clone();
        let is_backup = matches!(self.work, Work::First | Work::Next | Work::Merge | Work::Run);
        if let (true, Some((number, files))) = (is_backup, self.after.generations.last_key_value())
        {
            let more = (1..=REPEATS_MAX).map(|more| (number + more, files.clone()));
            after.generations.extend(more);
        }
        after
    }

    /// The work on a copy of the store in `place`.
    pub fn command(&self, tool: &Tool, place: &Path) -> Command {
        let store = place.join("store");
        let mut member = std::ffi::OsString::from(format!("{}=", scene::MEMBER));
        member.push(self.source.path());
        match self.work {
            Work::First | Work::Next | Work::Merge => {
                let args = ["backup", "--name", scene::DEPLOYMENT, "--reread"];
                let mut command = tool.command(&store, &args.map(AsRef::as_ref));
                command.arg(member);
                command
            }
            Work::Forget | Work::Collect => tool.command(&store, &PRUNE.map(AsRef::as_ref)),
            Work::AtOnce => tool.command(&store, &PRUNE_AT_ONCE.map(AsRef::as_ref)),
            Work::Run => {
                let mut command = tool.command(&store, &["backup", "--all"].map(AsRef::as_ref));
                command.arg("--config").arg(self.dir.join(CONFIG));
                command
            }
            Work::Restore => {
                let mut command =
                    tool.command(&store, &["restore", scene::DEPLOYMENT].map(AsRef::as_ref));
                command.arg("--overwrite").arg("--to").arg(place.join("restored"));
                command
            }
        }
    }

    /// Copies the store to `place`.
    pub fn copy(&self, place: &Path) -> anyhow::Result<()> {
        copy(&self.dir.join("store"), &place.join("store"))
    }

    /// Looks at what is there after an accident, repeats the work, and looks again.
    pub fn check(&self, tool: &Tool, place: &Path) -> anyhow::Result<Vec<String>> {
        let store = place.join("store");
        let mut wrong = self.between().check(&scene::open(&store)?);
        let output = self.command(tool, place).output()?;
        if !output.status.success() {
            wrong.push(format!("the repeat ended with {}: {}", output.status, told(&output)));
            return Ok(wrong);
        }
        if fs::read_dir(store.join("tmp"))?.next().is_some() {
            wrong.push("something is left in tmp".to_owned());
        }
        if self.work == Work::Restore {
            let last = self.before.generations.last_key_value().context("a generation")?;
            let restored = scene::files(&place.join("restored").join(scene::MEMBER))?;
            if restored != *last.1 {
                wrong.push("something else was restored".to_owned());
            }
        }
        wrong.extend(self.after_repeat().check(&scene::open(&store)?));
        Ok(wrong)
    }
}

/// More often a work is not repeated.
const REPEATS_MAX: u64 = 12;
const CONFIG: &str = "strongroom.toml";
const PRUNE: [&str; 6] = ["prune", "--keep-last", "2", "--grace", "1ns", "--apply"];
const PRUNE_AT_ONCE: [&str; 6] = ["prune", "--keep-last", "2", "--grace", "0", "--apply"];

fn configuration(source: &Path) -> String {
    let (deployment, member, path) = (scene::DEPLOYMENT, scene::MEMBER, source.display());
    format!(
        "[deployments.{deployment}]\n[[deployments.{deployment}.members]]\nid = \"{member}\"\n\
         path = \"{path}\"\n"
    )
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            copy(&item.path(), &target)?;
        } else {
            fs::copy(item.path(), &target)?;
        }
    }
    Ok(())
}
