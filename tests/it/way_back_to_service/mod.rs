//! The way back: generations that were made of a service are put back into it.

#![expect(clippy::result_large_err, reason = "what a run fails with is passed on a few times")]

mod canisters;
mod faults;
mod killed;
mod refused;
mod service;
mod whole;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use strongroom::backend::MemoryBackend;
use strongroom::run::executor::{Call, Executor};
use strongroom::run::facts::{Quiescence, Scope};
use strongroom::run::inventory::Inventory;
use strongroom::run::plan::{AuthorityNeeded, Checksum, Plan as BackupPlan, Request};
use strongroom::run::restore::{self, Plan, Source};
use strongroom::run::runner::{self, Error, Notice, Options, Parts};
use strongroom::store::{Progress, Store};
use tempfile::TempDir;

use crate::support::{DEPLOYMENT, copy_of, fast_temp, memory_store, open, reference};
use service::{Content, Service};

/// A store with generations of a service, and the service.
struct Place {
    dir: TempDir,
    backend: MemoryBackend,
    service: Service,
    /// What the members held at the first generation.
    first: BTreeMap<String, Content>,
}

fn silent(_: Notice) {}

impl Place {
    /// Backs the service up, and changes all that its members hold: an upgrade that was a mistake.
    fn new() -> Self {
        let (backend, store) = memory_store();
        let service = Service::new(1);
        let place = Self { dir: fast_temp(), backend, first: service.contents(), service };
        place.backup(&store).unwrap();
        place.upgrade(2);
        place.service.calls();
        place.service.guard(place.first.clone());
        place
    }

    /// Makes a copy, so that what is done to one is not done to the other.
    fn copy(&self) -> Self {
        Self {
            dir: fast_temp(),
            backend: copy_of(&self.backend),
            service: self.service.copy(),
            first: self.first.clone(),
        }
    }

    /// Changes what all members hold.
    fn upgrade(&self, seed: u64) {
        for id in self.first.keys() {
            self.service.with(id, |member| member.content = service::content(id, seed));
        }
    }

    fn store(&self) -> Store {
        open(self.backend.clone())
    }

    fn options(&self) -> Options {
        Options {
            poll: Duration::from_millis(1),
            settle: Duration::from_secs(20),
            concurrency: 2,
            ..Options::new(self.staging())
        }
    }

    fn staging(&self) -> PathBuf {
        self.dir.path().join("staging")
    }

    fn backup_plan(&self) -> BackupPlan {
        let rows = self.service.inventory(&Call::new()).unwrap();
        let request = Request {
            deployment: DEPLOYMENT.into(),
            executor: self.service.name().into(),
            environment: self.service.environment().into(),
            scope: Scope::MaintenanceRoot,
            selector: None,
            root: Some("root".into()),
            quiescence: Quiescence::CrashConsistent,
            checksum: Checksum::Sha256,
            authority: AuthorityNeeded::Proven,
            fixed: vec!["root".into()],
            snapshots: true,
        };
        BackupPlan::build(request, &Inventory::new(rows.unwrap()).unwrap()).unwrap()
    }

    fn backup(&self, store: &Store) -> Result<runner::Report, Error> {
        let progress = Progress::default();
        let executor = &self.service;
        let parts = Parts { store, executor, progress: &progress, observer: &silent };
        runner::Runner::start(parts, &self.backup_plan(), self.options())?.run()
    }

    /// Plans to put the first generation back.
    fn plan(&self, map: Option<&[(&str, &str)]>) -> Plan {
        let source = Source::read(&self.store(), &reference("orders@g1")).unwrap();
        source.plan(DEPLOYMENT, &self.service, AuthorityNeeded::Proven, map.map(map_of)).unwrap()
    }

    fn start(&self, plan: &Plan) -> Result<restore::Report, Error> {
        self.drive(|parts| restore::Runner::start(parts, plan, self.options()))
    }

    /// Goes on with the restore that is not finished.
    fn resume(&self) -> Result<restore::Report, Error> {
        let run = self.unfinished().expect("a restore that is not finished");
        self.drive(|parts| restore::Runner::resume(parts, &run, self.options()))
    }

    fn unfinished(&self) -> Option<String> {
        let found = strongroom::run::any::unfinished_restore(&self.store(), DEPLOYMENT);
        found.unwrap().map(|(run, _)| run)
    }

    /// Runs a restore in a process of its own, as it were: nothing is remembered.
    fn drive(
        &self,
        begin: impl FnOnce(Parts<'_>) -> Result<restore::Runner<'_>, Error>,
    ) -> Result<restore::Report, Error> {
        self.drive_in(&self.store(), &Progress::default(), begin)
    }

    fn drive_in(
        &self,
        store: &Store,
        progress: &Progress,
        begin: impl FnOnce(Parts<'_>) -> Result<restore::Runner<'_>, Error>,
    ) -> Result<restore::Report, Error> {
        let notices = Mutex::new(Vec::new());
        let tell = |notice: Notice| notices.lock().unwrap().push(notice);
        let parts = Parts { store, executor: &self.service, progress, observer: &tell };
        begin(parts)?.run()
    }

    /// Everything is as it was at the first generation, and nothing is left behind.
    #[track_caller]
    fn assert_restored(&self) {
        assert_eq!(self.service.contents(), self.first);
        assert!(self.service.all_run(), "{:?}", self.service.states());
        assert_eq!(self.unfinished(), None);
        let staged = std::fs::read_dir(self.staging()).unwrap();
        let staged: Vec<_> = staged.map(|item| item.unwrap().file_name()).collect();
        assert_eq!(staged, ["locks"]);
        assert_eq!(self.service.violations(), [""; 0]);
    }
}

fn map_of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
}
