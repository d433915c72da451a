//! What the tests need of Markdown: headings, tables and dumps of `store-format.md`.

use std::path::PathBuf;

/// A table and the heading that it stands under.
#[derive(Clone, Debug)]
pub struct Table {
    pub heading: String,
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns the cell of a row by the name of its column.
    pub fn cell<'t>(&self, row: &'t [String], column: &str) -> &'t str {
        let at = self.columns.iter().position(|name| name == column);
        &row[at.unwrap_or_else(|| panic!("{}: no column {column}", self.heading))]
    }
}

pub fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("store-format.md")
}

pub fn text() -> String {
    std::fs::read_to_string(path()).unwrap()
}

/// Returns the headings, without their marks.
pub fn headings(text: &str) -> Vec<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings.map(|line| line.trim_start_matches('#').trim().to_owned()).collect()
}

/// Returns the lines outside of fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// Returns all tables.
pub fn tables(text: &str) -> Vec<Table> {
    let (mut tables, mut heading, mut inside) = (Vec::<Table>::new(), String::new(), false);
    for line in prose(text) {
        if line.starts_with('#') {
            line.trim_start_matches('#').trim().clone_into(&mut heading);
        }
        let cells = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
        let Some(cells) = cells else {
            inside = false;
            continue;
        };
        let cells: Vec<String> = cells.split('|').map(|cell| cell.trim().to_owned()).collect();
        if !inside {
            tables.push(Table { heading: heading.clone(), columns: cells, rows: Vec::new() });
        } else if !cells.iter().all(|cell| cell == "---") {
            let table = tables.last_mut().unwrap();
            assert_eq!(cells.len(), table.columns.len(), "cells in {line}");
            table.rows.push(cells);
        }
        inside = true;
    }
    tables
}

/// Returns the table with these columns under a heading.
pub fn table(text: &str, heading: &str, columns: &str) -> Table {
    let found = |table: &Table| table.heading == heading && table.columns.join(" | ") == columns;
    tables(text).into_iter().find(found).unwrap_or_else(|| panic!("no table {heading}: {columns}"))
}

/// Returns the dumps: name of the golden object, and the text of the block.
pub fn dumps(text: &str) -> Vec<(&str, &str)> {
    let mut dumps = Vec::new();
    for part in text.split("```hex golden/").skip(1) {
        let (name, rest) = part.split_once(".hex\n").unwrap();
        let (body, _) = rest.split_once("```\n").unwrap();
        dumps.push((name, body));
    }
    dumps
}

/// Returns the text with its dumps replaced by what `dump` says.
pub fn with_dumps(text: &str, dump: impl Fn(&str) -> String) -> String {
    let mut parts = text.split("```hex golden/");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(".hex\n").unwrap();
        let (_, rest) = rest.split_once("```\n").unwrap();
        out += "```hex golden/";
        out += name;
        out += ".hex\n";
        out += &dump(name);
        out += "```\n";
        out += rest;
    }
    out
}

/// Returns what stands between the first pair of backticks.
pub fn code(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}
