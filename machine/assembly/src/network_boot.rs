//! Boot from the network: an option ROM that the BIOS can boot, which loads iPXE (`ipxe.lkrn`, in the format of Linux's boot
//! protocol, Documentation/arch/x86/boot.rst) from the configuration device and jumps to its real-mode part.

use crate::MachineError;
use bulkhead_fw_cfg::Items;

/// What the BIOS calls the ROM in its boot order.
pub const BOOT_PATH: &str = "/rom@genroms/network.rom";
const ROM_FILE: &str = "genroms/network.rom";
/// Items of the two parts: those that a directly started kernel has elsewhere.
const SETUP_KEY: u16 = 0x18;
const KERNEL_KEY: u16 = 0x11;
/// Where they go. A real-mode program of this kind has the segment to itself, with heap and stack below the command line.
const SETUP_SEGMENT: u16 = 0x1000;
const KERNEL: u64 = 0x10_0000;
const COMMAND_LINE: usize = 0x9a00;
const STACK: u16 = 0x9ff0;
/// Free low memory, for the requests to the configuration device.
const REQUESTS: u16 = 0x600;

const ROM_LEN: usize = 512;
const PNP_HEADER: usize = 0x20;
const NAME: usize = 0x44;
const REQUESTS_IN_ROM: usize = 0x60;
const CODE: usize = 0x80;

/// Adds the ROM and the two parts of `image`.
///
/// # Errors
/// `BadFile`: it is no such image.
pub fn add(items: &mut Items, image: &[u8]) -> Result<(), MachineError> {
    let bad = |reason: &str| MachineError::BadFile { what: "the network boot program".into(), reason: reason.into() };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err(bad("it has no header of Linux's boot protocol; use ipxe.lkrn"));
    }
    // A count of 0 means 4.
    let sectors = Some(usize::from(image[0x1f1])).filter(|count| *count > 0).unwrap_or(4);
    let Some((setup, kernel)) = image.split_at_checked((sectors + 1) * 512) else {
        return Err(bad("it is shorter than its header says"));
    };
    if setup.len() > COMMAND_LINE || setup.len() < 0x22c {
        return Err(bad("its real-mode part has an impossible length"));
    }
    let mut setup = setup.to_vec();
    // A loader without a number; there is a heap, up to here; the command line is empty.
    setup[0x210] = 0xff;
    setup[0x211] |= 0x80;
    setup[0x224..0x226].copy_from_slice(&((COMMAND_LINE - 0x200) as u16).to_le_bytes());
    let command_line = u32::from(SETUP_SEGMENT) * 16 + COMMAND_LINE as u32;
    setup[0x228..0x22c].copy_from_slice(&command_line.to_le_bytes());
    setup.resize(COMMAND_LINE + 1, 0);
    items.add_file(ROM_FILE, rom(setup.len(), kernel.len()).to_vec())?;
    items.set(SETUP_KEY, setup);
    items.set(KERNEL_KEY, kernel);
    Ok(())
}

/// The ROM: header, Plug and Play header with the boot entry, two requests to the configuration device, code.
fn rom(setup_len: usize, kernel_len: usize) -> [u8; ROM_LEN] {
    let mut rom = [0; ROM_LEN];
    let mut put = |at: usize, bytes: &[u8]| rom[at..at + bytes.len()].copy_from_slice(bytes);
    // Signature, length in 512 bytes, and an initialization that returns at once.
    put(0, &[0x55, 0xaa, (ROM_LEN / 512) as u8, 0xcb]);
    put(0x1a, &(PNP_HEADER as u16).to_le_bytes());
    // Plug and Play BIOS Specification 1.0A, 3.2: revision 1, 32 bytes; name; boot entry vector.
    put(PNP_HEADER, b"$PnP\x01\x02");
    put(PNP_HEADER + 16, &(NAME as u16).to_le_bytes());
    put(PNP_HEADER + 26, &(CODE as u16).to_le_bytes());
    put(NAME, b"Network\0");
    let parts = [(SETUP_KEY, setup_len, u64::from(SETUP_SEGMENT) * 16), (KERNEL_KEY, kernel_len, KERNEL)];
    for (index, (key, len, address)) in parts.into_iter().enumerate() {
        // Select the key, then read; all big-endian.
        let control = u32::from(key) << 16 | 1 << 3 | 1 << 1;
        let mut request = control.to_be_bytes().to_vec();
        request.extend((len as u32).to_be_bytes());
        request.extend(address.to_be_bytes());
        put(REQUESTS_IN_ROM + index * 16, &request);
    }
    put(CODE, &code());
    let sum = rom.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    rom[ROM_LEN - 1] = sum.wrapping_neg();
    rom
}

/// The boot entry, in real mode.
fn code() -> Vec<u8> {
    let word = u16::to_le_bytes;
    // The port takes the address of a request in big-endian.
    let request = |index: u16| u32::from(REQUESTS + index * 16).to_be_bytes();
    [
        &[0xfc, 0x31, 0xc0, 0x8e, 0xc0, 0x0e, 0x1f][..], // cld; es = 0; ds = cs
        &[0xbe],
        &word(REQUESTS_IN_ROM as u16), // mov si, …
        &[0xbf],
        &word(REQUESTS),                       // mov di, …
        &[0xb9, 16, 0, 0xf3, 0xa5],            // mov cx, 16; rep movsw
        &[0xba, 0x14, 0x05, 0x66, 0x31, 0xc0], // mov dx, 514h; xor eax, eax
        &[0x66, 0xef, 0xba, 0x18, 0x05],       // out dx, eax; mov dx, 518h
        &[0x66, 0xb8],
        &request(0),
        &[0x66, 0xef], // mov eax, …; out dx, eax
        &[0x66, 0xb8],
        &request(1),
        &[0x66, 0xef],
        &[0xfa, 0xb8],
        &word(SETUP_SEGMENT),                                                // cli; mov ax, …
        &[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0x8e, 0xd0, 0xbc], // ds es fs gs ss = ax; mov sp, …
        &word(STACK),
        &[0xea, 0, 0],
        &word(SETUP_SEGMENT + 0x20), // jmp …:0
    ]
    .concat()
}
