//! Operations and records of key/value exchange.
//!
//! ```text
//! 0  u8 operation, u8 pool, u16 0
//! 4  set:        record
//!    delete:     u32 bytes of the key, key[512]
//!    enumerate:  u32 index, record
//! record: u32 type, u32 bytes of the key, u32 bytes of the value, key[512], value[2048]; text is UTF-16 with its zero counted
//! 2  addresses:  u16 adapter id[128], u8 family, u8 DHCP, u16 ip[1024], subnet[1024], gateway[512], DNS[1024]
//! ```

use crate::ServiceError;
use crate::text::{text_of, utf16_field};

const SET: u8 = 1;
const DELETE: u8 = 2;
const ENUMERATE: u8 = 3;
const GET_ADDRESSES: u8 = 4;

const KEY_UNITS: usize = 256;
const VALUE_UNITS: usize = 1024;
const ADAPTER_UNITS: usize = 128;
const TYPE_TEXT: u32 = 1;
const TYPE_U32: u32 = 4;
const TYPE_U64: u32 = 8;
/// Both kinds of addresses are asked for.
const ANY_FAMILY: u8 = 0;

/// Where keys live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Written by the host for the guest's programs.
    External,
    /// Written by the guest's programs for the host.
    Guest,
    /// What the guest's daemon says about its system: OSName, FullyQualifiedDomainName, NetworkAddressIPv4, …
    Auto,
    /// What the host says about itself: HostName, PhysicalHostName, …
    AutoExternal,
    /// For the host's own use.
    Internal,
}

impl Pool {
    /// All pools, in the order of their numbers.
    pub const ALL: [Pool; 5] = [Pool::External, Pool::Guest, Pool::Auto, Pool::AutoExternal, Pool::Internal];

    fn number(self) -> u8 {
        self as u8
    }
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A number.
    U32(u32),
    /// A longer number.
    U64(u64),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::U32(number) => write!(f, "{number}"),
            Value::U64(number) => write!(f, "{number}"),
        }
    }
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub key: String,
    /// What it is.
    pub value: Value,
}

/// The addresses of an adapter; lists separated by semicolons, as the guest sends them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Addresses come from DHCP.
    pub dhcp: bool,
    /// IPv4 and IPv6.
    pub addresses: String,
    /// Their masks or prefix lengths.
    pub subnets: String,
    /// Routers.
    pub gateways: String,
    /// Name servers.
    pub name_servers: String,
}

/// What the host can ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Reads a key. The guest is asked for one key after another until it comes: Linux's driver answers the direct question
    /// with the value's first four bytes missing.
    Get {
        /// Where.
        pool: Pool,
        /// Which.
        key: String,
    },
    /// Adds or changes a key.
    Set {
        /// Where.
        pool: Pool,
        /// Which, and to what.
        item: Item,
    },
    /// Removes a key.
    Delete {
        /// Where.
        pool: Pool,
        /// Which.
        key: String,
    },
    /// Reads all keys.
    List {
        /// Of which pool.
        pool: Pool,
    },
    /// Reads the addresses of one adapter.
    Addresses {
        /// Its MAC address as `00:15:5D:01:02:03`.
        adapter: String,
    },
}

impl Operation {
    /// For error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Operation::Get { .. } => "to read a key",
            Operation::Set { .. } => "to write a key",
            Operation::Delete { .. } => "to delete a key",
            Operation::List { .. } => "to list keys",
            Operation::Addresses { .. } => "to read an adapter's addresses",
        }
    }

    /// Whether it can be sent.
    ///
    /// # Errors
    /// `TooLong`.
    pub fn check(&self) -> Result<(), ServiceError> {
        match self {
            Operation::Get { key, .. } | Operation::Delete { key, .. } => key_field(key).map(drop),
            Operation::Set { item, .. } => {
                key_field(&item.key)?;
                value_field(&item.value).map(drop)
            }
            Operation::List { .. } => Ok(()),
            Operation::Addresses { adapter } => utf16_field("the adapter's address", adapter, ADAPTER_UNITS).map(drop),
        }
    }

    /// The data of its request; `index` counts a list's keys. Checked before.
    pub(crate) fn encode(&self, index: u32) -> Vec<u8> {
        let mut data = Vec::with_capacity(8 + 12 + 2 * (KEY_UNITS + VALUE_UNITS));
        let empty = Item { key: String::new(), value: Value::Text(String::new()) };
        match self {
            Operation::Set { pool, item } => {
                data.extend([SET, pool.number(), 0, 0]);
                record(&mut data, item);
            }
            Operation::Delete { pool, key } => {
                data.extend([DELETE, pool.number(), 0, 0]);
                let (len, field) = key_field(key).unwrap_or_default();
                data.extend(len.to_le_bytes());
                data.extend(field);
            }
            Operation::List { pool } | Operation::Get { pool, .. } => {
                data.extend([ENUMERATE, pool.number(), 0, 0]);
                data.extend(index.to_le_bytes());
                record(&mut data, &empty);
            }
            Operation::Addresses { adapter } => {
                data.extend([GET_ADDRESSES, 0]);
                data.extend(utf16_field("the adapter's address", adapter, ADAPTER_UNITS).unwrap_or_default());
                data.extend([ANY_FAMILY, 0]);
                data.resize(data.len() + 2 * (1024 + 1024 + 512 + 1024), 0);
            }
        }
        data
    }
}

/// Bytes with the zero, and the field.
fn key_field(key: &str) -> Result<(u32, Vec<u8>), ServiceError> {
    let field = utf16_field("the key", key, KEY_UNITS)?;
    Ok((2 * (key.encode_utf16().count() as u32 + 1), field))
}

/// Type, bytes, field.
fn value_field(value: &Value) -> Result<(u32, u32, Vec<u8>), ServiceError> {
    let number = |bytes: &[u8]| {
        let mut field = bytes.to_vec();
        field.resize(2 * VALUE_UNITS, 0);
        field
    };
    Ok(match value {
        Value::Text(text) => {
            let field = utf16_field("the value", text, VALUE_UNITS)?;
            (TYPE_TEXT, 2 * (text.encode_utf16().count() as u32 + 1), field)
        }
        Value::U32(value) => (TYPE_U32, 4, number(&value.to_le_bytes())),
        Value::U64(value) => (TYPE_U64, 8, number(&value.to_le_bytes())),
    })
}

fn record(data: &mut Vec<u8>, item: &Item) {
    let (key_len, key) = key_field(&item.key).unwrap_or((2, vec![0; 2 * KEY_UNITS]));
    let (kind, value_len, value) = value_field(&item.value).unwrap_or((TYPE_TEXT, 2, vec![0; 2 * VALUE_UNITS]));
    for number in [kind, key_len, value_len] {
        data.extend(number.to_le_bytes());
    }
    data.extend(key);
    data.extend(value);
}

/// The record at `at` of a reply.
pub(super) fn item(what: &'static str, data: &[u8], at: usize) -> Result<Item, ServiceError> {
    let malformed = |why| ServiceError::Malformed { what, why };
    let record = data.get(at..at + 12 + 2 * (KEY_UNITS + VALUE_UNITS)).ok_or(malformed("it is too short"))?;
    let number = |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
    let (key, value) = record[12..].split_at(2 * KEY_UNITS);
    let key = key.get(..number(4) as usize).ok_or(malformed("the key is longer than its field"))?;
    let value = value.get(..number(8) as usize).ok_or(malformed("the value is longer than its field"))?;
    let value = match number(0) {
        TYPE_TEXT => Value::Text(text_of(value)),
        TYPE_U32 => {
            Value::U32(u32::from_le_bytes(value.try_into().map_err(|_| malformed("a number of another size"))?))
        }
        TYPE_U64 => {
            Value::U64(u64::from_le_bytes(value.try_into().map_err(|_| malformed("a number of another size"))?))
        }
        _ => return Err(malformed("a value of unknown type")),
    };
    Ok(Item { key: text_of(key), value })
}

/// The body of a reply with addresses.
pub(super) fn addresses(what: &'static str, data: &[u8]) -> Result<Addresses, ServiceError> {
    let body = data.get(2 + 2 * ADAPTER_UNITS..2 + 2 * ADAPTER_UNITS + 2 + 2 * (1024 + 1024 + 512 + 1024));
    let body = body.ok_or(ServiceError::Malformed { what, why: "it is too short" })?;
    let field = |from: usize, units: usize| text_of(&body[2 + 2 * from..2 + 2 * (from + units)]);
    Ok(Addresses {
        dhcp: body[1] != 0,
        addresses: field(0, 1024),
        subnets: field(1024, 1024),
        gateways: field(2048, 512),
        name_servers: field(2560, 1024),
    })
}
