//! What a run asks before it does anything, and what it makes of answers that change; with a service
//! that is a directory.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strongroom::backend::MemoryBackend;
use strongroom::clock::UnixNanos;
use strongroom::run::event::{AuthorityReceipt, Event, PREFLIGHT_NANOS, Preflight, Proof};
use strongroom::run::executor;
use strongroom::run::inventory::Row;
use strongroom::run::journal::Journal;
use strongroom::run::plan::OperationKind;
use strongroom::run::runner::{self, Error};
use strongroom::store::Store;

use super::assert_only_locks;
use super::killed::{back_up, options};
use super::service::{self, MEMBERS, Service, Side, plan, rows};
use crate::support::{DEPLOYMENT, memory_store, temp};

/// A service with its members, a store, and a place for both.
fn world() -> (tempfile::TempDir, MemoryBackend, Store) {
    let dir = temp();
    service::create(&dir.path().join("service"));
    let (backend, store) = memory_store();
    (dir, backend, store)
}

fn write_inventory(root: &Path, rows: &[Row]) {
    fs::write(root.join("inventory"), serde_json::to_vec(rows).unwrap()).unwrap();
}

/// The members with another one below the last.
fn more_rows() -> Vec<Row> {
    let new = Row { id: "new".into(), parent: Some("leaf".into()), ..Row::default() };
    [rows(), vec![new]].concat()
}

/// A hook that does something at the call of a verb and number.
fn at(
    verb: &'static str,
    number: u64,
    act: impl Fn() -> Option<executor::Error> + Send + Sync + 'static,
) -> impl Fn(&str, &str, Side) -> Option<executor::Error> + Send + Sync + 'static {
    let count = AtomicU64::new(0);
    move |asked, _, side| {
        let is_it = asked == verb && side == Side::After;
        (is_it && count.fetch_add(1, Ordering::SeqCst) + 1 == number).then(&act).flatten()
    }
}

#[track_caller]
fn assert_untouched(service: &Service, store: &Store) {
    assert_eq!(service.mutations(), [""; 0]);
    assert_eq!(store.log().unwrap().generations(), []);
}

#[track_caller]
fn assert_done(dir: &Path, store: &Store) {
    let service = Service::at(&dir.join("service"));
    for member in MEMBERS {
        assert_eq!(service.state(member), "running", "{member}");
        assert_eq!(service.snapshots_of(member), [""; 0], "{member}");
    }
    assert_eq!(store.log().unwrap().generations().len(), 1);
    assert_only_locks(&dir.join("staging"));
}

#[test]
fn a_deployment_that_changed_since_the_plan_is_refused_before_anything_is_done() {
    // Before the questions, and after them but before the first stop.
    for changes_after in [0, 1] {
        let (dir, _, store) = world();
        let root = dir.path().join("service");
        write_inventory(&root, if changes_after == 0 { more_rows() } else { rows() }.as_slice());
        let changing = root.clone();
        let service = Service::with(
            &root,
            at("inventory", 1, move || {
                write_inventory(&changing, &more_rows());
                None
            }),
        );
        let error = back_up(&store, &service, &plan(), options(dir.path())).unwrap_err();
        assert!(matches!(error, Error::Topology { .. }), "{error}");
        assert_untouched(&service, &store);
        let asked = service.log().iter().filter(|line| line.starts_with("authority")).count();
        assert_eq!(asked, if changes_after == 0 { 0 } else { 4 });
        // And it still is when the run is taken up again, until the deployment is as it was.
        let error = back_up(&store, &service, &plan(), options(dir.path())).unwrap_err();
        assert!(matches!(error, Error::Topology { .. }), "{error}");
        assert_untouched(&service, &store);
        write_inventory(&root, &rows());
        back_up(&store, &service, &plan(), options(dir.path())).unwrap();
        assert_done(dir.path(), &store);
    }
}

/// Journals say when the members were asked; five minutes later nobody knows.
#[test]
fn answers_that_are_too_old_are_asked_for_again() {
    for age_nanos in [PREFLIGHT_NANOS / 2, PREFLIGHT_NANOS + 1_000_000_000] {
        let (dir, backend, store) = world();
        let plan = plan();
        let time = UnixNanos(UnixNanos::now().0 - age_nanos);
        let mut journal = Journal::create(&backend, "20200101t000000z-00000000").unwrap();
        let planned = Event::Planned { plan: Box::new(plan.clone()) };
        journal.append(&backend, time, &planned).unwrap();
        let proven = Proof::Proven("long ago".into());
        let authority = |member: &str| AuthorityReceipt {
            member: member.into(),
            control: proven.clone(),
            read: proven.clone(),
        };
        let receipt = Preflight {
            plan: plan.id.clone(),
            topology_hash: plan.topology_hash.clone(),
            authorities: plan.targets.iter().map(|target| authority(&target.row.id)).collect(),
            quiescence: plan.request.quiescence,
            valid_from: time.0,
            expires: time.0 + PREFLIGHT_NANOS,
        };
        journal.append(&backend, time, &Event::Preflight { receipt }).unwrap();
        let service = Service::at(&dir.path().join("service"));
        let report = back_up(&store, &service, &plan, options(dir.path())).unwrap();
        assert_eq!(report.run, journal.run());
        let asked = service.log().iter().filter(|line| line.starts_with("authority")).count();
        assert_eq!(asked, if age_nanos > PREFLIGHT_NANOS { 4 } else { 0 });
        let first = service.log().iter().position(|line| line.starts_with("stop")).unwrap();
        assert!(service.log()[..first].iter().any(|line| line.starts_with("inventory")));
        assert_done(dir.path(), &store);
    }
}

/// A snapshot whose answer was lost, and that could not be looked up either, is nobody's when the
/// members were started again; it goes when the run ends.
#[test]
fn a_snapshot_that_nobody_learnt_of_is_removed_in_the_end() {
    let (dir, _, store) = world();
    let root = dir.path().join("service");
    let earlier = {
        let service = Service::at(&root);
        service.set_state("left", "stopped");
        let id = service.make_snapshot("left");
        service.set_state("left", "running");
        id
    };
    let is_lost = Arc::new(AtomicU64::new(0));
    let lost = Arc::clone(&is_lost);
    let service = Service::with(&root, move |verb, member, side| {
        let is_now = side == Side::After && member == "left";
        if is_now && verb == "create" && lost.swap(1, Ordering::SeqCst) == 0 {
            return Some(executor::Error::Unknown("no answer came".into()));
        }
        // The next question is lost too.
        let is_asked = is_now && verb == "list" && lost.load(Ordering::SeqCst) == 1;
        (is_asked && lost.swap(2, Ordering::SeqCst) == 1)
            .then(|| executor::Error::Unknown("nor did this".into()))
    });
    let error = back_up(&store, &service, &plan(), options(dir.path())).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("no answer came; then: the snapshots cannot be listed"), "{said}");
    assert!(MEMBERS.iter().all(|member| service.state(member) == "running"));
    assert_eq!(service.snapshots_of("left").len(), 2);
    back_up(&store, &service, &plan(), options(dir.path())).unwrap();
    assert_eq!(service.snapshots_of("left"), [earlier]);
    assert_eq!(service.snapshots_of("root"), [""; 0]);

    // The same if the run is given up instead.
    let (dir, _, store) = world();
    let root = dir.path().join("service");
    let service = Service::with(&root, |verb, member, side| {
        let is_lost = side == Side::After && member == "left" && verb == "create";
        is_lost.then_some(executor::Error::Interrupted)
    });
    back_up(&store, &service, &plan(), options(dir.path())).unwrap_err();
    assert_eq!(service.snapshots_of("left").len(), 1);
    let run = runner::unfinished(&store, DEPLOYMENT).unwrap().unwrap();
    let (progress, observer) = (strongroom::store::Progress::default(), |_| ());
    let parts = runner::Parts {
        store: &store,
        executor: &service,
        progress: &progress,
        observer: &observer,
    };
    let runner = runner::Runner::resume(parts, &run, options(dir.path())).unwrap();
    runner.abandon("a test").unwrap();
    for member in MEMBERS {
        assert_eq!(service.snapshots_of(member), [""; 0], "{member}");
        assert_eq!(service.state(member), "running");
    }
}

/// What one process could not start is for the next one to start, whatever else it does.
#[test]
fn members_that_could_not_be_started_are_not_forgotten() {
    let (dir, _, store) = world();
    let root = dir.path().join("service");
    let service = Service::with(&root, |verb, member, side| {
        let fails =
            (verb == "create" && member == "right") || (verb == "start" && member == "left");
        (fails && side == Side::Before).then(|| executor::Error::Unknown("not now".into()))
    });
    let Err(Error::Restarted { failed, .. }) =
        back_up(&store, &service, &plan(), options(dir.path()))
    else {
        panic!()
    };
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (service.state("left"), service.state("root")),
        ("stopped".into(), "running".into())
    );
    let run = runner::unfinished(&store, DEPLOYMENT).unwrap().unwrap();
    assert_eq!(runner::look(&store, &run).unwrap().to_restart(), ["left"]);
    // The next run does not come to its own stops.
    let service = Service::with(&root, |verb, _, side| {
        let fails = verb == "authority" && side == Side::Before;
        fails.then(|| executor::Error::Unknown("who asks?".into()))
    });
    let error = back_up(&store, &service, &plan(), options(dir.path())).unwrap_err();
    let Error::Restarted { cause, restarted, failed } = error else { panic!("{error}") };
    assert!(cause.to_string().contains("who asks?"), "{cause}");
    assert_eq!((restarted, failed), (vec!["left".to_owned()], vec![]));
    assert_eq!(service.state("left"), "running");
    assert_eq!(runner::look(&store, &run).unwrap().to_restart(), [""; 0]);
    back_up(&store, &Service::at(&root), &plan(), options(dir.path())).unwrap();
    assert_done(dir.path(), &store);
}

/// Every member is asked, and many are: the answers must not be too old before the last one came.
#[test]
fn slow_answers_are_asked_for_at_the_same_time() {
    let (dir, _, store) = world();
    let together = Arc::new(AtomicU64::new(0));
    let most = Arc::new(AtomicU64::new(0));
    let (now, seen) = (Arc::clone(&together), Arc::clone(&most));
    let service = Service::with(&dir.path().join("service"), move |verb, _, side| {
        if verb == "authority" {
            match side {
                Side::Before => {
                    seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // Until another one has come, or for so long that it does not come.
                    for _ in 0..500 {
                        if seen.load(Ordering::SeqCst) > 1 {
                            break;
                        }
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                }
                Side::After => {
                    now.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
        None
    });
    let options = runner::Options { concurrency: 4, ..options(dir.path()) };
    back_up(&store, &service, &plan(), options).unwrap();
    assert!(most.load(Ordering::SeqCst) > 1, "one after the other");
    assert_done(dir.path(), &store);
}

/// What one member has downloaded until then is gone on with later.
#[test]
fn a_download_that_fails_ends_the_others() {
    let (dir, _, store) = world();
    let root = dir.path().join("service");
    let slow = root.join("root/goes-on");
    fs::write(&slow, "").unwrap();
    let service = Service::with(&root, |verb, member, side| {
        let fails = verb == "download" && member == "left" && side == Side::Before;
        fails.then(|| executor::Error::Unknown("no such luck".into()))
    });
    let options = runner::Options { concurrency: 2, ..options(dir.path()) };
    let error = back_up(&store, &service, &plan(), options.clone()).unwrap_err();
    let Error::Operations { failures } = &error else { panic!("{error}") };
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(failures[0].0 == "download-left" && failures[0].1 == "no such luck", "{failures:?}");
    let run = runner::unfinished(&store, DEPLOYMENT).unwrap().unwrap();
    let state = runner::look(&store, &run).unwrap();
    let (_, download) = state.of(OperationKind::DownloadSnapshot, "root").unwrap();
    assert!(download.reason().unwrap().contains("ended before its time"), "{download:?}");
    fs::remove_file(slow).unwrap();
    back_up(&store, &Service::at(&root), &plan(), options).unwrap();
    assert_done(dir.path(), &store);
    assert!(MEMBERS.iter().all(|member| service.count("create", member) == 1));
}

/// A panic of an executor is a failed step, and nobody waits for an answer that does not come.
#[test]
fn an_executor_that_panics_fails_its_member_and_the_run_goes_on_later() {
    let (dir, _, store) = world();
    let root = dir.path().join("service");
    let service = Service::with(&root, |verb, member, side| {
        assert!((verb, member, side) != ("download", "left", Side::Before), "meant to panic");
        None
    });
    let error = back_up(&store, &service, &plan(), options(dir.path())).unwrap_err();
    assert!(error.to_string().contains("the executor panicked"), "{error}");
    assert!(MEMBERS.iter().all(|member| service.state(member) == "running"));
    back_up(&store, &Service::at(&root), &plan(), options(dir.path())).unwrap();
    assert_done(dir.path(), &store);
}
