//! Arguments of `import` and `export`.

use std::path::PathBuf;

use clap::Subcommand;

use super::{parse_deployment, parse_threads, reference};
use crate::cli::help;
use crate::store::Reference;

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// Whose directory it is.
    #[command(subcommand)]
    pub format: ImportFormat,
}

/// Programs whose backups can be imported.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum ImportFormat {
    /// A finished backup directory of canic-backup 0.68.2
    #[command(after_help = help::IMPORT)]
    Canic(ImportCanic),
}

/// Arguments of `import canic`.
#[derive(Debug, clap::Args)]
pub struct ImportCanic {
    /// The backup directory, which holds deployment-backup-manifest.json
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The deployment that gets a new generation
    #[arg(long, value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub name: String,
    /// Create the store if there is none
    #[arg(long)]
    pub init: bool,
    /// Threads that read, hash and compress [default: one per processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
}

/// Arguments of `export`.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// Who shall be able to read it.
    #[command(subcommand)]
    pub format: ExportFormat,
}

/// Programs whose backup directories can be written.
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum ExportFormat {
    /// A backup directory that canic-backup 0.68.2 accepts
    #[command(after_help = help::EXPORT)]
    Canic(ExportCanic),
}

/// Arguments of `export canic`.
#[derive(Debug, clap::Args)]
pub struct ExportCanic {
    /// The generation
    #[arg(value_name = "REF", value_parser = reference())]
    pub reference: Reference,
    /// Directory to write: new or empty
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Threads that read, decode and write [default: two per processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
}
