//! What is asked of a tool: tenant, audience, tool, action, resource and every argument, and the hashes that bind a
//! proof to them (law 5).

use std::collections::BTreeMap;
use std::fmt;

use hmac::Mac as _;
use minicbor::{Decoder, Encoder};
use sha2::{Digest as _, Sha256};

use crate::claims::{Audience, DataClass, Name, Resource, Unit};
use crate::ids::Tenant;
use crate::wire::{Canonical, Enc, Malformed};

/// The value of an argument. No floats: a decimal travels as text, an amount of money as [`Value::Quantity`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Present and nothing; not the same as absent.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer within i64.
    Int(i64),
    /// An integer in minor units with its unit: 50000 `EUR` is 500.00 euros. In JSON `{"minor": 50000, "unit": "EUR"}`.
    Quantity {
        /// The number of minor units.
        minor: i64,
        /// The unit; not empty.
        unit: Unit,
    },
    /// Exact UTF-8: nothing is normalised.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A map; in JSON an object.
    Map(BTreeMap<String, Value>),
}

impl std::fmt::Display for Value {
    /// An amount in its decimals, anything else as JSON.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Quantity { minor, unit } => write!(f, "{}", crate::claims::Amount(*minor, unit)),
            other => write!(f, "{}", other.to_json()),
        }
    }
}

/// The arguments of a call, by name. At most 64, at most 16 KiB, nested at most 8 deep.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Arguments(BTreeMap<Name, Value>);

impl Arguments {
    /// Most arguments.
    pub const MAX: usize = 64;
    /// Longest JSON text or CBOR form, in bytes.
    pub const MAX_BYTES: usize = 16 * 1024;
    const MAX_NESTING: usize = 8;
    const MAX_ELEMENTS: usize = 1024;

    /// Reads a JSON object. Refuses floats, integers beyond i64, duplicate keys at any depth, and names that are not [`Name`]s.
    pub fn from_json(json: &[u8]) -> Result<Self, Malformed> {
        if json.len() > Self::MAX_BYTES {
            return Err(Malformed(format!("arguments are {} bytes long, expected at most {}", json.len(), Self::MAX_BYTES).into()));
        }
        let value: Value = serde_json::from_slice(json)
            .map_err(|_| Malformed::new("expected arguments as a JSON object without floats, duplicate keys or integers beyond 64 bits"))?;
        let Value::Map(map) = value else { return Err(Malformed::new("expected arguments as a JSON object")) };
        let mut out = Self::default();
        for (name, value) in map {
            out.insert(name.parse()?, value)?;
        }
        Ok(out)
    }

    /// Adds an argument.
    pub fn insert(&mut self, name: Name, value: Value) -> Result<(), Malformed> {
        // What is taken here must be readable from a receipt again: one that nobody can read would stop all behind it.
        if self.0.len() >= Self::MAX || depth(&value) > Self::MAX_NESTING || widest(&value) > Self::MAX_ELEMENTS {
            return Err(Malformed::new("expected at most 64 arguments, nested at most 8 deep, of at most 1024 elements each"));
        }
        if self.0.insert(name, value).is_some() {
            return Err(Malformed::new("argument is given twice"));
        }
        Ok(())
    }

    /// The value of an argument, if it is there.
    pub fn find(&self, name: &Name) -> Option<&Value> {
        self.0.get(name)
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Name, &Value)> {
        self.0.iter()
    }

    /// The JSON object that [`Arguments::from_json`] reads.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::Value::Object(self.0.iter().map(|(n, v)| (n.to_string(), v.to_json())).collect())
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::List(l) => 1 + l.iter().map(depth).max().unwrap_or(0),
        Value::Map(m) => 1 + m.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}

/// The most elements in one list or map of a value.
fn widest(value: &Value) -> usize {
    match value {
        Value::List(l) => l.iter().map(widest).max().unwrap_or(0).max(l.len()),
        Value::Map(m) => m.values().map(widest).max().unwrap_or(0).max(m.len()),
        _ => 0,
    }
}

impl Value {
    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(n) => (*n).into(),
            Self::Quantity { minor, unit } => serde_json::json!({ "minor": minor, "unit": unit }),
            Self::Text(t) => t.as_str().into(),
            Self::List(l) => l.iter().map(Self::to_json).collect(),
            Self::Map(m) => serde_json::Value::Object(m.iter().map(|(k, v)| (k.clone(), v.to_json())).collect()),
        }
    }

    fn read_nested(d: &mut Decoder<'_>, nesting: usize) -> Result<Self, Malformed> {
        use minicbor::data::Type;
        if nesting > Arguments::MAX_NESTING {
            return Err(Malformed::new("expected a value nested at most 8 deep"));
        }
        Ok(match d.datatype()? {
            Type::Null => {
                d.null()?;
                Self::Null
            }
            Type::Bool => Self::Bool(d.bool()?),
            Type::String => Self::Text(d.str()?.to_owned()),
            Type::Tag => {
                if d.tag()?.as_u64() != QUANTITY_TAG {
                    return Err(Malformed::new("expected a quantity"));
                }
                crate::wire::array(d, 2)?;
                Self::Quantity { minor: d.i64()?, unit: unit(d.str()?)? }
            }
            Type::Array => {
                Self::List((0..crate::wire::list(d, Arguments::MAX_ELEMENTS)?).map(|_| Self::read_nested(d, nesting + 1)).collect::<Result<_, _>>()?)
            }
            Type::Map => {
                let n = d.map()?.filter(|n| *n <= 1024).ok_or(Malformed::new("expected a map of at most 1024 entries"))?;
                Self::Map((0..n).map(|_| Ok((d.str()?.to_owned(), Self::read_nested(d, nesting + 1)?))).collect::<Result<_, Malformed>>()?)
            }
            _ => Self::Int(d.i64()?),
        })
    }
}

fn unit(text: &str) -> Result<Unit, Malformed> {
    if text.is_empty() { Err(Malformed::new("expected a quantity with a unit")) } else { text.parse() }
}

impl Canonical for Value {
    const MAX_BYTES: usize = Arguments::MAX_BYTES;

    fn write(&self, e: &mut Enc) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        match self {
            Self::Null => e.null()?,
            Self::Bool(b) => e.bool(*b)?,
            Self::Int(n) => e.i64(*n)?,
            Self::Quantity { minor, unit } => e.tag(minicbor::data::Tag::new(QUANTITY_TAG))?.array(2)?.i64(*minor)?.str(unit.as_str())?,
            Self::Text(t) => e.str(t)?,
            Self::List(l) => {
                e.array(l.len() as u64)?;
                l.iter().try_for_each(|v| v.write(e))?;
                e
            }
            Self::Map(m) => {
                // RFC 8949 §4.2.1 sorts keys by their encoding: shorter heads first.
                let mut keys: Vec<_> = m.iter().collect();
                keys.sort_unstable_by_key(|(k, _)| (k.len(), k.as_bytes()));
                e.map(m.len() as u64)?;
                for (k, v) in keys {
                    e.str(k)?;
                    v.write(e)?;
                }
                e
            }
        };
        Ok(())
    }

    fn read(d: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Self::read_nested(d, 1)
    }
}

/// Everything a proof is for.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The tenant of the resource, as the tool knows it: not read from the token (law 1).
    pub tenant: &'a Tenant,
    /// The service and instance that decides.
    pub audience: &'a Audience,
    /// The tool.
    pub tool: &'a Name,
    /// The action.
    pub action: &'a Name,
    /// The resource.
    pub resource: &'a Resource,
    /// All arguments.
    pub args: &'a Arguments,
    /// The class of data touched, by the tool's own labels; not part of what the agent signs.
    pub data_class: DataClass,
}

impl Call<'_> {
    /// The call hash under a seed: what a proof signs.
    pub fn hash(&self, seed: &Seed) -> [u8; 32] {
        let commitments = self.args.iter().map(|(name, value)| (name, commit(&seed.salt(name), name, value)));
        call_hash(self.tenant, self.audience, self.tool, self.action, self.resource, commitments)
    }

    /// The action hash: the same without seed and instance (approvals, idempotency). It can be guessed: leaves hold it salted.
    pub fn action_hash(&self) -> [u8; 32] {
        let mut e = Encoder::new(Vec::new());
        head(&mut e, self.tenant, self.audience.service().as_str(), self.tool, self.action, self.resource, self.args.0.len());
        for (name, value) in self.args.iter() {
            _ = e.array(2).and_then(|e| e.str(name.as_str())).map(|_| ());
            _ = value.write(&mut e);
        }
        Sha256::new_with_prefix(b"procura-action/1\0").chain_update(e.into_writer()).finalize().into()
    }
}

/// The call hash from commitments, sorted by name: a receipt re-derives it without the arguments it does not disclose.
pub fn call_hash<'n>(
    tenant: &Tenant,
    audience: &Audience,
    tool: &Name,
    action: &Name,
    resource: &Resource,
    commitments: impl ExactSizeIterator<Item = (&'n Name, [u8; 32])>,
) -> [u8; 32] {
    let mut e = Encoder::new(Vec::with_capacity(256));
    head(&mut e, tenant, audience.as_str(), tool, action, resource, commitments.len());
    for (name, commitment) in commitments {
        _ = e.array(2).and_then(|e| e.str(name.as_str())).and_then(|e| e.bytes(&commitment)).map(|_| ());
    }
    Sha256::new_with_prefix(b"procura-call/1\0").chain_update(e.into_writer()).finalize().into()
}

/// Writing into a `Vec` cannot fail, so the results say nothing.
fn head(e: &mut Enc, tenant: &Tenant, audience: &str, tool: &Name, action: &Name, resource: &Resource, args: usize) {
    _ = (|| {
        e.array(6)?.str(tenant.as_str())?.str(audience)?.str(tool.as_str())?.str(action.as_str())?;
        e.array(resource.segments().len() as u64)?;
        resource.segments().iter().try_for_each(|s| e.str(s).map(|_| ()))?;
        e.array(args as u64)?;
        Ok::<_, minicbor::encode::Error<std::convert::Infallible>>(())
    })();
}

/// The commitment to one argument: SHA-256(tag, salt, name, value).
pub fn commit(salt: &[u8; 32], name: &Name, value: &Value) -> [u8; 32] {
    // A name is at most 48 bytes: one byte of length keeps name and value apart.
    let length = u8::try_from(name.as_str().len()).unwrap_or(u8::MAX);
    Sha256::new_with_prefix(b"procura-argument/1\0")
        .chain_update(salt)
        .chain_update([length])
        .chain_update(name.as_str())
        .chain_update(value.to_bytes())
        .finalize()
        .into()
}

/// The secret from which the salts of all arguments of one call are made. Travels beside the proof, never into a receipt.
#[derive(Clone, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A seed of these random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The bytes, for the wire.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
    /// The salt of one argument: disclosing it discloses nothing of the others.
    pub fn salt(&self, name: &Name) -> [u8; 32] {
        // HMAC takes a key of any length.
        let Ok(mut mac) = hmac::Hmac::<Sha256>::new_from_slice(&self.0) else { return [0; 32] };
        mac.update(name.as_str().as_bytes());
        mac.finalize().into_bytes().into()
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

// Strict by hand: serde_json's own value keeps the last of two equal keys and turns big integers into floats.
impl<'de> serde::Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> serde::de::Visitor<'de> for V {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("null, a truth value, an integer, a text, a list or an object")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
                Ok(Value::Bool(b))
            }
            fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
                Ok(Value::Int(n))
            }
            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Value, E> {
                i64::try_from(n).map(Value::Int).map_err(|_| E::custom("integer beyond 64 bits"))
            }
            fn visit_str<E>(self, s: &str) -> Result<Value, E> {
                Ok(Value::Text(s.to_owned()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
                let mut out = Vec::new();
                while let Some(v) = seq.next_element()? {
                    out.push(v);
                }
                Ok(Value::List(out))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut out = BTreeMap::new();
                while let Some((k, v)) = map.next_entry::<String, Value>()? {
                    if out.insert(k, v).is_some() {
                        return Err(serde::de::Error::custom("key occurs twice"));
                    }
                }
                Ok(match (out.len(), out.get("minor"), out.get("unit")) {
                    (2, Some(Value::Int(minor)), Some(Value::Text(text))) => {
                        Value::Quantity { minor: *minor, unit: unit(text).map_err(serde::de::Error::custom)? }
                    }
                    _ => Value::Map(out),
                })
            }
        }
        d.deserialize_any(V)
    }
}

/// First-come private tag for a quantity; registered nowhere, signed everywhere.
const QUANTITY_TAG: u64 = 1_347_571_539;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_strictly() {
        let args = Arguments::from_json(br#"{"amount":{"minor":12000,"unit":"EUR"},"note":"caf\u00e9","list":[1,null,true,{"k":"v"}]}"#).unwrap();
        assert_eq!(Arguments::from_json(args.to_json().to_string().as_bytes()).unwrap(), args);
        assert_eq!(args.find(&"amount".parse().unwrap()), Some(&Value::Quantity { minor: 12_000, unit: "EUR".parse().unwrap() }));
        for (_, value) in args.iter() {
            assert_eq!(&Value::from_bytes(&value.to_bytes()).unwrap(), value);
        }
        for bad in [
            r#"{"a":1.0}"#,
            r#"{"a":1e2}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"b":1,"b":2}}"#,
            r#"{"a":9223372036854775808}"#,
            r#"{"A":1}"#,
            "[]",
            "",
            "{}x",
            r#"{"a":{"minor":1,"unit":""}}"#,
            r#"{"a":[[[[[[[[1]]]]]]]]}"#,
        ] {
            assert!(Arguments::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Arguments::from_json(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn what_is_taken_as_json_can_be_read_from_its_bytes_again() {
        let list = |n: usize| format!(r#"{{"a":[[{}]]}}"#, vec!["1"; n].join(","));
        let map = |n: usize| format!(r#"{{"a":{{{}}}}}"#, (0..n).map(|i| format!(r#""{i}":1"#)).collect::<Vec<_>>().join(","));
        for json in [list(1024), map(1024)] {
            let args = Arguments::from_json(json.as_bytes()).unwrap();
            for (_, value) in args.iter() {
                assert_eq!(&Value::from_bytes(&value.to_bytes()).unwrap(), value);
            }
        }
        for json in [list(1025), map(1025)] {
            assert!(Arguments::from_json(json.as_bytes()).is_err());
        }
    }

    #[test]
    fn the_call_hash_tells_absent_from_null_and_every_part_from_every_other() {
        let (tenant, audience, tool, action, resource) =
            ("acme".parse().unwrap(), "payments/1".parse().unwrap(), "payments".parse().unwrap(), "transfer".parse().unwrap(), "acct/eu".parse().unwrap());
        let (other_tenant, other_audience, other_name, other_resource) =
            ("acme2".parse().unwrap(), "payments/2".parse().unwrap(), "other".parse().unwrap(), "acct/us".parse().unwrap());
        let args = |json: &str| Arguments::from_json(json.as_bytes()).unwrap();
        let (none, null, one, text) = (args("{}"), args(r#"{"a":null}"#), args(r#"{"a":1}"#), args(r#"{"a":"1"}"#));
        let call =
            Call { tenant: &tenant, audience: &audience, tool: &tool, action: &action, resource: &resource, args: &none, data_class: DataClass::Restricted };
        let seed = Seed::from_bytes([1; 32]);
        let calls = [
            call,
            Call { args: &null, ..call },
            Call { args: &one, ..call },
            Call { args: &text, ..call },
            Call { tenant: &other_tenant, ..call },
            Call { audience: &other_audience, ..call },
            Call { tool: &other_name, ..call },
            Call { action: &other_name, ..call },
            Call { resource: &other_resource, ..call },
        ];
        let hashes: std::collections::HashSet<_> = calls.iter().map(|c| c.hash(&seed)).collect();
        assert_eq!(hashes.len(), calls.len());
        assert_ne!(calls[2].hash(&Seed::from_bytes([2; 32])), calls[2].hash(&seed));
        // Another instance, the same action: an approval is for what is done, not for where.
        assert_eq!(calls[5].action_hash(), call.action_hash());
        assert_eq!(Call { data_class: DataClass::Public, ..call }.hash(&seed), call.hash(&seed));
    }
}
