//! What a person, a registry or a damaged store can get wrong: told clearly, and nothing is asked of
//! any member.

use std::fs;

use serde_json::{Value, json};
use strongroom::backend::{Backend, LocalBackend};
use strongroom::clock::UnixNanos;
use strongroom::run::event::Event;
use strongroom::run::journal::Journal;

use super::{MEMBERS, World};
use crate::support::replica::canister_id;
use crate::support::{keys, object};

const BACKUP: &str = "backup --init orders";

fn id(n: u64) -> String {
    canister_id(n).to_text()
}

/// Runs a command that ends with `code` and says `expected`, and asks nothing of the service.
#[track_caller]
fn refuses(world: &World, code: i32, words: &str, expected: &str) -> String {
    world.replica.clear_log();
    let said = world.ends_with(code, words);
    assert!(said.contains(expected), "{expected:?} in {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(world.replica.log(), []);
    said
}

#[test]
fn inventories_that_do_not_hang_together_are_refused() {
    let Some(world) = World::new(10_000) else { return };
    let cases: [(&dyn Fn(u64, &mut Value), String); 6] = [
        (
            &|n, row| {
                if n == 2 {
                    row["parent_pid"] = id(4).into();
                }
            },
            format!("members are their own ancestors: {}, {}", id(2), id(4)),
        ),
        (
            &|n, row| {
                if n == 3 {
                    row["pid"] = id(2).into();
                }
            },
            format!("member {} appears twice", id(2)),
        ),
        (
            &|n, row| {
                if n == 4 {
                    row["parent_pid"] = id(8).into();
                }
            },
            format!("member {} has the parent {}, which is not in the inventory", id(4), id(8)),
        ),
        (
            &|n, row| {
                if n == 4 {
                    row["module_hash"] = "0x12".into();
                }
            },
            format!("member {}: module hash \"12\" is not 64 hexadecimal digits", id(4)),
        ),
        (
            &|n, row| {
                if n == 4 {
                    row["pid"] = "../../etc/passwd".into();
                }
            },
            "member \"../../etc/passwd\": ".to_owned(),
        ),
        (
            &|n, row| {
                if n == 4 {
                    row["pid"] = "--help".into();
                }
            },
            "member \"--help\": ".to_owned(),
        ),
    ];
    for (change, expected) in cases {
        world.write_inventory(change);
        refuses(&world, 1, BACKUP, &expected);
        refuses(&world, 1, "backup --plan orders", &expected);
    }
    assert!(world.runs().is_empty(), "no run was begun");
}

#[test]
fn hostile_inventories_are_refused() {
    let Some(world) = World::new(10_000) else { return };
    let file = world.path("registry.json");
    let write = |text: &str| fs::write(&file, text).unwrap();
    write("canister_ids: not json");
    refuses(&world, 2, BACKUP, "registry.json: expected value at line 1");
    write(&format!("[{}]", "[".repeat(200_000)));
    refuses(&world, 2, BACKUP, "registry.json: ");
    let one = format!(r#"[{{"pid": "{}", "rolle": "root"}}]"#, id(1));
    write(&one);
    let said = refuses(&world, 2, BACKUP, "registry.json: unknown key `rolle`");
    assert!(said.contains("hint: did you mean `role`?"), "{said}");
    write(&one.replace("rolle", "role").replace("root", &"r".repeat(5_000_000)));
    refuses(&world, 1, BACKUP, "its role has 5000000 bytes, at most 255 allowed");

    let many = |count: u64| {
        let row = |n: u64| {
            json!({ "pid": canister_id(n).to_text(), "role": "r".repeat(60),
                "parent_pid": (n > 1).then(|| id(1)) })
        };
        serde_json::to_string(&(1..=count).map(row).collect::<Vec<_>>()).unwrap()
    };
    write(&many((1 << 16) + 1));
    refuses(&world, 2, BACKUP, "65537 members, at most 65536 allowed");
    // As many as are allowed, and their plan is larger than any record.
    write(&many(1 << 16));
    refuses(&world, 1, BACKUP, "plan for orders: the plan has ");
    refuses(&world, 1, "backup --plan orders", "at most 8388608 allowed: choose a smaller scope");
    assert!(world.runs().is_empty());
    let sparse = fs::File::create(&file).unwrap();
    sparse.set_len(65 << 20).unwrap();
    refuses(&world, 2, BACKUP, "at most 67108864 allowed");
    fs::remove_file(&file).unwrap();
    refuses(&world, 2, BACKUP, "registry.json: No such file");
}

#[test]
fn selectors_that_are_not_clear_are_refused() {
    let Some(world) = World::new(10_000) else { return };
    world.ends_with(0, "init");
    let said = refuses(
        &world,
        1,
        "backup orders --scope member --select shard",
        &format!("the role \"shard\" is that of several members: {}, {}", id(2), id(3)),
    );
    assert!(said.contains("hint: select by identity"), "{said}");
    let none = "backup orders --scope subtree --select shards";
    refuses(&world, 1, none, "no member has the identity or role \"shards\"; there are: index");
    refuses(&world, 1, "backup orders --scope member", "the scope member needs a member");
    let said = refuses(&world, 1, "backup orders --scope subtree --select root", "is the root");
    assert!(said.contains("hint: use --scope maintenance-root"), "{said}");
    let needless = "backup orders --scope non-root-deployment --select index";
    refuses(&world, 1, needless, "selects no single member");
    assert!(world.runs().is_empty());
}

#[test]
fn a_plan_is_shown_without_a_question() {
    let Some(world) = World::new(10_000) else { return };
    let said = refuses(&world, 0, "backup --plan --all", "orders: 4 of 4 members by icp");
    assert!(said.contains(&format!("stop-{}", id(1))), "{said}");
    let shown = world.json("backup --plan orders");
    let operations = shown["plans"][0]["operations"].as_array().unwrap();
    assert_eq!(operations.len(), 5 + 5 * MEMBERS as usize);
    assert_eq!(world.replica.log(), []);
    let names = fs::read_dir(world.dir.path()).unwrap();
    let mut names: Vec<_> = names.map(|item| item.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["registry.json", "strongroom.toml"], "no store, no staging");
}

#[test]
fn keys_that_there_are_not_are_named_with_the_nearest_one() {
    let Some(mut world) = World::new(10_000) else { return };
    let good = world.settings.clone();
    for (line, key, nearest) in [
        ("quiesence = 'crash-consistent'", "quiesence", "quiescence"),
        ("keep_snapshots = true", "keep_snapshots", "keep-snapshots"),
        ("icp.netwrok = 'ic'", "netwrok", "network"),
    ] {
        world.settings = good.clone();
        if line.starts_with("icp.") {
            let path = world.path("strongroom.toml");
            world.configure();
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace("network = ", "netwrok = ")).unwrap();
        } else {
            world.set(line);
        }
        let said = refuses(&world, 2, BACKUP, &format!("unknown key `{key}`, line "));
        assert!(said.contains(&format!("hint: did you mean `{nearest}`?")), "{said}");
    }
    world.settings = good.replace("maintenance-root", "everything");
    world.configure();
    let said = refuses(&world, 2, BACKUP, "strongroom.toml: ");
    assert!(said.contains("everything") && said.contains("non-root-deployment"), "{said}");
    world.settings = good;
    world.set("settle = 'soon'");
    refuses(&world, 2, BACKUP, "`settle` is \"soon\"");
}

/// Makes the journal of a run with these events.
fn write_journal(world: &World, events: &[Value]) -> String {
    let backend = LocalBackend::open(world.path("store")).unwrap();
    let mut journal = Journal::create(&backend, "20260101t000000z-12345678").unwrap();
    for event in events {
        journal.append(&backend, UnixNanos::now(), event).unwrap();
    }
    journal.run().to_owned()
}

#[test]
fn a_journal_that_was_edited_or_is_of_another_service_is_refused() {
    let Some(world) = World::new(10_000) else { return };
    world.ends_with(0, "init");
    let shown = world.json("backup --plan orders");
    let plan = &shown["plans"][0];
    let planned = |change: &dyn Fn(&mut Value)| {
        let mut plan = plan.clone();
        change(&mut plan);
        json!({ "event": "planned", "plan": plan })
    };
    let same = || planned(&|_| ());
    let preflight = |of: &str| {
        json!({ "event": "preflight", "receipt": {
            "plan": of, "topology_hash": plan["topology_hash"], "authorities": [],
            "quiescence": "crash-consistent", "valid_from": 0, "expires": 1 } })
    };
    let started = json!({ "event": "started", "operations": [4] });
    let cases: [(Vec<Value>, i32, &str); 9] = [
        (
            vec![planned(&|plan| plan["targets"][1]["depth"] = 7.into())],
            1,
            "the plan was edited: its targets",
        ),
        (
            vec![planned(&|plan| plan["operations"][4]["id"] = "x".into())],
            1,
            "the plan was edited: its operations",
        ),
        (
            vec![planned(&|plan| plan["id"] = "0".repeat(64).into())],
            1,
            "the plan was edited: its contents and identity",
        ),
        (vec![planned(&|plan| plan["more"] = 1.into())], 1, "unknown field `more`"),
        (vec![same(), preflight(&"1".repeat(64))], 1, "the preflight is for another plan"),
        (vec![same(), started.clone()], 1, "before the preflight was accepted"),
        (vec![same(), same()], 1, "a second plan"),
        (vec![started], 1, "a run begins with its plan"),
        (vec![json!({ "event": "moved" })], 1, "unknown variant `moved`"),
    ];
    for (events, code, expected) in cases {
        let run = write_journal(&world, &events);
        for command in [format!("resume {run}"), format!("run show {run}")] {
            refuses(&world, code, &command, expected);
        }
        if events[0]["event"] == "planned" {
            refuses(&world, code, BACKUP, expected);
        }
        // Other commands tell that it cannot be read, and are not kept from their work.
        refuses(&world, 0, "status", "unreadable");
        refuses(&world, 4, "run list", "unreadable");
        assert_eq!(world.generations(), 0);
        fs::remove_dir_all(world.path("store/runs").join(run)).unwrap();
    }

    // A run of another network.
    let run = write_journal(&world, &[same()]);
    let path = world.path("strongroom.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("http://127.0.0.1", "http://localhost")).unwrap();
    let said =
        refuses(&world, 1, BACKUP, &format!("the run {run} was planned for icp http://127.0.0.1"));
    assert!(said.contains("and this is icp http://localhost"), "{said}");
    fs::write(&path, text).unwrap();
    world.ends_with(0, BACKUP);
    assert_eq!(world.runs()[0].0, run);
}

#[test]
fn a_torn_tail_is_written_anew_and_a_hole_is_damage() {
    let Some(world) = World::new(10_000) else { return };
    world.ends_with(130, "backup --init orders --max-steps 3");
    let run = world.runs()[0].0.clone();
    let backend = LocalBackend::open(world.path("store")).unwrap();
    let records = keys(&backend, "runs");
    let last = records.iter().max_by_key(|key| key.as_str().to_owned()).unwrap();
    let path = world.path("store").join(last.as_str());
    let whole = object(&backend, last);
    let middle = world.path("store/runs").join(&run).join(format!("{:020}", 3));
    let kept = fs::read(&middle).unwrap();

    for hole in [true, false] {
        if hole {
            fs::remove_file(&middle).unwrap();
        } else {
            fs::write(&middle, &kept[..kept.len() / 2]).unwrap();
        }
        let expected = if hole { "record 3 is missing" } else { "record 3 is damaged" };
        for command in [BACKUP.to_owned(), format!("resume {run}"), format!("run abandon {run}")] {
            let said = refuses(&world, 4, &command, expected);
            assert!(said.contains("and there are records after it"), "{said}");
        }
        refuses(&world, 0, "status", expected);
    }
    fs::write(&middle, &kept).unwrap();

    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    // The member that the run has stopped is known all the same, and it goes on.
    world.ends_with(0, BACKUP);
    world.assert_all_run();
    world.assert_nothing_is_left();
    assert_eq!(world.count("take_canister_snapshot"), [1; 4]);
    world.assert_restores("orders");
    let names = keys(&backend, "runs");
    let torn = names.iter().filter(|key| key.name().starts_with("torn-")).count();
    assert_eq!(torn, 1, "{names:?}");
    drop(backend.location());
}

/// A journal that cannot be read is its own deployment's business.
#[test]
fn a_damaged_journal_of_one_deployment_does_not_keep_others_from_their_backups() {
    let Some(world) = World::new(10_000) else { return };
    fs::create_dir(world.path("files")).unwrap();
    fs::write(world.path("files/one"), "1").unwrap();
    world.append("[[deployments.files.members]]\nid = 'all'\npath = 'files'\n");
    world.ends_with(130, "backup --init orders --max-steps 3");
    let run = world.runs()[0].0.clone();
    let record = |number: u64| world.path("store/runs").join(&run).join(format!("{number:020}"));
    fs::remove_file(record(2)).unwrap();
    world.ends_with(4, "backup orders");
    world.ends_with(0, "backup files");
    // Nobody knows whose it is: it is told, and keeps nobody from anything.
    fs::remove_file(record(1)).unwrap();
    let said = world.ends_with(0, "backup files");
    assert!(said.contains(&run) && said.contains("cannot be read"), "{said}");
    let (_, events) = {
        let backend = LocalBackend::open(world.path("store")).unwrap();
        let newest = strongroom::run::journal::runs(&backend).unwrap().pop().unwrap();
        Journal::open::<Event>(&backend, &newest, false).unwrap()
    };
    assert!(matches!(events[0].event, Event::Planned { .. }));
}
