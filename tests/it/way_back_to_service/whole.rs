//! Restores that meet no trouble.

use strongroom::run::any::{self, AnyRun};
use strongroom::run::plan::AuthorityNeeded;
use strongroom::run::restore::{Outcome, Plan, Runner, Source};
use strongroom::run::runner::{self, Options};

use super::service::{Fault, content};
use super::{DEPLOYMENT, Place};
use crate::support::reference;

#[test]
fn a_mistaken_upgrade_is_rolled_back() {
    let place = Place::new();
    let plan = place.plan(None);
    assert_eq!(Plan::parse(&serde_json::to_vec(&plan).unwrap()).unwrap(), plan);
    let report = place.start(&plan).unwrap();
    place.assert_restored();
    assert_eq!((report.generation, report.into.as_str()), (1, DEPLOYMENT));
    assert_eq!(report.left, []);
    assert_eq!(place.service.all_snapshots(), []);
    let members: Vec<_> = report.members.iter().map(|member| member.target.as_str()).collect();
    assert_eq!(members, ["root", "a", "b", "leaf"]);
    assert!(report.members.iter().all(|member| member.module_hash.is_some()));
}

#[test]
fn members_stop_from_the_top_are_loaded_and_start_from_the_bottom() {
    let place = Place::new();
    place.start(&place.plan(None)).unwrap();
    let calls = place.service.calls();
    let of = |method: &str| {
        let calls = calls.iter().filter_map(|call| call.strip_prefix(method));
        calls.map(str::trim).collect::<Vec<_>>()
    };
    assert_eq!(of("stop "), ["root", "a", "b", "leaf"]);
    assert_eq!(of("load "), ["root", "a", "b", "leaf"]);
    assert_eq!(of("start "), ["leaf", "b", "a", "root"]);
    let place_of = |call: &str| calls.iter().position(|other| other == call).unwrap();
    let last = |method: &str| calls.iter().rposition(|call| call.starts_with(method)).unwrap();
    assert!(last("upload ") < place_of("stop root"), "everything is there before the first stop");
    assert!(last("stop ") < place_of("load root"));
    assert!(last("load ") < place_of("start leaf"));
}

#[test]
fn members_are_cloned_into_others() {
    let place = Place::new();
    for (id, parent) in [("x", "root"), ("y", "root"), ("z", "x")] {
        place.service.add(id, Some(parent), content(id, 9));
    }
    place.service.guard(Default::default());
    let map = [("root", "root"), ("a", "x"), ("b", "y"), ("leaf", "z")];
    let plan = place.plan(Some(&map));
    let report = place.start(&plan).unwrap();
    let held = place.service.contents();
    for (from, to) in map {
        assert_eq!(held[to], place.first[from], "{from} is in {to}");
    }
    for id in ["a", "b", "leaf"] {
        assert_eq!(held[id], content(id, 2), "{id} is as it was");
    }
    assert!(place.service.all_run());
    assert!(report.topology.contains("7 members"), "{}", report.topology);
    assert!(!place.service.calls().contains(&"stop leaf".to_owned()));
}

#[test]
fn one_member_goes_back_alone() {
    let place = Place::new();
    place.service.guard(Default::default());
    let source = Source::read(&place.store(), &reference("orders@g1:leaf")).unwrap();
    let plan = source.plan(DEPLOYMENT, &place.service, AuthorityNeeded::Proven, None).unwrap();
    place.start(&plan).unwrap();
    let held = place.service.contents();
    assert_eq!(held["leaf"], place.first["leaf"]);
    assert_eq!(held["a"], content("a", 2));
    let stops = place.service.calls().into_iter().filter(|call| call.starts_with("stop"));
    assert_eq!(stops.collect::<Vec<_>>(), ["stop leaf"]);
}

#[test]
fn a_service_without_a_list_is_restored_all_the_same() {
    let place = Place::new();
    place.service.hide_list();
    let report = place.start(&place.plan(None)).unwrap();
    place.assert_restored();
    assert!(report.topology.contains("no list"), "{}", report.topology);
}

#[test]
fn members_that_were_stopped_before_are_restored_and_run_afterwards() {
    let place = Place::new();
    place.service.with("b", |member| member.state = strongroom::run::executor::State::Stopped);
    place.start(&place.plan(None)).unwrap();
    place.assert_restored();
}

#[test]
fn uploads_stay_where_they_shall() {
    let place = Place::new();
    let plan = place.plan(None);
    let options = Options { delete_snapshots: false, ..place.options() };
    place.drive(|parts| Runner::start(parts, &plan, options)).unwrap();
    place.assert_restored();
    assert_eq!(place.service.all_snapshots().len(), 4);
}

#[test]
fn what_is_restored_is_backed_up_as_before() {
    let place = Place::new();
    place.start(&place.plan(None)).unwrap();
    let store = place.store();
    let report = place.backup(&store).unwrap();
    assert_eq!((report.generation, report.stats.bytes_new), (2, 0));
    let kinds: Vec<_> = strongroom::run::journal::runs(store.backend())
        .unwrap()
        .into_iter()
        .map(|run| any::kind(&store, &run).unwrap().name())
        .collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "restore").count(), 1);
    assert_eq!(kinds.len(), 3);
}

#[test]
fn a_restore_is_shown_beside_backups_and_is_none_of_them() {
    let place = Place::new();
    place.service.fail("leaf", "load", Fault::Refuse);
    place.start(&place.plan(None)).unwrap_err();
    let store = place.store();
    let run = place.unfinished().unwrap();
    assert_eq!(runner::unfinished(&store, DEPLOYMENT).unwrap(), None);
    let refused = runner::look(&store, &run).unwrap_err().to_string();
    assert!(refused.contains("is a restore, not a backup"), "{refused}");
    let any = any::look(&store, &run).unwrap();
    assert_eq!(
        (any.kind().name(), any.outcome(), any.generation()),
        ("restore", "unfinished", Some(1))
    );
    assert_eq!((any.deployment(), any.executor()), (DEPLOYMENT, "model"));
    assert_eq!(any.to_restart(), ["leaf", "b", "a", "root"]);
    let lines = any.lines();
    let line = lines.iter().find(|line| line.id == "load-leaf").unwrap();
    assert_eq!((line.state, line.attempts, line.is_done), ("failed", 1, false));
    assert!(line.reason.unwrap().contains("refused"));
    assert_eq!(any.manifests(), [""; 0], "all is uploaded");
    place.resume().unwrap();
    let AnyRun::Restore(state) = any::look(&store, &run).unwrap() else { panic!() };
    assert!(state.outcome == Outcome::Restored && state.cleaned);
}

#[test]
fn a_finished_restore_is_not_done_again() {
    let place = Place::new();
    let report = place.start(&place.plan(None)).unwrap();
    place.upgrade(3);
    place.service.calls();
    let again = place.drive(|parts| Runner::resume(parts, &report.run, place.options())).unwrap();
    assert_eq!((again.run, again.members), (report.run, report.members));
    assert_eq!(place.service.calls(), [""; 0]);
}
