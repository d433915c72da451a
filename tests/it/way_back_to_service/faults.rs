//! Restores that go wrong half-way: before anything is loaded all is as before, after that nothing
//! runs; and whatever happened, the restore goes on to its end.

use std::cell::Cell;
use std::sync::Mutex;

use strongroom::run::executor::State;
use strongroom::run::journal::Journal;
use strongroom::run::restore::{Event, Runner};
use strongroom::run::runner::{Error, Notice, Parts};
use strongroom::store::Progress;

use super::Place;
use super::service::Fault;

const LEFT: [&str; 4] = ["leaf", "b", "a", "root"];

/// Fails with everything running as before.
#[track_caller]
fn fail_early(place: &Place) -> Error {
    let before = place.service.contents();
    let error = place.start(&place.plan(None)).unwrap_err();
    assert_eq!(place.service.contents(), before, "{error}");
    assert!(place.service.all_run(), "{error}: {:?}", place.service.states());
    error
}

/// Fails with everything stopped.
#[track_caller]
fn fail_late(place: &Place) -> Error {
    place.service.calls();
    let error = place.start(&place.plan(None)).unwrap_err();
    let Error::LeftStopped { members, .. } = &error else { panic!("{error}") };
    assert_eq!(*members, LEFT);
    let calls = place.service.calls();
    assert!(!calls.iter().any(|call| call.starts_with("start")), "{calls:?}");
    assert!(place.service.states().iter().all(|(_, state)| *state == State::Stopped));
    error
}

#[test]
fn before_anything_is_stopped_a_failure_changes_nothing() {
    for (member, method) in
        [("root", "authority"), ("b", "status"), ("leaf", "list"), ("a", "upload"), ("a", "check")]
    {
        for fault in [Fault::Refuse, Fault::LoseRequest] {
            let place = Place::new();
            place.service.fail(member, method, fault);
            let error = fail_early(&place);
            assert!(!matches!(error, Error::Restarted { .. }), "{method}: {error}");
            place.resume().unwrap();
            place.assert_restored();
            assert_eq!(place.service.all_snapshots(), []);
        }
    }
}

#[test]
fn a_stop_that_fails_starts_again_what_was_stopped() {
    for fault in [Fault::Refuse, Fault::LoseRequest] {
        let place = Place::new();
        place.service.fail("b", "stop", fault);
        let error = fail_early(&place);
        let Error::Restarted { cause, restarted, failed } = &error else { panic!("{error}") };
        assert!(cause.to_string().starts_with("stop-b: stop: "), "{cause}");
        assert_eq!(
            (&restarted[..], failed.len()),
            (&["b".into(), "a".into(), "root".into()][..], 0)
        );
        // What was uploaded is not uploaded again.
        place.service.calls();
        place.resume().unwrap();
        place.assert_restored();
        assert!(!place.service.calls().iter().any(|call| call.starts_with("upload")));
    }
}

#[test]
fn a_member_that_cannot_be_started_again_is_named_and_not_forgotten() {
    let place = Place::new();
    place.service.fail("b", "stop", Fault::Refuse);
    place.service.fail("a", "start", Fault::Refuse);
    let error = place.start(&place.plan(None)).unwrap_err();
    let Error::Restarted { failed, .. } = &error else { panic!("{error}") };
    assert_eq!(failed[0].0, "a");
    // It fails once more before anything is loaded: then it is started as well.
    place.service.fail("leaf", "stop", Fault::Refuse);
    let error = place.resume().unwrap_err();
    assert!(matches!(error, Error::Restarted { ref failed, .. } if failed.is_empty()), "{error}");
    assert!(place.service.all_run());
    place.resume().unwrap();
    place.assert_restored();
}

#[test]
fn lost_replies_of_stops_starts_and_loads_cost_nothing() {
    for (member, method) in [("a", "stop"), ("a", "load"), ("a", "start"), ("a", "delete")] {
        let place = Place::new();
        place.service.fail(member, method, Fault::LoseReply);
        place.start(&place.plan(None)).unwrap();
        place.assert_restored();
        assert_eq!(place.service.all_snapshots(), []);
    }
    let place = Place::new();
    place.service.fail("a", "load", Fault::LoseRequest);
    place.service.fail("root", "stop", Fault::StayStopping(5));
    place.start(&place.plan(None)).unwrap();
    place.assert_restored();
}

#[test]
fn after_a_load_has_begun_nothing_runs_until_all_is_loaded() {
    for (member, fault) in
        [("root", Fault::Refuse), ("b", Fault::Refuse), ("leaf", Fault::WrongCode)]
    {
        let place = Place::new();
        place.service.fail(member, "load", fault);
        let error = fail_late(&place);
        assert!(error.to_string().starts_with(&format!("load-{member}: ")), "{error}");
        if fault == Fault::WrongCode {
            assert!(error.to_string().contains("it has the code "), "{error}");
        }
        place.resume().unwrap();
        place.assert_restored();
        assert_eq!(place.service.all_snapshots(), []);
    }
    let place = Place::new();
    (0..3).for_each(|_| place.service.fail("b", "load", Fault::LoseRequest));
    fail_late(&place);
    place.resume().unwrap();
    place.assert_restored();
}

#[test]
fn a_start_that_fails_keeps_no_other_member_stopped() {
    let place = Place::new();
    (0..2).for_each(|_| place.service.fail("b", "start", Fault::Refuse));
    let error = place.start(&place.plan(None)).unwrap_err();
    let Error::Restarted { cause, failed, .. } = &error else { panic!("{error}") };
    assert!(cause.to_string().starts_with("start-b: "), "{cause}");
    assert_eq!(failed[0].0, "b");
    let stopped = place.service.states().into_iter().filter(|(_, state)| *state != State::Running);
    assert_eq!(stopped.map(|(id, _)| id).collect::<Vec<_>>(), ["b"]);
    place.resume().unwrap();
    place.assert_restored();
}

#[test]
fn an_upload_whose_answer_was_lost_is_made_again_and_the_first_left_alone() {
    let place = Place::new();
    place.service.fail("a", "upload", Fault::LoseReply);
    let error = fail_early(&place);
    assert!(error.to_string().starts_with("upload-a: "), "{error}");
    let report = place.resume().unwrap();
    place.assert_restored();
    let left = place.service.all_snapshots();
    assert_eq!(left.len(), 1, "nobody knows whose it is");
    let (member, id) = &left[0];
    let (what, why) = &report.left[0];
    assert_eq!(*what, format!("snapshot {id} of {member}"));
    assert!(why.contains("no answer named it"), "{why}");
    assert_eq!(report.left.len(), 1);
}

#[test]
fn somebodys_snapshot_is_not_removed() {
    let place = Place::new();
    place
        .service
        .with("a", |member| member.snapshots.push(("mine".into(), member.content.clone())));
    let report = place.start(&place.plan(None)).unwrap();
    assert_eq!(report.left, []);
    assert_eq!(place.service.all_snapshots(), [("a".into(), "mine".into())]);
}

#[test]
fn what_a_command_says_is_kept_from_its_end() {
    let place = Place::new();
    place.service.fail("a", "upload", Fault::Shout);
    fail_early(&place);
    let run = place.unfinished().unwrap();
    let (_, records) = Journal::open::<Event>(&place.backend, &run, false).unwrap();
    let reason = records.iter().find_map(|record| match &record.event {
        Event::Failed { reason, .. } => Some(reason),
        _ => None,
    });
    let reason = reason.unwrap();
    assert_eq!(reason.len(), 65536);
    assert!(reason.ends_with("so much to say the end"));
}

/// Starts a restore that is interrupted when an operation of this name changes its state for the
/// `n`-th time.
fn interrupt(place: &Place, operation: &str, n: usize) -> Error {
    let progress = Progress::default();
    let seen = Mutex::new(Cell::new(0));
    let tell = |notice: Notice| {
        let Notice::Operation { id, .. } = notice else { return };
        if id == operation {
            let seen = seen.lock().unwrap();
            seen.set(seen.get() + 1);
            if seen.get() == n {
                progress.interrupt();
            }
        }
    };
    let store = place.store();
    let parts =
        Parts { store: &store, executor: &place.service, progress: &progress, observer: &tell };
    Runner::start(parts, &place.plan(None), place.options()).unwrap().run().unwrap_err()
}

#[test]
fn an_interruption_is_no_other_than_a_failure() {
    for (operation, n) in
        [("fetch-a", 1), ("fetch-a", 2), ("upload-b", 1), ("stop-a", 1), ("stop-leaf", 2)]
    {
        let place = Place::new();
        let error = interrupt(&place, operation, n);
        assert!(error.is_interrupted(), "{operation}: {error}");
        assert!(place.service.all_run(), "{operation}");
        place.resume().unwrap();
        place.assert_restored();
    }
    for (operation, n) in [("load-root", 1), ("load-a", 2), ("load-b", 2)] {
        let place = Place::new();
        let error = interrupt(&place, operation, n);
        assert!(error.is_interrupted(), "{operation}: {error}");
        assert!(matches!(error, Error::LeftStopped { .. }), "{operation}: {error}");
        place.resume().unwrap();
        place.assert_restored();
    }
    // All is loaded: what runs is whole, and runs.
    let place = Place::new();
    let error = interrupt(&place, "load-leaf", 2);
    assert!(matches!(error, Error::Restarted { .. }) && error.is_interrupted(), "{error}");
    assert!(place.service.all_run());
    assert_eq!(place.service.contents(), place.first);
    place.resume().unwrap();
    place.assert_restored();
}

#[test]
fn a_member_that_somebody_has_started_is_stopped_and_loaded_again() {
    let place = Place::new();
    place.service.fail("leaf", "load", Fault::Refuse);
    fail_late(&place);
    place.service.with("a", |member| {
        member.state = State::Running;
        member.content.insert("memory".into(), b"what it did meanwhile".to_vec());
    });
    place.service.calls();
    place.resume().unwrap();
    place.assert_restored();
    let calls = place.service.calls();
    let loads: Vec<_> = calls.iter().filter(|call| call.starts_with("load")).collect();
    assert_eq!(loads, ["load a", "load leaf"]);
}

#[test]
fn an_upload_that_is_gone_is_made_again() {
    // Before anything was stopped.
    let place = Place::new();
    place.service.fail("b", "stop", Fault::Refuse);
    fail_early(&place);
    place.service.with("a", |member| member.snapshots.clear());
    place.resume().unwrap();
    place.assert_restored();
    // After a part was loaded.
    let place = Place::new();
    place.service.fail("leaf", "load", Fault::Refuse);
    fail_late(&place);
    place.service.with("leaf", |member| member.snapshots.clear());
    let error = place.resume().unwrap_err();
    assert!(matches!(error, Error::LeftStopped { .. }), "{error}");
    assert!(error.to_string().contains("not at the service any more"), "{error}");
    place.resume().unwrap();
    place.assert_restored();
}

#[test]
fn what_was_changed_in_the_staging_area_is_not_uploaded() {
    for change in [true, false] {
        let place = Place::new();
        place.service.fail("a", "upload", Fault::LoseRequest);
        fail_early(&place);
        let staged = place.staging().join(place.unfinished().unwrap()).join("a");
        assert!(staged.join("memory").is_file());
        if change {
            std::fs::write(staged.join("memory"), b"other").unwrap();
        }
        place.service.calls();
        place.resume().unwrap();
        place.assert_restored();
        // What is whole is not fetched again.
        let checks = place.service.calls().iter().filter(|call| *call == "check a").count();
        assert_eq!(checks, usize::from(change));
    }
}

#[test]
fn a_restore_is_given_up() {
    // Before anything was stopped: all runs, and nothing is left.
    let place = Place::new();
    place.service.fail("leaf", "upload", Fault::Refuse);
    fail_early(&place);
    assert_eq!(abandon(&place), [""; 0]);
    assert!(place.service.all_run());
    assert_eq!(place.service.all_snapshots(), []);
    // After a part was loaded: all is stopped, and stays so until another restore.
    let place = Place::new();
    place.service.fail("b", "load", Fault::Refuse);
    fail_late(&place);
    assert_eq!(abandon(&place), LEFT);
    assert!(place.service.states().iter().all(|(_, state)| *state == State::Stopped));
    assert_eq!(place.service.all_snapshots(), []);
    place.start(&place.plan(None)).unwrap();
    place.assert_restored();
}

fn abandon(place: &Place) -> Vec<String> {
    let (store, progress) = (place.store(), Progress::default());
    let tell = |_: Notice| {};
    let parts =
        Parts { store: &store, executor: &place.service, progress: &progress, observer: &tell };
    let run = place.unfinished().unwrap();
    let left = Runner::resume(parts, &run, place.options()).unwrap().abandon("a test").unwrap();
    assert_eq!(place.unfinished(), None);
    assert!(Runner::resume(parts, &run, place.options()).unwrap().run().is_err());
    left
}
