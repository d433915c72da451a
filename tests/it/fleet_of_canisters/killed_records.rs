//! The runner killed before and after records of its journal, with the real `icp`: the command ends
//! the backup, with what the canisters held.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use strongroom::run::config::{Config, parse_inventory, rows};
use strongroom::run::inventory::Inventory;
use strongroom::run::plan::Plan;
use strongroom::run::runner::Options;

use super::killed::{back_up, mortal_store, options};
use super::killed_commands::{assert_done, repeat};
use super::{World, said};
use crate::support::{Child, DEPLOYMENT};

/// A part for `child.rs`: backs up what is configured in `dir`, as the command does, and is killed
/// at `when`.
pub fn play_run(dir: &Path, when: &OsStr) {
    let text = fs::read_to_string(dir.join("strongroom.toml")).unwrap();
    let config = Config::parse(&text, dir).unwrap();
    let settings = config.deployment(DEPLOYMENT).unwrap();
    let members = parse_inventory(&fs::read(dir.join("registry.json")).unwrap()).unwrap();
    let executor = settings.make_executor(DEPLOYMENT, &members).unwrap();
    let request = settings.request(DEPLOYMENT, &*executor, &members, None, None).unwrap();
    let plan = Plan::build(request, &Inventory::new(rows(&members)).unwrap()).unwrap();
    let store = mortal_store(dir, when.to_str().unwrap());
    let settle = std::time::Duration::from_secs(20);
    back_up(&store, &*executor, &plan, Options { settle, ..options(dir) }).unwrap();
}

/// Kills the backup before and after those of its records for which `is_chosen` holds.
#[track_caller]
fn kill_at(is_chosen: impl Fn(u64) -> bool) {
    for side in ["jb", "ja"] {
        for number in (1..).filter(|number| is_chosen(*number)) {
            let Some(world) = World::new(100_000) else { return };
            world.ends_with(0, "init");
            let when = format!("{side}{number}");
            let arguments: [&OsStr; 2] = [world.dir.path().as_ref(), when.as_ref()];
            let output = Child::new("killed in a run of canisters", &arguments).run();
            if output.status.success() {
                assert!(number > 40, "{when}");
                assert_done(&world, &when);
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{when}: {}", said(&output));
            if world.runs().iter().any(|(_, state)| state.cleaned) {
                // Only the answer was lost.
                assert_done(&world, &when);
                continue;
            }
            let output = repeat(&world);
            assert_eq!(output.status.code(), Some(0), "{when}: {}", said(&output));
            assert_done(&world, &when);
        }
    }
}

#[test]
fn a_runner_killed_at_some_records_ends_with_the_same_generation() {
    kill_at(|number| number % 23 == 9);
}

/// `cargo test --test it killed_at_every -- --ignored` runs this and the like of it.
#[test]
#[ignore = "takes minutes"]
fn a_runner_killed_at_every_record_ends_with_the_same_generation() {
    kill_at(|_| true);
}
