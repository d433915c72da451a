//! Configured deployments: from `strongroom.toml` to members, an executor and a plan.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::context::Context;
use super::errors::Failure;
use super::exit::Exit;
use super::output::{note, shell_word};
use crate::run::config::{self, Config, Deployment, Member};
use crate::run::executor::{Call, Executor};
use crate::run::facts::Scope;
use crate::run::inventory::Inventory;
use crate::run::plan::Plan;
use crate::run::runner::{self, Notice, Options};
use crate::run::{journal, plan};
use crate::store::{IngestOptions, Progress};

/// A configuration and where it is.
#[derive(Debug)]
pub struct Loaded {
    /// The file.
    pub path: PathBuf,
    /// What it says.
    pub config: Config,
}

/// Largest configuration or inventory file, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Reads a configuration.
///
/// # Errors
/// It cannot be read, or is refused.
pub fn load(path: &Path) -> Result<Loaded, Failure> {
    let bytes = read(path)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("{}: not UTF-8", path.display())))?;
    let base = path.parent().unwrap_or(Path::new(""));
    let config = Config::parse(&text, base).map_err(|error| refuse(path, &error))?;
    Ok(Loaded { path: path.to_owned(), config })
}

/// Returns the configuration, which a command needs to reach members.
///
/// # Errors
/// There is none.
pub fn need_config<'c>(context: &'c Context, verb: &str) -> Result<&'c Loaded, Failure> {
    let hint = "it says how the members are reached: give it with --config FILE";
    context.config()?.ok_or_else(|| {
        Failure::usage(format!("{verb}: no configuration was found")).with_hint(hint)
    })
}

/// Reads a file of people, of bounded size.
///
/// # Errors
/// It cannot be read, or is too large.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::usage(format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    // Whatever length it says: it may be a pipe or a device.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let text = format!("{}: too many bytes, at most {FILE_BYTES_MAX} allowed", path.display());
        return Err(Failure::usage(text));
    }
    Ok(bytes)
}

fn refuse(path: &Path, error: &config::Error) -> Failure {
    let failure = Failure::usage(format!("{}: {error}", path.display()));
    match error {
        config::Error::UnknownKey { nearest: Some(nearest), .. } => {
            failure.with_hint(format!("did you mean `{nearest}`?"))
        }
        config::Error::UnknownDeployment { known, .. } if !known.is_empty() => {
            failure.with_hint(format!("there are: {}", known.join(", ")))
        }
        _ => failure,
    }
}

/// A deployment, ready to be planned for.
pub struct Fleet<'c> {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: &'c Deployment,
    /// Its configured members, those of the inventory file included.
    pub members: Vec<Member>,
    /// What drives them.
    pub executor: Box<dyn Executor>,
}

impl<'c> Fleet<'c> {
    /// Makes a deployment ready.
    ///
    /// # Errors
    /// It is not configured, or not well.
    pub fn load(loaded: &'c Loaded, name: &str) -> Result<Self, Failure> {
        let failed = |error: config::Error| refuse(&loaded.path, &error);
        let settings = loaded.config.deployment(name).map_err(failed)?;
        let mut members = settings.members.clone();
        if let Some(path) = &settings.inventory {
            let more =
                config::parse_inventory(&read(path)?).map_err(|error| refuse(path, &error))?;
            members.extend(more);
        }
        let executor = settings.make_executor(name, &members).map_err(failed)?;
        Ok(Self { name: name.to_owned(), settings, members, executor })
    }

    /// Plans a backup; the service is asked for its members if it has a list.
    ///
    /// # Errors
    /// The service did not answer, or there is no plan.
    pub fn plan(
        &self,
        loaded: &Loaded,
        scope: Option<Scope>,
        selector: Option<&str>,
        progress: &Progress,
    ) -> Result<Plan, Failure> {
        let failed = |text: String| Failure::failed(format!("plan for {}: {text}", self.name));
        let request =
            self.settings.request(&self.name, &*self.executor, &self.members, scope, selector);
        let request = request.map_err(|error| refuse(&loaded.path, &error))?;
        let call = Call { interrupted: progress.interrupt_flag(), ..Call::new() };
        let live = self.executor.inventory(&call).map_err(|error| failed(error.to_string()))?;
        let rows = live.unwrap_or_else(|| config::rows(&self.members));
        let inventory = Inventory::new(rows).map_err(|error| failed(error.to_string()))?;
        Plan::build(request, &inventory).map_err(|error| {
            let failure = failed(error.to_string());
            match error {
                plan::Error::AmbiguousSelector { .. } => failure.with_hint("select by identity"),
                plan::Error::AmbiguousRoot { .. } => {
                    failure.with_hint(format!("set `root` of deployments.{}", self.name))
                }
                plan::Error::RootSelected { .. } => {
                    failure.with_hint("use --scope maintenance-root, which takes all members")
                }
                _ => failure,
            }
        })
    }

    /// Returns how runs of the deployment are done.
    ///
    /// # Errors
    /// A setting cannot be, or no store was named.
    pub fn options(
        &self,
        context: &Context,
        loaded: &Loaded,
        ingest: IngestOptions,
    ) -> Result<Options, Failure> {
        let failed = |error: config::Error| refuse(&loaded.path, &error);
        let staging = match &loaded.config.staging {
            Some(staging) => staging.clone(),
            None => context.store_path()?.join("staging"),
        };
        let mut options = Options::new(staging);
        options.ingest = ingest;
        // A member that holds the store is read without it.
        let own = [context.store_path()?, options.staging.as_path()];
        let own = own.into_iter().filter_map(|path| crate::fstree::identity_of(path).ok());
        options.ingest.exclude.extend(own);
        if let Some(concurrency) = self.settings.concurrency {
            options.concurrency = concurrency;
        }
        if let Some(settle) = self.settings.settle(&self.name).map_err(failed)? {
            options.settle = settle;
        }
        options.inventory = Some(config::rows(&self.members));
        options.delete_snapshots = !self.settings.keep_snapshots.unwrap_or(false);
        Ok(options)
    }
}

/// Tells people what a runner does.
pub fn tell(quiet: bool) -> impl Fn(Notice) + Sync {
    move |notice| {
        if quiet {
            return;
        }
        match notice {
            Notice::Operation { id, state, detail: None } => {
                note(&format!("strongroom: {id}: {state}"));
            }
            Notice::Operation { id, state, detail: Some(detail) } => {
                note(&format!("strongroom: {id}: {state}: {detail}"));
            }
            Notice::Message(text) => note(&format!("strongroom: {text}")),
        }
    }
}

/// Makes a failure of what ended a run, with what is to be done.
pub fn failure(context: &Context, what: &str, run: Option<&str>, error: runner::Error) -> Failure {
    if let runner::Error::Restarted { restarted, failed, .. } = &error {
        if !restarted.is_empty() {
            note(&format!("strongroom: started again: {}", restarted.join(", ")));
        }
        for (member, reason) in failed {
            note(&format!("strongroom: {member} IS STILL STOPPED: {reason}"));
        }
    }
    if let runner::Error::LeftStopped { members, .. } = &error {
        let members = members.join(", ");
        note(&format!("strongroom: HALF RESTORED, AND THEREFORE LEFT STOPPED: {members}"));
    }
    if let runner::Error::StepsDone { stopped, .. } = &error
        && !stopped.is_empty()
    {
        note(&format!("strongroom: {} ARE STILL STOPPED", stopped.join(", ")));
    }
    let interrupted = error.is_interrupted();
    let resume = run.map(|run| context.command(&format!("resume {run}")));
    let message = format!("{what}: {error}");
    let hint = match error.cause() {
        runner::Error::Topology { .. } => run.map(|run| {
            let abandon = context.command(&format!("run abandon {}", shell_word(run)));
            format!("`{abandon}` gives the run up; the next backup plans anew")
        }),
        runner::Error::Unfinished { run, .. } => {
            let [resume, abandon] = ["resume", "run abandon"]
                .map(|verb| context.command(&format!("{verb} {}", shell_word(run))));
            Some(format!("`{resume}` goes on with it, `{abandon}` gives it up"))
        }
        runner::Error::Journal(journal::Error::Hole { run, .. }) => Some(format!(
            "nobody knows what it has stopped: see that all members run, keep a copy of runs/{run} of \
             the store, and remove it there; generations do not depend on it"
        )),
        runner::Error::InFlight { .. } => {
            Some("wait until that command has ended, or end it; then run this again".to_owned())
        }
        runner::Error::Locked { .. } => {
            Some("run this again when the other process is done".to_owned())
        }
        _ => resume
            .map(|resume| format!("`{resume}` goes on from here, and so does the same backup")),
    };
    let failure = match error {
        _ if interrupted => Failure::interrupted(message),
        runner::Error::Store(error) => Failure::store(context, what, error),
        runner::Error::Journal(journal::Error::Hole { .. }) | runner::Error::Damaged { .. } => {
            Failure::damaged(message)
        }
        runner::Error::Locked { .. } | runner::Error::InFlight { .. } => Failure::locked(message),
        _ => Failure::failed(message),
    };
    match hint {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

/// How a command over several deployments ends.
pub fn exit_of(done: usize, failures: &[Failure]) -> Exit {
    match failures {
        [] => Exit::DONE,
        [only] if done == 0 => only.exit(),
        _ if failures.iter().any(|failure| failure.exit() == Exit::INTERRUPTED) => {
            Exit::INTERRUPTED
        }
        _ if done == 0 => Exit::FAILED,
        _ => Exit::PARTLY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_refused() {
        assert!(read(Path::new("/dev/zero")).is_err());
        assert!(read(Path::new("/dev/null")).is_ok_and(|bytes| bytes.is_empty()));
        assert!(read(Path::new("/dev")).is_err());
    }
}
