//! Round trips, damage, versions and leftovers.

use bulkhead_saved_state::{Corruption, MAX_BODY, SaveWriter, SavedFile, SavedState, SavedStateError};
use minicbor::{Decode, Encode};
use proptest::prelude::*;

#[derive(Clone, Debug, PartialEq, Encode, Decode)]
struct Serial {
    #[n(0)]
    divisor: u16,
    #[cbor(n(1), with = "minicbor::bytes")]
    fifo: Vec<u8>,
    /// Since version 2.
    #[n(2)]
    line: Option<bool>,
}

fn serial() -> Serial {
    Serial { divisor: 12, fifo: b"login: ".to_vec(), line: Some(true) }
}

fn file_with(sections: &[(&str, &str, u32, &Serial)]) -> Vec<u8> {
    let mut writer = SaveWriter::new(Vec::new()).unwrap();
    for (name, kind, version, value) in sections {
        writer.section(name, kind, *version, value).unwrap();
    }
    writer.finish().unwrap()
}

fn corruption(bytes: &[u8]) -> Corruption {
    match SavedFile::read(bytes) {
        Err(SavedStateError::Corrupt { problem, .. }) => problem,
        other => panic!("expected damage, got {other:?}"),
    }
}

fn bitwise_crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        values in proptest::collection::btree_map("[a-z0-9_./:-]{1,64}", (any::<u16>(), proptest::collection::vec(any::<u8>(), 0..300), 1u32..9), 0..20)
    ) {
        let mut writer = SaveWriter::new(Vec::new()).unwrap();
        for (name, (divisor, fifo, version)) in &values {
            let value = Serial { divisor: *divisor, fifo: fifo.clone(), line: None };
            writer.section(name, "serial", *version, &value).unwrap();
        }
        let bytes = writer.finish().unwrap();
        let mut file = SavedFile::read(&*bytes).unwrap();
        prop_assert!(file.sections().map(|section| section.name()).eq(values.keys()));
        for (name, (divisor, fifo, version)) in values.iter().rev() {
            let section = file.take_kind(name, "serial").unwrap();
            prop_assert_eq!(section.version(), *version);
            let value: Serial = section.decode(*version..=*version).unwrap();
            prop_assert_eq!(value, Serial { divisor: *divisor, fifo: fifo.clone(), line: None });
        }
        file.finish().unwrap();
    }

    #[test]
    fn every_flipped_bit_is_found(bit in 0usize..8, place: prop::sample::Index) {
        let mut bytes = file_with(&[("com1", "serial", 1, &serial()), ("com2", "serial", 1, &serial())]);
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let result = SavedFile::read(&*bytes);
        prop_assert!(result.is_err(), "bit {bit} of byte {place}");
    }
}

#[test]
fn every_truncation_and_any_addition_is_found() {
    let bytes = file_with(&[("com1", "serial", 1, &serial()), ("com2", "serial", 1, &serial())]);
    for length in 0..bytes.len() {
        assert_eq!(corruption(&bytes[..length]), Corruption::Truncated, "cut at {length}");
    }
    assert_eq!(corruption(&[&bytes[..], &[0]].concat()), Corruption::TrailingData);
}

#[test]
fn a_lost_or_doubled_section_is_found() {
    let both = file_with(&[("com1", "serial", 1, &serial()), ("com2", "serial", 1, &serial())]);
    let section = (both.len() - 16 - 20) / 2;
    let lost = [&both[..16], &both[16 + section..]].concat();
    assert_eq!(corruption(&lost), Corruption::Count { found: 2, actual: 1 });
    let doubled = [&both[..16 + section], &both[16..]].concat();
    assert_eq!(corruption(&doubled), Corruption::Duplicate("com1".into()));
}

#[test]
fn the_bytes_are_as_documented() {
    let bytes = file_with(&[("com1", "serial", 3, &serial())]);
    assert_eq!(&bytes[..16], b"BHState\x1a\x01\0\0\0\0\0\0\0");
    let section = &bytes[16..bytes.len() - 20];
    let body = minicbor::to_vec(serial()).unwrap();
    assert_eq!(section[..2], [4, 6]);
    assert_eq!(section[4..8], 3u32.to_le_bytes());
    assert_eq!(section[8..16], (body.len() as u64).to_le_bytes());
    assert_eq!(&section[20..30], b"com1serial");
    assert_eq!(section[30..], body);
    assert_eq!(bitwise_crc32c(b"123456789"), 0xe306_9283);
    let covered = [&section[..16], &section[20..]].concat();
    assert_eq!(section[16..20], bitwise_crc32c(&covered).to_le_bytes());
}

#[test]
fn versions_outside_the_range_are_refused_in_both_directions() {
    let mut file = SavedFile::read(&*file_with(&[("com1", "serial", 3, &serial())])).unwrap();
    let section = file.take("com1").unwrap();
    let newer = section.decode::<Serial>(1..=2).unwrap_err();
    assert!(matches!(newer, SavedStateError::NewerSection { found: 3, newest: 2, .. }));
    assert_eq!(
        newer.to_string(),
        "saved serial has version 3, this build reads 1 to 2: use the Bulkhead that saved it, or a later one"
    );
    assert!(matches!(section.decode::<Serial>(4..=5), Err(SavedStateError::OlderSection { oldest: 4, .. })));
    assert_eq!(section.decode::<Serial>(2..=3).unwrap(), serial());
}

#[test]
fn a_newer_file_is_refused_before_anything_else() {
    let mut bytes = file_with(&[]);
    bytes[8] = 2;
    let error = SavedFile::read(&bytes[..16]).unwrap_err();
    assert!(matches!(error, SavedStateError::NewerFile { found: 2, supported: 1 }));
}

#[test]
fn missing_leftover_and_mistaken_sections_are_named() {
    let bytes = file_with(&[("com1", "serial", 1, &serial()), ("rtc", "serial", 1, &serial())]);
    let mut file = SavedFile::read(&*bytes).unwrap();
    assert!(matches!(file.take("vp0"), Err(SavedStateError::Missing { name }) if name == "vp0"));
    assert!(file.take_optional("vp0").is_none());
    assert!(matches!(file.take_kind("rtc", "rtc"), Err(SavedStateError::WrongKind { found, .. }) if found == "serial"));
    assert!(matches!(file.finish(), Err(SavedStateError::Leftover { names }) if names == ["com1"]));
}

#[test]
fn writers_refuse_what_readers_would() {
    let mut writer = SaveWriter::new(Vec::new()).unwrap();
    for name in ["", "COM1", "com 1", "ünicode", &"x".repeat(65)] {
        assert!(matches!(writer.section(name, "serial", 1, &serial()), Err(SavedStateError::BadName { .. })));
    }
    writer.section("com1", "serial", 1, &serial()).unwrap();
    assert!(matches!(writer.section("com1", "rtc", 1, &serial()), Err(SavedStateError::Duplicate { .. })));
    let huge = minicbor::bytes::ByteVec::from(vec![0; MAX_BODY as usize]);
    assert!(matches!(writer.section("huge", "vram", 1, &huge), Err(SavedStateError::TooLarge { .. })));
    let mut file = SavedFile::read(&*writer.finish().unwrap()).unwrap();
    file.take("com1").unwrap();
    file.finish().unwrap();
}

/// Encodes as two values, which no well-formed body does.
struct Two;

impl<C> Encode<C> for Two {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.u8(1)?.u8(2)?.ok()
    }
}

#[test]
fn a_body_with_more_or_less_than_its_value_is_refused() {
    let pair = SavedState::encode("pair", 1, &(1u8, 2u8)).unwrap();
    assert!(matches!(pair.decode::<(u8, u8, u8)>(1..=1), Err(SavedStateError::Decode { .. })));
    let two = SavedState::encode("two", 1, &Two).unwrap();
    assert!(matches!(two.decode::<u8>(1..=1), Err(SavedStateError::Decode { .. })));
}

/// A false length must not make the reader allocate: only what arrives counts.
#[test]
fn false_lengths_are_harmless() {
    let mut bytes = file_with(&[("com1", "serial", 1, &serial())]);
    bytes[24..32].copy_from_slice(&(MAX_BODY - 1).to_le_bytes());
    assert_eq!(corruption(&bytes), Corruption::Truncated);
    bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(SavedFile::read(&*bytes), Err(SavedStateError::TooLarge { found: u64::MAX, .. })));
}
