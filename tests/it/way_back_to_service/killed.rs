//! Restores that are killed, at every record of their journals and at any of them with any faults:
//! they always end with everything restored.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use strongroom::backend::Key;
use strongroom::run::any;
use strongroom::run::restore::{Outcome, Report, Runner};
use strongroom::run::runner::Error;
use strongroom::store::{Progress, Store};

use super::service::Fault;
use super::{DEPLOYMENT, Place};
use crate::support::{TestBackend, open};

/// Ends a process when it writes its `number`-th record: before it is written, or right after.
#[derive(Clone, Copy, Debug)]
struct Kill {
    number: u64,
    after: bool,
}

/// What the end of a process throws.
struct Killed;

fn mortal(place: &Place, kill: Kill) -> Store {
    let written = Arc::new(AtomicU64::new(0));
    let die = move |key: &Key| {
        let is_record = key.as_str().starts_with("runs/");
        if is_record && written.fetch_add(1, Ordering::Relaxed) + 1 == kill.number {
            // Not a panic: nothing is printed.
            resume_unwind(Box::new(Killed));
        }
    };
    let backend = TestBackend::new(place.backend.clone());
    open(if kill.after { backend.after_put(die) } else { backend.before_put(die) })
}

/// Begins the restore, or goes on with it, until it ends or the process does.
fn go(place: &Place, kill: Option<Kill>) -> Option<Result<Report, Error>> {
    let store = match kill {
        Some(kill) => mortal(place, kill),
        None => place.store(),
    };
    let plan = place.plan(None);
    let run = || {
        place.drive_in(&store, &Progress::default(), |parts| match place.unfinished() {
            Some(run) => Runner::resume(parts, &run, place.options()),
            None => Runner::start(parts, &plan, place.options()),
        })
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => Some(result),
        Err(thrown) if thrown.is::<Killed>() => None,
        Err(other) => resume_unwind(other),
    }
}

/// Returns whether a restore has come to its end.
fn is_restored(place: &Place) -> bool {
    let store = place.store();
    let runs = strongroom::run::journal::runs(store.backend()).unwrap();
    runs.iter().any(|run| match any::look(&store, run) {
        Ok(any::AnyRun::Restore(state)) => state.outcome == Outcome::Restored,
        _ => false,
    })
}

/// Cleans up after a restore that was killed after its end.
fn clean(place: &Place) -> Vec<(String, String)> {
    let store = place.store();
    let runs = strongroom::run::journal::runs(store.backend()).unwrap();
    let run = runs.iter().find(|run| any::kind(&store, run).unwrap() == any::Kind::Restore);
    place.drive(|parts| Runner::resume(parts, run.unwrap(), place.options())).unwrap().left
}

#[test]
fn a_restore_killed_at_any_record_goes_on_to_its_end() {
    let template = Place::new();
    let place = template.copy();
    let (counting, plan) = (TestBackend::new(place.backend.clone()), place.plan(None));
    place
        .drive_in(&open(counting.clone()), &Progress::default(), |parts| {
            Runner::start(parts, &plan, place.options())
        })
        .unwrap();
    let records = counting.counts().puts_of("runs");
    assert!(records > 40, "{records}");
    for number in 1..=records {
        for after in [false, true] {
            let place = template.copy();
            let killed = go(&place, Some(Kill { number, after }));
            assert!(killed.is_none(), "record {number} is written");
            let half = any::unfinished_restore(&place.store(), DEPLOYMENT).unwrap();
            let half = half.is_some_and(|(_, state)| state.is_half_loaded());
            place.service.calls();
            let left = if is_restored(&place) {
                clean(&place)
            } else {
                go(&place, None).unwrap().unwrap_or_else(|error| panic!("{number}: {error}")).left
            };
            let calls = place.service.calls();
            let start = calls.iter().position(|call| call.starts_with("start"));
            let load = calls.iter().rposition(|call| call.starts_with("load"));
            assert!(!half || load < start, "{number} {after}: {calls:?}");
            place.assert_restored();
            // An upload whose answer was heard and not written down is said, and nothing else stays.
            assert_eq!(place.service.all_snapshots().len(), left.len(), "{number} {after}");
            assert!(left.len() <= 2, "{left:?}");
        }
    }
}

#[test]
fn a_restore_killed_again_and_again_moves_forward() {
    let place = Place::new();
    let mut ends = 0;
    // Each process writes four records, of which one at least says that something is done.
    while !is_restored(&place) {
        let _ = go(&place, Some(Kill { number: 5, after: false }));
        ends += 1;
        assert!(ends < 200, "it does not move");
    }
    clean(&place);
    place.assert_restored();
    assert!(ends > 10, "{ends}");
}

fn fault() -> impl Strategy<Value = (usize, usize, Fault)> {
    let kinds = [
        Fault::LoseReply,
        Fault::LoseRequest,
        Fault::Refuse,
        Fault::StayStopping(3),
        Fault::WrongCode,
    ];
    (0..4usize, 0..METHODS.len(), prop::sample::select(kinds.to_vec()))
}

const METHODS: [&str; 9] =
    ["authority", "status", "list", "check", "upload", "stop", "load", "start", "delete"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_faults_and_kills_end_in_a_whole_restore(
        faults in prop::collection::vec(fault(), 0..10),
        kills in prop::collection::vec((1..30u64, any::<bool>()), 0..6),
    ) {
        let place = Place::new();
        for (member, method, fault) in faults {
            place.service.fail(["root", "a", "b", "leaf"][member], METHODS[method], fault);
        }
        let mut kills = kills.into_iter().map(|(number, after)| Kill { number, after });
        let mut ends = 0;
        while !is_restored(&place) {
            let result = go(&place, kills.next());
            if let Some(Err(Error::LeftStopped { members, .. })) = &result {
                for (id, state) in place.service.states() {
                    let runs = state == strongroom::run::executor::State::Running;
                    prop_assert!(!runs || !members.contains(&id), "{id} runs");
                }
            }
            ends += 1;
            prop_assert!(ends < 60, "{result:?}");
        }
        clean(&place);
        place.assert_restored();
    }
}
