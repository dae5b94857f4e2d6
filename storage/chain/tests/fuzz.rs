//! A seeded bounded round of the fuzz target, from pieces that matter to paths.

use bulkhead_chain::fuzz::fuzz;
use bulkhead_disk::test_support::XorShift;

#[test]
fn no_parent_path_leaves_the_roots() {
    let pieces = [
        "..", ".", "\\", "/", "d:\\vm", "D:", "file://", "%2e", "%2F", "%", "\0", "é", "\\\\?\\", "srv", "vm", "pool",
        "\n", "a.vhd", " ", "//",
    ];
    let mut random = XorShift::new(5);
    for _ in 0..20_000 {
        let text: String = (0..random.below(14)).map(|_| pieces[random.below(pieces.len() as u64) as usize]).collect();
        fuzz(text.as_bytes());
        let noise: Vec<u8> = (0..random.below(30)).map(|_| random.next_u64() as u8).collect();
        fuzz(&noise);
    }
}
