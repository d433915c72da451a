//! Backs a directory up into a new store, verifies the store and restores the directory.
//!
//! ```text
//! cargo run --release --example backup_and_restore -- SOURCE STORE TARGET
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use strongroom::backend::LocalBackend;
use strongroom::store::{
    IngestOptions, MemberSource, Progress, Reference, RestoreOptions, Scope, Store, StoreConfig,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(source), Some(place), Some(target)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: backup_and_restore SOURCE STORE TARGET".into());
    };
    let progress = Progress::default();
    let store = Store::create(Arc::new(LocalBackend::create(&place)?), StoreConfig::default())?;

    // Promotion step by step: each state is a type, and only the last one is visible.
    let sources = [MemberSource { member: "files".into(), path: source }];
    let previous = store.previous_artifacts("example", &sources)?;
    let staged = store.ingest(&sources, &previous, &IngestOptions::default(), &progress)?;
    let durable = staged.verify()?.promote()?;
    let report = store.commit("example", durable)?;
    let stats = report.stats;
    println!("read {} bytes, stored {} bytes", stats.bytes_read, stats.bytes_stored);

    let verified = store.verify(Scope::Full, &[], &progress)?;
    println!("verified {} objects: clean: {}", verified.objects_checked, verified.is_clean());

    let tree = store.tree(&Reference::parse(b"example@latest")?)?;
    let restored = store.restore(&tree, &target, &RestoreOptions::default(), &progress)?;
    println!("restored {} files, {} failures", restored.files, restored.failures.len());
    Ok(())
}
