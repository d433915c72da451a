//! What the replica keeps: canisters, their memories and their snapshots, and the management
//! canister's rules about them. Knows no wire format.

use std::collections::BTreeMap;
use std::sync::Arc;

use candid::Principal;
use ic_management_canister_types::{
    CanisterTimer, OnLowWasmMemoryHookStatus, SnapshotDataKind, SnapshotDataOffset,
    SnapshotMetadataGlobal,
};
use sha2::{Digest, Sha256};
use strongroom::clock::UnixNanos;

/// The largest range of a snapshot that one call reads or writes, in bytes.
const SLICE_BYTES_MAX: u64 = 2_000_000;

/// What a snapshot holds of a canister, and what `load_canister_snapshot` puts back.
#[derive(Clone, Debug)]
pub struct Image {
    pub module: Arc<Vec<u8>>,
    pub wasm_memory: Arc<Vec<u8>>,
    pub stable_memory: Arc<Vec<u8>>,
    /// By SHA-256 of the chunk.
    pub chunk_store: BTreeMap<[u8; 32], Arc<Vec<u8>>>,
    pub globals: Vec<SnapshotMetadataGlobal>,
    pub certified_data: Vec<u8>,
    pub global_timer: Option<CanisterTimer>,
    pub low_memory_hook: Option<OnLowWasmMemoryHookStatus>,
}

impl Image {
    /// Adds a chunk under its digest.
    pub fn add_chunk(&mut self, chunk: &[u8]) {
        self.chunk_store.insert(sha256(chunk), Arc::new(chunk.to_vec()));
    }

    pub fn size_bytes(&self) -> u64 {
        let parts = [&self.module, &self.wasm_memory, &self.stable_memory];
        let chunks = self.chunk_store.values();
        parts.into_iter().chain(chunks).map(|bytes| bytes.len() as u64).sum()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    Stopping,
    Stopped,
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub id: Vec<u8>,
    pub taken_at: u64,
    pub version: u64,
    /// Made by `upload_canister_snapshot_metadata`, not taken.
    pub is_upload: bool,
    pub image: Image,
}

/// A canister; tests make one with `Canister::new` and set what they care for.
#[derive(Clone, Debug)]
pub struct Canister {
    pub id: Principal,
    /// May do everything. The anonymous principal is the one that `icp` calls as in tests.
    pub controllers: Vec<Principal>,
    /// May list and download snapshots besides the controllers.
    pub snapshot_viewers: Vec<Principal>,
    /// May read the status besides the controllers.
    pub status_viewers: Vec<Principal>,
    pub state: State,
    pub version: u64,
    pub image: Image,
    pub snapshots: Vec<Snapshot>,
    /// Snapshots ever made: their ids are never used twice.
    snapshots_made: u64,
}

impl Canister {
    /// A running canister under the control of the anonymous principal, with a small module and
    /// a page of each memory.
    pub fn new(id: Principal) -> Self {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        module.extend_from_slice(id.as_slice());
        Self {
            id,
            controllers: vec![Principal::anonymous()],
            snapshot_viewers: Vec::new(),
            status_viewers: Vec::new(),
            state: State::Running,
            version: 1,
            image: Image {
                module: Arc::new(module),
                wasm_memory: Arc::new(vec![0; 65536]),
                stable_memory: Arc::new(Vec::new()),
                chunk_store: BTreeMap::new(),
                globals: vec![SnapshotMetadataGlobal::I32(1_048_576)],
                certified_data: vec![0xab; 32],
                global_timer: Some(CanisterTimer::Inactive),
                low_memory_hook: Some(OnLowWasmMemoryHookStatus::ConditionNotSatisfied),
            },
            snapshots: Vec::new(),
            snapshots_made: 0,
        }
    }

    pub fn module_hash(&self) -> [u8; 32] {
        sha256(&self.image.module)
    }

    fn next_snapshot_id(&mut self) -> Vec<u8> {
        let mut id = self.snapshots_made.to_be_bytes().to_vec();
        id.extend_from_slice(self.id.as_slice());
        self.snapshots_made += 1;
        id
    }

    fn add_snapshot(&mut self, image: Image, is_upload: bool) -> &Snapshot {
        let id = self.next_snapshot_id();
        let taken_at = UnixNanos::now().0 as u64;
        self.snapshots.push(Snapshot { id, taken_at, version: self.version, is_upload, image });
        self.snapshots.last().unwrap()
    }

    pub fn snapshot(&self, id: &[u8]) -> Result<&Snapshot, Rejection> {
        let found = self.snapshots.iter().find(|snapshot| snapshot.id == id);
        found.ok_or_else(|| Rejection::no_snapshot(self.id, id))
    }

    fn position(&self, id: &[u8]) -> Result<usize, Rejection> {
        let found = self.snapshots.iter().position(|snapshot| snapshot.id == id);
        found.ok_or_else(|| Rejection::no_snapshot(self.id, id))
    }

    pub fn stop(&mut self) {
        self.version += 1;
        self.state = State::Stopped;
    }

    pub fn start(&mut self) {
        self.version += 1;
        self.state = State::Running;
    }

    pub fn take_snapshot(&mut self, replace: Option<&[u8]>) -> Result<&Snapshot, Rejection> {
        if let Some(id) = replace {
            let position = self.position(id)?;
            self.snapshots.remove(position);
        }
        Ok(self.add_snapshot(self.image.clone(), false))
    }

    /// Makes room for an upload: memories of the given sizes, all zero.
    pub fn begin_upload(
        &mut self,
        replace: Option<&[u8]>,
        image: Image,
    ) -> Result<Vec<u8>, Rejection> {
        if let Some(id) = replace {
            let position = self.position(id)?;
            self.snapshots.remove(position);
        }
        Ok(self.add_snapshot(image, true).id.clone())
    }

    pub fn delete_snapshot(&mut self, id: &[u8]) -> Result<(), Rejection> {
        let position = self.position(id)?;
        self.snapshots.remove(position);
        Ok(())
    }

    /// Replaces the canister's module and memories by the snapshot's.
    pub fn load_snapshot(&mut self, id: &[u8]) -> Result<(), Rejection> {
        let image = self.snapshot(id)?.image.clone();
        if self.state != State::Stopped {
            let message = format!("Canister {} is not stopped", self.id);
            return Err(Rejection { code: 5, error_code: "IC0510", message });
        }
        self.image = image;
        self.version += 1;
        Ok(())
    }

    pub fn read_data(&self, id: &[u8], kind: &SnapshotDataKind) -> Result<Vec<u8>, Rejection> {
        let image = &self.snapshot(id)?.image;
        let (bytes, offset, size) = match kind {
            SnapshotDataKind::WasmModule { offset, size } => (&image.module, *offset, *size),
            SnapshotDataKind::WasmMemory { offset, size } => (&image.wasm_memory, *offset, *size),
            SnapshotDataKind::StableMemory { offset, size } => {
                (&image.stable_memory, *offset, *size)
            }
            SnapshotDataKind::WasmChunk { hash } => {
                let chunk = <[u8; 32]>::try_from(hash.as_slice()).ok();
                let chunk = chunk.and_then(|hash| image.chunk_store.get(&hash));
                let chunk = chunk.ok_or_else(|| Rejection::range("no such chunk"))?;
                return Ok(chunk.to_vec());
            }
        };
        if size > SLICE_BYTES_MAX {
            return Err(Rejection::range("slice too large"));
        }
        let end = offset.checked_add(size).filter(|end| *end <= bytes.len() as u64);
        let end = end.ok_or_else(|| Rejection::range("slice out of range"))?;
        Ok(bytes[offset as usize..end as usize].to_vec())
    }

    pub fn write_data(
        &mut self,
        id: &[u8],
        kind: &SnapshotDataOffset,
        chunk: &[u8],
    ) -> Result<(), Rejection> {
        let position = self.position(id)?;
        let snapshot = &mut self.snapshots[position];
        if !snapshot.is_upload {
            return Err(Rejection::range("only uploaded snapshots are written to"));
        }
        let image = &mut snapshot.image;
        let (bytes, offset) = match kind {
            SnapshotDataOffset::WasmModule { offset } => (&mut image.module, *offset),
            SnapshotDataOffset::WasmMemory { offset } => (&mut image.wasm_memory, *offset),
            SnapshotDataOffset::StableMemory { offset } => (&mut image.stable_memory, *offset),
            SnapshotDataOffset::WasmChunk => {
                image.add_chunk(chunk);
                return Ok(());
            }
        };
        if chunk.len() as u64 > SLICE_BYTES_MAX {
            return Err(Rejection::range("slice too large"));
        }
        let end = offset.checked_add(chunk.len() as u64).filter(|end| *end <= bytes.len() as u64);
        let end = end.ok_or_else(|| Rejection::range("slice out of range"))?;
        Arc::make_mut(bytes)[offset as usize..end as usize].copy_from_slice(chunk);
        Ok(())
    }
}

/// The answer to a call that was not done.
#[derive(Clone, Debug)]
pub struct Rejection {
    pub code: u8,
    pub error_code: &'static str,
    pub message: String,
}

impl Rejection {
    pub fn no_canister(id: Principal) -> Self {
        Self { code: 3, error_code: "IC0301", message: format!("Canister {id} not found") }
    }

    fn no_snapshot(canister: Principal, id: &[u8]) -> Self {
        let id = hex(id);
        let message = format!("Could not find the snapshot ID {id} for canister {canister}.");
        Self { code: 3, error_code: "IC0305", message }
    }

    fn range(what: &str) -> Self {
        Self { code: 5, error_code: "IC0541", message: format!("Invalid snapshot data: {what}") }
    }

    pub fn not_controller(canister: &Canister, sender: Principal) -> Self {
        let controllers: Vec<_> = canister.controllers.iter().map(Principal::to_text).collect();
        let message = format!(
            "Only the controllers of the canister {} can control it.\n\
             Canister's controllers: {}\nSender's ID: {sender}",
            canister.id,
            controllers.join(" "),
        );
        Self { code: 5, error_code: "IC0512", message }
    }

    pub fn stop_timed_out() -> Self {
        let message = "Stop canister request timed out".to_owned();
        Self { code: 2, error_code: "IC0206", message }
    }

    pub fn refused() -> Self {
        let message = "refused, because the test wants it".to_owned();
        Self { code: 5, error_code: "IC0503", message }
    }

    pub fn bad_call(what: impl std::fmt::Display) -> Self {
        Self { code: 5, error_code: "IC0536", message: format!("cannot decode: {what}") }
    }
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
