//! The `icp` executor with the real `icp` and a replica of its own. Without the command these tests
//! are skipped: scripts/icp installs it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use strongroom::run::executor::icp::{IcpConfig, IcpExecutor};
use strongroom::run::executor::{
    Call, Capabilities, Error, Evidence, Executor, Fetched, State, Status,
};
use strongroom::run::facts::Snapshot;
use strongroom::run::inventory::Row;

use super::member;
use crate::support::replica::{
    Canister, Fault, Icp, Principal, Replica, State as Runs, Times, canister_id, hex,
};
use crate::support::{noise, temp};

const DATA: &str = "read_canister_snapshot_data";

/// A replica with canisters 1 to 3, and an executor for it. Of canister 3, others are controllers.
struct World {
    icp: Icp,
    replica: Replica,
    executor: IcpExecutor,
    call: Call,
    dir: tempfile::TempDir,
}

impl World {
    #[track_caller]
    fn new() -> Option<Self> {
        let icp = Icp::find()?;
        let replica = Replica::start();
        for n in 1..=3 {
            let mut canister = Canister::new(canister_id(n));
            canister.image.wasm_memory = Arc::new(noise(n, 5 << 20));
            canister.image.stable_memory = Arc::new(noise(n + 10, 1 << 20));
            canister.image.add_chunk(format!("chunk {n}").as_bytes());
            replica.add_canister(canister);
        }
        replica.with(canister_id(3), |canister| canister.controllers = vec![canister_id(9)]);
        let executor = IcpExecutor::new(config(&icp, &replica)).unwrap();
        Some(Self { icp, replica, executor, call: Call::new(), dir: temp() })
    }

    fn staging(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Stops a canister and makes a snapshot of it.
    fn snapshot(&self, n: u64) -> Snapshot {
        self.executor.stop(&row(n), &self.call).unwrap();
        self.executor.create(&row(n), &self.call).unwrap()
    }

    fn module_hash(&self, n: u64) -> String {
        self.replica.with(canister_id(n), |canister| hex(&canister.module_hash()))
    }

    /// Fails unless a directory is whole and holds the snapshot's memory.
    #[track_caller]
    fn assert_holds(&self, n: u64, snapshot: &Snapshot, staging: &Path) {
        let row = Row { module_hash: Some(self.module_hash(n)), ..row(n) };
        self.executor.check(&row, Some(snapshot), staging).unwrap();
        let held = self.replica.snapshots(canister_id(n));
        let held = held.iter().find(|held| hex(&held.id) == snapshot.id).unwrap();
        assert!(std::fs::read(staging.join("wasm_memory.bin")).unwrap() == *held.image.wasm_memory);
    }
}

fn config(icp: &Icp, replica: &Replica) -> IcpConfig {
    let home = icp.environment().into_iter().find(|(name, _)| *name == "HOME");
    IcpConfig {
        program: icp.program().to_owned(),
        network: Some(replica.url()),
        root_key: Some(replica.root_key_hex()),
        home: home.map(|(_, path)| path.to_owned()),
        ..IcpConfig::default()
    }
}

fn id(n: u64) -> Principal {
    canister_id(n)
}

fn row(n: u64) -> Row {
    member(&canister_id(n).to_text())
}

#[track_caller]
fn unknown<T: std::fmt::Debug>(result: Result<T, Error>, says: &str) {
    let Err(Error::Unknown(text)) = result else { panic!("{result:?}") };
    assert!(text.contains(says), "{text}");
    assert!(!text.contains(char::is_control) && !text.contains("backtrace"), "{text}");
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>, says: &str) {
    let Err(Error::Refused(text)) = result else { panic!("{result:?}") };
    assert!(text.contains(says), "{text}");
}

#[test]
fn a_canister_goes_all_the_way_and_back() {
    let Some(world) = World::new() else { return };
    let (executor, call, row) = (&world.executor, &world.call, &row(1));
    let all = Capabilities { control: true, snapshots: true, restore: true };
    assert_eq!((executor.capabilities(), executor.name()), (all, "icp"));
    assert_eq!(executor.environment(), world.replica.url());
    assert_eq!(executor.inventory(call).unwrap(), None);
    let module_hash = Some(world.module_hash(1));
    let running = Status { state: State::Running, module_hash };
    assert_eq!(executor.status(row, call).unwrap(), running);
    assert_eq!(executor.snapshots(row, call).unwrap(), []);

    let created = world.snapshot(1);
    assert_eq!(executor.status(row, call).unwrap().state, State::Stopped);
    let held = &world.replica.snapshots(id(1))[0];
    assert_eq!((created.taken_at, &created.id), (Some(held.taken_at), &hex(&held.id)));
    assert_eq!(created.total_bytes, Some(held.image.size_bytes()));
    assert_eq!(executor.snapshots(row, call).unwrap(), std::slice::from_ref(&created));
    executor.start(row, call).unwrap();
    let staging = world.staging("api");
    let fetched = executor.download(row, Some(&created), &staging, call).unwrap();
    assert_eq!(fetched, Fetched::Staged);
    world.assert_holds(1, &created, &staging);

    // The canister moves on, and comes back.
    let before = world.replica.memory(id(1));
    let other = Arc::new(noise(99, 3 << 20));
    world.replica.with(id(1), |canister| canister.image.wasm_memory = other);
    let uploaded = executor.upload(row, &staging, call).unwrap();
    executor.stop(row, call).unwrap();
    executor.load(row, &uploaded, call).unwrap();
    executor.start(row, call).unwrap();
    assert!(world.replica.memory(id(1)) == before);
    assert_eq!(world.replica.state(id(1)), Runs::Running);
    // A second time, it is gone already.
    for snapshot in [&created, &uploaded, &uploaded] {
        executor.delete(row, snapshot, call).unwrap();
    }
    assert_eq!(executor.snapshots(row, call).unwrap(), []);
    // Nothing of the transfers is left, beside or inside of what was staged.
    let names = |path: &Path| {
        let items = std::fs::read_dir(path).unwrap().map(|item| item.unwrap().file_name());
        let mut names: Vec<_> = items.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(world.dir.path()), ["api"]);
    let files = [".lock", "metadata.json", "stable_memory.bin", "wasm_chunk_store"];
    assert_eq!(names(&staging)[..4], files);
    assert_eq!(names(&staging).len(), 6);
}

#[test]
fn rights_are_proven_by_what_the_network_shows() {
    let Some(world) = World::new() else { return };
    let (executor, call) = (&world.executor, &world.call);
    let mine = executor.authority(&row(1), call).unwrap();
    let Evidence::Proven(how) = &mine.control else { panic!("{mine:?}") };
    assert!(how.starts_with("2vxsx-fae is one of"), "{how}");
    assert!(matches!(mine.read, Evidence::Proven(_)), "{mine:?}");

    // Public data only, and no list of snapshots.
    let others = executor.authority(&row(3), call).unwrap();
    let (Evidence::NotProven(_), Evidence::NotProven(why)) = (&others.control, &others.read) else {
        panic!("{others:?}")
    };
    assert!(why.contains("IC0512"), "{why}");
    assert_eq!(executor.status(&row(3), call).unwrap().state, State::Unknown);

    // A reader of snapshots, and then of the status too, is no controller for that.
    let me = Principal::anonymous();
    world.replica.with(id(3), |canister| canister.snapshot_viewers = vec![me]);
    let reader = executor.authority(&row(3), call).unwrap();
    assert!(matches!(reader.read, Evidence::Proven(_)), "{reader:?}");
    assert!(matches!(reader.control, Evidence::NotProven(_)), "{reader:?}");
    world.replica.with(id(3), |canister| canister.status_viewers = vec![me]);
    assert_eq!(executor.status(&row(3), call).unwrap().state, State::Running);
    let reader = executor.authority(&row(3), call).unwrap();
    let Evidence::NotProven(why) = &reader.control else { panic!("{reader:?}") };
    assert!(why.contains("2vxsx-fae is not one of"), "{why}");

    // Nobody there, which is no answer.
    unknown(executor.authority(&row(7), call), "was not found");
}

#[test]
fn a_lost_reply_says_nothing_and_a_refusal_says_so() {
    let Some(world) = World::new() else { return };
    let (executor, call) = (&world.executor, &world.call);
    world.replica.fail(id(1), "stop_canister", Times::Nth(1), Fault::LoseReply);
    unknown(executor.stop(&row(1), call), "ended with exit status: 1; it said: ");
    assert_eq!(executor.status(&row(1), call).unwrap().state, State::Stopped);
    for fault in [Fault::LoseReply, Fault::Garbage, Fault::Forge, Fault::LoseRequest] {
        world.replica.fail(id(1), "take_canister_snapshot", Times::Nth(1), fault);
        unknown(executor.create(&row(1), call), "icp canister snapshot create");
        world.replica.clear_faults();
    }
    assert_eq!(executor.snapshots(&row(1), call).unwrap().len(), 3);
    world.replica.fail(id(1), "canister_status", Times::Nth(1), Fault::Refuse);
    unknown(executor.status(&row(1), call), "because the test wants it");
    unknown(executor.create(&row(2), call), "is currently running");

    // What is no identity is never sent.
    world.replica.clear_log();
    for snapshot in ["0", "xx", "", "--replace", "00/.."] {
        let snapshot = Snapshot { id: snapshot.into(), taken_at: None, total_bytes: None };
        refused(executor.load(&row(1), &snapshot, call), "snapshot '");
        refused(executor.delete(&row(1), &snapshot, call), "snapshot '");
    }
    refused(executor.stop(&member("--help"), call), "is no canister");
    assert_eq!(world.replica.log().len(), 0);
    // Whoever answers with another key is not believed.
    let bad = IcpConfig { root_key: Some("mainnet".into()), ..config(&world.icp, &world.replica) };
    unknown(IcpExecutor::new(bad).unwrap().start(&row(1), call), "icp canister start");
    // By name, members belong to an environment, and that to a project.
    let nowhere = IcpConfig {
        network: None,
        root_key: None,
        environment: Some("staging".into()),
        project: Some(world.staging("project")),
        ..config(&world.icp, &world.replica)
    };
    let nowhere = IcpExecutor::new(nowhere).unwrap();
    unknown(nowhere.status(&member("backend"), call), "project");
}

/// Breaks a download in the middle, so that it could go on.
#[track_caller]
fn broken_download(world: &World, n: u64, snapshot: &Snapshot, staging: &Path) {
    world.replica.fail(id(n), DATA, Times::Nth(4), Fault::Refuse);
    let broken = world.executor.download(&row(n), Some(snapshot), staging, &world.call);
    unknown(broken, "snapshot download");
    world.replica.clear_faults();
    world.replica.clear_log();
}

#[test]
fn an_interrupted_download_goes_on_with_the_same_snapshot_and_no_other() {
    let Some(world) = World::new() else { return };
    let first = world.snapshot(1);
    let changed = Arc::new(noise(50, 5 << 20));
    world.replica.with(id(1), |canister| canister.image.wasm_memory = changed);
    let second = world.executor.create(&row(1), &world.call).unwrap();
    let staging = world.staging("api");
    let download = |snapshot, staging: &Path| {
        world.executor.download(&row(1), Some(snapshot), staging, &world.call).unwrap();
        world.assert_holds(1, snapshot, staging);
        world.replica.count(id(1), DATA)
    };
    broken_download(&world, 1, &first, &staging);
    let whole = download(&second, &staging);
    broken_download(&world, 1, &second, &staging);
    let rest = download(&second, &staging);
    assert!(rest < whole, "{rest} of {whole} pieces were fetched again");

    // A directory that somebody brings along, of whatever it may be, is not trusted.
    broken_download(&world, 1, &first, &staging);
    let moved = world.staging("moved");
    std::fs::remove_dir(&moved).unwrap();
    std::fs::rename(&staging, &moved).unwrap();
    assert_eq!(download(&first, &moved), whole);

    // What cannot be gone on with is begun again.
    let staging = world.staging("api");
    broken_download(&world, 1, &first, &staging);
    std::fs::write(staging.join("metadata.json"), "{").unwrap();
    assert_eq!(download(&first, &staging), whole);
}

#[test]
fn a_download_is_interrupted_by_the_user_and_goes_on() {
    let Some(world) = World::new() else { return };
    let snapshot = world.snapshot(1);
    let staging = world.staging("api");
    world.replica.fail(id(1), DATA, Times::Nth(4), Fault::Delay(Duration::from_secs(30)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            super::wait_until("the download waits", || world.replica.count(id(1), DATA) >= 4);
            world.call.interrupted.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        let result = world.executor.download(&row(1), Some(&snapshot), &staging, &world.call);
        assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    });
    world.replica.clear_faults();
    let call = Call::new();
    world.executor.download(&row(1), Some(&snapshot), &staging, &call).unwrap();
    world.assert_holds(1, &snapshot, &staging);
}

#[test]
fn data_that_changed_on_the_way_is_found_where_there_is_evidence() {
    let Some(world) = World::new() else { return };
    let snapshot = world.snapshot(1);
    // The first data are the module's or a chunk's: both have a hash.
    world.replica.fail(id(1), DATA, Times::Nth(1), Fault::Flip);
    let staging = world.staging("api");
    world.executor.download(&row(1), Some(&snapshot), &staging, &world.call).unwrap();
    let row = Row { module_hash: Some(world.module_hash(1)), ..row(1) };
    refused(world.executor.check(&row, Some(&snapshot), &staging), "SHA-256");
}

#[test]
fn only_whole_snapshots_are_uploaded() {
    let Some(world) = World::new() else { return };
    let (executor, call) = (&world.executor, &world.call);
    let snapshot = world.snapshot(1);
    let staging = world.staging("api");
    executor.download(&row(1), Some(&snapshot), &staging, call).unwrap();
    world.replica.clear_log();
    let gone = world.dir.path().join("gone");
    refused(executor.upload(&row(2), &gone, call), "metadata.json");
    assert!(!gone.exists(), "icp would have made it");
    // `icp` uploads a truncated file and succeeds.
    let memory = std::fs::read(staging.join("wasm_memory.bin")).unwrap();
    std::fs::write(staging.join("wasm_memory.bin"), &memory[1..]).unwrap();
    refused(executor.upload(&row(2), &staging, call), "wasm_memory.bin has 5242879 bytes");
    std::fs::write(staging.join("wasm_memory.bin"), &memory).unwrap();
    assert_eq!(world.replica.log().len(), 0);

    // What an upload to elsewhere has left says nothing of this one.
    let stale = format!("{{\"snapshot_id\":\"{}\",\"metadata_uploaded\":true}}", snapshot.id);
    std::fs::write(staging.join(".upload_progress.json"), stale).unwrap();
    let uploaded = executor.upload(&row(2), &staging, call).unwrap();
    assert_eq!(world.replica.snapshots(id(2)).len(), 1);
    executor.stop(&row(2), call).unwrap();
    executor.load(&row(2), &uploaded, call).unwrap();
    assert!(*world.replica.memory(id(2)) == memory);
}

#[test]
fn an_interrupted_upload_goes_on_with_the_same_files_to_the_same_canister_only() {
    const BEGIN: &str = "upload_canister_snapshot_metadata";
    const SEND: &str = "upload_canister_snapshot_data";
    let Some(world) = World::new() else { return };
    let (executor, call) = (&world.executor, &world.call);
    let snapshot = world.snapshot(1);
    let staging = world.staging("api");
    executor.download(&row(1), Some(&snapshot), &staging, call).unwrap();
    let break_upload = || {
        world.replica.fail(id(2), SEND, Times::Nth(3), Fault::Refuse);
        unknown(executor.upload(&row(2), &staging, call), "snapshot upload");
        world.replica.clear_faults();
    };
    let assert_whole = |uploaded: &Snapshot, n| {
        let held = world.replica.snapshots(id(n));
        let held = held.iter().find(|held| hex(&held.id) == uploaded.id).unwrap();
        assert!(*held.image.wasm_memory == *world.replica.memory(id(1)));
    };
    break_upload();
    let uploaded = executor.upload(&row(2), &staging, call).unwrap();
    assert_eq!(world.replica.count(id(2), BEGIN), 1, "it went on");
    assert_whole(&uploaded, 2);

    break_upload();
    executor.upload(&row(1), &staging, call).unwrap();
    assert_eq!(world.replica.count(id(1), BEGIN), 1, "another canister");

    break_upload();
    let metadata = std::fs::read(staging.join("metadata.json")).unwrap();
    std::fs::write(staging.join("metadata.json"), metadata).unwrap();
    let before = world.replica.count(id(2), BEGIN);
    assert_whole(&executor.upload(&row(2), &staging, call).unwrap(), 2);
    assert_eq!(world.replica.count(id(2), BEGIN), before + 1, "a file was written again");

    break_upload();
    for begun in executor.snapshots(&row(2), call).unwrap() {
        executor.delete(&row(2), &begun, call).unwrap();
    }
    let before = world.replica.count(id(2), BEGIN);
    assert_whole(&executor.upload(&row(2), &staging, call).unwrap(), 2);
    assert_eq!(world.replica.count(id(2), BEGIN), before + 1, "the snapshot is gone");
}
