//! The way back with the real commands: `strongroom`, configured to drive canisters of a replica in
//! this process by the real `icp`. Without `icp` these tests are skipped: scripts/icp installs it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::replica::{
    Canister, Fault, Icp, Principal, Replica, State, Times, canister_id,
};
use crate::support::{noise, temp};

/// Canisters 1 to 3 are the deployment, 2 and 3 below 1; 4 to 6 hang together in the same way.
struct World {
    replica: Replica,
    dir: TempDir,
    icp: Icp,
}

/// What counts of a canister.
type Image = (Arc<Vec<u8>>, Arc<Vec<u8>>, Arc<Vec<u8>>, String);

impl World {
    #[track_caller]
    fn new() -> Option<Self> {
        let icp = Icp::find()?;
        let (replica, dir) = (Replica::start(), temp());
        for n in 1..=6 {
            replica.add_canister(Canister::new(canister_id(n)));
        }
        let world = Self { replica, dir, icp };
        (1..=6).for_each(|n| world.change(n, n));
        world.configure();
        Some(world)
    }

    fn configure(&self) {
        let home = self.icp.environment()[0].1;
        let mut text = "store = \"store\"\nstaging = \"staging\"\n".to_owned();
        for (deployment, root) in [("orders", 1), ("copy", 4)] {
            let _ = write!(
                text,
                "[deployments.{deployment}]\nscope = \"maintenance-root\"\nsettle = \"20s\"\n\
                [deployments.{deployment}.icp]\nprogram = {:?}\nnetwork = {:?}\nroot-key = {:?}\nhome = {home:?}\n",
                self.icp.program(),
                self.replica.url(),
                self.replica.root_key_hex(),
            );
            for n in root..root + 3 {
                let _ = writeln!(text, "[[deployments.{deployment}.members]]\nid = \"{}\"", id(n));
                if n > root {
                    let _ = writeln!(text, "parent = \"{}\"", id(root));
                }
            }
        }
        std::fs::write(self.dir.path().join("strongroom.toml"), text).unwrap();
    }

    /// Changes all that a canister holds.
    fn change(&self, n: u64, seed: u64) {
        self.replica.with(canister_id(n), |canister| {
            let module = format!("\0asm\x01\0\0\0 code {seed} of {n}").into_bytes();
            canister.image.module = Arc::new(module);
            canister.image.wasm_memory = Arc::new(noise(seed, 3 << 20));
            canister.image.stable_memory = Arc::new(noise(seed + 100, 1 << 20));
            canister.image.chunk_store.clear();
            canister.image.add_chunk(format!("chunk {seed}").as_bytes());
            canister.image.certified_data = vec![seed as u8; 32];
        });
    }

    fn image(&self, n: u64) -> Image {
        self.replica.with(canister_id(n), |canister| {
            let image = &canister.image;
            let rest = format!(
                "{:?} {:?} {:?}",
                image.chunk_store.keys(),
                image.globals,
                image.certified_data
            );
            let [module, memory, stable] =
                [&image.module, &image.wasm_memory, &image.stable_memory].map(Arc::clone);
            (module, memory, stable, rest)
        })
    }

    fn images(&self) -> Vec<Image> {
        (1..=3).map(|n| self.image(n)).collect()
    }

    fn command(&self, words: &str) -> Command {
        strongroom(self.dir.path(), words)
    }

    fn run(&self, words: &str) -> Output {
        self.command(words).output().unwrap()
    }

    #[track_caller]
    fn json(&self, words: &str) -> Value {
        let output = self.run(&format!("{words} --json"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Backs the deployment up, and upgrades it; returns what it held.
    #[track_caller]
    fn backed_up(&self) -> Vec<Image> {
        let images = self.images();
        self.json("backup orders --init");
        (1..=3).for_each(|n| self.change(n, n + 10));
        assert!(self.images().iter().zip(&images).all(|(now, then)| now != then));
        images
    }

    #[track_caller]
    fn assert_holds(&self, images: &[Image], first: u64) {
        for (n, image) in (first..).zip(images) {
            // Not with assert_eq: the images are large.
            assert!(self.image(n) == *image, "canister {n}");
            assert_eq!(self.replica.state(canister_id(n)), State::Running, "canister {n}");
        }
    }

    fn snapshots(&self) -> usize {
        (1..=6).map(|n| self.replica.snapshots(canister_id(n)).len()).sum()
    }

    fn write(&self, name: &str, value: &Value) {
        std::fs::write(self.dir.path().join(name), serde_json::to_vec(value).unwrap()).unwrap();
    }
}

fn id(n: u64) -> String {
    Principal::to_text(&canister_id(n))
}

#[test]
fn an_upgrade_is_rolled_back_byte_for_byte() {
    let Some(world) = World::new() else { return };
    let images = world.backed_up();
    let plan = world.json("restore orders@g1 --plan");
    assert_eq!(plan["schema"], "strongroom.restore-plan/1");
    assert_eq!(plan["operations"].as_array().unwrap().len(), 2 + 6 * 3);
    world.write("plan.json", &plan);
    let done = world.json("restore orders@g1 --apply --reviewed plan.json");
    assert_eq!(done["schema"], "strongroom.restore-apply/1");
    assert_eq!(done["left"], json!([]));
    let members = done["members"].as_array().unwrap();
    let mut below = [&members[1]["target"], &members[2]["target"]].map(Value::to_string);
    below.sort_unstable();
    let mut expected = [2, 3].map(|n| json!(id(n)).to_string());
    expected.sort_unstable();
    assert_eq!((&members[0]["target"], below), (&json!(id(1)), expected), "parents first");
    world.assert_holds(&images, 1);
    assert_eq!(world.snapshots(), 0);
    let runs = world.json("run list");
    let kinds = runs["runs"].as_array().unwrap().iter().map(|run| (&run["kind"], &run["state"]));
    let expected =
        [("backup", "durable"), ("restore", "restored")].map(|(a, b)| (json!(a), json!(b)));
    assert_eq!(kinds.map(|(a, b)| (a.clone(), b.clone())).collect::<Vec<_>>(), expected);
    let shown = world.json(&format!("run show {}", done["run"].as_str().unwrap()));
    assert_eq!((&shown["kind"], &shown["half_loaded"]), (&json!("restore"), &json!(false)));
    // The same bytes are backed up again: nothing is new.
    let again = world.json("backup orders");
    assert!(again["deployments"][0]["bytes_new"].as_u64().unwrap() < 10_000, "{again}");
}

#[test]
fn canisters_are_cloned_into_others() {
    let Some(world) = World::new() else { return };
    let images = world.backed_up();
    world.write("ids.json", &json!({ id(1): id(4), id(2): id(5), id(3): id(6) }));
    let done = world.json("restore orders@g1 --apply --into copy --map ids.json");
    assert_eq!((&done["into"], &done["deployment"]), (&json!("copy"), &json!("orders")));
    world.assert_holds(&images, 4);
    for n in 1..=3 {
        let memory = world.replica.memory(canister_id(n));
        assert!(*memory == noise(n + 10, 3 << 20), "canister {n} was touched");
        assert_eq!(world.replica.count(canister_id(n), "load_canister_snapshot"), 0);
    }
    assert_eq!(world.snapshots(), 0);
    world.write("half.json", &json!({ id(1): id(4) }));
    let output = world.run("restore orders@g1 --plan --map half.json");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the map does not say where these go: "), "{said}");
}

#[test]
fn replies_that_are_lost_leave_a_whole_restore() {
    let Some(world) = World::new() else { return };
    let images = world.backed_up();
    let nth = Times::Nth(1);
    world.replica.fail(canister_id(1), "stop_canister", nth, Fault::LoseReply);
    world.replica.fail(canister_id(2), "upload_canister_snapshot_metadata", nth, Fault::LoseReply);
    world.replica.fail(canister_id(2), "load_canister_snapshot", Times::Nth(1), Fault::LoseReply);
    world.replica.fail(canister_id(3), "start_canister", Times::Nth(1), Fault::LoseReply);
    let done = world.json("restore orders@g1 --apply");
    world.assert_holds(&images, 1);
    // `icp` has repeated the first call of the upload; nobody can tell whose the other one is.
    let left = done["left"].as_array().unwrap();
    assert_eq!((left.len(), world.snapshots()), (1, 1), "{left:?}");
    assert!(left[0][0].as_str().unwrap().ends_with(&format!("of {}", id(2))), "{left:?}");
}

#[test]
fn a_failed_load_leaves_all_stopped_until_it_is_resumed() {
    let Some(world) = World::new() else { return };
    let images = world.backed_up();
    world.replica.fail(canister_id(3), "load_canister_snapshot", Times::Always, Fault::Refuse);
    let output = world.run("restore orders@g1 --apply");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("HALF RESTORED, AND THEREFORE LEFT STOPPED: "), "{said}");
    assert!(said.contains("`strongroom resume 20"), "{said}");
    for n in 1..=3 {
        assert_eq!(world.replica.state(canister_id(n)), State::Stopped, "canister {n}");
    }
    let status = world.run("status --check");
    let shown = String::from_utf8_lossy(&status.stdout);
    assert_eq!(status.status.code(), Some(3), "{shown}");
    assert!(shown.contains(&format!("{} stays stopped until all", id(2))), "{shown}");
    let refused = world.run("backup orders");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("is not finished"), "{text}");
    world.replica.clear_faults();
    assert!(world.run("resume").status.success());
    world.assert_holds(&images, 1);
    assert_eq!(world.snapshots(), 0);
}

/// Runs a restore and kills it when it says a line that begins with this.
#[track_caller]
fn kill_at(world: &World, words: &str, line: &str) {
    let mut command = world.command(words);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let found = said.into_iter().any(|said| said.starts_with(line));
    assert!(found, "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Kills at commands are tried by `fleet_of_canisters`; this is one without any.
#[test]
fn a_restore_killed_while_it_reads_the_store_goes_on() {
    let Some(world) = World::new() else { return };
    let images = world.backed_up();
    let line = format!("strongroom: fetch-{}: pending", id(2));
    kill_at(&world, "restore orders@g1 --apply", &line);
    let since = Instant::now();
    // A command of the killed process may still be at work: it is waited for.
    loop {
        let output = world.run("resume");
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.code(), Some(11), "{said}");
        assert!(since.elapsed() < Duration::from_mins(2), "{said}");
        std::thread::sleep(Duration::from_millis(50));
    }
    world.assert_holds(&images, 1);
    let staged = std::fs::read_dir(world.dir.path().join("staging")).unwrap();
    assert_eq!(staged.count(), 1, "only locks");
}

#[test]
fn what_cannot_go_back_says_where_it_can_go() {
    let dir = temp();
    let path = dir.path();
    std::fs::create_dir(path.join("docs")).unwrap();
    std::fs::write(path.join("docs/a"), "a").unwrap();
    let config = "store = \"store\"\n[[deployments.docs.members]]\nid = \"a\"\npath = \"docs\"\n\
        [deployments.plain]\n[[deployments.plain.members]]\nid = \"a\"\npath = \"docs\"\n";
    std::fs::write(path.join("strongroom.toml"), config).unwrap();
    let run = |words: &str| strongroom(path, words).output().unwrap();
    assert!(run("backup docs --init").status.success());
    assert!(run("backup --name plain a=docs").status.success());
    for (words, reason) in [
        ("restore docs --apply", "dir cannot upload and load snapshots"),
        ("restore plain --plan", "plain@g1 holds nothing about a service"),
        ("restore docs:a/a --plan", "a member goes back into the service as a whole"),
    ] {
        let output = run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}: {said}");
        assert!(said.contains(reason) && said.contains("--to DIR"), "{words}: {said}");
    }
    let output = run("restore docs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in [
        "restore docs --apply --to x",
        "restore docs --to x --map y",
        "restore docs --plan --apply",
    ] {
        assert_eq!(run(words).status.code(), Some(2), "{words}");
    }
}

fn strongroom(dir: &Path, words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.current_dir(dir).args(words.split(' ')).stdin(Stdio::null());
    command.env_remove("STRONGROOM_STORE").env_remove("STRONGROOM_CONFIG");
    command
}
