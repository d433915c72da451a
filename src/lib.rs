//! Strongroom: a content-addressed artifact store for deployment snapshots.
//!
//! The layers, lowest first (a module uses lower layers only; `tests/` holds it):
//!
//! | layer | modules | what |
//! |---|---|---|
//! | L0 | [`digest`], [`limits`], [`clock`], [`values`] | values |
//! | L1 | [`chunker`], [`codec`], [`mod@format`], [`backend`], [`fstree`] | pure bytes; `backend` and `fstree` alone do I/O |
//! | L2 | [`pack`], [`index`], [`log`], [`lease`] | one mechanism each |
//! | L3 | [`store`] | what the store can do |
//! | L4 | [`run`] | plans, journals and executors: a service's snapshots to and from the store |
//! | L4 | [`interchange`] | backup directories of other programs, in and out |
//! | L5 | `cli` | arguments, progress, text and JSON |

#![warn(missing_docs)]

pub mod backend;
pub mod chunker;
pub mod clock;
pub mod codec;
pub mod digest;
pub mod format;
pub mod fstree;
pub mod index;
pub mod interchange;
pub mod lease;
pub mod limits;
pub mod log;
pub mod pack;
pub mod run;
pub mod store;
pub mod values;

#[doc(hidden)]
pub mod cli;
