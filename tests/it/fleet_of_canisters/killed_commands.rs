//! The command killed before, beside and after the commands that it runs, with the real `icp`:
//! repeating the same backup ends with what the canisters held.

use std::os::unix::process::ExitStatusExt;
use std::process::Output;
use std::time::{Duration, Instant};

use super::wrapped::Harm;
use super::{Image, MEMBERS, World, assert_only_locks, said};
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

const KILLS: [Harm; 3] = [Harm::KillBefore, Harm::KillBeside, Harm::KillAfter];

/// Kills something at every command that it runs; `kill` says whether there was one of that number.
#[track_caller]
fn kill_at_every_command(mut kill: impl FnMut(Harm, u64) -> bool) {
    for harm in KILLS {
        let ends = (1..).find(|number| !kill(harm, *number)).unwrap();
        assert!(ends > 40, "{harm:?}: {ends}");
    }
}

/// Kills the backup at the command of that number among those with these words, and repeats it.
/// Says whether there was such a command.
#[track_caller]
fn kill_backup(harm: Harm, words: &str, number: u64) -> bool {
    let Some(mut world) = World::new(100_000) else { return number < 50 };
    // One after the other, so that every call has its number.
    world.set("concurrency = 1");
    world.wrap();
    world.harm(harm, words, number);
    let when = format!("{harm:?} {words} {number}");
    let mut output = world.run(BACKUP);
    let is_killed = !output.status.success();
    if is_killed {
        assert_eq!(output.status.signal(), Some(9), "{when}: {}", said(&output));
        output = repeat(&world);
        assert_eq!(output.status.code(), Some(0), "{when}: {}", said(&output));
    }
    assert_done(&world, &when);
    is_killed
}

#[test]
fn a_backup_killed_at_commands_of_each_kind_ends_with_the_same_generation() {
    for (harm, words, number) in [
        (Harm::KillBefore, "canister stop", 2),
        (Harm::KillAfter, "snapshot create", 2),
        (Harm::KillBeside, "canister start", 3),
        (Harm::KillAfter, "snapshot download", 1),
        (Harm::KillBefore, "snapshot delete", 3),
    ] {
        assert!(kill_backup(harm, words, number), "{harm:?} {words}");
    }
}

/// `cargo test --test it killed_at_every -- --ignored` runs this and the like of it.
#[test]
#[ignore = "takes minutes"]
fn a_backup_killed_at_every_command_ends_with_the_same_generation() {
    kill_at_every_command(|harm, number| kill_backup(harm, "", number));
}

/// Restores of one generation, again and again.
struct Restores {
    world: World,
    images: Vec<Image>,
    seed: u64,
}

impl Restores {
    const RESTORE: &str = "restore orders@g1 --apply";

    fn new() -> Option<Self> {
        let mut world = World::new(100_000)?;
        world.set("concurrency = 1");
        world.wrap();
        world.ends_with(0, BACKUP);
        let images = (1..=MEMBERS).map(|n| world.image(n)).collect();
        Some(Self { world, images, seed: 0 })
    }

    /// As `kill_backup`, after the members have changed.
    #[track_caller]
    fn kill(&mut self, harm: Harm, words: &str, number: u64) -> bool {
        let world = &self.world;
        self.seed += 1;
        world.live_on(self.seed);
        world.harm(harm, words, number);
        let when = format!("{harm:?} {words} {number}");
        let mut output = world.run(Self::RESTORE);
        let is_killed = !output.status.success();
        if is_killed {
            assert_eq!(output.status.signal(), Some(9), "{when}: {}", said(&output));
            let runs = world.json("run list");
            let is_begun =
                runs["runs"].as_array().unwrap().iter().any(|run| run["cleaned"] == false);
            output = repeat_words(world, if is_begun { "resume" } else { Self::RESTORE });
            assert_eq!(output.status.code(), Some(0), "{when}: {}", said(&output));
        }
        world.assert_all_run();
        for (n, image) in (1..).zip(&self.images) {
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
        is_killed
    }
}

#[test]
fn a_restore_killed_at_commands_of_each_kind_ends_with_what_was_backed_up() {
    let Some(mut restores) = Restores::new() else { return };
    for (harm, words, number) in [
        (Harm::KillAfter, "snapshot upload", 2),
        (Harm::KillBefore, "canister stop", 3),
        (Harm::KillBeside, "snapshot restore", 2),
        (Harm::KillAfter, "canister start", 1),
        (Harm::KillBeside, "snapshot delete", 1),
    ] {
        assert!(restores.kill(harm, words, number), "{harm:?} {words}");
    }
}

#[test]
#[ignore = "takes minutes"]
fn a_restore_killed_at_every_command_ends_with_what_was_backed_up() {
    let Some(mut restores) = Restores::new() else { return };
    kill_at_every_command(|harm, number| restores.kill(harm, "", number));
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
