//! JSON that names its schema: of another schema, nothing but the name is read.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Reads `json` if it is of `schema`, otherwise the name of the schema that it is of.
///
/// # Errors
/// It is no JSON, names no schema, or is not what `schema` says.
pub(super) fn parse<T: DeserializeOwned>(
    json: &[u8],
    schema: &str,
) -> serde_json::Result<Result<T, String>> {
    #[derive(Deserialize)]
    struct Head {
        schema: String,
    }
    let head: Head = serde_json::from_slice(json)?;
    if head.schema != schema {
        return Ok(Err(head.schema));
    }
    serde_json::from_slice(json).map(Ok)
}
