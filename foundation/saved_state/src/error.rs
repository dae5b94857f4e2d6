//! What can go wrong with saved state.

use std::io;

/// Why state could not be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum SavedStateError {
    /// The file could not be read or written.
    #[error("saved state: {action} failed")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "saved state is damaged at byte {offset}: {problem}; restore from another checkpoint or start the VM without it"
    )]
    Corrupt {
        /// Where the unit starts that is wrong: the file header, a section, the end mark.
        offset: u64,
        /// What is wrong there.
        problem: Corruption,
    },
    /// The file's layout comes from a later Bulkhead.
    #[error(
        "saved state has file format {found}, this build reads up to {supported}: use the Bulkhead that saved it, or a later one"
    )]
    NewerFile {
        /// Format of the file.
        found: u32,
        /// Latest format that this build reads.
        supported: u32,
    },
    /// A section comes from a later Bulkhead.
    #[error(
        "saved {kind} has version {found}, this build reads {oldest} to {newest}: use the Bulkhead that saved it, or a later one"
    )]
    NewerSection {
        /// Kind of the section.
        kind: String,
        /// Version of the section.
        found: u32,
        /// Oldest version that is read.
        oldest: u32,
        /// Newest version that is read.
        newest: u32,
    },
    /// A section comes from a Bulkhead that is too old.
    #[error(
        "saved {kind} has version {found}, this build reads {oldest} to {newest}: resume and save it with a release in between"
    )]
    OlderSection {
        /// Kind of the section.
        kind: String,
        /// Version of the section.
        found: u32,
        /// Oldest version that is read.
        oldest: u32,
        /// Newest version that is read.
        newest: u32,
    },
    /// A body does not hold what its kind and version promise.
    #[error("saved {kind} (version {version}) could not be decoded")]
    Decode {
        /// Kind of the section.
        kind: String,
        /// Version of the section.
        version: u32,
        /// What the CBOR decoder found.
        #[source]
        source: minicbor::decode::Error,
    },
    /// A body could not be encoded.
    #[error("state of {kind} could not be encoded: {message}")]
    Encode {
        /// Kind of the section.
        kind: String,
        /// What the CBOR encoder said.
        message: String,
    },
    /// The VM has something that the saved state knows nothing of.
    #[error("saved state has no section `{name}`: the VM's hardware differs from when it was saved")]
    Missing {
        /// Name of the section that was asked for.
        name: String,
    },
    /// A section is of another kind than the object that it is for.
    #[error(
        "saved state of `{name}` is of a {found}, not of a {wanted}: the VM's hardware differs from when it was saved"
    )]
    WrongKind {
        /// Name of the section.
        name: String,
        /// Kind of the section.
        found: String,
        /// Kind that was asked for.
        wanted: String,
    },
    /// The saved state knows of something that the VM does not have.
    #[error("saved state has sections that nothing here restores: {}; the VM's hardware differs from when it was saved", names.join(", "))]
    Leftover {
        /// Names of these sections.
        names: Vec<String>,
    },
    /// Two objects were to be saved under one name.
    #[error("two sections named `{name}`: names must be unique in a saved state")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A name or kind that must not be written.
    #[error("`{text}` cannot name a section or kind: 1 to 64 of a-z 0-9 _ - . : / are allowed")]
    BadName {
        /// The text.
        text: String,
    },
    /// More than the limits of the format.
    #[error("saved state is too large: {what} is {found}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size or count.
        found: u64,
        /// The most that is allowed.
        limit: u64,
    },
}

/// How a file differs from anything that a writer makes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// Not a saved state at all.
    #[error("it does not start like a saved state")]
    Magic,
    /// A field that must be zero is not.
    #[error("a reserved field is not zero")]
    Reserved,
    /// The file ends inside a section or before the end mark.
    #[error("the file ends too early")]
    Truncated,
    /// There is something behind the end mark.
    #[error("there is data after the end")]
    TrailingData,
    /// The checksum does not fit.
    #[error("the checksum is {found:#010x}, the content has {computed:#010x}")]
    Checksum {
        /// The stored CRC32C.
        found: u32,
        /// The CRC32C of what is there.
        computed: u32,
    },
    /// A name or kind has characters or a length that no writer uses.
    #[error("a section's name or kind is malformed")]
    Name,
    /// Two sections have this name.
    #[error("there are two sections named `{0}`")]
    Duplicate(String),
    /// The end mark counts other sections than there are.
    #[error("the end mark counts {found} sections, there are {actual}")]
    Count {
        /// Sections according to the end mark.
        found: u64,
        /// Sections read.
        actual: u64,
    },
}
