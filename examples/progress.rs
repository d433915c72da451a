//! Watches a backup from another thread, and stops it after a while.
//!
//! ```text
//! cargo run --release --example progress -- SOURCE STORE [MILLISECONDS]
//! ```
//!
//! Without a time the backup runs to its end. What an interrupted backup has stored is found
//! again: run the same command a second time, and it goes on from there.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use strongroom::backend::LocalBackend;
use strongroom::store::{
    self, BackupReport, IngestOptions, MemberSource, Progress, Store, StoreConfig,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(source), Some(place)) = (args.next(), args.next()) else {
        return Err("usage: progress SOURCE STORE [MILLISECONDS]".into());
    };
    let limit = match args.next() {
        Some(text) => Some(Duration::from_millis(text.to_string_lossy().parse()?)),
        None => None,
    };
    let store = open_or_create(place.into())?;
    let progress = Progress::default();
    let result = thread::scope(|scope| {
        // Dropping the sender, however the backup ends, tells the watcher to go home.
        let (ended, end) = mpsc::channel::<()>();
        scope.spawn(|| watch(&progress, end, limit));
        let result = backup(&store, source.into(), &progress);
        drop(ended);
        result
    });
    match result {
        Ok(report) => {
            let generation = report.generation.ok_or("the source cannot be read")?;
            let name = format!("{}@{}", generation.deployment, generation.number);
            println!("{name}: {} bytes of chunks were new", report.stats.bytes_new);
        }
        Err(store::Error::Interrupted) => println!("interrupted: nothing became visible"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn open_or_create(place: PathBuf) -> Result<Store, Box<dyn Error>> {
    if place.exists() {
        return Ok(Store::open(Arc::new(LocalBackend::open(&place)?))?);
    }
    Ok(Store::create(Arc::new(LocalBackend::create(&place)?), StoreConfig::default())?)
}

fn backup(store: &Store, path: PathBuf, progress: &Progress) -> Result<BackupReport, store::Error> {
    let sources = [MemberSource { member: "files".into(), path }];
    store.backup("example", &sources, &IngestOptions::default(), progress)
}

/// Prints the counters until the backup ends, and interrupts it when the time is over.
fn watch(progress: &Progress, end: Receiver<()>, limit: Option<Duration>) {
    let started = Instant::now();
    while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(Duration::from_millis(50)) {
        let (done, total) = (&progress.bytes, &progress.bytes_total);
        let (done, total) = (done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
        println!("{:>6} ms: {done} of {total} bytes so far", started.elapsed().as_millis());
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            progress.interrupt();
        }
    }
}
