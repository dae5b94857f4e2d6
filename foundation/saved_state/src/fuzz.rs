//! Fuzz target: files and bodies from anybody.

use crate::{SaveWriter, SavedFile, SavedState};
use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

/// A body with the shapes that saved states use.
#[derive(Debug, PartialEq, Encode, Decode)]
struct Sample {
    #[n(0)]
    number: u64,
    #[n(1)]
    text: Option<String>,
    #[n(2)]
    bytes: Option<ByteVec>,
    #[n(3)]
    list: Option<Vec<Choice>>,
    #[n(4)]
    pairs: Option<Vec<(u32, i16)>>,
}

#[derive(Debug, PartialEq, Encode, Decode)]
enum Choice {
    #[n(0)]
    Nothing,
    #[n(1)]
    Inner(#[n(0)] Box<Sample>),
}

/// Reads `data` as a file, and as a body, which a checksum otherwise shields from random bytes.
///
/// # Panics
/// When something that was read does not read the same after it was written.
pub fn fuzz(data: &[u8]) {
    if let Ok(file) = SavedFile::read(data) {
        let mut writer = SaveWriter::new(Vec::new()).expect("memory");
        for section in file.sections() {
            writer.state(section.name(), &section.clone().into_state()).expect("what was read can be written");
        }
        assert_eq!(writer.finish().expect("memory"), data, "one content has one encoding");
    }
    let body = SavedState { kind: "sample".into(), version: 1, body: data.to_vec() };
    if let Ok(sample) = body.decode::<Sample>(1..=1) {
        let again = SavedState::encode("sample", 1, &sample).expect("decoded, so encodable");
        assert_eq!(again.decode::<Sample>(1..=1).expect("own encoding"), sample);
    }
}
