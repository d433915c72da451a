//! A service of one's own, backed up with the runner: an in-memory key-value service whose members
//! are stopped, take snapshots of themselves, and go on.
//!
//! ```text
//! cargo run --release --example custom_executor -- STORE TARGET
//! ```

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strongroom::backend::LocalBackend;
use strongroom::run::executor::{
    Authority, Call, Capabilities, Error, Evidence, Executor, Fetched, State, Status,
};
use strongroom::run::facts::{Quiescence, Scope, Snapshot};
use strongroom::run::inventory::{Inventory, Row};
use strongroom::run::plan::{AuthorityNeeded, Checksum, Plan, Request};
use strongroom::run::runner::{Options, Parts, Runner};
use strongroom::store::{Progress, Reference, RestoreOptions, Store, StoreConfig};

type Content = BTreeMap<String, String>;

/// One member of the service.
#[derive(Default)]
struct Shard {
    stopped: bool,
    content: Content,
    snapshots: Vec<Content>,
}

/// The service: its shards by name, the first one above the others.
struct KeyValues(Mutex<BTreeMap<String, Shard>>);

impl KeyValues {
    /// A service with something in it.
    fn new() -> Self {
        let shard = |n: u32| {
            let content = (0..1000).map(|key| (format!("key {key}"), format!("value {}", key * n)));
            (format!("shard-{n}"), Shard { content: content.collect(), ..Shard::default() })
        };
        Self(Mutex::new((1..=3).map(shard).collect()))
    }

    fn shards(&self) -> MutexGuard<'_, BTreeMap<String, Shard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with a shard; that there is none is certain, so it is a refusal.
    fn with<T>(
        &self,
        row: &Row,
        act: impl FnOnce(&mut Shard) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut shards = self.shards();
        act(shards.get_mut(&row.id).ok_or_else(|| refused(format!("there is no {}", row.id)))?)
    }
}

fn refused(why: impl Into<String>) -> Error {
    Error::Refused(why.into())
}

/// A snapshot's name is its number.
fn named(number: usize, content: &Content) -> Snapshot {
    let bytes: usize = content.iter().map(|(key, value)| key.len() + value.len()).sum();
    Snapshot { id: format!("snapshot-{number}"), taken_at: None, total_bytes: Some(bytes as u64) }
}

fn number(snapshot: &Snapshot) -> Result<usize, Error> {
    let number = snapshot.id.strip_prefix("snapshot-").and_then(|number| number.parse().ok());
    number.ok_or_else(|| refused(format!("{} is no snapshot", snapshot.id)))
}

fn write(path: &Path, content: &Content) -> std::io::Result<()> {
    std::fs::write(path, serde_json::to_vec_pretty(content)?)
}

fn read(path: &Path) -> std::io::Result<Content> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

impl Executor for KeyValues {
    fn name(&self) -> &'static str {
        "key-values"
    }

    fn environment(&self) -> &'static str {
        "example"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { control: true, snapshots: true, restore: true }
    }

    fn inventory(&self, _: &Call) -> Result<Option<Vec<Row>>, Error> {
        let shards = self.shards();
        let root = shards.keys().next().cloned();
        let row = |id: &String| Row {
            id: id.clone(),
            role: Some("shard".into()),
            parent: root.clone().filter(|root| root != id),
            ..Row::default()
        };
        Ok(Some(shards.keys().map(row).collect()))
    }

    fn authority(&self, _: &Row, _: &Call) -> Result<Authority, Error> {
        let ours = || Evidence::Proven("the service lives in this process".into());
        Ok(Authority { control: ours(), read: ours() })
    }

    fn status(&self, member: &Row, _: &Call) -> Result<Status, Error> {
        self.with(member, |shard| {
            let state = if shard.stopped { State::Stopped } else { State::Running };
            Ok(Status { state, module_hash: None })
        })
    }

    fn stop(&self, member: &Row, _: &Call) -> Result<(), Error> {
        self.with(member, |shard| {
            shard.stopped = true;
            Ok(())
        })
    }

    fn start(&self, member: &Row, _: &Call) -> Result<(), Error> {
        self.with(member, |shard| {
            shard.stopped = false;
            Ok(())
        })
    }

    fn snapshots(&self, member: &Row, _: &Call) -> Result<Vec<Snapshot>, Error> {
        self.with(member, |shard| {
            Ok(shard.snapshots.iter().enumerate().map(|(n, content)| named(n, content)).collect())
        })
    }

    fn create(&self, member: &Row, _: &Call) -> Result<Snapshot, Error> {
        self.with(member, |shard| {
            if !shard.stopped {
                return Err(refused("it has to be stopped first"));
            }
            shard.snapshots.push(shard.content.clone());
            Ok(named(shard.snapshots.len() - 1, &shard.content))
        })
    }

    fn download(
        &self,
        member: &Row,
        snapshot: Option<&Snapshot>,
        staging: &Path,
        _: &Call,
    ) -> Result<Fetched, Error> {
        let number = number(snapshot.ok_or_else(|| refused("which snapshot?"))?)?;
        self.with(member, |shard| {
            let content = shard.snapshots.get(number).ok_or_else(|| refused("it is gone"))?;
            write(&staging.join("content.json"), content)
                .map_err(|error| Error::Unknown(error.to_string()))?;
            Ok(Fetched::Staged)
        })
    }

    fn check(
        &self,
        _: &Row,
        snapshot: Option<&Snapshot>,
        content: &Path,
    ) -> Result<Vec<String>, Error> {
        let content =
            read(&content.join("content.json")).map_err(|error| refused(error.to_string()))?;
        let actual = named(0, &content).total_bytes;
        match snapshot.and_then(|snapshot| snapshot.total_bytes) {
            expected if expected != actual => {
                Err(refused(format!("{actual:?} bytes, and the snapshot has {expected:?}")))
            }
            _ => Ok(vec![format!("{} keys", content.len())]),
        }
    }

    fn upload(&self, member: &Row, staging: &Path, _: &Call) -> Result<Snapshot, Error> {
        let content =
            read(&staging.join("content.json")).map_err(|error| refused(error.to_string()))?;
        self.with(member, |shard| {
            shard.snapshots.push(content);
            let number = shard.snapshots.len() - 1;
            Ok(named(number, &shard.snapshots[number]))
        })
    }

    fn load(&self, member: &Row, snapshot: &Snapshot, _: &Call) -> Result<(), Error> {
        let number = number(snapshot)?;
        self.with(member, |shard| {
            let content = shard.snapshots.get(number).ok_or_else(|| refused("it is gone"))?;
            shard.content = content.clone();
            Ok(())
        })
    }

    /// Numbers are names, so only the content goes.
    fn delete(&self, member: &Row, snapshot: &Snapshot, _: &Call) -> Result<(), Error> {
        let number = number(snapshot)?;
        self.with(member, |shard| {
            if let Some(content) = shard.snapshots.get_mut(number) {
                content.clear();
            }
            Ok(())
        })
    }
}

fn main() -> Result<(), Box<dyn StdError>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(place), Some(restored)) = (args.next(), args.next()) else {
        return Err("usage: custom_executor STORE TARGET".into());
    };
    let store = Store::create(Arc::new(LocalBackend::create(&place)?), StoreConfig::default())?;
    let service = KeyValues::new();

    let rows = service.inventory(&Call::new())?.ok_or("the service lists its members")?;
    let request = Request {
        deployment: "settings".into(),
        executor: service.name().into(),
        environment: service.environment().into(),
        scope: Scope::MaintenanceRoot,
        selector: None,
        root: None,
        quiescence: Quiescence::CrashConsistent,
        checksum: Checksum::Blake3,
        authority: AuthorityNeeded::Proven,
        fixed: Vec::new(),
        snapshots: true,
    };
    let plan = Plan::build(request, &Inventory::new(rows)?)?;
    let (progress, observer) = (Progress::default(), |_| {});
    let parts =
        Parts { store: &store, executor: &service, progress: &progress, observer: &observer };
    let options = Options::new(place.join("staging"));
    let report = Runner::start(parts, &plan, options)?.run()?;
    println!("generation {} of {} members", report.generation, report.members.len());

    // Something goes wrong, and comes right again.
    let member = Row { id: "shard-2".into(), ..Row::default() };
    let before = service.shards()["shard-2"].content.clone();
    service.with(&member, |shard| {
        shard.content.clear();
        Ok(())
    })?;
    let tree = store.tree(&Reference::parse(b"settings@latest:shard-2")?)?;
    store.restore(&tree, &restored, &RestoreOptions::default(), &progress)?;
    let call = Call::new();
    service.stop(&member, &call)?;
    let uploaded = service.upload(&member, &restored.join("shard-2"), &call)?;
    service.load(&member, &uploaded, &call)?;
    service.start(&member, &call)?;
    let same = service.shards()["shard-2"].content == before;
    println!("restored {}: {same}", member.id);
    if same { Ok(()) } else { Err("it is not what it was".into()) }
}
