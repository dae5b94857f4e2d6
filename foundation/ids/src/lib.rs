//! Typed ids: a UUIDv7 newtype per kind of thing, so that a disk's id cannot be taken for a VM's.
//!
//! Ids are written in lower case (`01890a5d-ac96-774b-bcce-b302099a8057`) and read back in exactly that form. Version 7 starts
//! with the time of creation, so new ids sort by age. What was imported keeps the id that another hypervisor gave it, of whatever
//! version. Only towards WMI ids are in upper case and braces.

use std::fmt;
use uuid::{Uuid, Variant};

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not the id of a {kind}: {reason}", shown(text))]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
    reason: &'static str,
}

/// What an error message may repeat of a text from anybody.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(64).flat_map(char::escape_default).collect();
    if text.chars().nth(64).is_some() {
        shown.push('…');
    }
    shown
}

const FORM: &str = "expected a UUID in lower case, like 01890a5d-ac96-774b-bcce-b302099a8057";
const WMI_FORM: &str = "expected a UUID in braces, like {01890A5D-AC96-774B-BCCE-B302099A8057}";
const NOT_AN_ID: &str = "it has the form of a UUID, but no variant and version that identify anything";

/// Refuses what nobody generates as an id, the nil and max UUIDs among it.
fn check(uuid: Uuid) -> Result<Uuid, &'static str> {
    let known = matches!(uuid.get_version_num(), 1..=8) && uuid.get_variant() == Variant::RFC4122;
    if known { Ok(uuid) } else { Err(NOT_AN_ID) }
}

fn parse(text: &str) -> Result<Uuid, &'static str> {
    let mut canonical = Uuid::encode_buffer();
    match Uuid::try_parse(text) {
        // The library also reads upper case, braces, URNs and missing hyphens.
        Ok(uuid) if text == &*uuid.hyphenated().encode_lower(&mut canonical) => check(uuid),
        _ => Err(FORM),
    }
}

fn parse_wmi(text: &str) -> Result<Uuid, &'static str> {
    let mut canonical = Uuid::encode_buffer();
    match Uuid::try_parse(text) {
        Ok(uuid) if text.eq_ignore_ascii_case(uuid.braced().encode_upper(&mut canonical)) => check(uuid),
        _ => Err(WMI_FORM),
    }
}

/// Displays an id in upper case and braces, the form that WMI clients know.
#[derive(Clone, Copy)]
pub struct Wmi(Uuid);

impl fmt::Display for Wmi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.braced().encode_upper(&mut Uuid::encode_buffer()))
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])+ $name:ident, $kind:literal;)+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id: later than all that this process made before, and different from all others.
            #[allow(clippy::new_without_default, reason = "a default id would be another one each time")]
            pub fn new() -> $name {
                $name(Uuid::now_v7())
            }

            /// The id with these bytes, in the order of its text.
            ///
            /// # Errors
            /// When they are no UUID's: wrong variant, unknown version.
            pub fn from_bytes(bytes: [u8; 16]) -> Result<$name, ParseIdError> {
                let uuid = Uuid::from_bytes(bytes);
                let error = |reason| ParseIdError { kind: $kind, text: uuid.to_string(), reason };
                check(uuid).map($name).map_err(error)
            }

            /// The bytes, in the order of the text.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// The form for WMI: upper case, in braces.
            pub fn wmi(self) -> Wmi {
                Wmi(self.0)
            }

            /// Reads the form for WMI, in either case: clients send both.
            ///
            /// # Errors
            /// When `text` is anything else.
            pub fn from_wmi(text: &str) -> Result<$name, ParseIdError> {
                let error = |reason| ParseIdError { kind: $kind, text: text.into(), reason };
                parse_wmi(text).map($name).map_err(error)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<$name, ParseIdError> {
                let error = |reason| ParseIdError { kind: $kind, text: text.into(), reason };
                parse(text).map($name).map_err(error)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0.hyphenated())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

ids! {
    /// A virtual machine.
    VmId, "virtual machine";
    /// A virtual disk.
    DiskId, "disk";
    /// A virtual switch.
    SwitchId, "virtual switch";
    /// A port of a virtual switch.
    PortId, "switch port";
    /// A checkpoint of a VM.
    CheckpointId, "checkpoint";
    /// An operation that outlives its request.
    JobId, "job";
    /// A user of this host's service.
    UserId, "user";
    /// A host of a cluster, or the host itself.
    NodeId, "node";
    /// A failover cluster.
    ClusterId, "cluster";
    /// A run of a worker process.
    WorkerId, "worker";
    /// A backup.
    BackupId, "backup";
}
