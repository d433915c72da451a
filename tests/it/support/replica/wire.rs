//! The Internet Computer's HTTP bodies: requests out of CBOR, certificates into it.

use blst::min_sig::SecretKey;
use candid::Principal;
use ciborium::tag::Required;
use ciborium::value::Value;
use ic_certification::{AsHashTree, Certificate, NestedTree};
use ic_representation_independent_hash::{Value as Hashed, representation_independent_hash};
use serde::Serialize;
use strongroom::clock::UnixNanos;

use super::calls::Reply;

const SIGNATURE_DST: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";
/// What stands before the 96 bytes of a BLS12-381 key in DER.
const KEY_DER_PREFIX: [u8; 37] = [
    0x30, 0x81, 0x82, 0x30, 0x1d, 0x06, 0x0d, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0xdc, 0x7c, 0x05,
    0x03, 0x01, 0x02, 0x01, 0x06, 0x0c, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0xdc, 0x7c, 0x05, 0x03,
    0x02, 0x01, 0x03, 0x61, 0x00,
];
/// CBOR's tag for "this is CBOR".
const SELF_DESCRIBED: u64 = 55799;

/// The certified state: paths to leaves.
pub type Tree = NestedTree<Vec<u8>, Vec<u8>>;

/// What a client asks for.
pub enum Request {
    Call { id: [u8; 32], sender: Principal, method: String, arg: Vec<u8> },
    ReadState { paths: Vec<Vec<Vec<u8>>> },
}

impl Request {
    /// Decodes an envelope. (Its signature is not looked at: callers are anonymous.)
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        let envelope: Value = ciborium::from_reader(body).map_err(|error| error.to_string())?;
        let envelope = match envelope {
            Value::Tag(SELF_DESCRIBED, inner) => *inner,
            other => other,
        };
        let content = field(&envelope, "content").ok_or("no content")?;
        let text = |name| field(content, name).and_then(Value::as_text);
        let bytes = |name| field(content, name).and_then(Value::as_bytes).cloned();
        match text("request_type") {
            Some("call") => {
                let sender = bytes("sender").ok_or("no sender")?;
                Ok(Self::Call {
                    id: request_id(content)?,
                    sender: Principal::try_from_slice(&sender).map_err(|e| e.to_string())?,
                    method: text("method_name").ok_or("no method_name")?.to_owned(),
                    arg: bytes("arg").ok_or("no arg")?,
                })
            }
            Some("read_state") => {
                let paths = field(content, "paths").and_then(Value::as_array).ok_or("no paths")?;
                let path = |path: &Value| {
                    let labels = path.as_array()?.iter();
                    labels.map(|label| label.as_bytes().cloned()).collect::<Option<Vec<_>>>()
                };
                let paths = paths.iter().map(path).collect::<Option<_>>().ok_or("odd paths")?;
                Ok(Self::ReadState { paths })
            }
            other => Err(format!("request type {other:?}")),
        }
    }
}

fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = map.as_map()?.iter();
    fields.filter(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value).next()
}

fn request_id(content: &Value) -> Result<[u8; 32], String> {
    let fields = content.as_map().ok_or("content is no map")?.iter();
    let hashed = fields.map(|(key, value)| {
        let key = key.as_text().ok_or("a key is no text")?.to_owned();
        Ok((key, hashed(value)?))
    });
    let hashed: Vec<_> = hashed.collect::<Result<_, String>>()?;
    Ok(representation_independent_hash(&hashed))
}

fn hashed(value: &Value) -> Result<Hashed, String> {
    Ok(match value {
        Value::Bytes(bytes) => Hashed::Bytes(bytes.clone()),
        Value::Text(text) => Hashed::String(text.clone()),
        Value::Integer(number) => {
            Hashed::Number(u64::try_from(*number).map_err(|error| error.to_string())?)
        }
        Value::Array(items) => Hashed::Array(items.iter().map(hashed).collect::<Result<_, _>>()?),
        other => return Err(format!("{other:?} in a request")),
    })
}

/// The key that signs everything, as the root of the network.
pub struct Key(SecretKey);

impl Key {
    pub fn new() -> Self {
        Self(SecretKey::key_gen(&[42; 32], &[]).unwrap())
    }

    /// Returns the public key in DER.
    pub fn public_der(&self) -> Vec<u8> {
        [KEY_DER_PREFIX.as_slice(), &self.0.sk_to_pk().to_bytes()].concat()
    }

    /// Certifies `tree` with the present time, or with a signature for another one.
    pub fn certify(&self, mut tree: Tree, is_forged: bool) -> Vec<u8> {
        tree.insert(&[b"time".to_vec()], leb128(UnixNanos::now().0 as u64));
        let tree = tree.as_hash_tree();
        let mut message = b"\x0dic-state-root".to_vec();
        message.extend_from_slice(&tree.digest());
        message[20] ^= u8::from(is_forged);
        let signature = self.0.sign(&message, SIGNATURE_DST, &[]).to_bytes().to_vec();
        cbor(&Certificate { tree, signature, delegation: None })
    }
}

/// Puts the outcome of a call into the tree.
pub fn insert_outcome(tree: &mut Tree, id: &[u8; 32], outcome: &Reply) {
    let mut insert = |name: &str, value: Vec<u8>| {
        tree.insert(&[b"request_status".to_vec(), id.to_vec(), name.into()], value);
    };
    match outcome {
        Ok(reply) => {
            insert("status", b"replied".to_vec());
            insert("reply", reply.clone());
        }
        Err(rejection) => {
            insert("status", b"rejected".to_vec());
            insert("reject_code", leb128(rejection.code.into()));
            insert("reject_message", rejection.message.clone().into_bytes());
            insert("error_code", rejection.error_code.into());
        }
    }
}

fn leb128(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    leb128::write::unsigned(&mut bytes, number).unwrap();
    bytes
}

/// Encodes as self-described CBOR.
pub fn cbor(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(&Required::<_, SELF_DESCRIBED>(value), &mut bytes).unwrap();
    bytes
}

/// Encodes a map of texts to values.
pub fn cbor_map<const N: usize>(fields: [(&str, Value); N]) -> Vec<u8> {
    cbor(&Value::Map(fields.map(|(key, value)| (Value::from(key), value)).into()))
}
