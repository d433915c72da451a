//! The real command, judged by other programs, and the codes that it ends with.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use strongroom::backend::{Backend, LocalBackend, LockMode};
use strongroom::lease::STORE_LOCK;

use crate::support::{
    Compare, Tree, assert_same_tree, is_root, keys, noise, object, snapshot, temp, text,
};

/// Runs the command on a store.
fn strongroom(store: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.args(arguments).env("STRONGROOM_STORE", store).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).output().unwrap()
}

/// Runs the command, fails unless it ends with `code`, and returns all that it said.
#[track_caller]
fn ends_with(code: i32, store: &Path, arguments: &[&str]) -> String {
    let output = strongroom(store, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    format!("{}{errors}", String::from_utf8_lossy(&output.stdout))
}

/// Returns what another program says about the directory, in records that begin or end with
/// `separator`, sorted; none, loudly, if there is no such program.
fn ask(program: &str, arguments: &[&str], tree: &Path, separator: &str) -> Vec<String> {
    match Command::new(program).args(arguments).current_dir(tree).output() {
        Ok(output) => {
            assert!(output.status.success(), "{program}: {output:?}");
            let text = output.stdout.escape_ascii().to_string();
            let mut records: Vec<_> = text.split(separator).map(str::to_owned).collect();
            records.sort_unstable();
            records
        }
        Err(error) => {
            eprintln!("SKIPPED: {program}: {error}");
            Vec::new()
        }
    }
}

/// Compares two trees as `diff`, `find` and `getfattr` see them, with what `find` shall print.
#[track_caller]
fn assert_same_to_others(expected: &Path, actual: &Path, printed: &str) {
    // It finds any two fifos different.
    let special = ["--exclude=fifo", "--exclude=socket"];
    let mut diff = Command::new("diff");
    diff.args(["-r", "--no-dereference"]).args(special).args([expected, actual]);
    let output = diff.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let programs = [
        ("find", vec![".", "-printf", printed], "\\x00"),
        ("getfattr", vec!["-R", "-h", "-P", "-d", "-m", "^user", "-e", "hex", "."], "\\n\\n"),
    ];
    for (program, arguments, separator) in programs {
        let both = [expected, actual].map(|tree| ask(program, &arguments, tree, separator));
        let differ = both[0].iter().zip(&both[1]).find(|(a, b)| a != b);
        assert!(both[0] == both[1], "{program}: {differ:?}");
    }
}

#[test]
fn every_kind_of_entry_survives_the_command_as_diff_find_and_getfattr_see_it() {
    let dir = temp();
    let store = dir.path().join("store");
    let tree = Tree::create(dir.path().join("source"));
    tree.fill_with_what_others_can_read(4);
    if is_root() {
        std::os::unix::fs::chown(tree.below("one byte"), Some(12_345), Some(54_321)).unwrap();
    }
    let before = snapshot(tree.path());
    let member = format!("files={}", tree.path().display());
    ends_with(0, &store, &["backup", "--init", "--name", "orders", &member]);
    let to = dir.path().join("target");
    let all =
        ["restore", "orders", "--set-id-bits", "--special-files", "--to", to.to_str().unwrap()];
    ends_with(0, &store, &all);
    let owner = if is_root() { "%U %G " } else { "" };
    // Name, type, mode, length, time, names, target.
    let printed = format!("%p %y %m %s %T@ %n %l {owner}\\0");
    let without_dir_sizes = printed.replace("%s ", "");
    let restored = to.join("files");
    assert_same_to_others(tree.path(), &restored, &without_dir_sizes);
    let files = "-type f -printf".split(' ').collect::<Vec<_>>();
    let lengths =
        |tree: &Path| ask("find", &[".", files[0], files[1], files[2], &printed], tree, "\\x00");
    assert_eq!(lengths(tree.path()), lengths(&restored));
    let compare = Compare { owner: is_root(), ..Compare::ALL };
    assert_same_tree(tree.path(), &restored, compare);
    assert!(before == snapshot(tree.path()), "the source is as it was");
    ends_with(0, &store, &["verify", "--full"]);

    let plain = dir.path().join("plain");
    ends_with(0, &store, &["restore", "orders", "--no-owner", "--to", plain.to_str().unwrap()]);
    assert_same_tree(tree.path(), &plain.join("files"), Compare::PLAIN);
}

#[test]
fn the_codes_say_how_a_command_ended() {
    let dir = temp();
    let store = dir.path().join("store");
    let tree = Tree::create(dir.path().join("source"));
    tree.file("one", noise(1, 3000));
    tree.file("two", text(2, 3000));
    let path = tree.path().to_str().unwrap();
    let (files, gone) = (format!("files={path}"), format!("gone={path}/nowhere"));
    let target = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();

    assert!(ends_with(10, &store, &["list"]).contains("no store"));
    ends_with(10, &store, &["backup", "--name", "orders", &files]);
    ends_with(2, &store, &["frobnicate"]);
    ends_with(2, &store, &["restore", "orders"]);
    ends_with(0, &store, &["init"]);
    ends_with(1, &store, &["init"]);
    assert!(ends_with(3, &store, &["backup", "--name", "orders", &files, &gone]).contains("gone"));
    let nothing = strongroom(&store, &["backup", "--name", "wares", &gone]);
    assert!(!nothing.status.success());
    assert!(!ends_with(0, &store, &["list"]).contains("wares"), "no generation of nothing");
    tree.file("two", text(3, 3000));
    ends_with(0, &store, &["backup", "--name", "orders", &files]);
    ends_with(5, &store, &["diff", "orders@g1", "orders@g2"]);
    ends_with(0, &store, &["diff", "orders@g2", "orders@g2"]);
    assert!(ends_with(1, &store, &["ls", "invoices"]).contains("orders"), "what is there is named");
    ends_with(1, &store, &["restore", "orders@g9", "--to", &target("unknown")]);
    ends_with(1, &store, &["cat", "orders:files/three"]);
    let output = strongroom(&store, &["cat", "orders:files/one"]);
    assert!(output.status.success() && output.stdout == noise(1, 3000));
    ends_with(1, &store, &["restore", "orders", "--to", path]);

    let backend = LocalBackend::open(&store).unwrap();
    let lock = backend.try_lock(STORE_LOCK, LockMode::Exclusive).unwrap().unwrap();
    ends_with(11, &store, &["backup", "--name", "orders", &files]);
    ends_with(0, &store, &["restore", "orders", "--to", &target("while locked")]);
    drop(lock);
}

#[test]
fn damage_has_a_code_of_its_own_and_costs_what_it_touches() {
    let dir = temp();
    let store = dir.path().join("store");
    let tree = Tree::create(dir.path().join("source"));
    tree.file("one", noise(1, 3000));
    tree.file("two", noise(2, 3000));
    let member = format!("files={}", tree.path().display());
    ends_with(0, &store, &["backup", "--init", "--name", "orders", &member]);
    let backend = LocalBackend::open(&store).unwrap();
    let key = keys(&backend, "packs").pop().unwrap();
    let mut bytes = object(&backend, &key);
    let at = bytes.windows(100).position(|window| window == &noise(1, 3000)[..100]).unwrap();
    bytes[at + 50] ^= 1;
    let name = key.name();
    std::fs::write(store.join("packs").join(&name[..2]).join(name), bytes).unwrap();

    ends_with(0, &store, &["verify", "--structure"]);
    for scope in ["--full", "--read"] {
        let said = ends_with(4, &store, &["verify", scope]);
        assert!(said.contains("orders@g1") && said.contains("files/one"), "{said}");
        assert!(!said.contains("files/two"), "{said}");
    }
    let to = dir.path().join("target");
    let said = ends_with(4, &store, &["restore", "orders", "--to", to.to_str().unwrap()]);
    assert!(said.contains("files/one"), "{said}");
    assert!(!to.join("files/one").exists());
    assert_eq!(std::fs::read(to.join("files/two")).unwrap(), noise(2, 3000));
    ends_with(4, &store, &["cat", "orders:files/one"]);
}
