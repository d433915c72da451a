//! Words, sentences and lines that look like source code.

use crate::rng::Rng;
use std::fmt::Write as _;

/// Words of which identifiers, memos and sentences are made.
const WORDS: [&str; 96] = [
    "account",
    "action",
    "address",
    "amount",
    "apply",
    "archive",
    "array",
    "asset",
    "async",
    "balance",
    "batch",
    "binary",
    "block",
    "bucket",
    "buffer",
    "cache",
    "callback",
    "canister",
    "change",
    "channel",
    "chunk",
    "client",
    "close",
    "codec",
    "collect",
    "column",
    "commit",
    "config",
    "context",
    "controller",
    "convert",
    "count",
    "create",
    "cursor",
    "cycle",
    "data",
    "default",
    "delete",
    "deposit",
    "digest",
    "element",
    "encode",
    "entry",
    "error",
    "event",
    "fetch",
    "field",
    "filter",
    "format",
    "frame",
    "handle",
    "header",
    "index",
    "insert",
    "invoice",
    "item",
    "key",
    "ledger",
    "length",
    "limit",
    "member",
    "memory",
    "message",
    "method",
    "module",
    "node",
    "object",
    "offset",
    "option",
    "order",
    "owner",
    "packet",
    "page",
    "parse",
    "payment",
    "policy",
    "query",
    "queue",
    "record",
    "refund",
    "render",
    "replica",
    "request",
    "result",
    "route",
    "schema",
    "session",
    "settle",
    "signal",
    "snapshot",
    "status",
    "stream",
    "subnet",
    "transfer",
    "update",
    "value",
];

/// Picks one word; common words come up more often, as in real text.
pub fn word(rng: &mut Rng) -> &'static str {
    let skewed = rng.unit() * rng.unit();
    WORDS[(skewed * WORDS.len() as f64) as usize]
}

/// Appends words until `out` has grown by at least `bytes`.
pub fn sentence(rng: &mut Rng, bytes: usize, out: &mut String) {
    let end = out.len() + bytes;
    while out.len() < end {
        out.push_str(word(rng));
        out.push(' ');
    }
}

/// Makes an identifier such as `parseLedgerEntry`.
pub fn identifier(rng: &mut Rng) -> String {
    let mut name = String::from(word(rng));
    for _ in 0..rng.below(3) {
        let next = word(rng);
        name.push(next.as_bytes()[0].to_ascii_uppercase() as char);
        name.push_str(&next[1..]);
    }
    name
}

/// Appends the line of source code that belongs to `seed`.
pub fn source_line(seed: u64, out: &mut String) {
    let rng = &mut Rng::of(&[seed]);
    let indent = "  ".repeat(rng.index(4));
    let (a, b, c) = (identifier(rng), identifier(rng), word(rng));
    let n = rng.below(1000);
    let written = match rng.below(12) {
        0 => writeln!(out, "{indent}import {{ {a} }} from './{c}/{b}.js';"),
        1 => writeln!(out, "{indent}export function {a}({b}, {c}) {{"),
        2 => writeln!(out, "{indent}if ({a}.{c} !== {n}) return {b}({a});"),
        3 => writeln!(out, "{indent}// The {c} of {a} is kept until {b} is done."),
        4 => writeln!(out, "{indent}const {a} = await {b}.{c}({{ limit: {n} }});"),
        5 => writeln!(out, "{indent}throw new TypeError(`{a}: expected {c}, found ${{{b}}}`);"),
        6 => writeln!(out, "{indent}{a}: {b}<{c}>;"),
        7 => writeln!(out, "{indent}return {a} ?? {b};"),
        8 => writeln!(out, "{indent} * @param {{{c}}} {a} - The {b} that is read."),
        9 => writeln!(out, "{indent}{a}.push({b}[{n}], '{c}');"),
        10 => writeln!(out, "{indent}}}"),
        _ => writeln!(out),
    };
    written.expect("writing to a string cannot fail");
}
