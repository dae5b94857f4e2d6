//! `vm.toml`, sizes and limits.

use bulkhead_vm_description::*;

const FULL: &str = r#"
version = 1
id = "01890f3e-2c1b-7f3a-8a3e-0123456789ab"
name = "web server"
notes = "rack 4"
test_devices = true

[memory]
size = "1.5G"

[processor]
count = 4
level = "v3"
engine = "soft"
deterministic = true

[boot]
firmware = "bios"
order = ["cd", "disk"]

[direct_kernel]
kernel = "vmlinuz"
initrd = "initrd.img"
command_line = "console=ttyS0"

[[ide]]
controller = 0
device = 0
kind = "disk"
medium = { file = "root.img", format = "raw" }

[[ide]]
controller = 1
device = 0
kind = "cd"

[floppy]
medium = { file = "dos.img", read_only = true }

[[serial]]
port = 1
connection = "stdio"

[[serial]]
port = 2
connection = { unix = "com2.sock" }
"#;

fn minimal() -> VmDescription {
    VmDescription::new("01890f3e-2c1b-7f3a-8a3e-0123456789ab".parse().unwrap(), "a", Size::from_mib(64))
}

#[test]
fn a_full_description_is_read_and_survives_toml_and_json() {
    let vm = from_toml(FULL).unwrap();
    assert_eq!(vm.memory.size.bytes(), 1536 << 20);
    assert_eq!(
        vm.processor,
        Processor {
            count: 4,
            level: CpuLevel::V3,
            engine: EngineChoice::Soft,
            deterministic: true,
            ..Processor::default()
        }
    );
    assert_eq!(vm.boot.order, [BootSource::Cd, BootSource::Disk]);
    assert_eq!(vm.ide_drive(1, 0).unwrap().medium, None);
    assert_eq!(vm.serial_port(2).unwrap().connection, SerialConnection::Unix("com2.sock".into()));
    assert_eq!(from_toml(&to_toml(&vm).unwrap()).unwrap(), vm);
    let json = serde_json::to_vec(&vm).unwrap();
    assert_eq!(serde_json::from_slice::<VmDescription>(&json).unwrap(), vm);
}

#[test]
fn unknown_keys_are_errors_that_name_the_key() {
    for (place, key) in
        [("test_devices = true", "colour = 1"), ("count = 4", "sockets = 2"), ("firmware = \"bios\"", "logo = 1")]
    {
        let text = FULL.replace(place, &format!("{place}\n{key}"));
        let error = from_toml(&text).unwrap_err();
        let TextError::Syntax(source) = error else { panic!("{error}") };
        let name = key.split(' ').next().unwrap();
        assert!(source.to_string().contains(name), "{source}");
    }
}

#[test]
fn a_newer_version_is_named_although_its_keys_are_unknown() {
    let text = FULL.replace("version = 1", "version = 2\nquantum = true");
    let error = from_toml(&text).unwrap_err();
    assert!(matches!(error, TextError::Limit(Limit::Version { found: 2 })), "{error}");
}

#[test]
fn limits_are_told_with_their_numbers() {
    let refuse = |change: &dyn Fn(&mut VmDescription), expected: &str| {
        let mut vm = minimal();
        change(&mut vm);
        assert_eq!(vm.check().unwrap_err().to_string(), expected);
    };
    minimal().check().unwrap();
    refuse(&|vm| vm.processor.count = 65, "processor.count is 65; it must be between 1 and 64");
    refuse(&|vm| vm.processor.count = 0, "processor.count is 0; it must be between 1 and 64");
    refuse(&|vm| vm.memory.size = Size::from_mib(1), "memory.size is 1M; it must be between 4M and 512G");
    refuse(
        &|vm| vm.memory.size = Size::from_bytes((64 << 20) + 4096),
        "memory.size is 67112960 bytes; it must be a multiple of 1M",
    );
    let dynamic = |minimum, maximum| Some(DynamicMemory::new(Size::from_mib(minimum), Size::from_mib(maximum)));
    let size = minimal().memory.size;
    refuse(
        &|vm| vm.memory.dynamic = dynamic(1 << 20, 1 << 20),
        &format!("memory.dynamic.minimum is 1T; it must be between 4M and {size}"),
    );
    refuse(
        &|vm| vm.memory.dynamic = dynamic(4, 4),
        &format!("memory.dynamic.maximum is 4M; it must be between {size} and 512G"),
    );
    refuse(
        &|vm| (vm.memory.dynamic, vm.hyperv.enabled) = (dynamic(4, 1 << 19), false),
        "memory.dynamic needs the Hyper-V interface, and hyperv.enabled is false: set it to true",
    );
    let disk = |controller, device| IdeDrive { controller, device, kind: DriveKind::Disk, medium: None };
    refuse(&|vm| vm.ide = vec![disk(2, 0)], "ide.controller is 2; it must be between 0 and 1");
    refuse(&|vm| vm.ide = vec![disk(0, 0)], "the disk ide0.0 has no medium; only CD and floppy drives can be empty");
    let cd = IdeDrive { kind: DriveKind::Cd, ..disk(1, 1) };
    refuse(&|vm| vm.ide = vec![cd.clone(), cd.clone()], "ide1.1 is given twice");
    let port = |port| SerialPort { port, connection: SerialConnection::None };
    refuse(&|vm| vm.serial = vec![port(3)], "serial.port is 3; it must be between 1 and 2");
    refuse(&|vm| vm.serial = vec![port(1), port(1)], "serial port 1 is given twice");
    refuse(&|vm| vm.boot.order = vec![BootSource::Cd, BootSource::Cd], "cd in boot.order is given twice");
    refuse(&|vm| vm.name = " ".into(), "name is empty");
}

#[test]
fn sizes_are_read_as_people_write_them() {
    let bytes = |text: &str| text.parse::<Size>().unwrap().bytes();
    assert_eq!(bytes("512M"), 512 << 20);
    assert_eq!(bytes("2g"), 2 << 30);
    assert_eq!(bytes("1.5T"), 3 << 39);
    assert_eq!(bytes("64KiB"), 64 << 10);
    assert_eq!(bytes("4096"), 4096);
    for wrong in ["", "M", "1.5", "-1G", "1,5G", "99999999999999999999", "20000P", "1..5G", "1.G", "2GG2", "0x10M"] {
        assert!(wrong.parse::<Size>().is_err(), "{wrong}");
    }
    for bytes in [0, 1, 1023, 1024, 1536, 3 << 39, u64::MAX] {
        let size = Size::from_bytes(bytes);
        assert_eq!(size.to_string().parse::<Size>().unwrap(), size);
    }
}

#[test]
fn formats_come_from_the_extension_unless_stated() {
    let medium = |file: &str, format| Medium { file: file.into(), format, ..Medium::default() }.format();
    assert_eq!(medium("a/b.VHDX", None), ImageFormat::Vhdx);
    assert_eq!(medium("a.avhd", None), ImageFormat::Vhd);
    assert_eq!(medium("disk.img", None), ImageFormat::Raw);
    assert_eq!(medium("vhd", None), ImageFormat::Raw);
    assert_eq!(medium("x.vhd", Some(ImageFormat::Raw)), ImageFormat::Raw);
}

#[test]
fn network_adapters_have_limits_and_addresses_of_their_own() {
    let adapter = |kind, last| NetworkAdapter {
        kind,
        address: format!("00-15-5D-01-02-{last:02X}").parse().unwrap(),
        port: Some(SwitchPort { switch: "lan".into(), ticket: String::new() }),
    };
    let id = "01890f3e-2c1b-7f3a-8a3e-0123456789ab".parse().unwrap();
    let mut vm = VmDescription::new(id, "vm", Size::from_bytes(512 << 20));
    vm.network = (0..8).map(|at| adapter(AdapterKind::Synthetic, at)).collect();
    vm.network.extend((8..12).map(|at| adapter(AdapterKind::Legacy, at)));
    vm.check().unwrap();
    assert_eq!(from_toml(&to_toml(&vm).unwrap()).unwrap(), vm);
    let refused = |change: &dyn Fn(&mut VmDescription)| {
        let mut vm = vm.clone();
        change(&mut vm);
        vm.check().unwrap_err().to_string()
    };
    let message = refused(&|vm| vm.network.push(adapter(AdapterKind::Synthetic, 20)));
    assert_eq!(message, "the number of synthetic network adapters is 9; it must be between 0 and 8");
    let message = refused(&|vm| vm.network[1] = vm.network[0].clone());
    assert_eq!(message, "network address 00-15-5D-01-02-00 is given twice");
    assert!(refused(&|vm| vm.network[0].address.0[0] = 1).contains("no address of one network adapter"));
    assert!(refused(&|vm| vm.hyperv.enabled = false).contains("needs the Hyper-V interface"));
}
