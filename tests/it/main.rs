//! The integration tests: one binary, so that it links once.

#![expect(clippy::pedantic, reason = "tests say things the short way")]
#![allow(clippy::result_large_err, clippy::type_complexity, reason = "tests name things once")]

mod bad_input;
mod canic;
mod changed_files;
mod child;
mod command;
mod configured;
mod costs;
mod damage;
mod every_bit;
mod every_kind;
mod executors;
mod faults;
mod fleet_of_canisters;
mod fleet_of_directories;
mod format;
mod full_disk;
mod healing;
mod hostile;
mod house;
mod icp_replica;
mod interrupted;
mod kill;
mod lost_index;
mod model;
mod promoting;
mod prune;
mod restoring;
mod sources;
mod sparse;
mod support;
mod way_back;
mod way_back_to_service;
mod writers;

/// A file that nobody declares is a test that nobody runs.
#[test]
fn no_test_file_was_forgotten() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut folders = vec![(here.clone(), here.join("main.rs"))];
    let mut seen = 0;
    while let Some((folder, parent)) = folders.pop() {
        let text = std::fs::read_to_string(&parent).unwrap();
        for item in std::fs::read_dir(&folder).unwrap() {
            let path = item.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let inner = path.join("mod.rs");
            let is_module = inner.exists() || path.extension().is_some_and(|ending| ending == "rs");
            if !is_module || path == parent || name == "mod" {
                continue;
            }
            let declared = text.lines().any(|line| line.ends_with(&format!("mod {name};")));
            assert!(declared, "{} does not declare {}", parent.display(), path.display());
            seen += 1;
            if inner.exists() {
                folders.push((path, inner));
            }
        }
    }
    assert!(seen > 5, "{seen} modules found");
}
