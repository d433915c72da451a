//! The command interrupted in each of its phases: it says so, all members run, and repeating it
//! ends with the generation and leaves nothing behind.

use super::World;
use super::wrapped::Harm;

const BACKUP: &str = "backup --init orders";

/// Interrupts the backup at a command with these words; it ends with `code`.
#[track_caller]
fn interrupt(harm: Harm, words: &str, number: u64, code: i32) {
    let Some(mut world) = World::new(100_000) else { return };
    world.set("concurrency = 1");
    world.wrap();
    world.harm(harm, words, number);
    let when = format!("{harm:?} {words} {number}");
    let said = world.ends_with(code, BACKUP);
    world.assert_all_run();
    if code == 130 {
        assert!(said.contains("backup of orders: interrupted"), "{when}: {said}");
        assert!(said.contains("hint: `strongroom resume "), "{when}: {said}");
        assert_eq!(world.generations(), 0, "{when}");
        let stopped = world.commands_with("canister stop") > 0;
        let started = world.count("start_canister").iter().sum::<usize>() > 0;
        assert_eq!(stopped, started, "{when}");
        world.harm(harm, "", 0);
        world.ends_with(0, BACKUP);
    }
    world.assert_all_run();
    assert_eq!(world.generations(), 1, "{when}");
    world.assert_nothing_is_left();
    world.assert_restores("orders");
}

#[test]
fn an_interruption_before_anything_is_done_changes_nothing() {
    interrupt(Harm::InterruptAfter, "canister status", 3, 130);
}

#[test]
fn an_interruption_of_a_stop_starts_the_members_again() {
    interrupt(Harm::InterruptBefore, "canister stop", 2, 130);
    interrupt(Harm::InterruptAfter, "canister stop", 4, 130);
}

/// The snapshot of the interrupted command is there, and nobody has its name.
#[test]
fn an_interruption_of_a_snapshot_leaves_no_snapshot_behind() {
    interrupt(Harm::InterruptBefore, "snapshot create", 1, 130);
    interrupt(Harm::InterruptAfter, "snapshot create", 3, 130);
    interrupt(Harm::InterruptAndAnswer, "snapshot create", 4, 130);
}

#[test]
fn an_interruption_of_a_start_starts_all() {
    interrupt(Harm::InterruptBefore, "canister start", 2, 130);
    interrupt(Harm::InterruptAfter, "canister start", 4, 130);
}

#[test]
fn an_interruption_of_a_download_goes_on_with_it_later() {
    interrupt(Harm::InterruptBefore, "snapshot download", 1, 130);
    interrupt(Harm::InterruptAfter, "snapshot download", 3, 130);
}

/// The generation is durable by then, and what is left is done.
#[test]
fn an_interruption_of_the_cleaning_comes_too_late() {
    interrupt(Harm::InterruptAndAnswer, "snapshot delete", 2, 0);
}
