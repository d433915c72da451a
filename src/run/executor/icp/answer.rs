//! What `icp` prints, read strictly: `icp` 1.5.0 and later.

use serde::Deserialize;
use serde_json::Value;

use crate::run::executor::text::checked_id;
use crate::run::executor::{State, Status, reply};
use crate::run::facts::Snapshot;

/// Longest text of a principal: 29 bytes and a checksum in groups of five characters.
const PRINCIPAL_CHARS_MAX: usize = 63;

/// What `canister status` tells.
#[derive(Debug)]
pub struct CanisterStatus {
    pub status: Status,
    /// Only if the caller may read the status.
    pub controllers: Option<Vec<String>>,
    /// Whether none but controllers may read the status.
    pub only_controllers_read: bool,
}

#[derive(Deserialize)]
struct StatusReply {
    id: String,
    status: Option<String>,
    settings: Option<Settings>,
    module_hash: Option<Value>,
}

#[derive(Deserialize)]
struct Settings {
    controllers: Vec<String>,
    status_visibility: Option<Visibility>,
}

#[derive(Deserialize)]
struct Visibility {
    r#type: String,
}

fn json<'a, T: Deserialize<'a>>(stdout: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(stdout).map_err(|error| error.to_string())
}

/// Reads the reply of `canister status C --json`. Where `member` is a canister's principal, the
/// reply has to be about it.
pub fn status(stdout: &[u8], member: &str) -> Result<CanisterStatus, String> {
    let reply: StatusReply = json(stdout)?;
    if is_canister_id(member) && reply.id != member {
        let other = checked_id("canister", &reply.id).unwrap_or_else(|why| why);
        return Err(format!("it is about {other}, and {member} was asked for"));
    }
    let state = match reply.status.as_deref() {
        Some("Running") => State::Running,
        Some("Stopping") => State::Stopping,
        Some("Stopped") => State::Stopped,
        Some(_) => return Err("its status is none of Running, Stopping and Stopped".to_owned()),
        // Public data: the caller may not read the status.
        None => State::Unknown,
    };
    if reply.status.is_some() != reply.settings.is_some() {
        return Err("it has one of status and settings, and not the other".to_owned());
    }
    let module_hash = reply.module_hash.filter(|hash| !hash.is_null());
    let module_hash = module_hash.map(|hash| reply::sha256("module hash", &hash)).transpose()?;
    let only_controllers_read = reply.settings.as_ref().is_some_and(|settings| {
        settings.status_visibility.as_ref().is_none_or(|seen| seen.r#type == "Controllers")
    });
    let controllers = reply.settings.map(|settings| settings.controllers);
    Ok(CanisterStatus { status: Status { state, module_hash }, controllers, only_controllers_read })
}

#[derive(Deserialize)]
struct SnapshotReply {
    snapshot_id: String,
    taken_at_timestamp: Value,
    total_size_bytes: Value,
}

impl SnapshotReply {
    fn checked(self) -> Result<Snapshot, String> {
        let id = snapshot_id(&self.snapshot_id)?;
        let taken_at = Some(reply::number("taken_at_timestamp", &self.taken_at_timestamp)?);
        let total_bytes = Some(reply::number("total_size_bytes", &self.total_size_bytes)?);
        Ok(Snapshot { id, taken_at, total_bytes })
    }
}

/// Reads the reply of `snapshot create C --json`.
pub fn created(stdout: &[u8]) -> Result<Snapshot, String> {
    json::<SnapshotReply>(stdout)?.checked()
}

/// Reads the reply of `snapshot list C --json`.
pub fn snapshots(stdout: &[u8]) -> Result<Vec<Snapshot>, String> {
    #[derive(Deserialize)]
    struct List {
        snapshots: Vec<SnapshotReply>,
    }
    let list = json::<List>(stdout)?.snapshots;
    let snapshots: Vec<_> =
        list.into_iter().map(SnapshotReply::checked).collect::<Result<_, _>>()?;
    let mut ids: Vec<_> = snapshots.iter().map(|snapshot| &snapshot.id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("snapshot {} is listed twice", pair[0])),
        None => Ok(snapshots),
    }
}

/// Reads the reply of `snapshot upload C --json`, and what an unfinished upload keeps of itself.
pub fn uploaded(text: &[u8]) -> Result<Snapshot, String> {
    #[derive(Deserialize)]
    struct Uploaded {
        snapshot_id: String,
    }
    let id = snapshot_id(&json::<Uploaded>(text)?.snapshot_id)?;
    Ok(Snapshot { id, taken_at: None, total_bytes: None })
}

/// Reads the reply of `identity principal`.
pub fn principal(stdout: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(stdout).map_err(|_| "it is not UTF-8".to_owned())?.trim();
    let is_of_it = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty() || text.len() > PRINCIPAL_CHARS_MAX || !text.chars().all(is_of_it) {
        return Err("it is no principal".to_owned());
    }
    Ok(text.to_owned())
}

/// Checks a snapshot's identity: an even number of lowercase hexadecimal digits, as `icp` takes it.
pub fn snapshot_id(id: &str) -> Result<String, String> {
    let id = checked_id("snapshot", id)?;
    let is_hex = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex && id.len().is_multiple_of(2) {
        Ok(id)
    } else {
        Err(format!("snapshot '{id}': it is not hexadecimal"))
    }
}

/// Says whether a text looks like a canister's principal, which is always 10 bytes: five groups,
/// the last of three characters.
fn is_canister_id(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([5, 5, 5, 5, 3])
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "rrkah-fqaaa-aaaaa-aaaaq-cai";

    #[test]
    fn a_full_status_names_controllers_and_a_public_one_does_not() {
        let full = format!(
            r#"{{"id":"{ID}","status":"Stopping","settings":{{"controllers":["2vxsx-fae"],
            "freezing_threshold":"2_592_000","status_visibility":{{"type":"Controllers"}}}},
            "module_hash":"0x{}","memory_size":"4_194_333"}}"#,
            "0A".repeat(32)
        );
        let known = status(full.as_bytes(), ID).unwrap();
        assert_eq!(known.status.state, State::Stopping);
        assert_eq!(known.status.module_hash, Some("0a".repeat(32)));
        assert_eq!(known.controllers.unwrap(), ["2vxsx-fae"]);
        assert!(known.only_controllers_read);
        let public = full.replace(r#""type":"Controllers""#, r#""type":"Public""#);
        assert!(!status(public.as_bytes(), ID).unwrap().only_controllers_read);

        let public = format!(r#"{{"id":"{ID}","controllers":["a"],"module_hash":null}}"#);
        let known = status(public.as_bytes(), ID).unwrap();
        assert_eq!(known.status, Status { state: State::Unknown, module_hash: None });
        assert!(known.controllers.is_none() && !known.only_controllers_read);
        // By name, the canister's principal is not known.
        assert!(status(public.as_bytes(), "backend").is_ok());
        let other = status(public.as_bytes(), "ryjl3-tyaaa-aaaaa-aaaba-cai").unwrap_err();
        assert!(other.contains("was asked for"), "{other}");
    }

    #[test]
    fn a_status_that_is_not_what_it_should_be_is_refused() {
        for wrong in [
            "",
            "[]",
            "{}",
            "Canister status: Running",
            r#"{"id":"ID","status":"running","settings":{"controllers":[]}}"#,
            r#"{"id":"ID","status":"Running"}"#,
            r#"{"id":"ID","settings":{"controllers":[]}}"#,
            r#"{"id":"ID","status":"Running","settings":{}}"#,
            r#"{"id":"ID","module_hash":"0x12"}"#,
            r#"{"id":7}"#,
        ] {
            let text = wrong.replace("ID", ID);
            assert!(status(text.as_bytes(), ID).is_err(), "{text}");
        }
    }

    #[test]
    fn snapshots_have_an_identity_a_time_and_a_size() {
        let one = r#"{"snapshot_id":"00ff","taken_at_timestamp":1795438176500035266,"total_size_bytes":"4_194_333"}"#;
        let expected = Snapshot {
            id: "00ff".into(),
            taken_at: Some(1_795_438_176_500_035_266),
            total_bytes: Some(4_194_333),
        };
        assert_eq!(created(one.as_bytes()), Ok(expected.clone()));
        let list = format!(r#"{{"snapshots":[{one}]}}"#);
        assert_eq!(snapshots(list.as_bytes()), Ok(vec![expected]));
        assert_eq!(snapshots(br#"{"snapshots":[]}"#), Ok(vec![]));
        let twice = format!(r#"{{"snapshots":[{one},{one}]}}"#);
        assert!(snapshots(twice.as_bytes()).unwrap_err().contains("twice"));
        assert_eq!(uploaded(br#"{"snapshot_id":"0a","more":1}"#).unwrap().id, "0a");
        for id in ["", "0", "0A", "xx", "../00", "-f", "00 00"] {
            let text = one.replace("00ff", id);
            assert!(created(text.as_bytes()).is_err(), "{id}");
            assert!(uploaded(text.as_bytes()).is_err(), "{id}");
        }
        assert!(created(br#"{"snapshot_id":"00"}"#).is_err());
        // What `--quiet` prints after its identities.
        assert!(snapshots(b"00ff\nNo snapshots found\n").is_err());
    }

    #[test]
    fn a_principal_is_one_word() {
        assert_eq!(principal(b"2vxsx-fae\n"), Ok("2vxsx-fae".into()));
        for wrong in [&b""[..], b"Principal: x", b"\xff", &[b'a'; 64]] {
            assert!(principal(wrong).is_err());
        }
    }
}
