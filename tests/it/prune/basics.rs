use strongroom::clock::UnixNanos;
use strongroom::format::record::Event;
use strongroom::store::{Error, Progress, PruneOptions, PutOff, Retention};

use super::{
    A_MOMENT, History, bytes_in, collect_only, five_generations, keep_last, name, prune, prune_all,
    try_prune,
};
use crate::support::{assert_clean, keys, memory_store, noise, open, reference};

#[test]
fn forgotten_generations_are_gone_and_their_space_comes_back() {
    let (backend, store) = memory_store();
    let orders = five_generations(&store, "orders", 1000);
    let mails = five_generations(&store, "mails", 5000);
    // What a store needs that never had more than the newest.
    let (lean_backend, lean) = memory_store();
    for (history, deployment) in [(&orders, "orders"), (&mails, "mails")] {
        let mut only = History::new(deployment);
        only.backup(&lean, |tree| super::copy(history.trees[4].path(), tree.path()));
    }
    let before = bytes_in(&backend, "");

    let plan = store.plan_prune(&keep_last(1), &Progress::default()).unwrap();
    assert_eq!(bytes_in(&backend, ""), before, "a plan changes nothing");
    assert_eq!((plan.forgotten.len(), plan.kept.len()), (8, 2));
    let report = store.prune(&plan, &Progress::default()).unwrap();
    assert_eq!((report.forgotten.len(), report.condemned), (8, plan.condemned));
    assert_eq!(report.removed_objects, 0, "grace");
    assert_eq!(orders.assert_restores(&store), [5]);
    assert_eq!(mails.assert_restores(&store), [5]);

    let promised = plan.condemned.freed_bytes();
    let between = bytes_in(&backend, "packs") + bytes_in(&backend, "pages");
    let report = prune(&store, &keep_last(1));
    assert!(report.removed_bytes >= promised);
    let after = bytes_in(&backend, "packs") + bytes_in(&backend, "pages");
    assert!(between - after > promised / 2, "{between} {after} {promised}");

    prune_all(&store, &keep_last(1));
    assert_clean(&store);
    assert_clean(&open(backend.clone()));
    assert_eq!(orders.assert_restores(&open(backend.clone())), [5]);
    assert_eq!(mails.assert_restores(&open(backend.clone())), [5]);
    assert_eq!(keys(&backend, "removals"), []);
    assert_eq!(keys(&backend, "manifests").len(), 4);
    let (packs, lean_packs) = (bytes_in(&backend, "packs"), bytes_in(&lean_backend, "packs"));
    assert!(packs < lean_packs * 3 / 2, "{packs} where {lean_packs} would do");
    let after = bytes_in(&backend, "");
    assert!(after < before * 3 / 4, "{after} of {before}");
    // And backing up goes on with the next number.
    let number = orders.backup_last(&store, orders.trees[4].path()).unwrap();
    assert_eq!(number, 6);
}

#[test]
fn without_a_rule_nothing_is_forgotten() {
    let (_, store) = memory_store();
    five_generations(&store, "orders", 1);
    let none = PruneOptions::default();
    assert!(matches!(try_prune(&store, &none), Err(Error::KeepsNothing)));
    let nothing = PruneOptions { retention: Some(Retention::none()), ..none };
    assert!(matches!(try_prune(&store, &nothing), Err(Error::KeepsNothing)));
    assert!(matches!(try_prune(&store, &keep_last(0)), Err(Error::KeepsNothing)));
    assert_eq!(prune(&store, &collect_only()).forgotten, []);
    assert_eq!(store.log().unwrap().generations().len(), 5);
}

#[test]
fn a_policy_is_for_the_deployments_that_are_named_and_unknown_ones_are_refused() {
    let (_, store) = memory_store();
    let orders = five_generations(&store, "orders", 1);
    let mails = five_generations(&store, "mails", 900);
    let only = PruneOptions { deployments: vec!["mails".into()], ..keep_last(2) };
    assert_eq!(prune(&store, &only).forgotten.len(), 3);
    assert_eq!(orders.assert_restores(&store), [1, 2, 3, 4, 5]);
    assert_eq!(mails.assert_restores(&store), [4, 5]);
    let unknown = PruneOptions { deployments: vec!["other".into()], ..keep_last(2) };
    assert!(matches!(try_prune(&store, &unknown), Err(Error::UnknownDeployment { .. })));
}

#[test]
fn what_was_forgotten_comes_back_until_it_is_collected() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    prune(&store, &keep_last(1));
    let error = store.tree(&reference("orders@g2")).unwrap_err();
    assert!(matches!(error, Error::Forgotten { can_return: true, .. }), "{error}");

    assert_eq!(store.undo(&[name("orders", 2)]).unwrap(), [name("orders", 2)]);
    assert_eq!(history.assert_restores(&store), [2, 5]);
    let rest = store.undo(&[]).unwrap();
    assert_eq!(rest, [1, 3, 4].map(|n| name("orders", n)));
    assert_eq!(history.assert_restores(&open(backend.clone())), [1, 2, 3, 4, 5]);
    assert!(matches!(store.undo(&[]), Err(Error::NothingForgotten)));
    assert_eq!(store.undo(&[name("orders", 1)]).unwrap(), []);

    // What was condemned is spared, because it is needed again.
    let report = prune(&store, &collect_only());
    assert!(report.spared > 0 && report.removed_objects < report.spared, "{report:?}");
    assert_eq!(history.assert_restores(&open(backend.clone())), [1, 2, 3, 4, 5]);
    assert_clean(&store);

    let forget = PruneOptions { forget: vec![name("orders", 3)], ..collect_only() };
    prune(&store, &forget);
    prune(&store, &collect_only());
    let error = store.undo(&[name("orders", 3)]).unwrap_err();
    assert!(matches!(error, Error::Forgotten { can_return: false, .. }), "{error}");
    assert_eq!(history.assert_restores(&open(backend)), [1, 2, 4, 5]);
}

/// Forgotten, brought back and forgotten again: what the first time condemned is collected by the
/// prune that forgets the second time, which can still be undone.
#[test]
fn what_was_forgotten_twice_can_be_brought_back_twice() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    for _ in 0..3 {
        prune(&store, &keep_last(2));
        store.undo(&[]).unwrap();
        assert_eq!(history.assert_restores(&open(backend.clone())), [1, 2, 3, 4, 5]);
        assert_clean(&open(backend.clone()));
    }
    prune_all(&store, &keep_last(2));
    let error = store.undo(&[name("orders", 1)]).unwrap_err();
    assert!(matches!(error, Error::Forgotten { can_return: false, .. }), "{error}");
    assert_eq!(keys(&backend, "removals"), []);
    assert_eq!(keys(&backend, "manifests").len(), 4);
}

#[test]
fn what_was_forgotten_again_is_not_collected_for_the_first_time() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    prune(&store, &keep_last(2));
    store.undo(&[]).unwrap();
    let again: Vec<_> = (1..=3).map(|number| name("orders", number)).collect();
    let mut log = store.log().unwrap();
    let forget = Event::Forget(again.clone());
    assert!(log.try_append(&backend, UnixNanos::now(), forget).unwrap().is_some());
    prune(&open(backend.clone()), &collect_only());
    store.undo(&again).unwrap();
    assert_eq!(history.assert_restores(&open(backend.clone())), [1, 2, 3, 4, 5]);
    assert_clean(&open(backend));
}

#[test]
fn a_pin_keeps_whatever_a_policy_says_and_must_go_before_the_generation() {
    let (_, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    assert!(store.pin(&name("orders", 2)).unwrap());
    assert!(!store.pin(&name("orders", 2)).unwrap(), "again");
    assert!(matches!(store.pin(&name("orders", 9)), Err(Error::UnknownGeneration { .. })));
    prune_all(&store, &keep_last(1));
    assert_eq!(history.assert_restores(&store), [2, 5]);
    let forget = PruneOptions { forget: vec![name("orders", 2)], ..keep_last(1) };
    assert!(matches!(try_prune(&store, &forget), Err(Error::Pinned { .. })));
    assert!(store.unpin(&name("orders", 2)).unwrap());
    assert!(!store.unpin(&name("orders", 2)).unwrap(), "again");
    prune_all(&store, &keep_last(1));
    assert_eq!(history.assert_restores(&store), [5]);
}

#[test]
fn the_newest_is_forgotten_only_by_name_and_its_number_is_not_given_again() {
    let (_, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    let forget = PruneOptions { forget: vec![name("orders", 5)], ..collect_only() };
    prune(&store, &forget);
    assert_eq!(history.assert_restores(&store), [1, 2, 3, 4]);
    let number = history.backup_last(&store, history.trees[4].path()).unwrap();
    assert_eq!(number, 6);
    let all = (1..=6).filter(|n| *n != 5).map(|n| name("orders", n)).collect();
    prune(&store, &PruneOptions { forget: all, ..collect_only() });
    prune_all(&store, &collect_only());
    assert_eq!(store.log().unwrap().generations(), []);
    let error = store.resolve(&reference("orders")).unwrap_err();
    assert!(matches!(error, Error::UnknownDeployment { .. }), "{error}");
    assert_eq!(history.backup_last(&store, history.trees[0].path()).unwrap(), 7);
}

#[test]
fn an_emptied_store_holds_nothing_but_its_log() {
    let (backend, store) = memory_store();
    five_generations(&store, "orders", 1);
    let all = (1..=5).map(|n| name("orders", n)).collect();
    prune(&store, &PruneOptions { forget: all, ..collect_only() });
    prune_all(&store, &collect_only());
    for folder in ["packs", "pages", "manifests", "index", "removals"] {
        assert_eq!(keys(&backend, folder), [], "{folder}");
    }
    assert_clean(&store);
    assert_clean(&open(backend));
}

#[test]
fn a_plan_is_refused_if_the_store_moved_on() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    let plan = store.plan_prune(&keep_last(1), &Progress::default()).unwrap();
    history.backup_last(&open(backend.clone()), history.trees[4].path()).unwrap();
    let objects = keys(&backend, "");
    let error = store.prune(&plan, &Progress::default()).unwrap_err();
    assert!(matches!(error, Error::Moved { planned: 5, actual: 6 }), "{error}");
    assert_eq!(keys(&backend, ""), objects, "nothing was changed");
    prune(&store, &keep_last(1));
    // Nor is it executed twice.
    let plan = store.plan_prune(&keep_last(1), &Progress::default()).unwrap();
    store.prune(&plan, &Progress::default()).unwrap();
    assert!(matches!(store.prune(&plan, &Progress::default()), Err(Error::Moved { .. })));
}

#[test]
fn nothing_is_collected_before_its_time() {
    let (backend, store) = memory_store();
    five_generations(&store, "orders", 1);
    let later = PruneOptions { grace_nanos: 3_600_000_000_000, ..keep_last(1) };
    prune(&store, &later);
    let packs = keys(&backend, "packs");
    let plan = store.plan_prune(&later, &Progress::default()).unwrap();
    assert!(plan.due.is_empty() && plan.waiting.len() == 1 && plan.is_empty());
    prune(&store, &later);
    assert_eq!(keys(&backend, "packs"), packs);
    assert!(prune(&store, &keep_last(1)).removed_objects > 0);
}

#[test]
fn without_grace_everything_goes_at_once_but_nobody_else_may_write() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    let at_once = PruneOptions { grace_nanos: 0, ..keep_last(1) };
    let writer = strongroom::lease::Lease::writer(&backend).unwrap();
    let error = try_prune(&store, &at_once).unwrap_err();
    assert!(matches!(error, Error::Lease(strongroom::lease::Error::Written)), "{error}");
    assert_eq!(history.assert_restores(&store).len(), 5);
    drop(writer);
    let report = prune(&store, &at_once);
    assert!(report.removed_bytes > 0 && report.put_off.is_empty());
    assert_eq!(history.assert_restores(&open(backend.clone())), [5]);
    assert_clean(&open(backend));
}

#[test]
fn rewriting_keeps_to_its_budget() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    let none = PruneOptions { max_rewrite_bytes: 0, ..keep_last(1) };
    let plan = store.plan_prune(&none, &Progress::default()).unwrap();
    assert_eq!((plan.condemned.rewritten_packs, plan.condemned.rewritten_bytes), (0, 0));
    assert!(plan.unused_bytes > 0);
    prune_all(&store, &none);
    let without = bytes_in(&backend, "packs");
    let some = PruneOptions { max_rewrite_bytes: 300_000, ..keep_last(1) };
    let plan = store.plan_prune(&some, &Progress::default()).unwrap();
    assert!(plan.condemned.rewritten_bytes <= 300_000 && plan.condemned.rewritten_packs > 0);
    prune_all(&store, &some);
    assert!(bytes_in(&backend, "packs") < without);
    assert_eq!(history.assert_restores(&open(backend)), [5]);
}

#[test]
fn leftovers_of_interrupted_backups_go_unless_a_writer_may_own_them() {
    let (backend, store) = memory_store();
    let mut history = History::new("orders");
    history.backup(&store, |tree| drop(tree.file("a", noise(1, 100_000))));
    let kept = keys(&backend, "packs");
    let tree = history.tree(|tree| drop(tree.file("b", noise(2, 100_000)))).path().to_owned();
    let (options, progress) = (strongroom::store::IngestOptions::default(), Progress::default());
    let sources = [crate::support::source("files", &tree)];
    let staged = store.ingest(&sources, &[None], &options, &progress).unwrap();
    assert_eq!(keys(&backend, "packs").len(), 2);
    let report = prune(&store, &collect_only());
    assert_eq!(report.put_off, [PutOff::Writers]);
    assert_eq!(report.condemned, strongroom::store::Condemned::default());
    drop(staged);
    prune_all(&store, &collect_only());
    assert_eq!(keys(&backend, "packs"), kept);
    assert_clean(&open(backend));
}

#[test]
fn artifacts_of_unfinished_runs_stay_if_they_are_named() {
    let (backend, store) = memory_store();
    let mut history = History::new("orders");
    history.backup(&store, |tree| drop(tree.file("a", noise(1, 100_000))));
    let tree = history.tree(|tree| drop(tree.file("b", noise(2, 100_000)))).path().to_owned();
    let (options, progress) = (strongroom::store::IngestOptions::default(), Progress::default());
    let sources = [crate::support::source("files", &tree)];
    let staged = store.ingest(&sources, &[None], &options, &progress).unwrap();
    let durable = staged.verify().unwrap().promote().unwrap();
    let artifact = durable.artifacts[0].manifest;
    drop(durable);
    let roots = PruneOptions { roots: vec![artifact], ..collect_only() };
    prune_all(&store, &roots);
    assert!(open(backend.clone()).read_back(&artifact, None, &progress).is_ok());
    prune_all(&store, &collect_only());
    assert!(open(backend).read_back(&artifact, None, &progress).is_err());
    assert!(try_prune(&store, &roots).is_err(), "what a run needs is not there");
}

#[test]
fn an_interrupted_prune_is_completed_by_the_next() {
    let (backend, store) = memory_store();
    let history = five_generations(&store, "orders", 1);
    let options = PruneOptions { grace_nanos: A_MOMENT, ..keep_last(1) };
    let progress = Progress::default();
    let plan = store.plan_prune(&options, &progress).unwrap();
    progress.interrupt();
    assert!(matches!(store.prune(&plan, &progress), Err(Error::Interrupted)));
    assert_eq!(history.assert_restores(&open(backend.clone())), [5]);
    prune_all(&store, &options);
    assert_eq!(history.assert_restores(&open(backend)), [5]);
}
