//! Maps: which member of a generation goes into which member of a service.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Deserialize;

use super::plan::Error;
use super::source::Source;
use crate::run::facts::Identity;
use crate::store::parse_label;

/// Parses a map of members: a JSON object of texts.
///
/// # Errors
/// It is none, or names a member twice.
pub fn parse_map(json: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let pairs: Pairs = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let mut map = BTreeMap::new();
    for (source, target) in pairs.0 {
        if map.contains_key(&source) {
            return Err(format!("{source} appears twice"));
        }
        map.insert(source, target);
    }
    Ok(map)
}

/// The pairs of an object, all of them: a map would keep the last of equal names and say nothing.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of member and member: {\"source\": \"target\"}")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Checks that the map takes every member to another of its own, and fixed ones to themselves.
pub(super) fn check_mapping(
    mapping: &BTreeMap<String, String>,
    source: &Source,
) -> Result<(), Error> {
    let known: BTreeSet<&str> = source.members.iter().map(|one| one.source.as_str()).collect();
    if let Some(unknown) = mapping.keys().find(|id| !known.contains(id.as_str())) {
        let known = known.into_iter().map(str::to_owned).collect();
        return Err(Error::UnknownSource { source_id: unknown.clone(), known });
    }
    let unmapped: Vec<String> =
        known.iter().filter(|id| !mapping.contains_key(**id)).map(|id| (*id).to_owned()).collect();
    if !unmapped.is_empty() {
        return Err(Error::Unmapped { members: unmapped });
    }
    let mut taken: HashMap<&str, &str> = HashMap::new();
    for (from, to) in mapping {
        parse_label("member", to).map_err(|error| Error::Target(error.to_string()))?;
        if let Some(other) = taken.insert(to, from) {
            let sources = vec![other.to_owned(), from.clone()];
            return Err(Error::SameTarget { target: to.clone(), sources });
        }
    }
    for member in &source.members {
        let target = &mapping[&member.source];
        if member.identity == Identity::Fixed && *target != member.source {
            return Err(Error::Fixed { member: member.source.clone(), target: target.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_an_object_of_texts_without_repetitions() {
        let map = [("a", "x"), ("b", "y")].map(|(from, to)| (from.to_owned(), to.to_owned()));
        assert_eq!(parse_map(br#"{"a": "x", "b": "y"}"#), Ok(BTreeMap::from(map)));
        for bad in [&br#"{"a": "x", "a": "y"}"#[..], br#"["a"]"#, br#"{"a": 1}"#, b"", br#"{"a""#] {
            assert!(parse_map(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
