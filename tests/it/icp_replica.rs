//! The real `icp` against the replica: that it accepts it, and that it prints and does what
//! `support::replica` says. Without the command these tests are skipped: scripts/icp installs it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::replica::*;
use crate::support::{noise, temp};

/// What every test starts from: canisters 1 and 2 run and are ours, canister 3 is not.
#[track_caller]
fn world() -> Option<(Icp, Replica, [Principal; 3])> {
    let icp = Icp::find()?;
    let replica = Replica::start();
    let ids = [1, 2, 3].map(canister_id);
    for (id, seed) in ids.into_iter().zip(1..) {
        let mut canister = Canister::new(id);
        canister.image.wasm_memory = Arc::new(noise(seed, 3 << 20));
        canister.image.stable_memory = Arc::new(noise(seed + 10, 1 << 20));
        canister.image.add_chunk(format!("chunk {seed}").as_bytes());
        canister.image.add_chunk(b"a chunk that all have");
        replica.add_canister(canister);
    }
    // An empty stable memory, and someone else's canister.
    replica.with(ids[1], |canister| canister.image.stable_memory = Arc::default());
    replica.with(ids[2], |canister| canister.controllers = vec![canister_id(9)]);
    Some((icp, replica, ids))
}

/// Stops a canister and takes a snapshot of it.
#[track_caller]
fn stop_and_create(icp: &Icp, replica: &Replica, id: Principal) -> String {
    icp.canister(replica, &format!("stop {id}")).done();
    let created = icp.snapshot(replica, "create", id, "--json").json();
    created["snapshot_id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn status(icp: &Icp, replica: &Replica, id: Principal) -> Value {
    icp.canister(replica, &format!("status {id} --json")).json()
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Compares a downloaded directory with what the replica holds, byte for byte.
#[track_caller]
fn assert_holds(directory: &Path, snapshot: &Snapshot) {
    let image = &snapshot.image;
    let file = |name: &str| fs::read(directory.join(name)).unwrap();
    assert!(file("wasm_module.bin") == **image.module);
    assert!(file("wasm_memory.bin") == **image.wasm_memory);
    assert!(file("stable_memory.bin") == **image.stable_memory);
    assert_eq!(file(".lock"), b"");
    for (hash, chunk) in &image.chunk_store {
        assert!(file(&format!("wasm_chunk_store/{}.bin", hex(hash))) == **chunk);
    }
    let chunks = fs::read_dir(directory.join("wasm_chunk_store")).unwrap().count();
    assert_eq!(chunks, image.chunk_store.len());
    let metadata: Value = serde_json::from_slice(&file("metadata.json")).unwrap();
    let source = if snapshot.is_upload { "metadata_upload" } else { "taken_from_canister" };
    let hashes = image.chunk_store.keys().map(|hash| json!({ "hash": hash }));
    let expected = json!({
        "source": { source: null },
        "taken_at_timestamp": snapshot.taken_at,
        "wasm_module_size": image.module.len(),
        "globals": [{ "i32": 1_048_576 }],
        "wasm_memory_size": image.wasm_memory.len(),
        "stable_memory_size": image.stable_memory.len(),
        "wasm_chunk_store": hashes.collect::<Vec<_>>(),
        "canister_version": snapshot.version,
        "certified_data": vec![0xab; 32],
        "global_timer": "inactive",
        "on_low_wasm_memory_hook_status": "condition_not_satisfied",
    });
    assert_eq!(metadata, expected);
}

#[test]
fn the_command_is_the_one_that_all_this_is_known_of() {
    let Some(icp) = Icp::find() else { return };
    let version = Command::new(icp.program()).arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&version.stdout), "icp 1.5.0\n");
}

#[test]
fn a_controller_sees_the_status_and_others_what_is_public() {
    let Some((icp, replica, [mine, other, foreign])) = world() else { return };
    let seen = status(&icp, &replica, mine);
    let fields = [
        "cycles",
        "id",
        "idle_cycles_burned_per_day",
        "memory_size",
        "module_hash",
        "query_stats",
        "reserved_cycles",
        "settings",
        "status",
    ];
    assert_eq!(keys(&seen), fields);
    assert_eq!((&seen["id"], &seen["status"]), (&json!(mine.to_text()), &json!("Running")));
    assert_eq!(seen["settings"]["controllers"], json!(["2vxsx-fae"]));
    assert_eq!(seen["settings"]["freezing_threshold"], "2_592_000");
    let hash = |id| format!("0x{}", hex(&sha256(&replica.module(id))));
    assert_eq!(seen["module_hash"], hash(mine));

    let public = json!({
        "id": foreign.to_text(),
        "controllers": [canister_id(9).to_text()],
        "module_hash": hash(foreign),
    });
    assert_eq!(status(&icp, &replica, foreign), public);
    assert_eq!(
        keys(&icp.canister(&replica, &format!("status {other} --json -p")).json()),
        keys(&public)
    );

    // Readers are no controllers, and see it all the same.
    let anyone = Principal::anonymous();
    replica.with(foreign, |canister| canister.status_viewers = vec![anyone]);
    assert_eq!(status(&icp, &replica, foreign)["status"], "Running");
    icp.snapshot(&replica, "list", foreign, "--json").failed();
    replica.with(foreign, |canister| canister.snapshot_viewers = vec![anyone]);
    assert_eq!(
        icp.snapshot(&replica, "list", foreign, "--json").json(),
        json!({ "snapshots": [] })
    );

    let nobody = canister_id(8);
    let said = icp.canister(&replica, &format!("status {nobody} --json")).failed();
    assert_eq!(said, format!("Error: Canister {nobody} was not found.\n"));
}

#[test]
fn stop_and_start_print_nothing_and_may_be_repeated() {
    let Some((icp, replica, [mine, other, foreign])) = world() else { return };
    for (verb, state, shown) in
        [("stop", State::Stopped, "Stopped"), ("start", State::Running, "Running")]
    {
        for _ in 0..2 {
            let said = icp.canister(&replica, &format!("{verb} {mine}"));
            assert_eq!(said.stderr, "");
            assert_eq!(said.done(), "");
            assert_eq!(replica.state(mine), state);
        }
        assert_eq!(status(&icp, &replica, mine)["status"], shown);
        let said = icp.canister(&replica, &format!("{verb} {foreign}")).failed();
        assert!(said.contains("reject code CanisterError") && said.contains("IC0512"), "{said}");
    }
    assert_eq!(replica.state(other), State::Running);
    assert_eq!(replica.state(foreign), State::Running);
    let methods: Vec<_> = replica.log().into_iter().map(|Call { method, .. }| method).collect();
    let one = |verb: &str| [verb, verb, "canister_status", verb].map(str::to_owned);
    assert_eq!(methods, [one("stop_canister"), one("start_canister")].concat());
}

#[test]
fn a_download_holds_the_canister_as_it_was_when_the_snapshot_was_made() {
    let Some((icp, replica, [mine, other, _])) = world() else { return };
    let dir = temp();
    let mut ids = Vec::new();
    for id in [mine, other] {
        ids.push((id, stop_and_create(&icp, &replica, id)));
    }
    // The next generation: one page differs.
    replica.with(mine, |canister| {
        Arc::make_mut(&mut canister.image.wasm_memory)[65536..131_072].fill(7);
    });
    ids.push((mine, stop_and_create(&icp, &replica, mine)));
    replica.with(mine, |canister| canister.image.wasm_memory = Arc::default());

    for (number, (id, snapshot_id)) in ids.iter().enumerate() {
        let to = dir.path().join(number.to_string());
        let said = icp.transfer(&replica, "download", &format!("{id} {snapshot_id}"), &to);
        assert_eq!(said.done(), "");
        let snapshots = replica.snapshots(*id);
        let of_id = |snapshot: &&Snapshot| hex(&snapshot.id) == *snapshot_id;
        assert_holds(&to, snapshots.iter().find(of_id).unwrap());
    }
    let memory = |number: &str| fs::read(dir.path().join(number).join("wasm_memory.bin")).unwrap();
    assert!(memory("0") != memory("2"));

    // What `list` says is what `create` said.
    let listed = icp.snapshot(&replica, "list", mine, "--json").json();
    let expected = replica.snapshots(mine).into_iter().map(|snapshot| {
        json!({
            "snapshot_id": hex(&snapshot.id),
            "taken_at_timestamp": snapshot.taken_at,
            "total_size_bytes": snapshot.image.size_bytes(),
        })
    });
    assert_eq!(listed, json!({ "snapshots": expected.collect::<Vec<_>>() }));
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 2);
}

#[test]
fn an_upload_and_a_restore_make_another_canister_of_the_snapshot() {
    let Some((icp, replica, [mine, other, _])) = world() else { return };
    let dir = temp();
    let taken = stop_and_create(&icp, &replica, mine);
    icp.transfer(&replica, "download", &format!("{mine} {taken}"), dir.path()).done();
    let before = replica.memory(other);

    let said = icp.transfer(&replica, "upload", &format!("{other} --json"), dir.path()).json();
    assert_eq!(keys(&said), ["snapshot_id"]);
    let uploaded = said["snapshot_id"].as_str().unwrap();
    let held = &replica.snapshots(other)[0];
    assert_eq!(hex(&held.id), uploaded);
    assert!(
        held.is_upload && held.image.chunk_store == replica.snapshots(mine)[0].image.chunk_store
    );
    assert_eq!(replica.memory(other), before, "an upload changes no memory");
    assert!(!dir.path().join(".upload_progress.json").exists());

    // Only a stopped canister is restored.
    let said = icp.snapshot(&replica, "restore", other, uploaded).failed();
    assert!(said.contains("is currently running. Please stop the canister first"), "{said}");
    assert_eq!(replica.count(other, "load_canister_snapshot"), 0);
    icp.canister(&replica, &format!("stop {other}")).done();
    assert_eq!(icp.snapshot(&replica, "restore", other, uploaded).done(), "");
    assert!(replica.memory(other) == replica.memory(mine));
    assert!(replica.stable(other) == replica.stable(mine));
    assert!(replica.module(other) == replica.module(mine));
    assert_eq!(replica.state(other), State::Stopped);
    let hash = status(&icp, &replica, mine)["module_hash"].clone();
    assert_eq!(status(&icp, &replica, other)["module_hash"], hash);

    assert_eq!(icp.snapshot(&replica, "delete", other, uploaded).done(), "");
    assert!(replica.snapshots(other).is_empty());
    for verb in ["delete", "restore"] {
        let said = icp.snapshot(&replica, verb, other, uploaded).failed();
        assert!(
            said.contains("reject code DestinationInvalid") && said.contains("IC0305"),
            "{said}"
        );
    }
}

#[test]
fn a_lost_reply_says_nothing_about_what_was_done() {
    let Some((icp, replica, [mine, ..])) = world() else { return };
    for (verb, method) in [("stop", "stop_canister"), ("start", "start_canister")] {
        replica.fail(mine, method, Times::Nth(1), Fault::LoseReply);
        replica.fail(mine, method, Times::Nth(2), Fault::LoseRequest);
        let lost = icp.canister(&replica, &format!("{verb} {mine}")).failed();
        let state = replica.state(mine);
        replica.set_state(mine, State::Stopping);
        let not_sent = icp.canister(&replica, &format!("{verb} {mine}")).failed();
        assert_eq!(lost, not_sent, "nobody can tell them apart");
        assert_eq!(replica.state(mine), State::Stopping);
        replica.set_state(mine, state);
    }
    assert_eq!(replica.state(mine), State::Running);
    replica.set_state(mine, State::Stopped);

    replica.fail(mine, "take_canister_snapshot", Times::Nth(1), Fault::LoseReply);
    let said = icp.snapshot(&replica, "create", mine, "--json").failed();
    assert!(said.contains("An error happened during communication with the replica"), "{said}");
    assert_eq!(replica.count(mine, "take_canister_snapshot"), 1, "it is not repeated");
    let listed = icp.snapshot(&replica, "list", mine, "--json").json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 1);
    assert_eq!(listed["snapshots"][0]["snapshot_id"], hex(&replica.snapshots(mine)[0].id));
}

#[test]
fn a_canister_that_goes_on_stopping_is_not_stopped() {
    let Some((icp, replica, [mine, ..])) = world() else { return };
    replica.fail(mine, "stop_canister", Times::Nth(1), Fault::StayStopping);
    replica.fail(mine, "stop_canister", Times::Nth(2), Fault::SayStopped);
    let said = icp.canister(&replica, &format!("stop {mine}")).failed();
    assert!(
        said.contains("reject code SysTransient, reject message Stop canister request timed out")
    );
    assert_eq!(status(&icp, &replica, mine)["status"], "Stopping");
    // Success says as little.
    icp.canister(&replica, &format!("stop {mine}")).done();
    assert_eq!(status(&icp, &replica, mine)["status"], "Stopping");
    let said = icp.snapshot(&replica, "create", mine, "--json").failed();
    assert!(said.contains("is still stopping. Please wait for it to fully stop."), "{said}");
    assert_eq!(replica.count(mine, "take_canister_snapshot"), 0);

    replica.set_state(mine, State::Stopped);
    icp.snapshot(&replica, "create", mine, "--json").done();
    assert_eq!(replica.snapshots(mine).len(), 1);
}

#[test]
fn no_answer_without_sense_or_signature_is_believed() {
    let Some((icp, replica, [mine, ..])) = world() else { return };
    let cases = [
        (Fault::Truncate, "unable to read response body", State::Stopped),
        (Fault::Garbage, "Invalid CBOR data", State::Stopped),
        (Fault::Forge, "Certificate verification failed", State::Stopped),
        (Fault::Refuse, "refused, because the test wants it", State::Running),
    ];
    for (fault, expected, state) in cases {
        replica.set_state(mine, State::Running);
        replica.fail(mine, "stop_canister", Times::Always, fault);
        replica.fail(mine, "canister_status", Times::Nth(1), fault);
        for _ in 0..2 {
            let said = icp.canister(&replica, &format!("stop {mine}")).failed();
            assert!(said.contains(expected), "{said}");
            assert_eq!(replica.state(mine), state);
        }
        let said = icp.canister(&replica, &format!("status {mine} --json")).failed();
        assert!(said.contains(expected), "{said}");
        replica.clear_faults();
    }
    assert_eq!(status(&icp, &replica, mine)["status"], "Running");
}

#[test]
fn answers_that_come_late_are_waited_for() {
    let Some((icp, replica, [mine, ..])) = world() else { return };
    replica.fail(mine, "stop_canister", Times::Nth(1), Fault::AnswerLater);
    icp.canister(&replica, &format!("stop {mine}")).done();
    assert_eq!(replica.state(mine), State::Stopped);
    assert_eq!(replica.count(mine, "stop_canister"), 1);
    assert_eq!(replica.count(mine, "read_state"), 1);
    let wait = Duration::from_millis(300);
    replica.fail(mine, "start_canister", Times::Nth(1), Fault::Delay(wait));
    let started = Instant::now();
    icp.canister(&replica, &format!("start {mine}")).done();
    assert!(started.elapsed() >= wait);
    assert_eq!(replica.state(mine), State::Running);
}

#[test]
fn a_download_is_complete_only_if_it_says_so() {
    let Some((icp, replica, [mine, ..])) = world() else { return };
    let dir = temp();
    let id = stop_and_create(&icp, &replica, mine);
    let words = format!("{mine} {id}");
    let module = || fs::read(dir.path().join("wasm_module.bin")).unwrap();
    replica.fail(mine, "read_canister_snapshot_data", Times::Nth(1), Fault::Refuse);
    icp.transfer(&replica, "download", &words, dir.path()).failed();
    assert_eq!(module(), vec![0; replica.module(mine).len()], "its size proves nothing");

    let said = icp.transfer(&replica, "download", &words, dir.path()).failed();
    assert!(said.contains("is not empty. Use --resume"), "{said}");
    icp.transfer(&replica, "download", &format!("{words} --resume"), dir.path()).done();
    assert_holds(dir.path(), &replica.snapshots(mine)[0]);

    // A connection that fails is tried again, and a bit that falls over is not seen.
    let other = dir.path().join("other");
    replica.clear_faults();
    replica.fail(mine, "read_canister_snapshot_data", Times::Nth(1), Fault::LoseReply);
    replica.fail(mine, "read_canister_snapshot_data", Times::Nth(2), Fault::Flip);
    icp.transfer(&replica, "download", &words, &other).done();
    let read = fs::read(other.join("wasm_module.bin")).unwrap();
    let differ = read.iter().zip(replica.module(mine).iter()).filter(|(a, b)| a != b).count();
    assert_eq!((read.len(), differ), (replica.module(mine).len(), 1));
}

#[test]
fn an_upload_whose_first_reply_is_lost_leaves_two_snapshots() {
    let Some((icp, replica, [mine, other, _])) = world() else { return };
    let dir = temp();
    let id = stop_and_create(&icp, &replica, mine);
    icp.transfer(&replica, "download", &format!("{mine} {id}"), dir.path()).done();
    let words = format!("{other} --json");
    replica.fail(other, "upload_canister_snapshot_metadata", Times::Nth(1), Fault::LoseReply);
    let said = icp.transfer(&replica, "upload", &words, dir.path()).json();
    let [empty, whole] = replica.snapshots(other).try_into().unwrap();
    assert_eq!(said["snapshot_id"], hex(&whole.id));
    assert!(whole.image.wasm_memory == replica.memory(mine));
    assert!(empty.image.wasm_memory.iter().all(|byte| *byte == 0));

    // One that fails can go on, with the same snapshot.
    replica.fail(other, "upload_canister_snapshot_data", Times::Nth(1), Fault::Refuse);
    icp.transfer(&replica, "upload", &words, dir.path()).failed();
    assert!(dir.path().join(".upload_progress.json").exists());
    let said = icp.transfer(&replica, "upload", &format!("{words} --resume"), dir.path()).json();
    let third = replica.snapshots(other).remove(2);
    assert_eq!(said["snapshot_id"], hex(&third.id));
    assert!(third.image.wasm_memory == replica.memory(mine));
    assert!(third.image.module == replica.module(mine));
    assert!(!dir.path().join(".upload_progress.json").exists());

    let missing = dir.path().join("missing");
    let said = icp.transfer(&replica, "upload", &words, &missing).failed();
    assert!(said.contains("Missing required file"), "{said}");
    assert!(missing.join(".lock").exists(), "it makes what it does not find");
}

#[test]
fn usage_errors_send_nothing() {
    let Some((icp, replica, [mine, ..])) = world() else { return };
    icp.canister(&replica, &format!("stop {mine}")).done();
    replica.clear_log();
    let cases = [
        format!("stop {mine} --nope"),
        "stop".to_owned(),
        format!("snapshot restore {mine} zz"),
        format!("snapshot list {mine} --json --quiet"),
    ];
    for words in cases {
        let said = icp.canister(&replica, &words);
        assert_eq!((said.code, said.stdout.as_str()), (Some(2), ""), "{said:?}");
        assert!(said.stderr.starts_with("error: "), "{said:?}");
    }
    assert_eq!(replica.log(), []);
}
