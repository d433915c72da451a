//! The command killed before, beside and after the commands that it runs, with the real `icp`:
//! repeating the same backup ends with what the canisters held.

use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::time::{Duration, Instant};

use super::wrapped::Harm;
use super::{MEMBERS, World, assert_only_locks, said};
use crate::support::replica::{Fault, Times, canister_id, hex};

const BACKUP: &str = "backup --init orders";

/// Repeats the backup until no command of the killed one is under way; that has to be soon.
#[track_caller]
pub fn repeat(world: &World) -> Output {
    repeat_words(world, BACKUP)
}

/// Repeats a command until no command of the killed one is under way.
#[track_caller]
fn repeat_words(world: &World, words: &str) -> Output {
    let since = Instant::now();
    loop {
        let output = world.run(words);
        if output.status.code() != Some(11) || since.elapsed() > Duration::from_secs(60) {
            return output;
        }
        assert!(said(&output).contains("still works on"), "{}", said(&output));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Fails unless there is one generation, of what the members hold, and everything is in order.
#[track_caller]
pub fn assert_done(world: &World, when: &str) {
    world.assert_all_run();
    world.assert_nothing_is_left();
    assert_eq!(world.count("take_canister_snapshot"), [1; 4], "{when}");
    assert_eq!(world.generations(), 1, "{when}");
    world.assert_restores("orders");
    assert!(world.runs().iter().all(|(_, state)| state.cleaned), "{when}");
}

/// Kills the backup at some of the commands that it runs, those for which `is_chosen` holds.
#[track_caller]
fn kill_at(harms: &[Harm], is_chosen: impl Fn(u64) -> bool) {
    for harm in harms {
        for number in (1..).filter(|number| is_chosen(*number)) {
            let Some(mut world) = World::new(100_000) else { return };
            // One after the other, so that every call has its number.
            world.set("concurrency = 1");
            world.wrap();
            world.harm(*harm, "", number);
            let when = format!("{harm:?} {number}");
            let output = world.run(BACKUP);
            if output.status.success() {
                assert!(number > 40, "{when}");
                assert_done(&world, &when);
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{when}: {}", said(&output));
            let output = repeat(&world);
            assert_eq!(output.status.code(), Some(0), "{when}: {}", said(&output));
            assert_done(&world, &when);
        }
    }
}

#[test]
fn a_backup_killed_at_some_of_its_commands_ends_with_the_same_generation() {
    // Among them each kind of command, on different members.
    kill_at(&[Harm::KillBefore], |number| number % 29 == 5);
    kill_at(&[Harm::KillBeside], |number| number % 29 == 15);
    kill_at(&[Harm::KillAfter], |number| number % 29 == 25);
}

#[test]
#[ignore = "takes minutes"]
fn a_backup_killed_at_every_command_ends_with_the_same_generation() {
    kill_at(&[Harm::KillBefore, Harm::KillBeside, Harm::KillAfter], |_| true);
}

/// Kills a restore at some of the commands that it runs.
#[track_caller]
fn kill_restore_at(harms: &[Harm], is_chosen: impl Fn(u64) -> bool) {
    const RESTORE: &str = "restore orders@g1 --apply";
    let Some(mut world) = World::new(100_000) else { return };
    world.set("concurrency = 1");
    world.wrap();
    world.ends_with(0, BACKUP);
    let images: Vec<_> = (1..=MEMBERS).map(|n| world.image(n)).collect();
    let mut seed = 0;
    for harm in harms {
        for number in (1..).filter(|number| is_chosen(*number)) {
            seed += 1;
            world.live_on(seed);
            world.harm(*harm, "", number);
            let when = format!("{harm:?} {number}");
            let mut output = world.run(RESTORE);
            let is_over = output.status.success();
            if !is_over {
                assert_eq!(output.status.signal(), Some(9), "{when}: {}", said(&output));
                let runs = world.json("run list");
                let mut runs = runs["runs"].as_array().unwrap().iter();
                let is_begun = runs.any(|run| run["cleaned"] == false);
                output = repeat_words(&world, if is_begun { "resume" } else { RESTORE });
                assert_eq!(output.status.code(), Some(0), "{when}: {}", said(&output));
            }
            world.assert_all_run();
            for (n, image) in (1..).zip(&images) {
                assert!(world.image(n).is(image), "{when}: {n}");
            }
            assert_only_locks(&world.path("staging"));
            // An upload whose answer nobody heard is said, and stays: it may be somebody else's.
            let left = (1..=MEMBERS).flat_map(|n| world.replica.snapshots(canister_id(n)));
            let left: Vec<_> = left.map(|snapshot| hex(&snapshot.id)).collect();
            assert!(left.len() <= 1, "{when}: {left:?}");
            assert!(left.iter().all(|id| said(&output).contains(id)), "{when}: {left:?}");
            for n in 1..=MEMBERS {
                world.replica.with(canister_id(n), |canister| canister.snapshots.clear());
            }
            if is_over {
                assert!(number > 40, "{when}");
                break;
            }
        }
    }
}

#[test]
fn a_restore_killed_at_some_of_its_commands_ends_with_what_was_backed_up() {
    kill_restore_at(&[Harm::KillBefore], |number| number % 31 == 7);
    kill_restore_at(&[Harm::KillBeside], |number| number % 31 == 17);
    kill_restore_at(&[Harm::KillAfter], |number| number % 31 == 27);
}

#[test]
#[ignore = "takes minutes"]
fn a_restore_killed_at_every_command_ends_with_what_was_backed_up() {
    kill_restore_at(&[Harm::KillBefore, Harm::KillBeside, Harm::KillAfter], |_| true);
}

#[test]
fn nothing_is_begun_while_a_command_of_a_killed_runner_is_at_work() {
    let Some(mut world) = World::new(100_000) else { return };
    world.set("concurrency = 1");
    world.wrap();
    world.harm(Harm::KillBeside, "snapshot download", 2);
    // The second download is that of canister 2, and goes on after its runner's death.
    let slow = Fault::Delay(Duration::from_secs(4));
    world.replica.fail(canister_id(2), "read_canister_snapshot_metadata", Times::Nth(1), slow);
    let output = world.run(BACKUP);
    assert_eq!(output.status.signal(), Some(9), "{}", said(&output));
    let (before, calls) = (world.commands(), world.replica.log().len());
    let told = world.ends_with(11, BACKUP);
    let member = canister_id(2).to_text();
    assert!(told.contains(&format!("still works on {member}")), "{told}");
    assert!(told.contains("hint: wait until that command has ended"), "{told}");
    assert_eq!(world.commands(), before, "nothing was run");
    let names: Vec<_> = world.replica.log()[calls..].iter().map(|c| c.method.clone()).collect();
    assert!(names.iter().all(|name| name.starts_with("read_canister_snapshot")), "{names:?}");
    // Other commands that only look are not kept from it.
    world.ends_with(0, "status");
    let run = world.runs()[0].0.clone();
    world.ends_with(0, &format!("run show {run}"));
    world.ends_with(11, &format!("run abandon {run}"));
    let output = repeat(&world);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_done(&world, "after the download");
    assert_eq!(world.commands_with("snapshot create"), 4);
}

#[test]
fn a_snapshot_that_is_made_after_its_runners_death_is_the_runs_own() {
    let Some(mut world) = World::new(100_000) else { return };
    world.wrap();
    world.harm(Harm::KillBeside, "snapshot create", 3);
    let slow = Fault::Delay(Duration::from_secs(1));
    world.replica.fail(canister_id(3), "take_canister_snapshot", Times::Nth(1), slow);
    let output = world.run(BACKUP);
    assert_eq!(output.status.signal(), Some(9), "{}", said(&output));
    let told = world.ends_with(0, "status");
    assert!(told.contains("was stopped and not started again"), "{told}");
    let output = repeat(&world);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(said(&output).contains("found after a lost answer"), "{}", said(&output));
    assert_done(&world, "adopted");
}
