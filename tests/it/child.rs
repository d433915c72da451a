//! Parts that children of the test process play: to be killed, or to be a second process.

use std::path::Path;

use crate::support::{part_argument, part_name};
use crate::{executors, fleet_of_canisters, hostile, kill, writers};

/// Not a test of its own: what a child does that a test has started for a purpose.
#[test]
fn plays_its_part() {
    let Some(part) = part_name() else { return };
    let argument = part_argument;
    match part.as_str() {
        "writer" => {
            let deployment = argument(1).into_string().unwrap();
            writers::play(Path::new(&argument(0)), &deployment, Path::new(&argument(2)));
        }
        "killed in backup" => {
            kill::play_backup(Path::new(&argument(0)), Path::new(&argument(1)), &argument(2));
        }
        "killed in restore" => {
            kill::play_restore(Path::new(&argument(0)), Path::new(&argument(1)), &argument(2));
        }
        "killed in a run" => fleet_of_canisters::play_run(Path::new(&argument(0)), &argument(1)),
        "killed in a run of canisters" => {
            fleet_of_canisters::play_run_of_canisters(Path::new(&argument(0)), &argument(1));
        }
        "runner of a command" => {
            let paths = [argument(0), argument(1), argument(2)];
            let [lock, ready, go] = paths.each_ref().map(Path::new);
            executors::play_runner(lock, ready, go);
        }
        "bomb" => hostile::play_bomb(),
        part => panic!("there is no part {part:?}"),
    }
}
