//! Generations of a fleet: what is stored, what comes back, and what a generation says of itself.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;
use strongroom::run::facts::{Identity, Quiescence, SCHEMA, Scope, Unit};
use strongroom::run::inventory::Row;
use strongroom::run::topology::topology_hash;

use super::{Image, MEMBERS, PARENTS, ROLES, World};
use crate::support::replica::{Canister, State, canister_id, hex};
use crate::support::{DEPLOYMENT, assert_clean, temp};

const MIB: usize = 1 << 20;

fn id(n: u64) -> String {
    canister_id(n).to_text()
}

/// What the service calls the snapshot of that number of a canister, counted from 0.
fn snapshot_id(n: u64, number: u64) -> String {
    hex(&[number.to_be_bytes().as_slice(), canister_id(n).as_slice()].concat())
}

#[test]
fn three_generations_come_back_as_the_canisters_were_and_later_ones_store_little() {
    let Some(world) = World::new(2 * MIB) else { return };
    let all = MEMBERS * 3 * MIB as u64;
    let mut nights = Vec::new();
    for night in 1..=3 {
        let told = world.json("backup --init --all");
        let done = &told["deployments"][0];
        assert_eq!((&done["generation"], &done["left"]), (&json!(night), &json!([])));
        let stored = done["bytes_stored"].as_u64().unwrap();
        match night {
            1 => assert!((all..all * 102 / 100).contains(&stored), "{stored}"),
            // One page of 4 KiB in a hundred, and what lists and metadata take.
            _ => assert!((all / 100..all * 25 / 1000).contains(&stored), "{stored}"),
        }
        nights.push((1..=MEMBERS).map(|n| world.image(n)).collect::<Vec<_>>());
        world.assert_all_run();
        world.assert_nothing_is_left();
        world.live_on(night);
    }
    assert_eq!(world.count("take_canister_snapshot"), [3; 4]);
    assert_eq!(world.count("stop_canister"), [3; 4]);
    assert_eq!(world.count("start_canister"), [3; 4]);
    assert!(world.ends_with(0, "verify --full").contains("no damage found"));
    assert_clean(&world.store());
    for (number, images) in (1..).zip(&nights) {
        world.assert_restores_to(&format!("{DEPLOYMENT}@g{number}"), images);
    }
    let runs = world.runs();
    assert_eq!(runs.len(), 3);
    assert!(runs.iter().all(|(_, state)| state.cleaned));
    let said = world.ends_with(0, "status --check");
    assert!(said.contains("orders: g3 of") && !said.contains("unfinished"), "{said}");
    put_back_and_clone(&world, &nights);
}

/// Puts the second generation back where it was, and clones the first into other canisters.
#[track_caller]
fn put_back_and_clone(world: &World, nights: &[Vec<Image>]) {
    let assert_holds = |images: &[Image], first: u64| {
        for (n, image) in (first..).zip(images) {
            assert!(world.image(n).is(image), "canister {n}");
            assert_eq!(world.replica.state(canister_id(n)), State::Running, "canister {n}");
            assert_eq!(world.replica.snapshots(canister_id(n)).len(), 0, "canister {n}");
        }
    };
    world.ends_with(0, "restore orders@g2 --apply");
    assert_holds(&nights[1], 1);
    let others = MEMBERS + 1..=2 * MEMBERS;
    others.clone().for_each(|n| world.replica.add_canister(Canister::new(canister_id(n))));
    let text = fs::read_to_string(world.path("strongroom.toml")).unwrap();
    let section = text[text.find("[deployments").unwrap()..].replace("orders", "copy");
    world.append(&section.replace("registry.json", "copy.json"));
    let row = |n: u64| {
        let parent = PARENTS[(n - MEMBERS) as usize - 1];
        json!({ "pid": id(n), "parent_pid": (parent > 0).then(|| id(parent + MEMBERS)) })
    };
    let rows: Vec<_> = others.map(row).collect();
    fs::write(world.path("copy.json"), serde_json::to_vec(&rows).unwrap()).unwrap();
    let map: BTreeMap<_, _> = (1..=MEMBERS).map(|n| (id(n), id(n + MEMBERS))).collect();
    fs::write(world.path("ids.json"), serde_json::to_vec(&map).unwrap()).unwrap();
    world.ends_with(0, "restore orders@g1 --apply --into copy --map ids.json");
    assert_holds(&nights[0], MEMBERS + 1);
    assert_holds(&nights[1], 1);
    let loads = |n| world.replica.count(canister_id(n), "load_canister_snapshot");
    assert_eq!((1..=2 * MEMBERS).map(loads).collect::<Vec<_>>(), [1; 8]);
}

#[test]
fn a_generation_says_what_it_was_made_of() {
    let Some(world) = World::new(MIB) else { return };
    world.ends_with(0, "backup --init orders");
    world.live_on(1);
    world.ends_with(0, "backup orders");
    for number in [1, 2] {
        let facts = world.facts(&format!("orders@g{number}"));
        let rows: Vec<_> = (1..=MEMBERS)
            .map(|n| Row {
                id: id(n),
                role: Some(ROLES[n as usize - 1].into()),
                kind: Some("canister".into()),
                parent: Some(PARENTS[n as usize - 1]).filter(|n| *n > 0).map(id),
                module_hash: Some(world.module_hash(n)),
            })
            .collect();
        assert_eq!((facts.schema.as_str(), facts.executor.as_str()), (SCHEMA, "icp"));
        assert_eq!(facts.environment, world.replica.url());
        assert_eq!(facts.run, world.runs()[number - 1].0);
        assert_eq!(facts.root, Some(id(1)));
        let how = (facts.scope, facts.quiescence, facts.selected.clone());
        assert_eq!(how, (Scope::MaintenanceRoot, Quiescence::CrashConsistent, None));
        assert_eq!(facts.topology_hash, topology_hash(&rows).hash);
        let members = (1..=MEMBERS).map(id).collect();
        assert_eq!(facts.units, [Unit { id: id(1), subtree: true, members }]);
        for (n, row) in (1..).zip(&rows) {
            let member = facts.member(&row.id).unwrap();
            assert_eq!(
                (&member.role, &member.kind, &member.parent),
                (&row.role, &row.kind, &row.parent)
            );
            assert_eq!(member.depth, [0, 1, 1, 2][n as usize - 1]);
            assert_eq!(
                (member.identity, &member.module_hash),
                (Identity::Relocatable, &row.module_hash)
            );
            let snapshot = member.snapshot.as_ref().unwrap();
            assert_eq!(snapshot.id, snapshot_id(n, number as u64 - 1));
            let text =
                world.ends_with(0, &format!("cat orders@g{number}:{}/metadata.json", row.id));
            let metadata: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(snapshot.taken_at, metadata["taken_at_timestamp"].as_u64());
            assert!(snapshot.total_bytes.unwrap() > 3 * MIB as u64 / 2);
        }
    }
    let shown = world.json("show orders@g2");
    let members = shown["members"].as_array().unwrap();
    assert!(members.iter().all(|member| member["checksum"]["algorithm"] == "sha256"), "{shown}");
    assert_eq!(members.len(), MEMBERS as usize);
}

#[test]
fn snapshots_stay_at_the_service_if_they_are_wanted_there() {
    let Some(mut world) = World::new(MIB / 4) else { return };
    world.set("keep-snapshots = true");
    for night in 1..=2 {
        world.ends_with(0, "backup --init orders");
        let facts = world.facts("orders");
        for n in 1..=MEMBERS {
            let held = world.replica.snapshots(canister_id(n));
            assert_eq!(held.len(), night);
            let kept = facts.member(&id(n)).unwrap().snapshot.as_ref().unwrap();
            let newest = held.last().unwrap();
            assert_eq!((&kept.id, kept.taken_at), (&hex(&newest.id), Some(newest.taken_at)));
            assert_eq!(kept.total_bytes, Some(newest.image.size_bytes()));
        }
    }
    assert_eq!(world.count("delete_canister_snapshot"), [0; 4]);
    world.assert_all_run();
}

#[test]
fn scopes_take_some_members_and_leave_the_others_running() {
    let Some(mut world) = World::new(MIB / 4) else { return };
    world.settings.clear();
    world.configure();
    let taken = |world: &World, what: &str| {
        let facts = world.facts(what);
        let number = |id: &str| (1..=MEMBERS).find(|n| self::id(*n) == id).unwrap();
        let members: Vec<_> = facts.members.iter().map(|member| number(&member.id)).collect();
        assert_eq!(facts.root, Some(id(1)));
        let units = facts.units.iter();
        let units: Vec<(u64, usize)> =
            units.map(|unit| (number(&unit.id), unit.members.len())).collect();
        (members, units)
    };
    // By default all but the root, which stays untouched.
    world.ends_with(0, "backup --init orders");
    assert_eq!(taken(&world, "orders@g1"), (vec![2, 3, 4], vec![(2, 2), (3, 1)]));
    assert_eq!(world.count("stop_canister"), [0, 1, 1, 1]);
    world.ends_with(0, &format!("backup orders --scope subtree --select {}", id(2)));
    assert_eq!(taken(&world, "orders@g2"), (vec![2, 4], vec![(2, 2)]));
    world.ends_with(0, "backup orders --scope member --select index");
    assert_eq!(taken(&world, "orders@g3"), (vec![4], vec![(4, 1)]));
    assert_eq!(world.count("stop_canister"), [0, 2, 1, 3]);
    world.assert_all_run();
    world.assert_nothing_is_left();
    // Members that were left out still are the previous generation's for the next one.
    world.set("scope = 'maintenance-root'");
    let told = world.json("backup orders");
    assert_eq!(taken(&world, "orders@g4"), (vec![1, 2, 3, 4], vec![(1, 4)]));
    let stored = told["deployments"][0]["bytes_stored"].as_u64().unwrap();
    assert!(stored < MIB as u64 / 2, "the root is new, and nothing else: {stored}");
    let to = temp();
    world.ends_with(0, &format!("restore orders@g2 --to {}/there", to.path().display()));
}
