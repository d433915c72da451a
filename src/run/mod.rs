//! Run: making a service's snapshots durable, and bringing them back into the service.
//!
//! ```text
//! config → inventory → plan → preflight → stop → create → start → download → verify → finalize
//! generation → restore plan → upload → stop → load → start → check
//! ```
//!
//! A run follows a plan through an [`Executor`](executor::Executor) and keeps a journal in the
//! store, so that any step may be killed and the run resumed. The store knows nothing of runs; what
//! a run knows of a deployment is kept in its generation's manifest as [`facts`].

pub mod any;
pub mod config;
mod course;
mod error;
pub mod event;
pub mod executor;
pub mod facts;
pub mod inventory;
pub mod journal;
pub mod ledger;
pub mod plan;
pub mod restore;
mod roots;
pub mod runner;
mod service;
pub mod staging;
pub mod state;
pub mod topology;
mod versioned;

pub use roots::roots;
