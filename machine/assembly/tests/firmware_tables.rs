//! ACPI tables judged by `iasl`, SMBIOS tables by `dmidecode`.

use bulkhead_machine::acpi::{AcpiConfig, AcpiTables};
use bulkhead_machine::smbios::{Smbios, SmbiosConfig};
use std::path::Path;
use std::process::Command;

const BASE: u32 = 0xe_0040;

fn config() -> AcpiConfig {
    AcpiConfig { vps: 3, serial: [true, true], floppy: true, vmbus: false, low_ram: 512 << 20 }
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Follows RSDP → RSDT → tables as an operating system does; returns (signature, bytes).
fn tables_of(blob: &[u8], rsdp: &[u8]) -> Vec<(String, Vec<u8>)> {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0), "checksums of the RSDP");
    let table = |address: usize| {
        let at = address - BASE as usize;
        let bytes = blob[at..at + word(blob, at + 4)].to_vec();
        (String::from_utf8(bytes[..4].to_vec()).unwrap(), bytes)
    };
    let (rsdt, xsdt) = (table(word(rsdp, 16)), table(word(rsdp, 24)));
    assert_eq!((rsdt.0.as_str(), xsdt.0.as_str()), ("RSDT", "XSDT"));
    let entries: Vec<usize> = (36..rsdt.1.len()).step_by(4).map(|at| word(&rsdt.1, at)).collect();
    let wide: Vec<usize> = (36..xsdt.1.len()).step_by(8).map(|at| word(&xsdt.1, at)).collect();
    assert_eq!(entries, wide);
    let mut tables: Vec<_> = entries.into_iter().map(table).collect();
    let fadt = tables.iter().find(|(name, _)| name == "FACP").unwrap().1.clone();
    assert_eq!(table(word(&fadt, 36)).0, "FACS");
    tables.push(table(word(&fadt, 40)));
    tables.extend([rsdt, xsdt]);
    for (name, bytes) in &tables {
        assert_eq!(sum(bytes), 0, "checksum of {name}");
    }
    tables
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Option<String> {
    let output = match Command::new(program).args(arguments).current_dir(folder).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("skipped: cannot start {program}: {error}; install it with `cargo xtask packages`");
            return None;
        }
    };
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    Some(text)
}

#[test]
fn iasl_reads_every_table_and_compiles_them_again() {
    let (blob, rsdp) = AcpiTables::new(&config()).placed(BASE);
    let folder = tempfile::tempdir().unwrap();
    let tables = tables_of(&blob, &rsdp);
    let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["FACP", "APIC", "HPET", "DSDT", "RSDT", "XSDT"]);
    for (name, bytes) in &tables {
        let file = format!("{name}.dat");
        std::fs::write(folder.path().join(&file), bytes).unwrap();
        let Some(text) = run(folder.path(), "iasl", &["-d", &file]) else { return };
        assert!(!text.contains("Error") && !text.contains("rror:"), "{name}: {text}");
        let source = std::fs::read_to_string(folder.path().join(format!("{name}.dsl"))).unwrap();
        assert!(!source.contains("Invalid") && !source.contains("Incorrect"), "{name}: {source}");
    }
    let text = run(folder.path(), "iasl", &["-vr", "DSDT.dsl"]).unwrap();
    assert!(text.contains("0 Errors, 0 Warnings"), "{text}");
    let madt = std::fs::read_to_string(folder.path().join("APIC.dsl")).unwrap();
    assert_eq!(madt.matches("Processor Enabled : 1").count(), 3);
    let dsdt = std::fs::read_to_string(folder.path().join("DSDT.dsl")).unwrap();
    for expected in ["PNP0A03", "PNP0501", "PNP0303", "PNP0700", "_PRT", "_S5"] {
        assert!(dsdt.contains(expected), "{expected}");
    }
}

#[test]
fn devices_that_are_not_there_are_not_announced() {
    let (blob, _) =
        AcpiTables::new(&AcpiConfig { vps: 1, serial: [true, false], floppy: false, vmbus: false, low_ram: 3 << 30 })
            .placed(BASE);
    let has = |name: &[u8]| blob.windows(4).any(|window| window == name);
    assert!(has(b"COM1") && !has(b"COM2") && !has(b"FDC0") && !has(b"VMBS"));
}

/// The name that drivers look for is no legal ACPI id, so the compiler is not asked.
#[test]
fn vmbus_is_announced_as_hyper_v_does() {
    let (blob, rsdp) = AcpiTables::new(&AcpiConfig { vmbus: true, ..config() }).placed(BASE);
    let folder = tempfile::tempdir().unwrap();
    let tables = tables_of(&blob, &rsdp);
    let (_, bytes) = tables.iter().find(|(name, _)| name == "DSDT").unwrap();
    std::fs::write(folder.path().join("dsdt.dat"), bytes).unwrap();
    let Some(_) = run(folder.path(), "iasl", &["-d", "dsdt.dat"]) else { return };
    let source = std::fs::read_to_string(folder.path().join("dsdt.dsl")).unwrap();
    for expected in ["Scope (\\_SB.PCI0)", "Device (VMBS)", "Name (_HID, \"VMBus\")", "IRQNoFlags ()"] {
        assert!(source.contains(expected), "{expected}");
    }
}

#[test]
fn the_table_loader_gives_the_same_tables_as_we_place() {
    let tables = AcpiTables::new(&config());
    let files = tables.loader_files();
    let (mut blob, mut rsdp) = (files.tables, files.rsdp);
    let name = |command: &[u8], at: usize| {
        String::from_utf8(command[at..at + 56].iter().copied().take_while(|byte| *byte != 0).collect()).unwrap()
    };
    for command in files.script.chunks_exact(128) {
        match word(command, 0) {
            1 => {}
            2 => {
                assert_eq!(name(command, 60), "etc/acpi/tables");
                let (at, size) = (word(command, 116), usize::from(command[120]));
                let target = if name(command, 4) == "etc/acpi/tables" { &mut blob } else { &mut rsdp };
                let mut value = [0; 8];
                value[..size].copy_from_slice(&target[at..at + size]);
                let value = u64::from_le_bytes(value) + u64::from(BASE);
                target[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            }
            3 => {
                let (result, start, len) = (word(command, 60), word(command, 64), word(command, 68));
                let target = if name(command, 4) == "etc/acpi/tables" { &mut blob } else { &mut rsdp };
                let sum = target[start..start + len].iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
                target[result] = target[result].wrapping_add(sum);
            }
            other => panic!("command {other}"),
        }
    }
    assert_eq!((blob, rsdp), tables.placed(BASE));
}

#[test]
fn dmidecode_shows_the_id_processors_and_memory() {
    let id = "01890f3e-2c1b-7f3a-8a3e-0123456789ab";
    for (memory, shown) in [(512 << 20, "512 MB"), (96 << 30, "96 GB")] {
        let smbios = Smbios::new(&SmbiosConfig {
            id: id.parse().unwrap(),
            name: "web".into(),
            vps: 4,
            memory,
            hyperv: memory == 96 << 30,
        });
        let folder = tempfile::tempdir().unwrap();
        let mut dump = smbios.anchor(32);
        dump.resize(32, 0);
        dump.extend_from_slice(smbios.structures());
        std::fs::write(folder.path().join("dump"), dump).unwrap();
        let Some(text) = run(folder.path(), "dmidecode", &["--from-dump", "dump"]) else { return };
        for expected in [
            format!("UUID: {id}"),
            format!("Size: {shown}"),
            format!("Maximum Capacity: {shown}"),
            format!("Range Size: {shown}"),
            "Core Count: 4".into(),
            "Family: web".into(),
            "End Of Table".into(),
        ] {
            assert!(text.contains(&expected), "{expected} is missing in {text}");
        }
        for wrong in ["BAD", "broken", "Wrong", "bad", "WRONG", "OUT OF SPEC"] {
            assert!(!text.contains(wrong), "{text}");
        }
    }
}
