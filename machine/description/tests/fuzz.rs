//! A bounded round of the fuzz target: mutations of a whole description.

use bulkhead_vm_description::fuzz::fuzz;

const SEED: &str = "version = 1\nid = \"01890f3e-2c1b-7f3a-8a3e-0123456789ab\"\nname = \"a\"\n[memory]\nsize = \"1.5G\"\n\
    [processor]\ncount = 4\n[[ide]]\ncontroller = 0\ndevice = 1\nkind = \"cd\"\n[[serial]]\nport = 1\nconnection = \"stdio\"\n";

#[test]
fn mutated_descriptions_are_read_or_refused() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    fuzz(SEED.as_bytes());
    for _ in 0..4000 {
        let mut text = SEED.as_bytes().to_vec();
        for _ in 0..1 + random() % 4 {
            let at = random() % text.len();
            match random() % 4 {
                0 => text[at] = b" =\"[]{}.,0123456789GTMKnot\n"[random() % 27],
                1 => drop(text.remove(at)),
                2 => text.insert(at, b"9.\"=[]x\n"[random() % 8]),
                _ => text.truncate(at + 1),
            }
        }
        fuzz(&text);
    }
}
