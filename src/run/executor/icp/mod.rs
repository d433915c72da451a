//! Canisters of the Internet Computer, driven by its command line, `icp` 1.5.0 or later.
//!
//! Every command gets the network and the identity by name, so that nothing depends on what `icp`
//! would choose by itself. Exit code 2 means that nothing was sent; any other failure, a lost reply
//! included, says nothing of what happened. A snapshot is never replaced (`--replace`), and a
//! transfer is resumed only where `unfinished` is certain.

use std::path::Path;
use std::time::Duration;

use super::process::{Command, Output};
use super::{Authority, Call, Capabilities, Error, Evidence, Executor, Fetched, Status, staged};
use crate::run::facts::Snapshot;
use crate::run::inventory::Row;

#[doc(hidden)]
pub mod answer;
mod config;
mod content;
mod unfinished;

pub use config::{IcpConfig, IcpConfigError, IcpTimeouts};

use answer::CanisterStatus;
use config::Arguments;
use content::Expected;

/// The name that stands in receipts.
const NAME: &str = "icp";
/// Nothing was sent: the arguments were refused.
const USAGE: i32 = 2;
/// What the network answers when a snapshot is not there, as `icp` shows it.
const NO_SUCH_SNAPSHOT: &[u8] = b"error code Some(\"IC0305\")";

/// Drives canisters with `icp`.
#[derive(Clone, Debug)]
pub struct IcpExecutor {
    config: IcpConfig,
    arguments: Arguments,
}

impl IcpExecutor {
    /// Checks a configuration; nothing is run.
    ///
    /// # Errors
    /// Every [`IcpConfigError`].
    pub fn new(config: IcpConfig) -> Result<Self, IcpConfigError> {
        let arguments = config.arguments()?;
        Ok(Self { config, arguments })
    }

    fn command(&self, words: &[&str], limit: Duration) -> Command {
        let mut command = Command::new(&self.config.program, limit);
        // Nobody answers questions, and nobody is to hear of backups.
        command.env("CI", "1").env("DO_NOT_TRACK", "1").env("NO_COLOR", "1");
        for name in &self.config.env {
            command.inherit(name);
        }
        if let Some(home) = &self.config.home {
            command.env("HOME", home);
        }
        command.args(words).args(&self.arguments.identity);
        if let Some(file) = &self.config.identity_password_file {
            command.arg("--identity-password-file").arg(file);
        }
        if let Some(project) = &self.config.project {
            command.arg("--project-root-override").arg(project);
        }
        command
    }

    /// Makes `icp canister WORDS…` for a member.
    fn canister(&self, words: &[&str], member: &Row, limit: Duration) -> Result<Command, Error> {
        if member.id.is_empty() || member.id.starts_with('-') {
            return Err(Error::Refused(format!("'{}' is no canister", member.id)));
        }
        let words: Vec<&str> = ["canister"].iter().chain(words).copied().collect();
        let mut command = self.command(&words, limit);
        command.args(&self.arguments.network);
        Ok(command)
    }

    fn canister_status(&self, member: &Row, call: &Call) -> Result<CanisterStatus, Error> {
        let words = ["status", &member.id, "--json"];
        let output = run(&self.canister(&words, member, self.config.timeouts.query)?, call)?;
        read(&output, |stdout| answer::status(stdout, &member.id))
    }

    /// Asks for the principal that commands act as.
    fn principal(&self, call: &Call) -> Result<String, Error> {
        let words = ["identity", "principal"];
        let output = run(&self.command(&words, self.config.timeouts.query), call)?;
        read(&output, answer::principal)
    }

    /// Finds whether commands act as a controller.
    fn control(&self, status: &CanisterStatus, call: &Call) -> Result<Evidence, Error> {
        let Some(controllers) = &status.controllers else {
            let tried = "the network did not tell the status, which its controllers may read";
            return Ok(Evidence::NotProven(tried.to_owned()));
        };
        Ok(match self.principal(call) {
            Ok(own) if controllers.contains(&own) => {
                Evidence::Proven(format!("{own} is one of the canister's controllers"))
            }
            Ok(own) => {
                Evidence::NotProven(format!("{own} is not one of the canister's controllers"))
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) if status.only_controllers_read => Evidence::Proven(format!(
                "the network told the status, which only controllers may read ({error})"
            )),
            Err(error) => Evidence::NotProven(format!(
                "not only controllers may read the status, and the own principal is not known: {error}"
            )),
        })
    }

    /// What names a member and a snapshot of it among all networks.
    fn name_of(&self, member: &Row, snapshot: &str) -> String {
        let network = self.arguments.network.join(" ");
        format!("canister {}\nsnapshot {snapshot}\nnetwork {network}\n", member.id)
    }
}

/// Runs a command and judges its exit code.
fn run(command: &Command, call: &Call) -> Result<Output, Error> {
    let output = command.run(call)?;
    match output.status.code() {
        Some(0) => Ok(output),
        Some(USAGE) => Err(Error::Refused(output.ended())),
        _ => Err(Error::Unknown(output.ended())),
    }
}

/// Reads a reply; one that cannot be used says nothing of what was done.
fn read<T>(output: &Output, read: impl FnOnce(&[u8]) -> Result<T, String>) -> Result<T, Error> {
    read(&output.stdout).map_err(|why| Error::Unknown(output.bad_reply(&why)))
}

/// Checks a snapshot's identity, which may have been read from a journal.
fn checked(snapshot: &Snapshot) -> Result<String, Error> {
    answer::snapshot_id(&snapshot.id).map_err(Error::Refused)
}

impl Executor for IcpExecutor {
    fn name(&self) -> &'static str {
        NAME
    }

    fn environment(&self) -> &str {
        &self.arguments.place
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { control: true, snapshots: true, restore: true }
    }

    /// None: a network knows no deployments. The configured members count.
    fn inventory(&self, _: &Call) -> Result<Option<Vec<Row>>, Error> {
        Ok(None)
    }

    /// Asks for the status, for the own principal and, if that is no controller, for the snapshots.
    ///
    /// Control is proven if the own principal is among the controllers; or, if it cannot be asked
    /// for (an identity behind a password, say), if the network has told the status although only
    /// controllers may read it. The right to read is a controller's, or proven by the list of
    /// snapshots: whoever may read the list may read the snapshots (`snapshot_visibility`).
    ///
    /// # Errors
    /// The status could not be had at all.
    fn authority(&self, member: &Row, call: &Call) -> Result<Authority, Error> {
        let status = self.canister_status(member, call)?;
        let control = self.control(&status, call)?;
        let read = match &control {
            Evidence::Proven(how) => Evidence::Proven(how.clone()),
            _ => match self.snapshots(member, call) {
                Ok(_) => Evidence::Proven("the network listed the snapshots".to_owned()),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => Evidence::NotProven(error.to_string()),
            },
        };
        Ok(Authority { control, read })
    }

    fn status(&self, member: &Row, call: &Call) -> Result<Status, Error> {
        self.canister_status(member, call).map(|known| known.status)
    }

    fn stop(&self, member: &Row, call: &Call) -> Result<(), Error> {
        let limit = self.config.timeouts.control;
        run(&self.canister(&["stop", &member.id], member, limit)?, call).map(drop)
    }

    fn start(&self, member: &Row, call: &Call) -> Result<(), Error> {
        let limit = self.config.timeouts.control;
        run(&self.canister(&["start", &member.id], member, limit)?, call).map(drop)
    }

    fn snapshots(&self, member: &Row, call: &Call) -> Result<Vec<Snapshot>, Error> {
        let words = ["snapshot", "list", &member.id, "--json"];
        let output = run(&self.canister(&words, member, self.config.timeouts.query)?, call)?;
        read(&output, answer::snapshots)
    }

    fn create(&self, member: &Row, call: &Call) -> Result<Snapshot, Error> {
        let words = ["snapshot", "create", &member.id, "--json"];
        let output = run(&self.canister(&words, member, self.config.timeouts.snapshot)?, call)?;
        read(&output, answer::created)
    }

    /// Downloads a snapshot. What an interrupted download of this very snapshot left in `staging` is
    /// gone on with; anything else there is removed first. A file beside `staging` keeps what is
    /// under way.
    fn download(
        &self,
        member: &Row,
        snapshot: Option<&Snapshot>,
        staging: &Path,
        call: &Call,
    ) -> Result<Fetched, Error> {
        let Some(snapshot) = snapshot else {
            return Err(Error::Refused("download: a snapshot is needed".to_owned()));
        };
        let id = checked(snapshot)?;
        let staging = staged::absolute(staging)?;
        let words = ["snapshot", "download", &member.id, &id];
        let mut command = self.canister(&words, member, self.config.timeouts.transfer)?;
        command.arg("--output").arg(&staging);
        if call.is_interrupted() {
            return Err(Error::Interrupted);
        }
        if unfinished::begin_download(&staging, &self.name_of(member, &id))? {
            command.arg("--resume");
        }
        run(&command, call)?;
        unfinished::end_download(&staging)?;
        Ok(Fetched::Staged)
    }

    /// Compares sizes, the module and the chunk store with `metadata.json`, with
    /// `member.module_hash` and with the time at which the snapshot was taken. The memories have no
    /// hash to compare with.
    fn check(
        &self,
        member: &Row,
        snapshot: Option<&Snapshot>,
        content: &Path,
    ) -> Result<Vec<String>, Error> {
        let module_hash = member.module_hash.as_deref();
        let taken_at = snapshot.and_then(|snapshot| snapshot.taken_at);
        let refused = |why| Error::Refused(format!("member {}: {why}", member.id));
        content::check(content, Expected { module_hash, taken_at }).map_err(refused)
    }

    /// Uploads a snapshot, after its directory was found to be whole: `icp` itself would upload a
    /// truncated file. An interrupted upload goes on only if the same files were on their way to the
    /// same canister and the network still has the snapshot that was begun.
    fn upload(&self, member: &Row, staging: &Path, call: &Call) -> Result<Snapshot, Error> {
        let staging = staged::absolute(staging)?;
        let target = self.name_of(member, "uploaded");
        let upload = unfinished::Upload::new(&staging, &target)?;
        let begun = match upload.unfinished() {
            Some(id) => self.snapshots(member, call)?.iter().any(|known| known.id == id),
            None => false,
        };
        if !begun {
            upload.forget()?;
            let refused = |why| Error::Refused(format!("member {}: upload: {why}", member.id));
            content::check(&staging, Expected::default()).map_err(refused)?;
            upload.begin()?;
        }
        let words = ["snapshot", "upload", &member.id, "--json"];
        let mut command = self.canister(&words, member, self.config.timeouts.transfer)?;
        command.arg("--input").arg(&staging);
        if begun {
            command.arg("--resume");
        }
        let output = run(&command, call)?;
        let snapshot = read(&output, answer::uploaded)?;
        upload.end()?;
        Ok(snapshot)
    }

    fn load(&self, member: &Row, snapshot: &Snapshot, call: &Call) -> Result<(), Error> {
        let id = checked(snapshot)?;
        let words = ["snapshot", "restore", &member.id, &id];
        let command = self.canister(&words, member, self.config.timeouts.snapshot)?;
        run(&command, call).map(drop)
    }

    /// Removes a snapshot; one that is not there is removed already.
    fn delete(&self, member: &Row, snapshot: &Snapshot, call: &Call) -> Result<(), Error> {
        let id = checked(snapshot)?;
        let words = ["snapshot", "delete", &member.id, &id];
        let output = self.canister(&words, member, self.config.timeouts.control)?.run(call)?;
        let says_gone = |line: &[u8]| {
            line.windows(NO_SUCH_SNAPSHOT.len()).any(|window| window == NO_SUCH_SNAPSHOT)
        };
        match output.status.code() {
            Some(0) => Ok(()),
            Some(USAGE) => Err(Error::Refused(output.ended())),
            Some(_) if output.stderr.split(|byte| *byte == b'\n').any(says_gone) => Ok(()),
            _ => Err(Error::Unknown(output.ended())),
        }
    }
}
