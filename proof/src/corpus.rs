//! Writes the corpora of what is fuzzed: the golden objects of the format, and what the command
//! makes of a small fleet.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, bail};
use strongroom::backend::{Key, MemoryBackend};
use strongroom::codec::{Encoder, Level};
use strongroom::format::journal::{EndedJournal, JournalRecord};
use strongroom::interchange::canic::{self, ExportOptions};
use strongroom::run::facts::{DeploymentFacts, EXTENSION};
use strongroom::run::journal::runs;
use strongroom::store::{IngestOptions, MemberSource, Progress, Reference, Store, StoreConfig};

use crate::report::Row;
use crate::scene;
use crate::tool::{Tool, told};

/// Golden objects, and the target that each belongs to.
const GOLDEN: [(&str, &str); 23] = [
    ("store-header", "header"),
    ("artifact-manifest", "artifact"),
    ("generation-manifest", "generation"),
    ("commit-collect", "commit_record"),
    ("commit-collected", "commit_record"),
    ("commit-condemn", "commit_record"),
    ("commit-forget", "commit_record"),
    ("commit-pin", "commit_record"),
    ("commit-promote", "commit_record"),
    ("commit-undo", "commit_record"),
    ("commit-unknown", "commit_record"),
    ("commit-unpin", "commit_record"),
    ("removal-list", "removal_list"),
    ("journal-record", "journal_record"),
    ("ended-journal", "ended_journal"),
    ("pack", "pack"),
    ("page-pack", "pack"),
    ("index-segment", "segment"),
    ("index-segment-wide", "segment"),
    ("page-chunks", "page_chunks"),
    ("page-references", "page_references"),
    ("page-entries", "page_entries"),
    ("page-entry", "page_entries"),
];

const SHOP: &str = r#"
[deployments.shop]
root = "a"
scope = "maintenance-root"
[deployments.shop.command]
download = { argv = ["cp", "{file}", "{dir}/content"], timeout = "2h" }
upload = { argv = ["cp", "{dir}/content", "{file}.back"], reply = { format = "none" } }
load = { argv = ["mv", "{file}.back", "{file}"] }
[[deployments.shop.members]]
id = "a"
role = "root"
variables = { file = "a" }
[[deployments.shop.members]]
id = "b"
parent = "a"
variables = { file = "b" }
"#;

const OTHERS: &str = r#"
store = "store"
staging = "staging"
[deployments.site]
checksum = "sha256"
every = "26h"
[[deployments.site.members]]
id = "pages"
path = "/srv/www"
identity = "fixed"
[deployments.canisters]
scope = "subtree"
select = "ryjl3-tyaaa-aaaaa-aaaba-cai"
authority = "declared"
quiescence = "crash-consistent"
concurrency = 2
keep-snapshots = true
settle = "20s"
inventory = "fleet.json"
[deployments.canisters.icp]
network = "ic"
identity = "backup"
"#;

const INVENTORY: &str = r#"[{"pid": "aaaaa-aa", "role": "root", "parent_pid": null,
"module_hash": "0xabababababababababababababababababababababababababababababababab"},
{"id": "b", "parent": "aaaaa-aa", "kind": "canister", "identity": "fixed", "path": "p"}]"#;

const FACTS: &str = r#"{"schema": "strongroom.deployment/1", "run": "run-1", "executor": "icp",
"environment": "ic", "root": "CANISTER", "scope": "maintenance-root", "quiescence":
"crash-consistent", "topology_hash": "HASH", "members": [{"id": "CANISTER", "role": "root",
"depth": 0, "identity": "fixed", "snapshot": {"id": "00ff", "taken_at": 1, "total_bytes": 2}}],
"units": [{"id": "u", "subtree": false, "members": ["CANISTER"]}]}"#;

/// Replies of commands; the first byte chooses what it is a reply to.
const REPLIES: [&[u8]; 9] = [
    b"\x00{\"id\":\"ryjl3-tyaaa-aaaaa-aaaba-cai\",\"status\":\"Running\",\"settings\":{\"controllers\":[\"aaaaa-aa\"],\"status_visibility\":{\"type\":\"Controllers\"}},\"module_hash\":\"0xabababababababababababababababababababababababababababababababab\"}",
    b"\x01{\"snapshot_id\":\"0000000000000000ffffffffff9000050101\",\"taken_at_timestamp\":\"1_778_709_681_897_818_005\",\"total_size_bytes\":272586987}",
    b"\x02{\"snapshots\":[{\"snapshot_id\":\"0000000000000000ffffffffff9000050101\",\"taken_at_timestamp\":1,\"total_size_bytes\":2}]}",
    b"\x04ryjl3-tyaaa-aaaaa-aaaba-cai\n",
    b"\x05running\n",
    b"\x06{\"state\":\"running\",\"hash\":\"abababababababababababababababababababababababababababababababab\"}",
    b"\x08{\"id\":\"one\",\"at\":\"2024-06-01T00:00:00Z\",\"size\":\"1_000\"}",
    b"\x09{\"all\":[{\"id\":\"one\",\"at\":1},{\"id\":2,\"size\":3}]}",
    b"\x0a{\"all\":[{\"id\":\"one\",\"role\":\"r\",\"kind\":\"k\",\"parent\":\"two\"}]}",
];

/// Steps of whole stores; see `strongroom_proof::fuzz`.
const STORES: [&[u8]; 6] = [
    // Write three files, back up, edit, back up, prune to one, check.
    b"\x00\x01\x00\x01\x00\x20\x00\x00\x02\x02\x05\x00\x30\x00\x00\x00\x01\x02\x00\x10\x00\x04\x02\x01\x00\x00\x10\x00\x00\x41\x04\x06\x00\x00\x09",
    // The same, with a grace period, brought back, pruned again.
    b"\x00\x01\x00\x01\x00\x20\x00\x00\x02\x00\x05\x00\x30\x00\x04\x03\x00\x00\x00\x04\x06\x00\x01\x07\x00\x00\x00\x06\x00\x00\x09",
    // A bit of some object, then read and restored.
    b"\x00\x01\x00\x01\x00\x20\x00\x00\x00\x00\x05\x00\x30\x00\x04\x04\x0b\x03\x00\x00\x09\x00\x00\x10\x09\x0a\x04",
    // Cut off, an index lost, swapped.
    b"\x00\x01\x00\x01\x00\x20\x00\x04\x0c\x02\x00\x00\x10\x00\x00\x08\x04\x0f\x01\x00\x00\x02\x00\x00\x01\x09",
    // A changed manifest with a checksum that fits, and a lost object.
    b"\x00\x01\x00\x01\x00\x20\x00\x04\x04\x0d\x03\x00\x00\x30\x00\x00\x07\x0e\x04\x00\x00\x09\x06\x01\x04\x0a",
    // Records of the log with numbers that are far away.
    b"\x00\x01\x00\x01\x00\x20\x00\x04\x0f\x01\x00\x00\x02\x00\x00\x02\x02\x00\x00\x04\x09\x06\x00\x04",
];

/// Writes them all.
pub fn write(tool: &Tool, to: &Path) -> anyhow::Result<Row> {
    let mut row = Row::new("corpora written");
    let mut put = |target: &str, name: &str, bytes: &[u8]| -> anyhow::Result<()> {
        let folder = to.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)?;
        row.tried(1, "inputs");
        row.tried(bytes.len() as u64, "bytes");
        Ok(())
    };
    for (golden, target) in GOLDEN {
        let path = format!("tests/it/format/golden/{golden}.hex");
        let text = fs::read_to_string(&path).context(path)?;
        put(target, golden, &unhex(&text)?)?;
    }
    put("chunk", "raw", b"\x00\x03\x00\x00\x00\x00abc")?;
    let mut body = Vec::new();
    let plain = scene::text(1, 400);
    let mut encoder = Encoder::new()?;
    encoder.encode(&plain, Level::PAGED, &mut body);
    put("chunk", "zstd", &[&[1, 144, 1, 0, 0, 0], &body[..]].concat())?;
    put("chunk", "zstd-with-base", &[&[2, 144, 1, 0, 4, 0], &b"base"[..], &body].concat())?;
    put("config", "shop", SHOP.as_bytes())?;
    put("config", "others", OTHERS.as_bytes())?;
    put("inventory", "two", INVENTORY.as_bytes())?;
    put("restore_map", "two", br#"{"a": "b", "b": "c"}"#)?;
    for (number, name) in
        ["orders", "orders@latest", "a@g12:files/a b", "packs/ab/cd-1.x", &"0f".repeat(32)]
            .iter()
            .enumerate()
    {
        put("names", &number.to_string(), name.as_bytes())?;
    }
    for (number, reply) in REPLIES.iter().enumerate() {
        put("replies", &number.to_string(), reply)?;
    }
    for (number, steps) in STORES.iter().enumerate() {
        put("store", &number.to_string(), steps)?;
    }
    fleet(tool, &mut put)?;
    canic_backup(&mut put)?;
    Ok(row)
}

/// A backup directory of canic-backup, made by an export.
fn canic_backup(
    put: &mut dyn FnMut(&str, &str, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    const CANISTER: &str = "ryjl3-tyaaa-aaaaa-aaaba-cai";
    let dir = tempfile::tempdir()?;
    fs::create_dir(dir.path().join("source"))?;
    fs::write(dir.path().join("source/metadata.json"), "{}")?;
    let backend = Arc::new(MemoryBackend::new());
    let store = Store::create(backend, StoreConfig::default())?;
    let sources = [MemberSource { member: CANISTER.to_owned(), path: dir.path().join("source") }];
    let (options, progress) = (IngestOptions::default(), Progress::default());
    let report = store.backup("orders", &sources, &options, &progress)?;
    let mut manifest = store.generation(&report.generation.context("a generation")?.manifest)?;
    let facts = FACTS.replace("CANISTER", CANISTER).replace("HASH", &"ab".repeat(32));
    let facts: DeploymentFacts = serde_json::from_str(&facts)?;
    manifest.extensions.push(facts.to_extension());
    store.commit_generation(&manifest)?;
    let to = dir.path().join("export");
    let reference = Reference::parse(b"orders")?;
    canic::export(&store, &reference, &to, &ExportOptions::default(), &progress)?;
    let mut parts = Vec::new();
    for name in [
        "deployment-backup-manifest.json",
        "download-journal.json",
        "backup-plan.json",
        "backup-execution-journal.json",
    ] {
        let json: serde_json::Value = serde_json::from_slice(&fs::read(to.join(name))?)?;
        parts.push(serde_json::to_vec(&json)?);
    }
    put("canic", "download", &parts[..2].join(&0))?;
    put("canic", "run", &parts.join(&0))
}

/// What a run and a restore leave: plans, facts and journals.
fn fleet(
    tool: &Tool,
    put: &mut dyn FnMut(&str, &str, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    for name in ["a", "b"] {
        fs::write(path(name), format!("{name}\n"))?;
    }
    let config = format!("store = \"store\"\n{SHOP}").replace(
        "variables = { file = \"",
        &format!("variables = {{ file = \"{}/", dir.path().display()),
    );
    fs::write(path("strongroom.toml"), config)?;
    let run = |args: &[&str]| -> anyhow::Result<serde_json::Value> {
        let output = Command::new(&tool.program)
            .args(args)
            .args(["--json", "--config"])
            .arg(path("strongroom.toml"))
            .output()?;
        if !output.status.success() {
            bail!("{args:?}: {}", told(&output));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    };
    run(&["init"])?;
    let plans = run(&["backup", "shop", "--plan"])?;
    put("plan", "shop", &serde_json::to_vec(&plans["plans"][0])?)?;
    run(&["backup", "shop"])?;
    let plan = run(&["restore", "shop", "--plan"])?;
    put("restore_plan", "shop", &serde_json::to_vec(&plan)?)?;
    run(&["restore", "shop", "--apply"])?;

    let store = scene::open(&path("store"))?;
    let generation = store.resolve(&Reference::parse(b"shop")?)?;
    let manifest = store.generation(&generation.manifest)?;
    let facts = manifest.extensions.iter().find(|extension| extension.name == EXTENSION);
    put("facts", "shop", &facts.context("facts")?.value)?;
    for name in runs(store.backend())? {
        let key = Key::new(format!("runs/{name}/ended"))?;
        let bytes = store.backend().read(&key, 1 << 20)?;
        let mut events = Vec::new();
        for record in EndedJournal::decode(&bytes)?.records {
            events.push(JournalRecord::decode(&record)?.event);
        }
        let first = String::from_utf8_lossy(&events[0]).into_owned();
        let kind = if first.contains("restore-planned") { "restore" } else { "backup" };
        put("journal", kind, &events.join(&0))?;
    }
    Ok(())
}

/// Takes the bytes out of lines such as `00000000: 5354 524f  STRO`.
fn unhex(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for line in text.lines() {
        let Some((_, rest)) = line.split_once(": ") else { continue };
        let digits: String =
            rest.split("  ").next().unwrap_or_default().split_whitespace().collect();
        for pair in digits.as_bytes().chunks_exact(2) {
            bytes.push(u8::from_str_radix(str::from_utf8(pair)?, 16)?);
        }
    }
    Ok(bytes)
}
