//! A runner that is killed before or after any record of its journal, and before or after anything
//! that it asks of the service: repeating the backup ends with the same generation, and nothing is
//! done twice that must not be.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use strongroom::backend::{Key, LocalBackend};
use strongroom::run::executor::Executor;
use strongroom::run::journal;
use strongroom::run::plan::Plan;
use strongroom::run::runner::{self, Error, Options, Parts, Report, Runner};
use strongroom::store::{Progress, Store};

use super::assert_only_locks;
use super::service::{self, MEMBERS, Service, Side};
use crate::support::{
    Child, DEPLOYMENT, TestBackend, create, fast_temp, keys, open, restore, temp,
};

pub fn options(dir: &Path) -> Options {
    Options {
        concurrency: 1,
        settle: Duration::from_millis(300),
        poll: Duration::from_millis(20),
        ..Options::new(dir.join("staging"))
    }
}

/// Does what `backup` does: goes on with the unfinished run, or begins one.
pub fn back_up(
    store: &Store,
    executor: &dyn Executor,
    plan: &Plan,
    options: Options,
) -> Result<Report, Error> {
    let progress = Progress::default();
    let observer = |_| ();
    let parts = Parts { store, executor, progress: &progress, observer: &observer };
    match runner::unfinished(store, DEPLOYMENT)? {
        Some(run) => Runner::resume(parts, &run, options)?.run(),
        None => Runner::start(parts, plan, options)?.run(),
    }
}

fn die() {
    kill_process(getpid(), Signal::KILL).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

/// Returns what is called at every event, and kills this process at the one of that number.
fn death(number: u64) -> impl Fn() + Send + Sync + 'static {
    let count = AtomicU64::new(0);
    move || {
        if count.fetch_add(1, Ordering::SeqCst) + 1 == number {
            die();
        }
    }
}

/// Opens a store that kills this process before (`jb1`) or after (`ja1`) the journal record of that
/// number.
pub fn mortal_store(dir: &Path, when: &str) -> Store {
    let backend = TestBackend::new(LocalBackend::open(dir.join("store")).unwrap());
    let event = death(when[2..].parse().unwrap());
    let at_record = move |key: &Key| {
        if key.as_str().starts_with("runs/") {
            event();
        }
    };
    open(if when.starts_with("jb") {
        backend.before_put(at_record)
    } else {
        backend.after_put(at_record)
    })
}

/// A part for `child.rs`: backs the service up, and is killed at `when`: before (`b`) or after (`a`)
/// the journal record (`j`) or call of the service (`c`) of that number.
pub fn play_run(dir: &Path, when: &OsStr) {
    let when = when.to_str().unwrap();
    let root = dir.join("service");
    let (store, service) = if when.starts_with('j') {
        (mortal_store(dir, when), Service::at(&root))
    } else {
        let side = if when.starts_with("cb") { Side::Before } else { Side::After };
        let event = death(when[2..].parse().unwrap());
        let meddle = move |_: &str, _: &str, now| {
            if now == side {
                event();
            }
            None
        };
        (open_local(dir), Service::with(&root, meddle))
    };
    back_up(&store, &service, &service::plan(), options(dir)).unwrap();
}

/// Fails unless the service is as before a backup, and the store has the one generation of it.
#[track_caller]
fn assert_done(dir: &Path, when: &str) {
    let (store, service) = (open_local(dir), Service::at(&dir.join("service")));
    assert_eq!(store.log().unwrap().generations().len(), 1, "{when}");
    let restored = fast_temp();
    restore(&store, DEPLOYMENT, restored.path());
    for member in MEMBERS {
        let bytes = std::fs::read(restored.path().join(member).join("memory")).unwrap();
        assert!(bytes == service.memory(member), "{when}: {member}");
        assert_eq!(service.count("create", member), 1, "{when}: {member}");
        assert_eq!(service.state(member), "running", "{when}: {member}");
        assert_eq!(service.snapshots_of(member), [""; 0], "{when}: {member}");
    }
    assert_only_locks(&dir.join("staging"));
    assert!(has_ended(&store), "{when}");
}

/// Fails unless all journals are closed: one object each.
#[track_caller]
fn assert_closed(dir: &Path, when: &str, runs: usize) {
    let store = open_local(dir);
    assert_eq!(journal::open_runs(store.backend()).unwrap(), [""; 0], "{when}");
    assert_eq!(keys(store.backend(), "runs").len(), runs, "{when}: one object of an ended run");
}

/// Says whether there is one run, which has ended, and nothing of it is left to be done.
fn has_ended(store: &Store) -> bool {
    match &journal::runs(store.backend()).unwrap()[..] {
        [run] => runner::look(store, run).unwrap().cleaned,
        _ => false,
    }
}

fn open_local(dir: &Path) -> Store {
    open(LocalBackend::open(dir.join("store")).unwrap())
}

/// A store and a service with which nothing was done yet.
fn world(dir: &Path) {
    create(LocalBackend::create(dir.join("store")).unwrap());
    service::create(&dir.join("service"));
}

/// Kills a run at every place of one kind; returns how many there are.
#[track_caller]
fn kill_at_every(kind: &str) -> u64 {
    for number in 1.. {
        let dir = fast_temp();
        world(dir.path());
        let when = format!("{kind}{number}");
        let arguments: [&OsStr; 2] = [dir.path().as_ref(), when.as_ref()];
        let output = Child::new("killed in a run", &arguments).run();
        if output.status.success() {
            return number - 1;
        }
        assert_eq!(output.status.signal(), Some(9), "{when}: {output:?}");
        let service = Service::at(&dir.path().join("service"));
        let store = open_local(dir.path());
        let is_done = has_ended(&store);
        if is_done {
            assert_done(dir.path(), &when);
        }
        let again = back_up(&store, &service, &service::plan(), options(dir.path()));
        let report = again.unwrap_or_else(|error| panic!("{when}: {error}"));
        // If only the answer was lost, it is another backup that makes another generation.
        let number = if is_done { 2 } else { 1 };
        assert_eq!((report.generation, report.members.len()), (number, 4), "{when}");
        if !is_done {
            assert_done(dir.path(), &when);
        }
        assert_closed(dir.path(), &when, number as usize);
    }
    unreachable!("a run has an end")
}

#[test]
fn a_run_killed_before_any_record_ends_with_the_same_generation() {
    // Plan, preflight, 2 for each stop, snapshot and start, 4 for the first transfer at least.
    assert!(kill_at_every("jb") >= 2 + 3 * 8 + 4 + 3);
}

#[test]
fn a_run_killed_after_any_record_ends_with_the_same_generation() {
    assert!(kill_at_every("ja") >= 2 + 3 * 8 + 4 + 3);
}

#[test]
fn a_run_killed_before_anything_it_asks_for_ends_with_the_same_generation() {
    assert!(kill_at_every("cb") > 40);
}

#[test]
fn a_run_killed_after_anything_it_asked_for_ends_with_the_same_generation() {
    assert!(kill_at_every("ca") > 40);
}

/// Twice in one run: after any record, and then after any record of what goes on from there.
#[test]
fn a_run_killed_twice_ends_with_the_same_generation() {
    for first in 1..60 {
        for second in (1..60).step_by(7) {
            let dir = fast_temp();
            world(dir.path());
            let is_killed = |when: String| {
                let arguments: [&OsStr; 2] = [dir.path().as_ref(), when.as_ref()];
                let output = Child::new("killed in a run", &arguments).run();
                output.status.signal() == Some(9)
            };
            // At the last record only the answer is lost: what comes then is another backup.
            if !is_killed(format!("ja{first}")) || has_ended(&open_local(dir.path())) {
                assert!(first > 40, "{first} records");
                return assert_done(dir.path(), &format!("ja{first}"));
            }
            if !is_killed(format!("ca{second}")) {
                break;
            }
            let service = Service::at(&dir.path().join("service"));
            let store = open_local(dir.path());
            back_up(&store, &service, &service::plan(), options(dir.path())).unwrap();
            let when = format!("ja{first} ca{second}");
            assert_done(dir.path(), &when);
            assert_closed(dir.path(), &when, 1);
        }
    }
}

/// A member runs again although the run has stopped it: another program did that, or a runner that
/// was killed right after it.
#[test]
fn a_member_that_was_started_behind_the_runners_back_is_stopped_again() {
    let dir = temp();
    world(dir.path());
    let service = Service::at(&dir.path().join("service"));
    let store = open_local(dir.path());
    let few = Options { steps_max: Some(6), ..options(dir.path()) };
    let error = back_up(&store, &service, &service::plan(), few).unwrap_err();
    assert!(error.is_interrupted(), "{error}");
    assert_eq!(service.state("left"), "stopped");
    service.set_state("left", "running");
    let report = back_up(&store, &service, &service::plan(), options(dir.path())).unwrap();
    assert_eq!(report.generation, 1);
    // The snapshots that were made first do not belong together with the later ones.
    for member in MEMBERS {
        assert_eq!(service.state(member), "running");
        assert_eq!(service.snapshots_of(member), [""; 0]);
        assert!(service.count("stop", member) >= 2);
    }
    let facts = {
        let tree = store.tree(&crate::support::reference(DEPLOYMENT)).unwrap();
        strongroom::run::facts::DeploymentFacts::find(&tree.manifest.extensions).unwrap().unwrap()
    };
    let made = |member: &str| service.count("create", member);
    for member in &facts.members {
        let snapshot = member.snapshot.as_ref().unwrap();
        assert_eq!(snapshot.id, format!("s{:03}", made(&member.id) - 1), "the last one");
    }
    assert_only_locks(&dir.path().join("staging"));
}
