//! The real command, killed, interrupted, run twice at once, and with a reader that goes away.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Compare, Tree, assert_same_tree, fast_temp, noise, text};

const MIB: usize = 1 << 20;

/// A source, and a place for stores.
struct Place {
    dir: TempDir,
    tree: Tree,
}

impl Place {
    /// Makes `files` of 8 MiB, and some small ones.
    fn new(files: u64) -> Self {
        let dir = fast_temp();
        let tree = Tree::create(dir.path().join("source"));
        for number in 0..files {
            tree.file(format!("large/{number:02}"), noise(number, 8 * MIB));
        }
        for number in 0..300 {
            tree.file(format!("small/{number:03}"), text(number, 3000));
        }
        Self { dir, tree }
    }

    fn store(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn member(&self) -> String {
        format!("files={}", self.tree.path().display())
    }

    fn backup(&self, store: &Path, name: &str) -> Command {
        let mut backup = command(store);
        backup.args(["backup", "--init", "--threads", "2", "--name", name]).arg(self.member());
        backup
    }
}

fn command(store: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.args(["--json", "--no-progress", "--store"]).arg(store);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn answer(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn assert_whole(store: &Path) {
    let report = answer(&command(store).args(["verify", "--full"]).output().unwrap());
    assert_eq!(report["damaged"].as_array().map(Vec::len), Some(0), "{report}");
    assert_eq!(report["unreadable"].as_array().map(Vec::len), Some(0), "{report}");
}

#[track_caller]
fn generations(store: &Path) -> Vec<(String, u64)> {
    let report = answer(&command(store).arg("list").output().unwrap());
    let all = report["generations"].as_array().unwrap().iter();
    let name = |made: &Value| made["deployment"].as_str().unwrap().to_owned();
    all.map(|made| (name(made), made["generation"].as_u64().unwrap())).collect()
}

/// Counts the files below a folder; one that is not there has none.
fn files_below(folder: &Path) -> usize {
    let Ok(items) = std::fs::read_dir(folder) else { return 0 };
    let count = |item: std::fs::DirEntry| {
        if item.path().is_dir() { files_below(&item.path()) } else { 1 }
    };
    items.flatten().map(count).sum()
}

/// Waits until so many packs are stored; `false` if the child ended before.
fn wait_for_packs(child: &mut Child, store: &Path, packs: usize) -> bool {
    let since = Instant::now();
    while files_below(&store.join("packs")) < packs || !store.join("store").exists() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(since.elapsed() < Duration::from_mins(2), "no progress");
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

#[test]
fn a_backup_that_was_killed_at_any_moment_goes_on_when_it_is_repeated() {
    let place = Place::new(24);
    for packs in 0..6 {
        let store = place.store(&format!("store-{packs}"));
        let mut killed = place.backup(&store, "orders").spawn().unwrap();
        assert!(wait_for_packs(&mut killed, &store, packs), "ended before pack {packs}");
        killed.kill().unwrap();
        killed.wait().unwrap();
        let stored = files_below(&store.join("packs"));
        assert_eq!(generations(&store), [], "nothing is visible");

        let report = answer(&place.backup(&store, "orders").output().unwrap());
        let number = |name: &str| report[name].as_u64().unwrap();
        assert_eq!(number("generation"), 1);
        if packs > 0 {
            assert!(number("chunks_reused") > 0, "{report}");
            let all = 24 * 8 * MIB as u64;
            // Each of them holds at least 16 MiB.
            assert!(number("bytes_new") < all - ((stored as u64) << 24), "{stored}: {report}");
        }
        assert_whole(&store);
        assert_eq!(files_below(&store.join("tmp")), 0, "what the killed one left is gone");
        let to = place.dir.path().join("target");
        answer(&command(&store).args(["restore", "orders", "--to"]).arg(&to).output().unwrap());
        assert_same_tree(place.tree.path(), &to.join("files"), Compare::PLAIN);
        std::fs::remove_dir_all(&to).unwrap();
        std::fs::remove_dir_all(&store).unwrap();
    }
}

#[test]
fn an_interrupt_ends_a_backup_with_a_message_and_a_code_of_its_own() {
    let place = Place::new(24);
    let store = place.store("store");
    let mut child = place.backup(&store, "orders").spawn().unwrap();
    assert!(wait_for_packs(&mut child, &store, 1));
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{errors}");
    assert!(errors.contains("stopping at the next good place"), "{errors}");
    let text = "interrupted; what is stored so far is kept and reused by the next backup";
    assert!(errors.contains(text), "{errors}");
    assert!(output.stdout.is_empty());
    assert_eq!(generations(&store), []);
    let report = answer(&place.backup(&store, "orders").output().unwrap());
    assert!(report["chunks_reused"].as_u64().unwrap() > 0, "{report}");
    assert_whole(&store);
}

#[test]
fn two_backups_at_once_both_commit() {
    let place = Place::new(6);
    for (case, names) in [["orders", "wares"], ["orders", "orders"]].into_iter().enumerate() {
        let store = place.store(&format!("store-{case}"));
        answer(&command(&store).arg("init").output().unwrap());
        let started = names.map(|name| place.backup(&store, name).spawn().unwrap());
        let reports = started.map(|child| answer(&child.wait_with_output().unwrap()));
        let mut made: Vec<_> = reports
            .iter()
            .map(|report| {
                let name = report["deployment"].as_str().unwrap().to_owned();
                (name, report["generation"].as_u64().unwrap())
            })
            .collect();
        made.sort_unstable();
        let second = if names[0] == names[1] { 2 } else { 1 };
        assert_eq!(made, [(names[0].to_owned(), 1), (names[1].to_owned(), second)]);
        let mut listed = generations(&store);
        listed.sort_unstable();
        assert_eq!(listed, made);
        assert_whole(&store);
        for (name, generation) in made {
            let to = place.dir.path().join(format!("target-{case}-{name}-{generation}"));
            let what = format!("{name}@g{generation}");
            answer(&command(&store).args(["restore", &what, "--to"]).arg(&to).output().unwrap());
            assert_same_tree(place.tree.path(), &to.join("files"), Compare::PLAIN);
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let place = Place::new(1);
    for number in 0..3000 {
        place.tree.file(format!("many/{number:05}-{}", "n".repeat(100)), b"");
    }
    let store = place.store("store");
    answer(&place.backup(&store, "orders").output().unwrap());
    let lines: [&[&str]; 3] =
        [&["ls", "-R", "orders:files"], &["cat", "orders:files/large/00"], &["list"]];
    for (line, with_json) in lines.into_iter().flat_map(|line| [(line, false), (line, true)]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.args(with_json.then_some("--json")).arg("--store").arg(&store).args(line);
        if with_json && line[0] == "cat" {
            continue;
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut first = Vec::new();
        let mut out = BufReader::with_capacity(16, child.stdout.take().unwrap());
        if line[0] != "list" {
            out.read_until(b'\n', &mut first).unwrap();
        }
        drop(out);
        let output = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("panicked"), "{line:?}: {errors}");
        assert!(errors.is_empty(), "{line:?}: {errors}");
        assert_eq!(output.status.code(), Some(0), "{line:?}");
    }
}
