//! Fuzz target.
/// x
pub fn fuzz(_data: &[u8]) {}
