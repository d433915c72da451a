//! The `icp` executor without `icp`: which arguments it would get, and the check of a snapshot's
//! directory.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use strongroom::run::executor::icp::{IcpConfig, IcpExecutor};
use strongroom::run::executor::{Call, Error, Evidence, Executor};
use strongroom::run::facts::Snapshot;
use strongroom::run::inventory::Row;

use super::{member, script};
use crate::support::{Tree, temp};

const CANISTER: &str = "rrkah-fqaaa-aaaaa-aaaaq-cai";
const TAKEN_AT: u64 = 1_795_438_176_500_035_266;

fn snapshot() -> Snapshot {
    Snapshot { id: "00ff".into(), taken_at: Some(TAKEN_AT), total_bytes: Some(9) }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An executor whose program writes its arguments to a file and replies to `status`, `create` and
/// so on as `icp` does, or as `reply` says.
fn recording(dir: &Path, config: IcpConfig, reply: &str) -> IcpExecutor {
    let program = script(
        &dir.join("icp"),
        &format!(
            r#"printf '%s ' "$@" | sed 's/ $//' >> {0}/argv; echo >> {0}/argv; env | cut -d= -f1 > {0}/env
            {reply}
            one='{{"snapshot_id":"00ff","taken_at_timestamp":1,"total_size_bytes":2}}'
            case "$1 $2 $3" in
            "identity principal"*) echo 2vxsx-fae ;;
            *" status "*) echo '{{"id":"{CANISTER}","status":"Running","settings":{{"controllers":[]}},"module_hash":null}}' ;;
            *" create") echo "$one" ;;
            *" list") echo "{{\"snapshots\":[$one]}}" ;;
            *" upload") echo '{{"snapshot_id":"0a"}}' ;;
            esac"#,
            dir.display()
        ),
    );
    IcpExecutor::new(IcpConfig { program, ..config }).unwrap()
}

#[test]
fn commands_have_exactly_these_arguments() {
    let temp = temp();
    let config: IcpConfig = toml::from_str(
        "environment = 'staging'\nidentity = 'backup'\nproject = '/srv/project'\n\
        identity-password-file = '/run/secret'\nhome = '/srv/home'",
    )
    .unwrap();
    let executor = recording(temp.path(), config, "");
    let (row, call, snapshot) = (member(CANISTER), Call::new(), snapshot());
    let (staging, whole) = (temp.path().join("staging"), Tree::create(temp.path().join("whole")));
    std::fs::create_dir(&staging).unwrap();
    write_snapshot(&whole);
    executor.status(&row, &call).unwrap();
    executor.stop(&row, &call).unwrap();
    executor.start(&row, &call).unwrap();
    executor.create(&row, &call).unwrap();
    executor.snapshots(&row, &call).unwrap();
    executor.download(&row, Some(&snapshot), &staging, &call).unwrap();
    executor.upload(&row, whole.path(), &call).unwrap();
    executor.load(&row, &snapshot, &call).unwrap();
    executor.delete(&row, &snapshot, &call).unwrap();
    executor.authority(&row, &call).unwrap();
    let identity = "--identity backup --identity-password-file /run/secret \
        --project-root-override /srv/project";
    let rest = format!("{identity} -e staging");
    let expected = [
        format!("canister status {CANISTER} --json {rest}"),
        format!("canister stop {CANISTER} {rest}"),
        format!("canister start {CANISTER} {rest}"),
        format!("canister snapshot create {CANISTER} --json {rest}"),
        format!("canister snapshot list {CANISTER} --json {rest}"),
        format!("canister snapshot download {CANISTER} 00ff {rest} --output {}", staging.display()),
        format!(
            "canister snapshot upload {CANISTER} --json {rest} --input {}",
            whole.path().display()
        ),
        format!("canister snapshot restore {CANISTER} 00ff {rest}"),
        format!("canister snapshot delete {CANISTER} 00ff {rest}"),
        format!("canister status {CANISTER} --json {rest}"),
        format!("identity principal {identity}"),
        format!("canister snapshot list {CANISTER} --json {rest}"),
    ];
    let argv = std::fs::read_to_string(temp.path().join("argv")).unwrap();
    assert_eq!(argv.lines().collect::<Vec<_>>(), expected);
    let names = std::fs::read_to_string(temp.path().join("env")).unwrap();
    // A shell adds some of its own.
    let mut names: Vec<_> =
        names.lines().filter(|n| !["PWD", "SHLVL", "_", "OLDPWD"].contains(n)).collect();
    names.sort_unstable();
    assert_eq!(names, ["CI", "DO_NOT_TRACK", "HOME", "NO_COLOR", "PATH"]);

    let temp = self::temp();
    let network = "network = 'http://127.0.0.1:1'\nroot-key = 'mainnet'";
    let executor = recording(temp.path(), toml::from_str(network).unwrap(), "");
    executor.stop(&row, &call).unwrap();
    let argv = std::fs::read_to_string(temp.path().join("argv")).unwrap();
    assert_eq!(argv, format!("canister stop {CANISTER} -n http://127.0.0.1:1 -k mainnet\n"));
}

#[test]
fn exit_code_2_is_a_refusal_and_everything_else_unknown() {
    let temp = temp();
    let (row, call) = (member(CANISTER), Call::new());
    let ic = || IcpConfig { network: Some("ic".into()), ..IcpConfig::default() };
    for (exit, is_refused) in
        [("exit 2", true), ("exit 1", false), ("kill -9 $$", false), ("exit 0", false)]
    {
        let executor = recording(temp.path(), ic(), exit);
        let results = [
            executor.create(&row, &call).map(drop),
            executor.snapshots(&row, &call).map(drop),
            executor.status(&row, &call).map(drop),
            if exit == "exit 0" {
                Err(Error::Unknown(String::new()))
            } else {
                executor.delete(&row, &snapshot(), &call)
            },
        ];
        for result in results {
            let as_expected = match &result {
                Err(Error::Refused(_)) => is_refused,
                Err(Error::Unknown(_)) => !is_refused,
                _ => false,
            };
            assert!(as_expected, "{exit}: {result:?}");
        }
    }
    // `--quiet` would have printed this.
    let executor =
        recording(temp.path(), ic(), "echo 00ff; echo 'Snapshots of a canister'; exit 0");
    assert!(matches!(executor.snapshots(&row, &call), Err(Error::Unknown(_))));
    // A download that says that it has ended, and has not.
    let executor = recording(
        temp.path(),
        ic(),
        "for last; do :; done; echo '{}' > $last/.download_progress.json",
    );
    let staging = temp.path().join("staging");
    std::fs::create_dir(&staging).unwrap();
    let result = executor.download(&row, Some(&snapshot()), &staging, &call);
    assert!(matches!(result, Err(Error::Unknown(_))), "{result:?}");
}

#[test]
fn control_without_a_known_principal_is_proven_by_a_status_that_only_controllers_read() {
    let temp = temp();
    let (row, call) = (member(CANISTER), Call::new());
    for (visibility, is_proven) in [("Controllers", true), ("Public", false)] {
        let reply = format!(
            r#"case "$1 $2" in
            "identity principal") echo 'no password' >&2; exit 1 ;;
            "canister status") echo '{{"id":"{CANISTER}","status":"Running","settings":{{"controllers":["x"],"status_visibility":{{"type":"{visibility}"}}}}}}'; exit ;;
            esac"#
        );
        let ic = IcpConfig { network: Some("ic".into()), ..IcpConfig::default() };
        let authority = recording(temp.path(), ic, &reply).authority(&row, &call).unwrap();
        match &authority.control {
            Evidence::Proven(how) => assert!(is_proven && how.contains("no password"), "{how}"),
            other => assert!(!is_proven, "{other:?}"),
        }
    }
}

/// Writes a whole snapshot.
fn write_snapshot(tree: &Tree) {
    tree.file(".lock", "");
    tree.file("wasm_module.bin", "module");
    tree.file("wasm_memory.bin", vec![7; 1000]);
    tree.file("stable_memory.bin", "");
    for chunk in ["one", "two"] {
        tree.file(format!("wasm_chunk_store/{}.bin", sha256(chunk.as_bytes())), chunk);
    }
    let hash = |chunk: &str| json!({ "hash": Sha256::digest(chunk).to_vec() });
    write_metadata(tree, &|_| {}, &[hash("one"), hash("two")]);
}

fn write_metadata(tree: &Tree, change: &dyn Fn(&mut Value), chunks: &[Value]) {
    let mut metadata = json!({
        "source": { "taken_from_canister": null },
        "taken_at_timestamp": TAKEN_AT,
        "wasm_module_size": 6,
        "globals": [{ "i32": 7 }],
        "wasm_memory_size": 1000,
        "stable_memory_size": 0,
        "wasm_chunk_store": chunks,
        "something_new": {},
    });
    change(&mut metadata);
    tree.file("metadata.json", metadata.to_string());
}

fn check(tree: &Tree) -> Result<Vec<String>, Error> {
    let network = Some("ic".to_owned());
    let executor = IcpExecutor::new(IcpConfig { network, ..IcpConfig::default() }).unwrap();
    let row = Row { module_hash: Some(sha256(b"module")), ..member(CANISTER) };
    executor.check(&row, Some(&snapshot()), tree.path())
}

#[test]
fn a_whole_snapshot_passes_and_the_evidence_is_named() {
    let temp = temp();
    let tree = Tree::create(temp.path().join("a"));
    write_snapshot(&tree);
    let module = sha256(b"module");
    let expected = [
        "sizes in bytes as metadata.json says: wasm_module.bin 6, wasm_memory.bin 1000, stable_memory.bin 0".to_owned(),
        format!("taken at {TAKEN_AT}, as the service said"),
        format!("SHA-256 of wasm_module.bin is the module hash {module}"),
        "2 chunks of the chunk store by their SHA-256".to_owned(),
    ];
    assert_eq!(check(&tree).unwrap(), expected);
    // Hashes and sizes may be written as texts, and later versions may add files.
    let hash = |chunk: &str| json!({ "hash": sha256(chunk.as_bytes()) });
    let size = |metadata: &mut Value| metadata["wasm_memory_size"] = json!("1_000");
    write_metadata(&tree, &size, &[hash("one"), hash("two")]);
    tree.file("canister_log.bin", "x");
    let checked = check(&tree).unwrap();
    assert_eq!(checked[4], "not known and not checked: canister_log.bin");
}

#[test]
fn every_difference_is_found() {
    type Damage<'a> = (&'a str, &'a dyn Fn(&Tree));
    let one = format!("wasm_chunk_store/{}.bin", sha256(b"one"));
    let chunk = |chunk: &str| json!({ "hash": Sha256::digest(chunk).to_vec() });
    let chunks = [chunk("one"), chunk("two")];
    let remove = |tree: &Tree, name: &str| std::fs::remove_file(tree.below(name)).unwrap();
    let with = |tree: &Tree, field: &str, value: Value| {
        let change = |metadata: &mut Value| metadata[field] = value.clone();
        write_metadata(tree, &change, &chunks);
    };
    let damages: [Damage; 27] = [
        ("SHA-256 of wasm_module.bin is", &|tree| drop(tree.file("wasm_module.bin", "modulo"))),
        ("wasm_module.bin has 7 bytes", &|tree| drop(tree.file("wasm_module.bin", "modules"))),
        ("wasm_memory.bin has 999 bytes, and metadata.json says 1000", &|tree| {
            drop(tree.file("wasm_memory.bin", vec![7; 999]));
        }),
        ("stable_memory.bin", &|tree| remove(tree, "stable_memory.bin")),
        ("metadata.json", &|tree| remove(tree, "metadata.json")),
        ("metadata.json", &|tree| drop(tree.file("metadata.json", "{"))),
        ("metadata.json", &|tree| drop(tree.file("metadata.json", "[".repeat(1 << 20)))),
        ("are more than", &|tree| tree.sparse("metadata.json", 1 << 40, &[])),
        ("the transfer has not ended", &|tree| drop(tree.file(".download_progress.json", "{}"))),
        ("the transfer has not ended", &|tree| drop(tree.file(".upload_progress.json", "{}"))),
        ("has SHA-256", &|tree| drop(tree.file(&one, "eno"))),
        ("is missing", &|tree| remove(tree, &one)),
        ("is not in metadata.json", &|tree| drop(tree.file("wasm_chunk_store/x.bin", "one"))),
        ("is not in metadata.json", &|tree| {
            drop(tree.file(format!("wasm_chunk_store/{}.bin", sha256(b"new")), "new"));
        }),
        ("is not in metadata.json", &|tree| write_metadata(tree, &|_| {}, &chunks[..1])),
        ("is not 32 bytes", &|tree| write_metadata(tree, &|_| {}, &[json!({ "hash": [1, 2] })])),
        ("are more than", &|tree| {
            remove(tree, &one);
            tree.sparse(&one, (1 << 20) + 1, &[]);
        }),
        ("are possible", &|tree| {
            tree.sparse("wasm_module.bin", (100 << 20) + 1, &[]);
            with(tree, "wasm_module_size", json!((100 << 20) + 1));
        }),
        ("is of a snapshot taken at 5", &|tree| with(tree, "taken_at_timestamp", json!(5))),
        ("no whole number", &|tree| with(tree, "wasm_memory_size", json!(-1))),
        ("no whole number", &|tree| with(tree, "stable_memory_size", json!(null))),
        ("metadata.json", &|tree| with(tree, "wasm_chunk_store", json!({}))),
        ("wasm_memory.bin: it is of a kind", &|tree| {
            std::fs::rename(tree.below("wasm_memory.bin"), tree.below("m")).unwrap();
            tree.symlink("wasm_memory.bin", "m");
        }),
        ("wasm_module.bin: it is of a kind", &|tree| {
            remove(tree, "wasm_module.bin");
            tree.fifo("wasm_module.bin");
        }),
        ("wasm_chunk_store: it is of a kind", &|tree| {
            std::fs::rename(tree.below("wasm_chunk_store"), tree.below("../elsewhere")).unwrap();
            tree.symlink("wasm_chunk_store", "../elsewhere");
        }),
        (".bin: ", &|tree| {
            std::fs::rename(tree.below(&one), tree.below("../one")).unwrap();
            tree.symlink(&one, "../../one");
        }),
        ("more: it is of a kind", &|tree| tree.dir("more")),
    ];
    for (says, damage) in damages {
        let temp = temp();
        let tree = Tree::create(temp.path().join("a"));
        write_snapshot(&tree);
        damage(&tree);
        let Err(Error::Refused(text)) = check(&tree) else { panic!("{says}: not refused") };
        assert!(text.contains(says) && text.len() < 3000, "{says}: {text}");
    }
}
