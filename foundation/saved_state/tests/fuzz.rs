//! A seeded, bounded fuzz round.

use bulkhead_saved_state::SaveWriter;
use bulkhead_saved_state::fuzz::fuzz;

struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn seeded_round() {
    let mut writer = SaveWriter::new(Vec::new()).unwrap();
    writer.section("vp0", "vp", 1, &(1u8, "text", vec![1u64, 2, u64::MAX])).unwrap();
    writer.section("vp1", "vp", 1, &Some(5i64)).unwrap();
    let file = writer.finish().unwrap();
    // The body of the fuzz target's sample: [1, "t", h'00ff', [[0, []], [1, [[7]]]], [[1, -1]]].
    let body = b"\x85\x01\x61t\x42\x00\xff\x82\x82\x00\x80\x82\x01\x81\x81\x07\x81\x82\x01\x20".to_vec();
    let mut random = XorShift(0x9e37_79b9_7f4a_7c15);
    for seed in [file, body] {
        fuzz(&seed);
        for _ in 0..20_000 {
            let mut data = seed.clone();
            for _ in 0..=random.below(4) {
                let place = random.below(data.len());
                match random.below(4) {
                    0 => data[place] = random.next() as u8,
                    1 => data[place] ^= 1 << random.below(8),
                    2 => data.truncate(place.max(1)),
                    _ => data.insert(place, random.next() as u8),
                }
            }
            fuzz(&data);
        }
    }
}
