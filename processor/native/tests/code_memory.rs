//! The executable arena.

use bulkhead_native::CodeMemory;

/// `mov eax, value; ret`.
fn returns(value: u32) -> Vec<u8> {
    [&[0xb8][..], &value.to_le_bytes(), &[0xc3]].concat()
}

fn call(memory: &CodeMemory, offset: u32) -> u32 {
    // SAFETY: the code at `offset` is what `returns` made.
    let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(memory.base().add(offset as usize)) };
    function()
}

#[test]
fn code_runs_is_patched_and_reclaimed() {
    let mut memory = CodeMemory::new(8192).unwrap();
    let first = memory.push(&returns(1)).unwrap();
    let second = memory.push(&returns(2)).unwrap();
    assert_eq!((call(&memory, first.offset), call(&memory, second.offset)), (1, 2));
    assert_eq!(second.offset % 16, 0);
    let mut bytes = [0x90; 8];
    bytes[..6].copy_from_slice(&returns(3));
    memory.patch(second.offset, bytes);
    assert_eq!(call(&memory, second.offset), 3);
    let generation = memory.generation();
    memory.clear();
    assert_eq!(memory.generation(), generation + 1);
    let again = memory.push(&returns(4)).unwrap();
    assert_eq!(again, first);
    assert_eq!(call(&memory, again.offset), 4);
}

#[test]
fn it_is_bounded() {
    let mut memory = CodeMemory::new(4096).unwrap();
    let pushed = std::iter::from_fn(|| memory.push(&[0xc3; 100]).ok()).count();
    assert_eq!(pushed, 36);
    let full = memory.push(&[0xc3; 100]).unwrap_err();
    assert_eq!((full.capacity, full.wanted), (4096, 100));
}

#[test]
fn no_mapping_is_writable_and_executable() {
    let memory = CodeMemory::new(4096).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let ours: Vec<_> = maps.lines().filter(|line| line.contains("bulkhead-code")).collect();
    assert!(ours.len() >= 2, "{maps}");
    assert!(ours.iter().all(|line| !(line.contains("rwx"))), "{ours:?}");
    assert!(memory.contains(memory.base() as usize));
}
