//! Forms of ids: what is written, what is read, what is refused.

use bulkhead_ids::{DiskId, VmId};
use proptest::prelude::*;

const TEXT: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
const WMI: &str = "{01890A5D-AC96-774B-BCCE-B302099A8057}";

#[test]
fn the_three_forms() {
    let id: VmId = TEXT.parse().unwrap();
    assert_eq!(id.to_string(), TEXT);
    assert_eq!(format!("{id:?}"), format!("VmId({TEXT})"));
    assert_eq!(format!("{id:>40}|"), format!("    {TEXT}|"));
    assert_eq!(id.wmi().to_string(), WMI);
    assert_eq!(VmId::from_wmi(WMI).unwrap(), id);
    assert_eq!(VmId::from_wmi(&WMI.to_lowercase()).unwrap(), id);
    assert_eq!(VmId::from_bytes(id.to_bytes()).unwrap(), id);
    assert_eq!(id.to_bytes()[..4], [0x01, 0x89, 0x0a, 0x5d]);
}

#[test]
fn other_forms_are_refused() {
    let urn = format!("urn:uuid:{TEXT}");
    let padded = format!(" {TEXT}");
    let without_hyphens = TEXT.replace('-', "");
    let upper = TEXT.to_uppercase();
    for text in ["", "vm1", WMI, &urn, &padded, &without_hyphens, &upper, &TEXT[1..]] {
        let error = text.parse::<VmId>().unwrap_err();
        assert!(error.to_string().contains("expected a UUID in lower case"), "{error}");
    }
    for text in [TEXT, &upper, "{}", "{01890A5DAC96774BBCCEB302099A8057}"] {
        assert!(VmId::from_wmi(text).is_err(), "{text}");
    }
}

#[test]
fn what_identifies_nothing_is_refused() {
    for text in [
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "01890a5d-ac96-074b-bcce-b302099a8057",
        "01890a5d-ac96-774b-3cce-b302099a8057",
    ] {
        let error = text.parse::<DiskId>().unwrap_err();
        assert!(error.to_string().starts_with(&format!("`{text}` is not the id of a disk: ")), "{error}");
    }
}

/// Importing a VM keeps its id, and Hyper-V's are random ones.
#[test]
fn ids_from_elsewhere_are_kept() {
    let random = "936da01f-9abd-4d9d-80c7-02af85c822a8";
    assert_eq!(random.parse::<VmId>().unwrap().to_string(), random);
    assert_eq!(VmId::new().to_bytes()[6] >> 4, 7);
}

#[test]
fn a_hostile_text_is_not_repeated_whole() {
    let error = "\x1b[2J".repeat(100_000).parse::<VmId>().unwrap_err().to_string();
    assert!(error.len() < 600 && !error.contains('\x1b'), "{error}");
}

#[test]
fn new_ids_ascend() {
    let ids: Vec<VmId> = (0..1000).map(|_| VmId::new()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    let texts: Vec<String> = ids.iter().map(VmId::to_string).collect();
    assert!(texts.is_sorted());
    assert!(texts.iter().all(|text| text.parse::<VmId>().is_ok()));
}

#[test]
fn json_holds_the_text() {
    let id: DiskId = TEXT.parse().unwrap();
    let json = serde_json::to_string(&id).unwrap();
    assert_eq!(json, format!("\"{TEXT}\""));
    assert_eq!(serde_json::from_str::<DiskId>(&json).unwrap(), id);
    assert!(serde_json::from_str::<DiskId>(&json.to_uppercase()).is_err());
    assert!(serde_json::from_str::<DiskId>("7").is_err());
}

proptest! {
    #[test]
    fn only_its_own_text_names_an_id(text in "\\PC{0,40}|[0-9a-fA-F{}-]{36,38}") {
        if let Ok(id) = text.parse::<VmId>() {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        if let Ok(id) = VmId::from_wmi(&text) {
            prop_assert_eq!(id.wmi().to_string(), text.to_uppercase());
        }
    }
}
