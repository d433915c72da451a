//! Services that are driven by external commands, as a configuration says.
//!
//! Owns the configuration, its placeholders and the reading of replies; running commands belongs to
//! [`process`](super::process). A value from outside is only ever put inside one argument, never
//! chooses the program and never becomes an option.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use super::process::{Command, Output};
use super::{Authority, Call, Capabilities, Error, Evidence, Executor, Fetched, Status, staged};
use crate::run::facts::Snapshot;
use crate::run::inventory::Row;

#[doc(hidden)]
pub mod answer;
mod config;
mod plan;
mod template;

pub use config::{CommandConfig, ConfigError, Format, Reply, States, Step, Unit};

use plan::{Kind, Ready};
use template::{Template, Values};

/// Drives members by configured commands.
#[derive(Clone, Debug)]
pub struct CommandExecutor {
    config: CommandConfig,
    capabilities: Capabilities,
    path: Option<Template>,
    stop: Option<Ready>,
    start: Option<Ready>,
    status: Option<Ready>,
    create: Option<Ready>,
    list: Option<Ready>,
    download: Option<Ready>,
    upload: Option<Ready>,
    load: Option<Ready>,
    delete: Option<Ready>,
    inventory: Option<Ready>,
}

impl CommandExecutor {
    /// Checks a configuration. Members can be stopped and started if `stop`, `start` and `status`
    /// are there, make snapshots if `create`, `list` and `download` are, and take them back if
    /// `upload` and `load` are: of each of these sets all are needed or none, because a runner that
    /// cannot ask what a command did could only guess. (`download` alone writes a member's content
    /// without a snapshot.)
    ///
    /// # Errors
    /// Every [`ConfigError`].
    pub fn new(mut config: CommandConfig) -> Result<Self, ConfigError> {
        if config.name.is_empty() {
            "command".clone_into(&mut config.name);
        }
        check_variables(&config)?;
        check_states(&config.states)?;
        let capabilities = capabilities(&config)?;
        let ready = |step: &Option<Step>, kind: &Kind| {
            step.as_ref().map(|step| Ready::new(step, kind, &config)).transpose()
        };
        let download = if capabilities.snapshots { &plan::DOWNLOAD } else { &plan::DUMP };
        let path = config.path.as_ref().map(|path| plan::template(path, &plan::PATH, &config));
        let executor = Self {
            capabilities,
            path: path.transpose()?,
            stop: ready(&config.stop, &plan::STOP)?,
            start: ready(&config.start, &plan::START)?,
            status: ready(&config.status, &plan::STATUS)?,
            create: ready(&config.create, &plan::CREATE)?,
            list: ready(&config.list, &plan::LIST)?,
            download: ready(&config.download, download)?,
            upload: ready(&config.upload, &plan::UPLOAD)?,
            load: ready(&config.load, &plan::LOAD)?,
            delete: ready(&config.delete, &plan::DELETE)?,
            inventory: ready(&config.inventory, &plan::INVENTORY)?,
            config,
        };
        for step in [&executor.download, &executor.upload].into_iter().flatten() {
            if !step.uses("dir") {
                let reason = "no argument uses {dir}, the directory that content is passed in";
                let argument = step.program.clone();
                return Err(ConfigError::Argument { step: step.name, argument, reason });
            }
        }
        Ok(executor)
    }

    fn step<'a>(&self, step: Option<&'a Ready>, what: &'static str) -> Result<&'a Ready, Error> {
        let executor = || self.config.name.clone();
        step.ok_or_else(|| Error::Unsupported { executor: executor(), what })
    }

    fn values<'a>(&'a self, member: Option<&'a Row>) -> Values<'a> {
        Values {
            member,
            snapshot: None,
            dir: None,
            environment: &self.config.environment,
            variables: member.and_then(|row| self.config.variables.get(&row.id)),
        }
    }

    /// Runs a step and judges its exit code.
    fn run(&self, step: &Ready, values: &Values, call: &Call) -> Result<Output, Error> {
        let refused = |reason: String| Error::Refused(format!("{}: {reason}", step.name));
        let args = step.args(values).map_err(refused)?;
        let mut command = Command::new(&step.program, step.limit);
        command.args(args);
        for name in &self.config.env {
            command.inherit(name);
        }
        if let Some(directory) = &self.config.directory {
            command.directory(directory);
        }
        let output = command.run(call)?;
        let is = |codes: &[i32]| output.status.code().is_some_and(|code| codes.contains(&code));
        if is(&step.success_codes) {
            Ok(output)
        } else if is(&step.refused_codes) {
            Err(Error::Refused(output.ended()))
        } else {
            Err(Error::Unknown(output.ended()))
        }
    }
}

/// Reads a reply; one that cannot be used says nothing of what was done.
fn read<T>(output: &Output, read: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, Error> {
    read(&output.stdout).map_err(|why| Error::Unknown(output.bad_reply(&why)))
}

impl Executor for CommandExecutor {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn environment(&self) -> &str {
        &self.config.environment
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn inventory(&self, call: &Call) -> Result<Option<Vec<Row>>, Error> {
        let Some(step) = &self.inventory else { return Ok(None) };
        let output = self.run(step, &self.values(None), call)?;
        read(&output, |stdout| answer::rows(stdout, &step.reply)).map(Some)
    }

    /// Nothing is asked: the configuration claims both rights.
    fn authority(&self, _: &Row, _: &Call) -> Result<Authority, Error> {
        Ok(Authority { control: Evidence::Declared, read: Evidence::Declared })
    }

    fn status(&self, member: &Row, call: &Call) -> Result<Status, Error> {
        let step = self.step(self.status.as_ref(), "ask for a status")?;
        let output = self.run(step, &self.values(Some(member)), call)?;
        read(&output, |stdout| answer::status(stdout, &step.reply, &self.config.states))
    }

    fn stop(&self, member: &Row, call: &Call) -> Result<(), Error> {
        let step = self.step(self.stop.as_ref(), "stop members")?;
        self.run(step, &self.values(Some(member)), call).map(drop)
    }

    fn start(&self, member: &Row, call: &Call) -> Result<(), Error> {
        let step = self.step(self.start.as_ref(), "start members")?;
        self.run(step, &self.values(Some(member)), call).map(drop)
    }

    fn snapshots(&self, member: &Row, call: &Call) -> Result<Vec<Snapshot>, Error> {
        let step = self.step(self.list.as_ref(), "list snapshots")?;
        let output = self.run(step, &self.values(Some(member)), call)?;
        read(&output, |stdout| answer::snapshots(stdout, &step.reply))
    }

    fn create(&self, member: &Row, call: &Call) -> Result<Snapshot, Error> {
        let step = self.step(self.create.as_ref(), "make snapshots")?;
        let output = self.run(step, &self.values(Some(member)), call)?;
        read(&output, |stdout| answer::snapshot(stdout, &step.reply))
    }

    /// Names the member's place, or lets the command fill `staging`, which is emptied first: a
    /// command does not know what an earlier one left there.
    ///
    /// # Errors
    /// See [`Error`]; a command that leaves nothing in `staging` has failed, whatever it says.
    fn download(
        &self,
        member: &Row,
        snapshot: Option<&Snapshot>,
        staging: &Path,
        call: &Call,
    ) -> Result<Fetched, Error> {
        if snapshot.is_some() != self.capabilities.snapshots {
            let wrong = if snapshot.is_some() { "knows no snapshots" } else { "needs a snapshot" };
            return Err(Error::Refused(format!("download: executor {} {wrong}", self.name())));
        }
        let mut values = self.values(Some(member));
        if let Some(path) = &self.path {
            let refused = |reason: String| Error::Refused(format!("path: {reason}"));
            let path: OsString = path.fill(&values, true).map_err(refused)?;
            if !Path::new(&path).is_absolute() {
                return Err(refused("it is not absolute".to_owned()));
            }
            return staged::in_place(member, path.into());
        }
        let step = self.step(self.download.as_ref(), "fetch content")?;
        let staging = staged::absolute(staging)?;
        staged::empty(&staging)?;
        values.snapshot = snapshot.map(|snapshot| snapshot.id.as_str());
        values.dir = Some(&staging);
        let output = self.run(step, &values, call)?;
        if staged::is_empty(&staging)? {
            let nothing = format!("it left nothing in {}", staging.display());
            return Err(Error::Unknown(output.failure(&nothing)));
        }
        Ok(Fetched::Staged)
    }

    /// Nothing: commands bring no evidence to compare with.
    fn check(&self, _: &Row, _: Option<&Snapshot>, _: &Path) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    fn upload(&self, member: &Row, staging: &Path, call: &Call) -> Result<Snapshot, Error> {
        let step = self.step(self.upload.as_ref(), "upload snapshots")?;
        let staging = staged::absolute(staging)?;
        if staged::is_empty(&staging)? {
            let nothing = format!("upload: there is nothing in {}", staging.display());
            return Err(Error::Refused(nothing));
        }
        let values = Values { dir: Some(&staging), ..self.values(Some(member)) };
        let output = self.run(step, &values, call)?;
        read(&output, |stdout| answer::snapshot(stdout, &step.reply))
    }

    fn load(&self, member: &Row, snapshot: &Snapshot, call: &Call) -> Result<(), Error> {
        let step = self.step(self.load.as_ref(), "load snapshots")?;
        let values = Values { snapshot: Some(&snapshot.id), ..self.values(Some(member)) };
        self.run(step, &values, call).map(drop)
    }

    fn delete(&self, member: &Row, snapshot: &Snapshot, call: &Call) -> Result<(), Error> {
        let step = self.step(self.delete.as_ref(), "remove snapshots")?;
        let values = Values { snapshot: Some(&snapshot.id), ..self.values(Some(member)) };
        self.run(step, &values, call).map(drop)
    }
}

/// Finds what the steps that are there make possible.
fn capabilities(config: &CommandConfig) -> Result<Capabilities, ConfigError> {
    let control = [
        ("stop", config.stop.is_some()),
        ("start", config.start.is_some()),
        ("status", config.status.is_some()),
    ];
    let snapshots = [("create", config.create.is_some()), ("list", config.list.is_some())];
    let restore = [("upload", config.upload.is_some()), ("load", config.load.is_some())];
    let control =
        all_or_none(&control, "what is stopped has to be started, and a lost reply asked after")?;
    let snapshots =
        all_or_none(&snapshots, "after a lost reply, only the list shows what was created")?;
    let restore = all_or_none(&restore, "what is uploaded has to be loaded")?;
    if config.download.is_some() == config.path.is_some() {
        return Err(ConfigError::Content);
    }
    let needs = |have, missing, why| Err(ConfigError::Missing { have, missing, why });
    if snapshots && config.download.is_none() {
        return needs("create", "download", "a snapshot is read after it has been fetched");
    }
    if config.delete.is_some() && !snapshots && !restore {
        return needs("delete", "create", "there is nothing to remove");
    }
    Ok(Capabilities { control, snapshots, restore })
}

fn all_or_none(steps: &[(&'static str, bool)], why: &'static str) -> Result<bool, ConfigError> {
    let have = steps.iter().find(|(_, is_there)| *is_there);
    let missing = steps.iter().find(|(_, is_there)| !is_there);
    match (have, missing) {
        (Some((have, _)), Some((missing, _))) => Err(ConfigError::Missing { have, missing, why }),
        (have, _) => Ok(have.is_some()),
    }
}

fn check_variables(config: &CommandConfig) -> Result<(), ConfigError> {
    const TAKEN: [&str; 6] = ["member", "role", "parent", "snapshot", "dir", "environment"];
    for (member, variables) in &config.variables {
        for (name, value) in variables {
            let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
            let reason = if TAKEN.contains(&name.as_str()) {
                "this name has a meaning of its own"
            } else if name.is_empty() || !name.chars().all(letter) {
                "a name consists of a-z, 0-9, '-' and '_'"
            } else if value.is_empty() || value.contains('\0') {
                "its value is empty or holds a NUL character"
            } else {
                continue;
            };
            let (member, name) = (member.clone(), name.clone());
            return Err(ConfigError::Variable { member, name, reason });
        }
    }
    Ok(())
}

fn check_states(states: &States) -> Result<(), ConfigError> {
    let mut known = BTreeSet::new();
    for words in [&states.running, &states.stopping, &states.stopped] {
        let words: BTreeSet<_> = words.iter().map(|word| word.to_ascii_lowercase()).collect();
        if let Some(word) = words.intersection(&known).next() {
            return Err(ConfigError::State { word: word.clone() });
        }
        known.extend(words);
    }
    Ok(())
}
