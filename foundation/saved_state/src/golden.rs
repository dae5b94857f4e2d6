//! For tests: compares bytes with a file in the repository, so that a change of a format is a decision and not an accident.

use std::path::Path;

/// Set to `1`, this variable makes [`check`] write the files instead.
pub const BLESS: &str = "BULKHEAD_BLESS";

/// Compares `bytes` with the file at `path` (relative paths count from the crate's folder, where cargo runs its tests).
///
/// # Panics
/// When they differ, with the place of the first difference, or when the file cannot be read or, with `BULKHEAD_BLESS=1`, written.
#[track_caller]
pub fn check(path: impl AsRef<Path>, bytes: &[u8]) {
    let path = path.as_ref();
    if std::env::var_os(BLESS).is_some_and(|value| value == "1") {
        bless(path, bytes);
        return;
    }
    let golden = match std::fs::read(path) {
        Ok(golden) => golden,
        Err(error) => panic!("golden file {}: {error}; {BLESS}=1 writes it", path.display()),
    };
    if golden == bytes {
        return;
    }
    let same = golden.iter().zip(bytes).take_while(|(one, other)| one == other).count();
    panic!(
        "{} differs from byte {same} on (golden: {} bytes, now: {}).\n  golden: {}\n  now:    {}\n\
         If the format is meant to change, raise its version and keep reading the old one; then {BLESS}=1 rewrites the file.",
        path.display(),
        golden.len(),
        bytes.len(),
        excerpt(&golden, same),
        excerpt(bytes, same),
    );
}

#[track_caller]
fn bless(path: &Path, bytes: &[u8]) {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, bytes));
    if let Err(error) = written {
        panic!("golden file {} could not be written: {error}", path.display());
    }
    eprintln!("wrote golden file {}", path.display());
}

fn excerpt(bytes: &[u8], from: usize) -> String {
    let shown: Vec<String> = bytes.iter().skip(from).take(16).map(|byte| format!("{byte:02x}")).collect();
    if shown.is_empty() { "(end)".into() } else { shown.join(" ") }
}
