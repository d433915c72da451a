//! Restore: the way back into a service. A generation's artifacts are uploaded as snapshots, loaded
//! into stopped members (their own or others, as a map says), and these are started and checked.
//!
//! ```text
//! validate → (fetch → upload) each → stop all → load all → start all in reverse → check each
//!          → check all → clean up
//! ```
//!
//! What ends a restore before anything was loaded leaves the members as they were: those that were
//! stopped are started again. After that a half restored deployment must not run: the members stay
//! stopped until the restore was resumed and has loaded all of them.

mod event;
mod map;
pub mod plan;
mod runner;
mod source;
mod state;

pub use event::{Event, Found, Receipt, Validation};
pub use map::parse_map;
pub use plan::Plan;
pub use runner::{MemberReport, Report, Runner};
pub use source::Source;
pub use state::{OperationState, Outcome, RestoreState};

/// The name of the event that a restore's journal begins with.
pub(super) const FIRST_EVENT: &str = "restore-planned";
