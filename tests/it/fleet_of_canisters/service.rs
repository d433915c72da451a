//! A service that is a directory: members with a state, a memory and snapshots, each a file. It
//! outlives whoever drives it, so that a runner can be killed at any place. It writes down what it is
//! asked, and calls the test before and after every answer. A file `inventory`, if it is there, is
//! its list of members.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use strongroom::run::executor::{
    Authority, Call, Capabilities, Error, Evidence, Executor, Fetched, State, Status,
};
use strongroom::run::facts::{Quiescence, Scope, Snapshot};
use strongroom::run::inventory::{Inventory, Row};
use strongroom::run::plan::{AuthorityNeeded, Checksum, Plan, Request};

use crate::support::{DEPLOYMENT, noise};

/// When a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Before,
    After,
}

/// What a hook may do to an answer.
pub type Meddle = Box<dyn Fn(&str, &str, Side) -> Option<Error> + Send + Sync>;

/// Drives the members of the directory.
pub struct Service {
    root: PathBuf,
    meddle: Meddle,
}

pub const MEMBERS: [&str; 4] = ["root", "left", "right", "leaf"];
const PARENTS: [Option<&str>; 4] = [None, Some("root"), Some("root"), Some("left")];
const ROLES: [&str; 4] = ["root", "shard", "shard", "index"];

pub fn rows() -> Vec<Row> {
    let members = MEMBERS.into_iter().zip(PARENTS).zip(ROLES);
    let row = |((id, parent), role): ((&str, Option<&str>), &str)| Row {
        id: id.into(),
        parent: parent.map(Into::into),
        role: Some(role.into()),
        ..Row::default()
    };
    members.map(row).collect()
}

pub fn plan() -> Plan {
    let request = Request {
        deployment: DEPLOYMENT.into(),
        executor: "service".into(),
        environment: String::new(),
        scope: Scope::MaintenanceRoot,
        selector: None,
        root: None,
        quiescence: Quiescence::CrashConsistent,
        checksum: Checksum::Sha256,
        authority: AuthorityNeeded::Proven,
        fixed: vec![],
        snapshots: true,
    };
    Plan::build(request, &Inventory::new(rows()).unwrap()).unwrap()
}

/// Makes the service at `root`, with all members running.
pub fn create(root: &Path) {
    for (seed, id) in (0..).zip(MEMBERS) {
        let member = root.join(id);
        fs::create_dir_all(member.join("snapshots")).unwrap();
        fs::write(member.join("state"), "running").unwrap();
        fs::write(member.join("memory"), noise(seed, 70_000)).unwrap();
        fs::write(member.join("made"), "0").unwrap();
    }
}

impl Service {
    pub fn at(root: &Path) -> Self {
        Self::with(root, |_, _, _| None)
    }

    /// Drives the service, and lets `meddle` do something before and after every answer: it gets
    /// the verb and the member, and returns an error instead of an answer.
    pub fn with(
        root: &Path,
        meddle: impl Fn(&str, &str, Side) -> Option<Error> + Send + Sync + 'static,
    ) -> Self {
        Self { root: root.to_owned(), meddle: Box::new(meddle) }
    }

    fn answer<T>(
        &self,
        verb: &str,
        member: &str,
        call: &Call,
        work: impl FnOnce(&Path) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if call.is_interrupted() {
            return Err(Error::Interrupted);
        }
        if let Some(error) = (self.meddle)(verb, member, Side::Before) {
            return Err(error);
        }
        let mut log = fs::File::options();
        let mut log = log.create(true).append(true).open(self.root.join("log")).unwrap();
        log.write_all(format!("{verb} {member}\n").as_bytes()).unwrap();
        let answer = work(&self.root.join(member));
        match (self.meddle)(verb, member, Side::After) {
            Some(error) => Err(error),
            None => answer,
        }
    }

    pub fn state(&self, member: &str) -> String {
        fs::read_to_string(self.root.join(member).join("state")).unwrap()
    }

    pub fn set_state(&self, member: &str, state: &str) {
        fs::write(self.root.join(member).join("state"), state).unwrap();
    }

    pub fn memory(&self, member: &str) -> Vec<u8> {
        fs::read(self.root.join(member).join("memory")).unwrap()
    }

    /// What was asked, in order, as `verb member`.
    pub fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.root.join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What was asked that changes something.
    pub fn mutations(&self) -> Vec<String> {
        let mutating = ["stop", "start", "create", "delete"];
        let mut log = self.log();
        log.retain(|line| mutating.iter().any(|verb| line.split(' ').next() == Some(verb)));
        log
    }

    pub fn count(&self, verb: &str, member: &str) -> usize {
        let line = format!("{verb} {member}");
        self.log().iter().filter(|found| **found == line).count()
    }

    pub fn snapshots_of(&self, member: &str) -> Vec<String> {
        let items = fs::read_dir(self.root.join(member).join("snapshots")).unwrap();
        let mut names: Vec<_> =
            items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    /// Makes a snapshot as somebody else would.
    pub fn make_snapshot(&self, member: &str) -> String {
        make_snapshot(&self.root.join(member)).unwrap().id
    }
}

fn make_snapshot(member: &Path) -> Result<Snapshot, Error> {
    if fs::read_to_string(member.join("state")).unwrap() != "stopped" {
        return Err(Error::Unknown("a running member makes no snapshot".into()));
    }
    let made: u64 = fs::read_to_string(member.join("made")).unwrap().parse().unwrap();
    fs::write(member.join("made"), (made + 1).to_string()).unwrap();
    let id = format!("s{made:03}");
    fs::copy(member.join("memory"), member.join("snapshots").join(&id)).unwrap();
    Ok(Snapshot { id, taken_at: Some(made), total_bytes: None })
}

impl Executor for Service {
    fn name(&self) -> &str {
        "service"
    }

    fn environment(&self) -> &str {
        ""
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { control: true, snapshots: true, restore: false }
    }

    fn inventory(&self, call: &Call) -> Result<Option<Vec<Row>>, Error> {
        self.answer("inventory", "", call, |root| {
            let rows = fs::read(root.join("inventory")).ok();
            Ok(rows.map(|rows| serde_json::from_slice(&rows).unwrap()))
        })
    }

    fn authority(&self, member: &Row, call: &Call) -> Result<Authority, Error> {
        let proven = || Evidence::Proven("by the test".into());
        self.answer("authority", &member.id, call, |_| {
            Ok(Authority { control: proven(), read: proven() })
        })
    }

    fn status(&self, member: &Row, call: &Call) -> Result<Status, Error> {
        self.answer("status", &member.id, call, |path| {
            let state = match fs::read_to_string(path.join("state")).unwrap().as_str() {
                "running" => State::Running,
                "stopping" => State::Stopping,
                "stopped" => State::Stopped,
                _ => State::Unknown,
            };
            let module_hash = fs::read_to_string(path.join("module-hash")).ok();
            Ok(Status { state, module_hash })
        })
    }

    fn stop(&self, member: &Row, call: &Call) -> Result<(), Error> {
        self.answer("stop", &member.id, call, |path| {
            fs::write(path.join("state"), "stopped").unwrap();
            Ok(())
        })
    }

    fn start(&self, member: &Row, call: &Call) -> Result<(), Error> {
        self.answer("start", &member.id, call, |path| {
            fs::write(path.join("state"), "running").unwrap();
            Ok(())
        })
    }

    fn snapshots(&self, member: &Row, call: &Call) -> Result<Vec<Snapshot>, Error> {
        self.answer("list", &member.id, call, |_| {
            let of =
                |id: String| Snapshot { taken_at: id[1..].parse().ok(), total_bytes: None, id };
            Ok(self.snapshots_of(&member.id).into_iter().map(of).collect())
        })
    }

    fn create(&self, member: &Row, call: &Call) -> Result<Snapshot, Error> {
        self.answer("create", &member.id, call, make_snapshot)
    }

    fn download(
        &self,
        member: &Row,
        snapshot: Option<&Snapshot>,
        staging: &Path,
        call: &Call,
    ) -> Result<Fetched, Error> {
        self.answer("download", &member.id, call, |path| {
            // Goes on until it is told to end, or for a minute.
            for _ in 0..6000 {
                if call.is_interrupted() {
                    return Err(Error::Interrupted);
                }
                if !path.join("goes-on").exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let from = path.join("snapshots").join(&snapshot.unwrap().id);
            fs::copy(from, staging.join("memory"))
                .map(|_| Fetched::Staged)
                .map_err(|error| Error::Unknown(error.to_string()))
        })
    }

    fn check(
        &self,
        member: &Row,
        _: Option<&Snapshot>,
        content: &Path,
    ) -> Result<Vec<String>, Error> {
        self.answer("check", &member.id, &Call::new(), |_| {
            let found = fs::metadata(content.join("memory"));
            match found.map(|found| found.len()) {
                Ok(70_000) => Ok(vec!["70000 bytes".into()]),
                other => Err(Error::Refused(format!("70000 bytes expected, found {other:?}"))),
            }
        })
    }

    fn upload(&self, _: &Row, _: &Path, _: &Call) -> Result<Snapshot, Error> {
        Err(Error::Refused("not here".into()))
    }

    fn load(&self, _: &Row, _: &Snapshot, _: &Call) -> Result<(), Error> {
        Err(Error::Refused("not here".into()))
    }

    fn delete(&self, member: &Row, snapshot: &Snapshot, call: &Call) -> Result<(), Error> {
        self.answer("delete", &member.id, call, |path| {
            match fs::remove_file(path.join("snapshots").join(&snapshot.id)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::Unknown(error.to_string()))
                }
                _ => Ok(()),
            }
        })
    }
}
