//! Services that fail, answer wrongly or not at all: the run goes on, or says why not and starts
//! again what it has stopped.

use std::time::Duration;

use super::World;
use crate::support::Mount;
use crate::support::replica::{Fault, Principal, State, Times, canister_id};

const BACKUP: &str = "backup --init orders";

fn id(n: u64) -> String {
    canister_id(n).to_text()
}

#[test]
fn lost_replies_are_looked_up_and_nothing_is_done_twice() {
    let Some(world) = World::new(300_000) else { return };
    let lost = [
        (1, "stop_canister"),
        (2, "take_canister_snapshot"),
        (3, "start_canister"),
        (4, "read_canister_snapshot_data"),
        (1, "delete_canister_snapshot"),
    ];
    for (n, method) in lost {
        world.replica.fail(canister_id(n), method, Times::Nth(1), Fault::LoseReply);
    }
    let said = world.ends_with(0, BACKUP);
    assert!(said.contains("found after a lost answer"), "{said}");
    assert!(!said.contains("could not be removed"), "{said}");
    for method in ["stop_canister", "take_canister_snapshot", "start_canister"] {
        assert_eq!(world.count(method), [1; 4], "{method}");
    }
    assert_eq!(world.count("delete_canister_snapshot"), [1; 4]);
    world.assert_all_run();
    world.assert_nothing_is_left();
    world.assert_restores("orders");
}

#[test]
fn requests_that_are_lost_end_the_run_with_all_members_running() {
    let cases = [
        (2, "stop_canister", "stop-"),
        (3, "take_canister_snapshot", "snapshot-"),
        (4, "start_canister", "start-"),
    ];
    for (n, method, operation) in cases {
        let Some(world) = World::new(100_000) else { return };
        world.replica.fail(canister_id(n), method, Times::Nth(1), Fault::LoseRequest);
        let said = world.ends_with(1, BACKUP);
        let expected = format!("backup of orders: {operation}{}: ", id(n));
        assert!(said.contains(&expected), "{method}: {said}");
        assert!(said.contains("An error happened during communication"), "{said}");
        assert!(said.contains("started again: "), "{said}");
        assert!(said.contains("hint: `strongroom resume "), "{said}");
        world.assert_all_run();
        assert_eq!(world.generations(), 0);
        let said = world.ends_with(0, BACKUP);
        assert!(said.contains("going on with the run"), "{said}");
        world.assert_all_run();
        // Also what was made before the members were started again.
        world.assert_nothing_is_left();
        world.assert_restores("orders");
    }
    let Some(world) = World::new(100_000) else { return };
    let method = "delete_canister_snapshot";
    world.replica.fail(canister_id(2), method, Times::Always, Fault::LoseRequest);
    let said = world.ends_with(0, BACKUP);
    let expected = "could not be removed: snapshot 0000000000000000";
    assert!(said.contains(expected) && said.contains(&id(2)), "{said}");
    assert_eq!(world.replica.snapshots(canister_id(2)).len(), 1);
    world.assert_restores("orders");
}

#[test]
fn without_the_rights_nothing_is_touched() {
    let anyone = Principal::anonymous();
    for reader in [false, true] {
        let Some(world) = World::new(100_000) else { return };
        world.replica.with(canister_id(3), |canister| {
            canister.controllers = vec![canister_id(9)];
            if reader {
                canister.snapshot_viewers = vec![anyone];
                canister.status_viewers = vec![anyone];
            }
        });
        let said = world.ends_with(1, BACKUP);
        let expected = format!("{}: the right to stop and start it is not proven: ", id(3));
        assert!(said.contains(&expected), "{said}");
        assert_eq!(world.mutations(), []);
        world.assert_all_run();
        // The rights are given, and the same command goes on.
        world.replica.with(canister_id(3), |canister| canister.controllers = vec![anyone]);
        world.ends_with(0, BACKUP);
        world.assert_restores("orders");
    }
}

#[test]
fn a_member_that_goes_on_stopping_fails_the_run_and_all_are_started_again() {
    let Some(mut world) = World::new(100_000) else { return };
    world.set("settle = '1s'");
    world.replica.fail(canister_id(2), "stop_canister", Times::Always, Fault::StayStopping);
    let said = world.ends_with(1, BACKUP);
    assert!(
        said.contains(&format!("stop-{}: not stopped after 1 seconds: it is stopping", id(2))),
        "{said}"
    );
    // From the top down, by their names, 1, 3 and 2 were told to stop; in reverse they are started.
    assert!(said.contains(&format!("started again: {}, {}, {}", id(2), id(3), id(1))), "{said}");
    world.assert_all_run();
    assert_eq!(world.count("take_canister_snapshot"), [0; 4]);

    // Now one cannot be started again either: both causes are told, and it is not forgotten.
    world.replica.fail(canister_id(1), "start_canister", Times::Nth(1), Fault::Refuse);
    let said = world.ends_with(1, BACKUP);
    assert!(said.contains("not stopped after 1 seconds"), "{said}");
    let still = format!("{} IS STILL STOPPED: ", id(1));
    assert!(said.contains(&still) && said.contains("refused, because the test wants it"), "{said}");
    assert_eq!(world.replica.state(canister_id(1)), State::Stopped);
    let said = world.ends_with(3, "status --check");
    assert!(said.contains(&format!("{} was stopped and not started again", id(1))), "{said}");

    // A run that fails before it stops anything starts it all the same.
    world.replica.with(canister_id(4), |canister| canister.controllers = vec![canister_id(9)]);
    let said = world.ends_with(1, BACKUP);
    assert!(said.contains("is not proven"), "{said}");
    assert!(said.contains(&format!("started again: {}", id(1))), "{said}");
    world.assert_all_run();
    let anyone = Principal::anonymous();
    world.replica.with(canister_id(4), |canister| canister.controllers = vec![anyone]);
    world.replica.clear_faults();
    world.ends_with(0, BACKUP);
    world.assert_all_run();
    world.assert_nothing_is_left();
    world.assert_restores("orders");
}

#[test]
fn a_run_that_is_given_up_starts_what_it_has_stopped() {
    let Some(world) = World::new(100_000) else { return };
    let said = world.ends_with(130, "backup --init orders --max-steps 6");
    assert!(said.contains("ARE STILL STOPPED"), "{said}");
    assert_eq!(world.replica.state(canister_id(4)), State::Stopped);
    let run = world.runs()[0].0.clone();
    world.ends_with(0, &format!("run abandon {run} --reason test"));
    world.assert_all_run();
    world.assert_nothing_is_left();
    assert!(world.ends_with(0, "run list").contains("abandoned"));
    world.ends_with(0, BACKUP);
    assert_eq!(world.generations(), 1);
}

#[test]
fn a_truncated_download_is_seen_and_done_again() {
    let Some(mut world) = World::new(300_000) else { return };
    // Cuts what `icp` has downloaded of canister 2, once.
    let cut = world.path("cut");
    world.script(&format!(
        "#!/bin/sh\nICP \"$@\" || exit\ncase \"$*\" in *\"download {}\"*) [ -e {cut} ] || {{ : > {cut}\n\
         for last; do :; done; truncate -s -1 \"$last/stable_memory.bin\"; }} ;; esac\n",
        id(2),
        cut = cut.display()
    ));
    let said = world.ends_with(1, BACKUP);
    assert!(said.contains(&format!("download-{}", id(2))), "{said}");
    assert!(
        said.contains("stable_memory.bin has 149999 bytes, and metadata.json says 150000"),
        "{said}"
    );
    world.assert_all_run();
    assert_eq!(world.generations(), 0);
    world.ends_with(0, BACKUP);
    assert_eq!(world.count("take_canister_snapshot"), [1; 4], "the snapshot is still there");
    assert_eq!(world.count("stop_canister"), [1; 4]);
    world.assert_nothing_is_left();
    world.assert_restores("orders");
}

#[test]
fn other_code_than_expected_is_refused_before_anything_is_stopped() {
    let Some(world) = World::new(100_000) else { return };
    world.write_inventory(|n, row| {
        if n == 4 {
            row["module_hash"] = "0".repeat(64).into();
        }
    });
    let said = world.ends_with(1, BACKUP);
    let hash = world.module_hash(4);
    let zeros = "0".repeat(64);
    assert!(
        said.contains(&format!("{}: runs the code {hash}, and {zeros} is expected", id(4))),
        "{said}"
    );
    assert_eq!(world.mutations(), []);
    // The registry is corrected: nothing was done, so the backup is planned anew.
    world.write_inventory(|_, _| ());
    let said = world.ends_with(0, BACKUP);
    assert!(said.contains("planning anew"), "{said}");
    assert_eq!(world.runs().len(), 2);
    world.assert_restores("orders");
}

#[test]
fn code_that_changes_between_the_questions_and_the_stop_is_refused() {
    let Some(mut world) = World::new(100_000) else { return };
    // The canister is upgraded when the first one has been told to stop.
    world.write_inventory(|_, row| {
        row.as_object_mut().unwrap().remove("module_hash");
    });
    world.ends_with(0, BACKUP);
    world.write_inventory(|_, _| ());
    let go = world.path("go");
    let wait = world.path("wait");
    world.script(&format!(
        "#!/bin/sh\ncase \"$*\" in *\"stop {}\"*) : > {wait}; while [ ! -e {go} ]; do sleep 0.05; done ;; \
         esac\nexec ICP \"$@\"\n",
        id(1),
        wait = wait.display(),
        go = go.display()
    ));
    let child = world.command(BACKUP).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !wait.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    world.replica.with(canister_id(2), |canister| {
        std::sync::Arc::make_mut(&mut canister.image.module).push(0);
    });
    std::fs::write(go, "").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = super::said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("runs the code {}", world.module_hash(2))), "{said}");
    world.assert_all_run();
    assert_eq!(world.generations(), 1);
}

/// The registry is a file here, and says something else when the run is taken up again.
#[test]
fn a_registry_that_changes_while_members_are_stopped_ends_the_run_with_all_running() {
    let Some(world) = World::new(100_000) else { return };
    world.ends_with(130, "backup --init orders --max-steps 6");
    let run = world.runs()[0].0.clone();
    world.write_inventory(|n, row| {
        if n == 4 {
            row["parent_pid"] = id(3).into();
        }
    });
    for words in [BACKUP.to_owned(), format!("resume {run}")] {
        let said = world.ends_with(1, &words);
        assert!(said.contains("the deployment changed since the plan was made"), "{said}");
        assert!(said.contains("`strongroom run abandon") || words == BACKUP, "{said}");
        world.assert_all_run();
    }
    assert_eq!(world.count("take_canister_snapshot").iter().sum::<usize>(), 2);
    // The backup plans anew, and what the other one has made goes.
    let said = world.ends_with(0, BACKUP);
    assert!(said.contains("planning anew"), "{said}");
    world.assert_all_run();
    world.assert_nothing_is_left();
    world.assert_restores("orders");
    assert_eq!(world.facts("orders").member(&id(4)).unwrap().parent, Some(id(3)));
}

#[test]
fn a_full_staging_area_fails_the_run_which_goes_on_when_there_is_room() {
    let Some(world) = World::new(1 << 20) else { return };
    std::fs::create_dir(world.path("staging")).unwrap();
    let mounted = Mount::new("tmpfs", "size=2m", &world.path("staging"));
    let Some(mount) = mounted else { return };
    let said = world.ends_with(1, BACKUP);
    assert!(said.contains("download-") && said.to_lowercase().contains("no space left"), "{said}");
    world.assert_all_run();
    assert_eq!(world.generations(), 0);
    world.ends_with(1, BACKUP);
    mount.remount("size=40m");
    world.ends_with(0, BACKUP);
    assert_eq!(world.count("take_canister_snapshot"), [1; 4]);
    world.assert_nothing_is_left();
    world.assert_restores("orders");
}

#[test]
fn two_new_snapshots_after_a_lost_reply_are_nobodys() {
    let Some(mut world) = World::new(100_000) else { return };
    // Somebody else makes a snapshot at the same time, and the reply is lost.
    let once = world.path("once");
    world.script(&format!(
        "#!/bin/sh\ncase \"$*\" in *\"snapshot create {}\"*) [ -e {once} ] || {{ : > {once}\n\
         ICP \"$@\" >&2; ICP \"$@\" >&2; exit 1; }} ;; esac\nexec ICP \"$@\"\n",
        id(2),
        once = once.display()
    ));
    let said = world.ends_with(1, BACKUP);
    assert!(said.contains("2 snapshots appeared since the first attempt"), "{said}");
    world.assert_all_run();
    world.ends_with(0, BACKUP);
    world.assert_restores("orders");
    // They may be somebody else's, and stay.
    assert_eq!(world.replica.snapshots(canister_id(2)).len(), 2);
    assert_eq!(world.replica.snapshots(canister_id(1)).len(), 0);
    world.assert_all_run();
}
