//! The management canister's methods: arguments out of Candid, who may call, replies into Candid.

use std::collections::BTreeMap;
use std::sync::Arc;

use candid::utils::ArgumentEncoder;
use candid::{CandidType, Nat, Principal, Reserved};
use ic_management_canister_types as mgmt;
use serde::de::DeserializeOwned;

use super::model::{Canister, Image, Rejection, Snapshot, State};

pub type Reply = Result<Vec<u8>, Rejection>;

/// The largest memory that an upload may announce, in bytes.
const UPLOAD_BYTES_MAX: u64 = 64 << 20;

/// Returns the canister that a call is about. (Every method's record has this field.)
pub fn target(arg: &[u8]) -> Result<Principal, Rejection> {
    decode::<mgmt::CanisterIdRecord>(arg).map(|record| record.canister_id)
}

/// Does what `method` asks of the canister.
pub fn run(canister: &mut Canister, sender: Principal, method: &str, arg: &[u8]) -> Reply {
    let viewers = match method {
        "canister_status" => canister.status_viewers.as_slice(),
        "list_canister_snapshots"
        | "read_canister_snapshot_metadata"
        | "read_canister_snapshot_data" => canister.snapshot_viewers.as_slice(),
        _ => &[],
    };
    if !canister.controllers.contains(&sender) && !viewers.contains(&sender) {
        return Err(Rejection::not_controller(canister, sender));
    }
    match method {
        "canister_status" => encode(status(canister)),
        "stop_canister" => {
            canister.stop();
            encode_nothing()
        }
        "start_canister" => {
            canister.start();
            encode_nothing()
        }
        "take_canister_snapshot" => {
            let args: mgmt::TakeCanisterSnapshotArgs = decode(arg)?;
            encode(listed(canister.take_snapshot(args.replace_snapshot.as_deref())?))
        }
        "list_canister_snapshots" => {
            encode(canister.snapshots.iter().map(listed).collect::<Vec<_>>())
        }
        "read_canister_snapshot_metadata" => {
            let args: mgmt::ReadCanisterSnapshotMetadataArgs = decode(arg)?;
            encode(metadata(canister.snapshot(&args.snapshot_id)?))
        }
        "read_canister_snapshot_data" => {
            let args: mgmt::ReadCanisterSnapshotDataArgs = decode(arg)?;
            let chunk = canister.read_data(&args.snapshot_id, &args.kind)?;
            encode(mgmt::ReadCanisterSnapshotDataResult { chunk })
        }
        "upload_canister_snapshot_metadata" => begin_upload(canister, decode(arg)?),
        "upload_canister_snapshot_data" => {
            let args: mgmt::UploadCanisterSnapshotDataArgs = decode(arg)?;
            canister.write_data(&args.snapshot_id, &args.kind, &args.chunk)?;
            encode_nothing()
        }
        "load_canister_snapshot" => {
            let args: mgmt::LoadCanisterSnapshotArgs = decode(arg)?;
            canister.load_snapshot(&args.snapshot_id)?;
            encode_nothing()
        }
        "delete_canister_snapshot" => {
            let args: mgmt::DeleteCanisterSnapshotArgs = decode(arg)?;
            canister.delete_snapshot(&args.snapshot_id)?;
            encode_nothing()
        }
        _ => Err(Rejection::bad_call(format!("no method {method}"))),
    }
}

fn begin_upload(canister: &mut Canister, args: mgmt::UploadCanisterSnapshotMetadataArgs) -> Reply {
    let zeros = |size: u64| {
        let is_allowed = size <= UPLOAD_BYTES_MAX;
        is_allowed.then(|| Arc::new(vec![0; size as usize])).ok_or_else(|| {
            Rejection::bad_call(format!("{size} bytes are more than this replica takes"))
        })
    };
    let image = Image {
        module: zeros(args.wasm_module_size)?,
        wasm_memory: zeros(args.wasm_memory_size)?,
        stable_memory: zeros(args.stable_memory_size)?,
        chunk_store: BTreeMap::new(),
        globals: args.globals,
        certified_data: args.certified_data,
        global_timer: args.global_timer,
        low_memory_hook: args.on_low_wasm_memory_hook_status,
    };
    let snapshot_id = canister.begin_upload(args.replace_snapshot.as_deref(), image)?;
    encode(mgmt::UploadCanisterSnapshotMetadataResult { snapshot_id })
}

fn listed(snapshot: &Snapshot) -> mgmt::Snapshot {
    mgmt::Snapshot {
        id: snapshot.id.clone(),
        taken_at_timestamp: snapshot.taken_at,
        total_size: snapshot.image.size_bytes(),
    }
}

fn metadata(snapshot: &Snapshot) -> mgmt::ReadCanisterSnapshotMetadataResult {
    let image = &snapshot.image;
    let hashes = image.chunk_store.keys();
    let source = match snapshot.is_upload {
        true => mgmt::SnapshotSource::MetadataUpload(Reserved),
        false => mgmt::SnapshotSource::TakenFromCanister(Reserved),
    };
    mgmt::ReadCanisterSnapshotMetadataResult {
        source: Some(source),
        taken_at_timestamp: snapshot.taken_at,
        wasm_module_size: image.module.len() as u64,
        globals: image.globals.iter().cloned().map(Some).collect(),
        wasm_memory_size: image.wasm_memory.len() as u64,
        stable_memory_size: image.stable_memory.len() as u64,
        wasm_chunk_store: hashes.map(|hash| mgmt::ChunkHash { hash: hash.to_vec() }).collect(),
        canister_version: snapshot.version,
        certified_data: image.certified_data.clone(),
        global_timer: image.global_timer.clone(),
        on_low_wasm_memory_hook_status: image.low_memory_hook.clone(),
    }
}

fn status(canister: &Canister) -> mgmt::CanisterStatusResult {
    let image = &canister.image;
    let bytes = |bytes: &[u8]| Nat::from(bytes.len());
    let snapshots: u64 = canister.snapshots.iter().map(|one| one.image.size_bytes()).sum();
    let chunks: usize = image.chunk_store.values().map(|chunk| chunk.len()).sum();
    mgmt::CanisterStatusResult {
        status: match canister.state {
            State::Running => mgmt::CanisterStatusType::Running,
            State::Stopping => mgmt::CanisterStatusType::Stopping,
            State::Stopped => mgmt::CanisterStatusType::Stopped,
        },
        ready_for_migration: canister.state == State::Stopped,
        version: canister.version,
        settings: settings(canister),
        module_hash: Some(canister.module_hash().to_vec()),
        memory_size: Nat::from(image.size_bytes() + snapshots),
        memory_metrics: mgmt::MemoryMetrics {
            wasm_memory_size: bytes(&image.wasm_memory),
            stable_memory_size: bytes(&image.stable_memory),
            global_memory_size: Nat::from(8 * image.globals.len()),
            wasm_binary_size: bytes(&image.module),
            custom_sections_size: Nat::from(0_u8),
            canister_history_size: Nat::from(366_u16),
            wasm_chunk_store_size: Nat::from(chunks),
            snapshots_size: Nat::from(snapshots),
            log_memory_store_size: Nat::from(0_u8),
        },
        cycles: Nat::from(3_100_000_000_000_u64),
        reserved_cycles: Nat::from(0_u8),
        idle_cycles_burned_per_day: Nat::from(20_548_135_u32),
        query_stats: mgmt::QueryStats {
            num_calls_total: Nat::from(0_u8),
            num_instructions_total: Nat::from(0_u8),
            request_payload_bytes_total: Nat::from(0_u8),
            response_payload_bytes_total: Nat::from(0_u8),
        },
    }
}

fn settings(canister: &Canister) -> mgmt::DefiniteCanisterSettings {
    let mut settings = mgmt::DefiniteCanisterSettings {
        controllers: canister.controllers.clone(),
        freezing_threshold: Nat::from(2_592_000_u32),
        reserved_cycles_limit: Nat::from(5_000_000_000_000_u64),
        log_memory_limit: Nat::from(4096_u16),
        wasm_memory_limit: Nat::from(3_221_225_472_u32),
        ..Default::default()
    };
    if !canister.snapshot_viewers.is_empty() {
        let viewers = canister.snapshot_viewers.clone();
        settings.snapshot_visibility = mgmt::SnapshotVisibility::AllowedViewers(viewers);
    }
    if !canister.status_viewers.is_empty() {
        let viewers = canister.status_viewers.clone();
        settings.status_visibility = mgmt::StatusVisibility::AllowedViewers(viewers);
    }
    settings
}

fn decode<T: CandidType + DeserializeOwned>(arg: &[u8]) -> Result<T, Rejection> {
    candid::decode_one(arg).map_err(Rejection::bad_call)
}

fn encode<T: CandidType>(value: T) -> Reply {
    encode_all((value,))
}

fn encode_nothing() -> Reply {
    encode_all(())
}

fn encode_all(values: impl ArgumentEncoder) -> Reply {
    candid::encode_args(values).map_err(Rejection::bad_call)
}
