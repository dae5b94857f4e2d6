//! Assembles `programs/*.S` into flat binaries for address 0x8000, with the GNU assembler that comes with gcc.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed=programs");
    let mut names: Vec<String> = fs::read_dir("programs")
        .expect("the folder programs/ is part of the crate")
        .map(|entry| entry.expect("programs/ can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "S"))
        .map(|path| path.file_stem().expect("a file has a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut list = String::from(
        "/// Every program: name, source, machine code.\npub const PROGRAMS: &[(&str, &str, &[u8])] = &[\n",
    );
    for name in names {
        let source = Path::new("programs").join(format!("{name}.S"));
        assemble(&source, &out, &name);
        let absolute = fs::canonicalize(&source).expect("the source is there");
        writeln!(
            list,
            "    ({name:?}, include_str!({absolute:?}), include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.bin\"))),"
        )
        .expect("writing to a string");
    }
    list.push_str("];\n");
    fs::write(out.join("programs.rs"), list).expect("OUT_DIR can be written");
}

fn assemble(source: &Path, out: &Path, name: &str) {
    let object = out.join(format!("{name}.o"));
    let elf = out.join(format!("{name}.elf"));
    run(Command::new("as").args(["--64", "-I", "programs", "-o"]).arg(&object).arg(source));
    run(Command::new("ld").args(["-m", "elf_x86_64", "-Ttext=0x8000", "-e", "0x8000", "-o"]).arg(&elf).arg(&object));
    run(Command::new("objcopy").args(["-O", "binary", "-j", ".text"]).arg(&elf).arg(out.join(format!("{name}.bin"))));
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("cannot start {command:?} (gcc brings it): {error}"));
    assert!(status.success(), "{command:?} failed");
}
