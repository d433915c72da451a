//! A SQLite database of accounts and their history, under updates that fall anywhere.

use crate::rng::Rng;
use crate::{Options, generation_dir, text};
use rusqlite::{Connection, params};
use std::path::Path;
use std::{fs, io};

/// Accounts at full scale; about 200 bytes each, with their index.
const ACCOUNTS_FULL: f64 = 4_000_000.0;
/// Share of the accounts that a generation updates.
const UPDATED_SHARE: f64 = 0.03;

/// Writes all generations: each is a copy of the one before, then changed by SQLite.
pub fn make(options: &Options) -> io::Result<()> {
    for generation in 1..=options.generations {
        let dir = generation_dir(options, generation).join("postings");
        fs::create_dir_all(&dir)?;
        let to = dir.join("ledger.sqlite");
        let rng = &mut Rng::of(&[options.seed, generation]);
        let accounts = ((ACCOUNTS_FULL * options.scale) as u64).max(1_000);
        if generation == 1 {
            create(&to, accounts, rng).map_err(io::Error::other)?;
        } else {
            let before = generation_dir(options, generation - 1).join("postings/ledger.sqlite");
            fs::copy(before, &to)?;
            update(&to, accounts, rng).map_err(io::Error::other)?;
        }
    }
    Ok(())
}

/// Opens the file so that all is one transaction and nothing is synced.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let database = Connection::open(path)?;
    database.execute_batch(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         PRAGMA cache_size = -262144; BEGIN;",
    )?;
    Ok(database)
}

fn create(path: &Path, accounts: u64, rng: &mut Rng) -> rusqlite::Result<()> {
    let database = open(path)?;
    database.execute_batch(
        "CREATE TABLE account (id INTEGER PRIMARY KEY, owner BLOB, balance INTEGER, note TEXT);
         CREATE TABLE history (id INTEGER PRIMARY KEY, account INTEGER, delta INTEGER,
                               at INTEGER, note TEXT);
         CREATE INDEX account_owner ON account (owner);",
    )?;
    let mut insert = database.prepare("INSERT INTO account VALUES (?, ?, ?, ?)")?;
    for id in 0..accounts {
        let mut owner = [0; 20];
        rng.fill(&mut owner);
        let mut note = String::new();
        let note_bytes = 40 + rng.index(80);
        text::sentence(rng, note_bytes, &mut note);
        insert.execute(params![id as i64, &owner[..], rng.below(1 << 32) as i64, note])?;
    }
    drop(insert);
    database.execute_batch("COMMIT")
}

/// Books on accounts anywhere in the table, and writes each booking down.
fn update(path: &Path, accounts: u64, rng: &mut Rng) -> rusqlite::Result<()> {
    let database = open(path)?;
    let mut book = database.prepare("UPDATE account SET balance = balance + ? WHERE id = ?")?;
    let mut note =
        database.prepare("INSERT INTO history (account, delta, at, note) VALUES (?, ?, ?, ?)")?;
    for at in 0..(accounts as f64 * UPDATED_SHARE) as i64 {
        let (id, delta) = (rng.below(accounts) as i64, rng.below(100_000) as i64 - 50_000);
        let mut words = String::new();
        text::sentence(rng, 30, &mut words);
        book.execute(params![delta, id])?;
        note.execute(params![id, delta, 1_700_000_000 + at, words])?;
    }
    drop((book, note));
    database.execute_batch("COMMIT")
}
