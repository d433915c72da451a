//! Runs over members that are directories: many of them, the second night, kills and resumes.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use strongroom::backend::Key;
use strongroom::format::journal::EndedJournal;
use strongroom::run::event::Event;
use strongroom::run::executor::{DirExecutor, Executor};
use strongroom::run::facts::{DeploymentFacts, Quiescence, Scope};
use strongroom::run::inventory::{Inventory, Row};
use strongroom::run::journal::Journal;
use strongroom::run::plan::{AuthorityNeeded, Checksum, Plan, Request};
use strongroom::run::runner::{self, Error, Notice, Options, Parts, Report, Runner};
use strongroom::run::state::{ArtifactState, Outcome};
use strongroom::store::{Progress, Store};

use crate::support::{
    Compare, DEPLOYMENT, Tree, assert_same_tree, copy_of, keys, memory_store, noise, object, open,
    restore, temp,
};

const MEMBERS: usize = 200;

fn id(number: usize) -> String {
    format!("member-{number:03}")
}

fn plan(executor: &dyn Executor, members: usize) -> Plan {
    let rows = (0..members).map(|number| Row { id: id(number), ..Row::default() }).collect();
    let request = Request {
        deployment: DEPLOYMENT.into(),
        executor: executor.name().into(),
        environment: executor.environment().into(),
        scope: Scope::MaintenanceRoot,
        selector: None,
        root: None,
        quiescence: Quiescence::CrashConsistent,
        checksum: Checksum::Sha256,
        authority: AuthorityNeeded::Declared,
        fixed: vec![],
        snapshots: executor.capabilities().snapshots,
    };
    Plan::build(request, &Inventory::new(rows).unwrap()).unwrap()
}

fn executor(dir: &Path, members: usize) -> DirExecutor {
    DirExecutor::new((0..members).map(|number| (id(number), dir.join(id(number)))))
}

fn silent(_: Notice) {}

fn options(dir: &Path) -> Options {
    Options::new(dir.join("staging"))
}

fn run(store: &Store, executor: &dyn Executor, dir: &Path, members: usize) -> Report {
    let progress = Progress::default();
    let parts = Parts { store, executor, progress: &progress, observer: &silent };
    Runner::start(parts, &plan(executor, members), options(dir)).unwrap().run().unwrap()
}

fn fill(dir: &Path, members: usize) {
    for number in 0..members {
        let tree = Tree::create(dir.join(id(number)));
        tree.file("state", noise(number as u64, 20_000));
        tree.file("a/shared", noise(1, 5000));
    }
}

#[test]
fn two_hundred_directories_are_one_generation_and_the_second_night_stores_what_changed() {
    let dir = temp();
    fill(dir.path(), MEMBERS);
    let (backend, store) = memory_store();
    let executor = executor(dir.path(), MEMBERS);
    let first = run(&store, &executor, dir.path(), MEMBERS);
    assert_eq!((first.generation, first.members.len()), (1, MEMBERS));
    assert!(first.stats.bytes_new >= 200 * 20_000 && first.stats.bytes_new <= 200 * 20_000 + 5000);

    std::fs::write(dir.path().join(id(7)).join("state"), noise(7777, 20_000)).unwrap();
    let second = run(&open(backend.clone()), &executor, dir.path(), MEMBERS);
    assert_eq!((second.generation, second.stats.bytes_new), (2, 20_000));

    let store = open(backend);
    let restored = temp();
    restore(&store, DEPLOYMENT, restored.path());
    for number in [0, 7, 199] {
        let (from, to) = (dir.path().join(id(number)), restored.path().join(id(number)));
        assert_same_tree(&from, &to, Compare::PLAIN);
    }
    let tree = store.tree(&strongroom::store::Reference::parse(b"orders").unwrap()).unwrap();
    let facts = DeploymentFacts::find(&tree.manifest.extensions).unwrap().unwrap();
    assert_eq!((facts.members.len(), facts.run.as_str()), (MEMBERS, second.run.as_str()));
    assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 1, "only locks");
}

#[test]
fn a_run_that_ends_after_any_step_goes_on_to_the_same_generation() {
    const FEW: usize = 3;
    let dir = temp();
    fill(dir.path(), FEW);
    let executor = executor(dir.path(), FEW);
    let (mut ended, mut verified) = (0, 0);
    for steps in 0..20 {
        let (backend, store) = memory_store();
        let progress = Progress::default();
        let parts =
            Parts { store: &store, executor: &executor, progress: &progress, observer: &silent };
        let options = Options { steps_max: Some(steps), ..options(dir.path()) };
        let runner = Runner::start(parts, &plan(&executor, FEW), options).unwrap();
        let name = runner.name().to_owned();
        match runner.run() {
            Ok(_) => ended += 1,
            Err(error) => {
                assert!(
                    matches!(error, Error::StepsDone { .. }) && error.is_interrupted(),
                    "{error}"
                );
                assert_eq!(store.log().unwrap().generations(), []);
                assert_eq!(runner::unfinished(&store, DEPLOYMENT).unwrap(), Some(name.clone()));
                let state = runner::look(&store, &name).unwrap();
                let live = strongroom::run::roots(&store).unwrap();
                assert!(live.iter().map(ToString::to_string).eq(state.manifests()));
                verified += live.len();
                let again = Runner::start(parts, &plan(&executor, FEW), self::options(dir.path()));
                assert!(matches!(again.err(), Some(Error::Unfinished { .. })));
            }
        }
        let store = open(backend);
        let parts = Parts { store: &store, ..parts };
        let runner = Runner::resume(parts, &name, self::options(dir.path())).unwrap();
        let report = runner.run().unwrap();
        assert_eq!((report.generation, report.members.len()), (1, FEW));
        let state = runner::look(&store, &name).unwrap();
        assert!(matches!(state.outcome, Outcome::Durable { generation: 1, .. }) && state.cleaned);
        assert!(matches!(state.artifact(&id(0)), ArtifactState::Durable { .. }));
        assert_eq!(store.log().unwrap().generations().len(), 1);
    }
    assert!(ended > 5 && verified > 0);
}

#[test]
fn a_journal_cut_after_any_record_is_followed_to_the_end() {
    const FEW: usize = 2;
    let dir = temp();
    fill(dir.path(), FEW);
    let executor = executor(dir.path(), FEW);
    let (backend, store) = memory_store();
    let whole = run(&store, &executor, dir.path(), FEW);
    let ended = keys(&backend, "runs");
    assert_eq!(ended.len(), 1, "one object is left of a run that has ended");
    let records = EndedJournal::decode(&object(&backend, &ended[0])).unwrap().records;
    assert!(records.len() > 5);
    for kept in 1..=records.len() {
        let copy = copy_of(&backend);
        assert!(copy.remove_raw(&ended[0]).is_some());
        for (number, bytes) in (1..).zip(&records[..kept]) {
            let key = format!("runs/{}/{number:020}", whole.run);
            copy.replace(&Key::new(key).unwrap(), bytes.clone());
        }
        let store = open(copy);
        let progress = Progress::default();
        let parts =
            Parts { store: &store, executor: &executor, progress: &progress, observer: &silent };
        let runner = Runner::resume(parts, &whole.run, options(dir.path())).unwrap();
        let report = runner.run().unwrap();
        // The commit was there: with its beginning in the journal it is found, and else made again.
        let generations = store.log().unwrap().generations().len() as u64;
        assert_eq!(report.generation, generations);
        // The last three say that the commit begins, that it is durable, and that all is cleaned up.
        let is_begun = kept + 2 >= records.len();
        assert_eq!(
            generations,
            if is_begun { 1 } else { 2 },
            "{kept} of {} records",
            records.len()
        );
        // Manifests say when they were begun.
        let checksums = |report: &Report| {
            let members = report.members.iter();
            members
                .map(|member| (member.member.clone(), member.checksum.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(checksums(&report), checksums(&whole), "{kept} records");
    }
}

#[test]
fn a_source_that_fails_fails_the_run_and_nothing_becomes_visible() {
    let dir = temp();
    fill(dir.path(), 3);
    let (_, store) = memory_store();
    let executor = executor(dir.path(), 3);
    std::fs::rename(dir.path().join(id(1)), dir.path().join("away")).unwrap();
    let progress = Progress::default();
    let parts =
        Parts { store: &store, executor: &executor, progress: &progress, observer: &silent };
    let plan = plan(&executor, 3);
    let error = Runner::start(parts, &plan, options(dir.path())).unwrap().run().unwrap_err();
    assert!(error.to_string().contains(&id(1)), "{error}");
    assert_eq!(store.log().unwrap().generations(), []);
    std::fs::rename(dir.path().join("away"), dir.path().join(id(1))).unwrap();
    let run = runner::unfinished(&store, DEPLOYMENT).unwrap().unwrap();
    let report = Runner::resume(parts, &run, options(dir.path())).unwrap().run().unwrap();
    assert_eq!(report.generation, 1);
}

#[test]
fn two_runners_of_one_deployment_do_not_meet() {
    let dir = temp();
    fill(dir.path(), 1);
    let (_, store) = memory_store();
    let executor = executor(dir.path(), 1);
    let progress = Progress::default();
    let told = AtomicU64::new(0);
    let tell = |_: Notice| {
        told.fetch_add(1, Ordering::Relaxed);
    };
    let parts = Parts { store: &store, executor: &executor, progress: &progress, observer: &tell };
    let first = Runner::start(parts, &plan(&executor, 1), options(dir.path())).unwrap();
    let second = Runner::start(parts, &plan(&executor, 1), options(dir.path()));
    assert!(matches!(second.err(), Some(Error::Locked { .. })));
    let second = Runner::resume(parts, first.name(), options(dir.path()));
    assert!(matches!(second.err(), Some(Error::Locked { .. })));
    first.run().unwrap();
    assert!(told.load(Ordering::Relaxed) > 3);
}

#[test]
fn an_abandoned_run_stays_abandoned() {
    let dir = temp();
    fill(dir.path(), 1);
    let (backend, store) = memory_store();
    let executor = executor(dir.path(), 1);
    let progress = Progress::default();
    let parts =
        Parts { store: &store, executor: &executor, progress: &progress, observer: &silent };
    let runner = Runner::start(parts, &plan(&executor, 1), options(dir.path())).unwrap();
    let name = runner.name().to_owned();
    runner.abandon("a test").unwrap();
    assert_eq!(runner::unfinished(&store, DEPLOYMENT).unwrap(), None);
    let again = Runner::resume(parts, &name, options(dir.path())).unwrap().run();
    assert!(matches!(again, Err(Error::Abandoned { .. })));
    let (_, records) = Journal::open::<Event>(&backend, &name, false).unwrap();
    assert!(records.iter().any(|record| matches!(record.event, Event::Abandoned { .. })));
}
