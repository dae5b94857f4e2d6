//! Keys, ports and DMA control bits of the interface.

/// Keys of items that are no files (the numbers are those of the interface; values are little-endian).
pub mod key {
    /// `QEMU`: by this firmware finds the device. Set by [`Items::new`](crate::Items::new).
    pub const SIGNATURE: u16 = 0x00;
    /// u32: bit 0 the ports, bit 1 DMA. Set by [`Items::new`](crate::Items::new).
    pub const FEATURES: u16 = 0x01;
    /// 16 bytes: the system's UUID.
    pub const UUID: u16 = 0x02;
    /// u64: bytes of RAM.
    pub const RAM_SIZE: u16 = 0x03;
    /// u16: 1 when there is no graphics adapter.
    pub const NO_GRAPHICS: u16 = 0x04;
    /// u16: processors at start.
    pub const CPUS: u16 = 0x05;
    /// u64 array: NUMA nodes and where processors and memory belong.
    pub const NUMA: u16 = 0x0d;
    /// u16: 1 to offer a boot menu.
    pub const BOOT_MENU: u16 = 0x0e;
    /// u16: one more than the highest APIC id.
    pub const MAX_CPUS: u16 = 0x0f;
    /// The directory of files, made by the device.
    pub const DIRECTORY: u16 = 0x19;
    /// First key of a file; files are numbered from here.
    pub const FIRST_FILE: u16 = 0x20;
    /// x86: ACPI tables, each with a length in front.
    pub const ACPI_TABLES: u16 = 0x8000;
    /// x86: SMBIOS structures.
    pub const SMBIOS: u16 = 0x8001;
    /// x86, u32: 1 when the timer arrives at I/O APIC input 2.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Bits of the DMA control word; the selected key is in the upper half.
pub(crate) mod dma {
    pub const ERROR: u32 = 1 << 0;
    pub const READ: u32 = 1 << 1;
    pub const SKIP: u32 = 1 << 2;
    pub const SELECT: u32 = 1 << 3;
    pub const WRITE: u32 = 1 << 4;
}

/// Offsets from the first port.
pub(crate) mod port {
    pub const SELECTOR: u16 = 0;
    pub const DATA: u16 = 1;
    pub const DMA_HIGH: u16 = 4;
    pub const DMA_LOW: u16 = 8;
}
