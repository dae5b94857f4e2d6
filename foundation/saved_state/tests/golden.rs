//! The file format itself has a golden file, and the golden check has a test.

use bulkhead_saved_state::{SaveWriter, SavedFile, golden};
use minicbor::{Decode, Encode};

#[derive(Debug, PartialEq, Encode, Decode)]
struct Clock {
    #[n(0)]
    nanos: u64,
    #[n(1)]
    name: String,
    #[n(2)]
    alarms: Vec<(u8, i32)>,
}

fn clock() -> Clock {
    Clock { nanos: 0x0123_4567_89ab_cdef, name: "rtc".into(), alarms: vec![(1, -1), (255, i32::MAX)] }
}

#[test]
fn the_format_has_not_changed() {
    let mut writer = SaveWriter::new(Vec::new()).unwrap();
    writer.section("rtc", "clock", 1, &clock()).unwrap();
    writer.section("rtc/second", "clock", 7, &clock()).unwrap();
    let bytes = writer.finish().unwrap();
    golden::check("tests/golden/format-1.state", &bytes);
    let mut file = SavedFile::read(std::fs::File::open("tests/golden/format-1.state").unwrap()).unwrap();
    assert_eq!(file.take("rtc/second").unwrap().decode::<Clock>(1..=7).unwrap(), clock());
}

#[test]
fn a_difference_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, b"abcd").unwrap();
    golden::check(&path, b"abcd");
    let message = |bytes: &'static [u8]| {
        let path = path.clone();
        *std::panic::catch_unwind(move || golden::check(path, bytes)).unwrap_err().downcast::<String>().unwrap()
    };
    if std::env::var_os(golden::BLESS).is_none() {
        assert!(message(b"abXd").contains("differs from byte 2 on"));
        assert!(message(b"abc").contains("(end)"));
    }
}
