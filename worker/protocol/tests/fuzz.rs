//! A bounded round of the fuzz target: mutations of real messages.

use bulkhead_worker_protocol::fuzz::fuzz;

const SEEDS: [&str; 4] = [
    r#"{"id":1,"request":{"hello":{"version":1,"features":["a"]}}}"#,
    r#"{"id":2,"request":{"start":{"paused":true,"description":{"version":1,"id":"01890f3e-2c1b-7f3a-8a3e-0123456789ab","name":"a","memory":{"size":"64M"}}}}}"#,
    r#"{"event":{"ended":{"by":{"debug_exit":3},"stats":{"wall_seconds":1.5,"exits":{"port":3}}}}}"#,
    r#"{"reply":{"id":3,"result":{"Err":{"kind":"invalid","message":"no"}}}}"#,
];

#[test]
fn mutated_packets_are_understood_or_refused() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for round in 0..4000 {
        let mut bytes = SEEDS[round % SEEDS.len()].as_bytes().to_vec();
        for _ in 0..random() % 4 {
            let at = random() % bytes.len();
            match random() % 3 {
                0 => bytes[at] = b"{}[]\":,0123456789etrunfalse.-"[random() % 29],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"9\"{[-e"[random() % 6]),
            }
        }
        fuzz(&bytes);
    }
}
