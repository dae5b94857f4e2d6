//! `docs/reference/instructions.md` is generated; this fails when it is stale.

use std::path::Path;

use bulkhead_differential::instruction_table;

#[test]
fn the_table_of_instructions_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/instructions.md");
    let table = instruction_table();
    if std::env::var_os("BULKHEAD_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &table).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let hint = "BULKHEAD_BLESS=1 cargo test -p bulkhead_differential --test table";
    assert!(found == table, "docs/reference/instructions.md is stale; regenerate it with: {hint}");
}
