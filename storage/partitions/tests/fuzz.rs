//! A bounded, seeded round of the fuzz target, over tables that are nearly right.

use bulkhead_partitions::fuzz::fuzz;

struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A first sector with a primary and an extended partition, and a chain of logical ones.
fn mbr() -> Vec<u8> {
    let mut disk = vec![0; 64 << 10];
    for (table, kind, next) in [(0, 0x83, 4), (4, 0x0C, 4), (8, 0x07, 8)] {
        let at = table * 512;
        for (slot, kind, start) in [(0, kind, 1u8), (1, 0x05, next)] {
            let entry = at + 446 + slot * 16;
            disk[entry + 4] = kind;
            disk[entry + 8] = start;
            disk[entry + 12] = 2;
        }
        disk[at + 510..at + 512].copy_from_slice(&[0x55, 0xAA]);
    }
    disk
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum().to_le_bytes()
}

fn gpt(random: &mut XorShift) -> Vec<u8> {
    let mut disk = vec![0; 64 << 10];
    disk[446 + 4] = 0xEE;
    disk[446 + 12] = 1;
    disk[510..512].copy_from_slice(&[0x55, 0xAA]);
    for entry in 0..4 {
        let at = 1024 + entry * 128;
        disk[at..at + 32].fill(7);
        disk[at + 32] = random.next() as u8;
        disk[at + 40] = random.next() as u8;
        disk[at + 41 + random.next() as usize % 7] = (random.next() % 2) as u8;
        disk[at + 56..at + 128].fill(random.next() as u8);
    }
    let entries_crc = crc(&disk[1024..1024 + 512]);
    let header = &mut disk[512..1024];
    header[..8].copy_from_slice(b"EFI PART");
    header[12] = 92;
    header[24] = 1;
    header[72] = 2;
    header[80] = 4;
    header[84] = 128;
    header[88..92].copy_from_slice(&entries_crc);
    let sum = crc(&header[..92]);
    header[16..20].copy_from_slice(&sum);
    disk
}

#[test]
fn damaged_tables_never_panic_and_never_leave_the_disk() {
    let mut random = XorShift(0x5eed);
    for round in 0..3000 {
        let mut disk = if round % 2 == 0 { mbr() } else { gpt(&mut random) };
        fuzz(&disk);
        for _ in 0..random.next() % 6 {
            let at = random.next() as usize % (12 * 512);
            disk[at] = random.next() as u8;
        }
        fuzz(&disk);
    }
    fuzz(&[]);
}
