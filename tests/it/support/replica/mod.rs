//! A small Internet Computer on loopback, and the real `icp` to speak to it.
//!
//! ```ignore
//! let Some(icp) = Icp::find() else { return };
//! let (replica, id) = (Replica::start(), canister_id(1));
//! replica.add_canister(Canister::new(id));
//! replica.fail(id, "take_canister_snapshot", Times::Nth(1), Fault::LoseReply);
//! icp.canister(&replica, &format!("stop {id}")).done();
//! icp.snapshot(&replica, "create", id, "--json").failed();
//! assert_eq!(replica.count(id, "take_canister_snapshot"), 1);
//! assert_eq!(replica.snapshots(id).len(), 1);
//! ```
//!
//! The replica keeps canisters with real memories and snapshots, signs what it answers, and goes
//! wrong where a switch says so ([`Fault`]). It checks no signatures of callers, runs no code and
//! has no limits on snapshots; a canister in it can change only by the hand of a test
//! ([`Replica::with`]).
//!
//! # What `icp` 1.5.0 prints
//!
//! Seen with this replica, and held by `icp_replica.rs`. Exit code 0: done. 1: anything else, lost
//! replies included; a line of standard error begins with `Error: ` (with `download` and `upload` not
//! the first), standard output is empty. 2: usage; standard error begins with `error: `, and nothing
//! was sent. JSON is one line, without an end of line but for `status`.
//!
//! ```text
//! status C --json
//!   {"id":"…","status":"Running"|"Stopping"|"Stopped",
//!    "settings":{"controllers":["2vxsx-fae"],"compute_allocation":"0","memory_allocation":"0",
//!     "freezing_threshold":"2_592_000","reserved_cycles_limit":"5_000_000_000_000",
//!     "wasm_memory_limit":"3_221_225_472","wasm_memory_threshold":"0","log_memory_limit":"4_096",
//!     "log_visibility":{"type":"Controllers"},"snapshot_visibility":{"type":"Controllers"},
//!     "status_visibility":{"type":"Controllers"},"environment_variables":[]},
//!    "module_hash":"0x62d5…","memory_size":"4_194_333","cycles":"3_100_000_000_000",
//!    "reserved_cycles":"0","idle_cycles_burned_per_day":"20_548_135",
//!    "query_stats":{"num_calls_total":"0","num_instructions_total":"0",
//!     "request_payload_bytes_total":"0","response_payload_bytes_total":"0"}}
//! status C --json, for a caller without authority (exit code 0), and with --public
//!   {"id":"…","controllers":["qjdve-lqaaa-aaaaa-aaaeq-cai"],"module_hash":"0x99f3…"}
//! status of a canister that is not there (exit code 1)
//!   Error: Canister qoctq-giaaa-aaaaa-aaaea-cai was not found.
//! stop C, start C
//!   nothing on either output, also when the canister is stopped or running already
//! snapshot create C --json
//!   {"snapshot_id":"000000000000000000000000000000010101","taken_at_timestamp":1795438176500035266,"total_size_bytes":4194333}
//! snapshot list C --json, oldest first
//!   {"snapshots":[]}
//!   {"snapshots":[{"snapshot_id":"…","taken_at_timestamp":…,"total_size_bytes":…},…]}
//! snapshot download C ID --output DIR
//!   standard output is empty
//! snapshot upload C --input DIR --json
//!   {"snapshot_id":"000000000000000000000000000000020101"}
//! snapshot restore C ID, snapshot delete C ID
//!   standard output is empty; standard error: Restored canister C (C) from snapshot ID
//!                                             Deleted snapshot ID from canister C (C)
//! ```
//!
//! Errors of calls:
//!
//! ```text
//! Error: direct update call failed: The replica returned a rejection error: reject code CanisterError, reject message …, error code Some("IC0512")
//! Error: direct update call failed: An error happened during communication with the replica: error sending request for url (http://…/api/v4/canister/C/call)
//! Error: direct update call failed: Invalid CBOR data, could not deserialize: …
//! Error: direct update call failed: Certificate verification failed.
//! Error: Canister C (C) is currently running. Please stop the canister first with `icp canister stop`.
//! Error: Canister C (C) is still stopping. Please wait for it to fully stop.
//! ```
//!
//! What surprises:
//!
//! - `create` and `restore` first ask for the status, and refuse unless it is Stopped.
//! - No call is repeated but those of `download` and `upload`: these for 60 s, and only when the
//!   connection fails. So a lost reply to the first call of an upload leaves a second snapshot, of
//!   zeros, and the command succeeds.
//! - `download` makes its files at their full size before it has the data: after a failure a file
//!   of the right length may hold zeros, with or without `.download_progress.json`.
//! - `download --resume` needs `metadata.json`, believes it, and does not compare its snapshot
//!   with the one asked for.
//! - `upload` needs a directory that it can write to, and sends what is there of a short file.

mod calls;
mod faults;
mod http;
mod icp;
mod model;
mod server;
mod wire;

pub use candid::Principal;
pub use faults::{Fault, Times};
pub use icp::Icp;
pub use model::{Canister, Snapshot, State, hex, sha256};
pub use server::{Call, Replica};

/// Returns the `n`-th canister id of a subnet.
pub fn canister_id(n: u64) -> Principal {
    let bytes = [n.to_be_bytes().as_slice(), &[1, 1]].concat();
    Principal::from_slice(&bytes)
}
