//! Fuzz target: any text as a `vm.toml`.

/// Reads `data`; what is accepted must survive being written and read again.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = text.parse::<crate::Size>();
    if let Ok(description) = crate::from_toml(text) {
        let written = crate::to_toml(&description).expect("what was read can be written");
        assert_eq!(crate::from_toml(&written).expect("what was written can be read"), description);
    }
}
