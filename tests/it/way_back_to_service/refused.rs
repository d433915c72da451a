//! What is refused before anything is done to a member.

use strongroom::run::executor::{DirExecutor, State};
use strongroom::run::plan::AuthorityNeeded;
use strongroom::run::restore::plan::Error as PlanError;
use strongroom::run::restore::{Runner, Source};
use strongroom::run::runner::Error;
use strongroom::store::Store;

use super::service::Fault;
use super::{DEPLOYMENT, Place};
use crate::support::{backup, change, keys, memory_store, reference, temp};

/// Fails to restore, with the members untouched; returns the error.
#[track_caller]
fn refuse(place: &Place) -> Error {
    let before = place.service.contents();
    let states = place.service.states();
    place.service.calls();
    let error = place.start(&place.plan(None)).unwrap_err();
    assert_eq!(place.service.contents(), before);
    assert_eq!(place.service.states(), states);
    let calls = place.service.calls();
    let touched = calls.iter().find(|call| call.starts_with("stop") || call.starts_with("load"));
    assert_eq!(touched, None, "{error}");
    error
}

fn source(store: &Store, what: &str) -> Result<Source, PlanError> {
    Source::read(store, &reference(what))
}

#[test]
fn generations_of_directories_know_no_service() {
    let dir = temp();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let (_, store) = memory_store();
    backup(&store, dir.path());
    let error = source(&store, DEPLOYMENT).unwrap_err();
    assert!(matches!(error, PlanError::NoFacts { .. }), "{error}");
    assert!(error.to_string().starts_with("orders@g1 holds nothing about a service"));
}

#[test]
fn a_path_inside_of_a_member_is_no_member() {
    let place = Place::new();
    let error = source(&place.store(), "orders@g1:a/memory").unwrap_err();
    assert!(matches!(error, PlanError::Path { .. }), "{error}");
}

#[test]
fn a_service_that_takes_nothing_back_is_not_asked() {
    let place = Place::new();
    let source = source(&place.store(), "orders@g1").unwrap();
    let dir = DirExecutor::new([("root", "/")]);
    let error = source.plan(DEPLOYMENT, &dir, AuthorityNeeded::Declared, None).unwrap_err();
    assert!(matches!(error, PlanError::Executor { .. }), "{error}");
}

#[test]
fn a_plan_of_another_store_is_refused() {
    let (one, other) = (Place::new(), Place::new());
    // Manifests say when they were begun, so no two are the same.
    let error = one.start(&other.plan(None)).unwrap_err();
    assert!(
        matches!(&error, Error::RestorePlan(why) if matches!(**why, PlanError::OtherGeneration { .. })),
        "{error}"
    );
    assert_eq!(one.unfinished(), None);
}

#[test]
fn the_rights_have_to_be_proven() {
    let place = Place::new();
    place.service.fail("leaf", "authority", Fault::Refuse);
    let error = refuse(&place);
    assert!(matches!(error, Error::Authority { ref member, .. } if member == "leaf"), "{error}");
    place.resume().unwrap();
    place.assert_restored();
}

#[test]
fn members_have_to_be_where_they_are_expected() {
    let place = Place::new();
    place.service.with("leaf", |member| member.row.parent = Some("b".into()));
    let error = refuse(&place).to_string();
    assert_eq!(error, "leaf: its parent is b, and a is expected");
    let place = Place::new();
    place.service.with("a", |member| member.row.role = Some("index".into()));
    let error = refuse(&place).to_string();
    assert_eq!(error, "a: its role is index, and shard is expected");
    let place = Place::new();
    let map = [("root", "root"), ("a", "a"), ("b", "nowhere"), ("leaf", "leaf")];
    let error = place.start(&place.plan(Some(&map))).unwrap_err().to_string();
    assert_eq!(error, "nowhere: the service does not list it");
    place.service.hide_list();
    let error = place.resume().unwrap_err().to_string();
    assert!(error.contains("there is no nowhere"), "{error}");
    assert!(place.service.all_run());
}

#[test]
fn a_member_that_is_stopping_is_waited_for_by_people() {
    let place = Place::new();
    place.service.with("a", |member| (member.state, member.stopping) = (State::Stopping, 9));
    let error = place.start(&place.plan(None)).unwrap_err().to_string();
    assert_eq!(error, "a: is stopping, and this restore has not told it to");
}

#[test]
fn damage_in_the_store_stops_nothing() {
    let place = Place::new();
    for pack in keys(&place.backend, "packs") {
        change(&place.backend, &pack, |bytes| bytes[1000] ^= 1);
    }
    let error = refuse(&place);
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn content_without_its_evidence_is_not_uploaded() {
    let place = Place::new();
    place.service.fail("b", "check", Fault::Refuse);
    let error = refuse(&place).to_string();
    assert!(error.contains("check: refused"), "{error}");
    assert!(place.service.all_snapshots().iter().all(|(member, _)| member != "b"));
    place.resume().unwrap();
    place.assert_restored();
}

#[test]
fn runs_of_one_deployment_do_not_mix() {
    let place = Place::new();
    let store = place.store();
    let plan = place.plan(None);
    // A backup that is not finished.
    place.service.fail("a", "download", Fault::Refuse);
    place.backup(&store).unwrap_err();
    let error = place.start(&plan).unwrap_err();
    assert!(matches!(error, Error::Unfinished { .. }), "{error}");
    let place = Place::new();
    let plan = place.plan(None);
    // A restore that has changed something.
    place.service.fail("a", "load", Fault::Refuse);
    place.start(&plan).unwrap_err();
    let error = place.start(&plan).unwrap_err();
    assert!(matches!(error, Error::Unfinished { .. }), "{error}");
    let error = place.backup(&place.store()).unwrap_err();
    assert!(matches!(error, Error::Unfinished { .. }), "{error}");
    // One that is under way.
    let run = place.unfinished().unwrap();
    let error = place.drive(|parts| {
        let first = Runner::resume(parts, &run, place.options());
        let second = Runner::resume(parts, &run, place.options());
        drop(first);
        second
    });
    assert!(matches!(error, Err(Error::Locked { .. })));
}
