//! `bulkhead disk` on a full store: a small tmpfs in a mount namespace of its own, so no root is needed and nothing stays mounted.

use std::path::Path;
use std::process::Command;

/// Fills the store through every way to make a disk, then makes room and tries again. $1 = where to mount, $2 = the program.
const SCRIPT: &str = r#"
mount -t tmpfs -o size=8m none "$1"
try() {
    code=0
    "$2" disk "$3" $4 "$1/$5" $6 >error.txt 2>&1 || code=$?
    echo "$5 code $code files $(ls -A "$1" | wc -l) $(cat error.txt)"
}
try "$1" "$2" convert data.raw a.vhd ""
try "$1" "$2" convert data.raw a.vhdx ""
try "$1" "$2" convert data.raw a.raw ""
try "$1" "$2" convert data.raw fixed.vhd "--kind fixed"
try "$1" "$2" create "" fixed.vhdx "--size 24M --kind fixed"
mount -o remount,size=64m none "$1"
for name in a.vhd a.vhdx; do
    "$2" disk convert data.raw "$1/$name" >again.txt
    "$2" disk compare data.raw "$1/$name" >again.txt
    echo "$name again $(cat again.txt)"
    rm "$1/$name"
done
"#;

#[test]
fn a_full_store_is_an_error_and_leaves_nothing() {
    let program = env!("CARGO_BIN_EXE_bulkhead");
    let beside = Path::new(program).with_file_name("bulkhead-vm");
    if !beside.exists() {
        let build = "build it first: cargo build --profile ci -p bulkhead_vm";
        eprintln!("skipped: {} is missing; {build}", beside.display());
        return;
    }
    let namespace = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount"]).args(words);
        command
    };
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let allowed = namespace(&["mount", "-t", "tmpfs", "none"]).arg(&store).output();
    match allowed {
        Ok(output) if output.status.success() => {}
        Ok(output) => return eprintln!("skipped: no tmpfs here: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => return eprintln!("skipped: unshare: {error}"),
    }
    let data: Vec<u8> = (0..24u32 << 20).map(|at| (at.wrapping_mul(0x9E37_79B1) >> 13) as u8 | 1).collect();
    std::fs::write(folder.path().join("data.raw"), data).unwrap();
    let output = namespace(&["sh", "-euc", SCRIPT, "sh"]).arg(&store).arg(program).current_dir(folder.path()).output();
    let output = output.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    for name in ["a.vhd", "a.vhdx", "a.raw", "fixed.vhd", "fixed.vhdx"] {
        let line = out.lines().find(|line| line.starts_with(&format!("{name} code"))).unwrap_or_default();
        assert!(line.starts_with(&format!("{name} code 1 files 0 ")), "{out}{err}");
        assert!(line.matches("No space left").count() == 1 && line.contains(name), "{line}");
    }
    for name in ["a.vhd", "a.vhdx"] {
        assert!(out.contains(&format!("{name} again identical")), "{out}{err}");
    }
}
