//! A bounded round of the fuzz target: mutations of real messages.

use bulkhead_switch_protocol::fuzz::fuzz;

const SEEDS: [&str; 6] = [
    r#"{"id":1,"request":{"create_switch":{"definition":{"version":1,"id":"01890f3e-2c1b-7f3a-8a3e-0123456789ab","name":"lan","type":"external","uplink":{"interfaces":["eth0"]}}}}}"#,
    r#"{"id":2,"request":{"create_port":{"switch":"lan","settings":{"name":"vm","vlan":{"trunk":{"native":5,"allowed":"10,20-29"}},"acl":[{"action":"deny","direction":"both","remote":"10.0.0.0/8"}]}}}}"#,
    r#"{"id":3,"result":{"Ok":{"ports":{"ports":[],"more":false}}}}"#,
    r#"{"name":"vm","vlan":{"isolated":{"primary":5,"secondary":6}},"mirror":"source","weight":5}"#,
    r#"{"open_tap":{"interface":"vEthernet","mtu":1500,"address":"192.168.137.1/24"}}"#,
    "10,20-29,4094",
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
    for round in 0..6000 {
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
