//! Fleets of canisters backed up by the command through the real `icp` and a replica of their own:
//! generations, kills, faults and refusals. Without `icp` these tests are skipped: scripts/icp
//! installs it. What needs many runs is done with a service that is a directory (`service`).

mod faults;
mod generations;
mod interrupted;
mod killed;
mod killed_commands;
mod killed_records;
mod questions;
mod refused;
mod service;
mod wrapped;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use serde_json::Value;
use strongroom::backend::LocalBackend;
use strongroom::run::facts::DeploymentFacts;
use strongroom::run::runner;
use strongroom::run::state::RunState;
use strongroom::store::Store;

pub use self::killed::play_run;
pub use self::killed_records::play_run as play_run_of_canisters;
use crate::support::replica::{Canister, Icp, Principal, Replica, State, canister_id, hex};
use crate::support::{DEPLOYMENT, Random, noise, open, reference, temp};

/// Members of the fleet: a root, two shards below it, and an index below the first shard.
const MEMBERS: u64 = 4;
const ROLES: [&str; 4] = ["root", "shard", "shard", "index"];
/// Numbers of the parents; 0 is none.
const PARENTS: [u64; 4] = [0, 1, 1, 2];
const PAGE_BYTES: usize = 4096;

/// A fleet on a replica, a store and a configuration, and the commands to run on them.
struct World {
    icp: Icp,
    replica: Replica,
    dir: tempfile::TempDir,
    /// Settings of the deployment, as lines.
    settings: String,
    /// What is run as `icp`, if not itself.
    program: Option<PathBuf>,
}

impl World {
    /// A fleet whose memories have this many bytes each.
    #[track_caller]
    fn new(memory_bytes: usize) -> Option<Self> {
        let icp = Icp::find()?;
        let replica = Replica::start();
        for n in 1..=MEMBERS {
            let mut canister = Canister::new(canister_id(n));
            canister.image.wasm_memory = Arc::new(noise(n, memory_bytes));
            canister.image.stable_memory = Arc::new(noise(n + 100, memory_bytes / 2));
            canister.image.add_chunk(format!("chunk {n}").as_bytes());
            canister.image.add_chunk(b"a chunk that all have");
            replica.add_canister(canister);
        }
        let settings = "scope = 'maintenance-root'\n".to_owned();
        let world = Self { icp, replica, dir: temp(), settings, program: None };
        world.write_inventory(|_, _| ());
        world.configure();
        Some(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds a setting of the deployment.
    fn set(&mut self, line: &str) {
        self.settings.push_str(line);
        self.settings.push('\n');
        self.configure();
    }

    fn configure(&self) {
        let home = self.icp.environment().into_iter().find(|(name, _)| *name == "HOME").unwrap().1;
        let program = self.program.as_deref().unwrap_or(self.icp.program());
        let text = format!(
            "store = 'store'\nstaging = 'staging'\n[deployments.{DEPLOYMENT}]\ninventory = \
             'registry.json'\n{}\n[deployments.{DEPLOYMENT}.icp]\nprogram = '{}'\nnetwork = '{}'\n\
             root-key = '{}'\nhome = '{}'\n",
            self.settings,
            program.display(),
            self.replica.url(),
            self.replica.root_key_hex(),
            home.display(),
        );
        fs::write(self.path("strongroom.toml"), text).unwrap();
    }

    /// Writes the registry's list of members after `change` has had each of them.
    fn write_inventory(&self, change: impl Fn(u64, &mut Value)) {
        let rows = (1..=MEMBERS).map(|n| {
            let at = n as usize - 1;
            let parent = (PARENTS[at] > 0).then(|| canister_id(PARENTS[at]).to_text());
            let mut row = serde_json::json!({
                "pid": canister_id(n).to_text(),
                "role": ROLES[at],
                "kind": "canister",
                "parent_pid": parent,
                "module_hash": format!("0x{}", self.module_hash(n)),
            });
            change(n, &mut row);
            row
        });
        let rows: Vec<_> = rows.filter(|row| !row.is_null()).collect();
        fs::write(self.path("registry.json"), serde_json::to_vec(&rows).unwrap()).unwrap();
    }

    fn module_hash(&self, n: u64) -> String {
        self.replica.with(canister_id(n), |canister| hex(&canister.module_hash()))
    }

    /// Adds to the configuration, until it is written anew.
    fn append(&self, text: &str) {
        let path = self.path("strongroom.toml");
        let before = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{before}{text}")).unwrap();
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.args(words.split(' ')).current_dir(self.dir.path()).env("NO_COLOR", "1");
        command.env_remove("STRONGROOM_STORE").env_remove("STRONGROOM_CONFIG");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &str) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs the command, which ends with `code`; returns all that it said.
    #[track_caller]
    fn ends_with(&self, code: i32, words: &str) -> String {
        let output = self.run(words);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(code), "{words}: {said}");
        said
    }

    #[track_caller]
    fn json(&self, words: &str) -> Value {
        let output = self.run(&format!("{words} --json"));
        assert!(output.status.success(), "{words}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn store(&self) -> Store {
        open(LocalBackend::open(self.path("store")).unwrap())
    }

    fn generations(&self) -> usize {
        self.store().log().unwrap().generations().len()
    }

    /// Returns the names of the runs and where they stand, oldest first.
    fn runs(&self) -> Vec<(String, RunState)> {
        let store = self.store();
        let names = strongroom::run::journal::runs(store.backend()).unwrap();
        let runs = names.into_iter().map(|run| {
            let state = runner::look(&store, &run).unwrap();
            (run, state)
        });
        runs.collect()
    }

    fn facts(&self, what: &str) -> DeploymentFacts {
        let tree = self.store().tree(&reference(what)).unwrap();
        DeploymentFacts::find(&tree.manifest.extensions).unwrap().unwrap()
    }

    /// Changes one page in a hundred of each memory.
    fn live_on(&self, seed: u64) {
        for n in 1..=MEMBERS {
            self.replica.with(canister_id(n), |canister| {
                for memory in [&mut canister.image.wasm_memory, &mut canister.image.stable_memory] {
                    let memory = Arc::make_mut(memory);
                    let pages = memory.len() / PAGE_BYTES;
                    let mut random = Random::new(seed * 100 + n);
                    for page in random.distinct(pages.div_ceil(100), pages) {
                        let at = page * PAGE_BYTES;
                        let fresh = noise(random.next(), PAGE_BYTES);
                        memory[at..at + PAGE_BYTES].copy_from_slice(&fresh);
                    }
                }
            });
        }
    }

    fn count(&self, method: &str) -> Vec<usize> {
        (1..=MEMBERS).map(|n| self.replica.count(canister_id(n), method)).collect()
    }

    /// Calls that change something at the service, in order: the method and the member's number.
    fn mutations(&self) -> Vec<(String, u64)> {
        let number = |id: Principal| (1..=9).find(|n| canister_id(*n) == id).unwrap();
        let log = self.replica.log().into_iter();
        let reads = ["canister_status", "read_state", "list_canister_snapshots"];
        log.filter(|call| !reads.contains(&call.method.as_str()))
            .filter(|call| !call.method.starts_with("read_canister_snapshot"))
            .map(|call| (call.method, number(call.canister)))
            .collect()
    }

    /// Fails unless all members run.
    #[track_caller]
    fn assert_all_run(&self) {
        let states = (1..=MEMBERS).map(|n| self.replica.state(canister_id(n)));
        let states: Vec<_> = states.collect();
        assert_eq!(states, [State::Running; MEMBERS as usize]);
    }

    /// Fails if the service has snapshots, or anything is staged.
    #[track_caller]
    fn assert_nothing_is_left(&self) {
        let left: Vec<_> =
            (1..=MEMBERS).map(|n| self.replica.snapshots(canister_id(n)).len()).collect();
        assert_eq!(left, [0; MEMBERS as usize], "snapshots");
        assert_only_locks(&self.path("staging"));
    }

    /// Fails unless a generation restores to what the members hold now.
    #[track_caller]
    fn assert_restores(&self, what: &str) {
        let images: Vec<_> = (1..=MEMBERS).map(|n| self.image(n)).collect();
        self.assert_restores_to(what, &images);
    }

    fn image(&self, n: u64) -> Image {
        let id = canister_id(n);
        Image {
            wasm: self.replica.memory(id),
            stable: self.replica.stable(id),
            module: self.replica.module(id),
        }
    }

    #[track_caller]
    fn assert_restores_to(&self, what: &str, images: &[Image]) {
        let to = temp();
        let to_text = to.path().join("there");
        self.ends_with(0, &format!("restore {what} --to {}", to_text.display()));
        for (n, image) in (1..).zip(images) {
            let member = to_text.join(canister_id(n).to_text());
            let file = |name: &str| fs::read(member.join(name)).unwrap();
            assert!(file("wasm_memory.bin") == **image.wasm, "{what}: {n}");
            assert!(file("stable_memory.bin") == **image.stable, "{what}: {n}");
            assert!(file("wasm_module.bin") == **image.module, "{what}: {n}");
            let chunks = fs::read_dir(member.join("wasm_chunk_store")).unwrap();
            assert_eq!(chunks.count(), 2, "{what}: {n}");
        }
    }
}

/// What a canister holds.
#[derive(Clone)]
struct Image {
    wasm: Arc<Vec<u8>>,
    stable: Arc<Vec<u8>>,
    module: Arc<Vec<u8>>,
}

impl Image {
    fn is(&self, other: &Self) -> bool {
        (&self.wasm, &self.stable, &self.module) == (&other.wasm, &other.stable, &other.module)
    }
}

fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    let _ = write!(text, "{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Fails unless a staging area has nothing but its locks.
#[track_caller]
fn assert_only_locks(staging: &Path) {
    let names = fs::read_dir(staging).unwrap().map(|item| item.unwrap().file_name());
    let names: Vec<_> = names.collect();
    assert_eq!(names, ["locks"]);
}
