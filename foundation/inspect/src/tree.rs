//! What an inspection returns, as JSON and as text.

use std::fmt;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A count or size.
    Unsigned(u64),
    /// A number that may be negative.
    Signed(i64),
    /// An address, register or mask. Strings with `0x` in JSON, where large numbers lose digits.
    Hex(u64),
    /// A word or sentence.
    Text(String),
    /// Yes or no.
    Bool(bool),
    /// Bytes, shown as pairs of hex digits.
    Bytes(Vec<u8>),
}

/// A value, or an object with its values and children in the order in which it named them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// A value.
    Value(Value),
    /// An object. A name that was given twice is there twice.
    Object(Vec<(String, Tree)>),
    /// An object below the depth that was asked for.
    Closed,
}

impl Tree {
    /// The tree as JSON. Objects that were not looked into are `null`.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Tree::Value(value) => value.to_json(),
            Tree::Object(children) => children.iter().map(|(name, child)| (name.clone(), child.to_json())).collect(),
            Tree::Closed => serde_json::Value::Null,
        }
    }

    /// The child `name` of an object.
    pub fn get(&self, name: &str) -> Option<&Tree> {
        match self {
            Tree::Object(children) => children.iter().find(|(own, _)| own == name).map(|(_, child)| child),
            Tree::Value(_) | Tree::Closed => None,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, indent: usize) -> fmt::Result {
        let Tree::Object(children) = self else { return Ok(()) };
        let width = children.iter().filter(|(_, child)| matches!(child, Tree::Value(_)));
        let width = width.map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, child) in children {
            match child {
                Tree::Value(value) => writeln!(f, "{:indent$}{name:width$} = {value}", "")?,
                Tree::Closed => writeln!(f, "{:indent$}{name}/ …", "")?,
                Tree::Object(_) => {
                    writeln!(f, "{:indent$}{name}/", "")?;
                    child.write(f, indent + 2)?;
                }
            }
        }
        Ok(())
    }
}

/// One line per value, children indented below their object.
impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tree::Value(value) => writeln!(f, "{value}"),
            Tree::Closed => writeln!(f, "…"),
            Tree::Object(_) => self.write(f, 0),
        }
    }
}

impl Value {
    fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Unsigned(number) => (*number).into(),
            Value::Signed(number) => (*number).into(),
            Value::Bool(yes) => (*yes).into(),
            Value::Text(text) => text.clone().into(),
            Value::Hex(_) | Value::Bytes(_) => self.to_string().into(),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unsigned(number) => write!(f, "{number}"),
            Value::Signed(number) => write!(f, "{number}"),
            Value::Hex(number) => write!(f, "{number:#x}"),
            // Text may come from a guest: nothing in it may move a terminal's cursor.
            Value::Text(text) => text.chars().try_for_each(|c| match c.is_control() {
                true => write!(f, "{}", c.escape_default()),
                false => write!(f, "{c}"),
            }),
            Value::Bool(yes) => write!(f, "{yes}"),
            Value::Bytes(bytes) => bytes.iter().enumerate().try_for_each(|(place, byte)| {
                let space = if place > 0 { " " } else { "" };
                write!(f, "{space}{byte:02x}")
            }),
        }
    }
}

macro_rules! value_from {
    ($($variant:ident($wide:ty): $($narrow:ty),+;)+) => {$($(
        impl From<$narrow> for Value {
            fn from(value: $narrow) -> Value {
                Value::$variant(<$wide>::from(value))
            }
        }
    )+)+};
}

value_from! {
    Unsigned(u64): u8, u16, u32, u64;
    Signed(i64): i8, i16, i32, i64;
    Text(String): &str, String;
    Bool(bool): bool;
}

impl From<usize> for Value {
    fn from(value: usize) -> Value {
        Value::Unsigned(value as u64)
    }
}
