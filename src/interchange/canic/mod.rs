//! canic-backup 0.68.2: its backup directories become generations, and generations become backup
//! directories that it accepts.
//!
//! ```text
//! backup-plan.json  backup-execution-journal.json      what was to be done, and was done
//! download-journal.json                                 each artifact: where, how far, its checksum
//! deployment-backup-manifest.json                       the members and what they restore to
//! <canister id>/                                        one artifact each
//! ```
//!
//! A directory without the first two comes from canic-backup's plain download of snapshots and is
//! taken in too. Everything in a directory is somebody else's: lengths are bounded, unknown fields
//! refused, no symlink is followed and nothing outside of the directory is read.

mod agree;
mod check;
mod documents;
mod error;
mod export;
mod facts;
mod import;
mod publish;
mod read;
mod write;

pub use error::{Error, Fault, Lack};
pub use export::{ExportOptions, ExportReport, ExportedMember, export};
pub use import::{ImportOptions, ImportReport, ImportedMember, import};
