//! Configurations that are refused, and messages that survive the way.

use bulkhead_nat_protocol::{Forward, NatConfig, NatPort, NatRequest, Protocol, Reservation, ToNat};

#[test]
fn mistakes_are_found() {
    let good = NatConfig::default();
    good.check().unwrap();
    let wrong = |change: fn(&mut NatConfig)| {
        let mut config = NatConfig::default();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert!(wrong(|c| c.prefix = 31).contains("16 to 30"));
    assert!(wrong(|c| c.gateway = "8.8.8.8".parse().unwrap()).contains("private"));
    assert!(wrong(|c| c.gateway = "192.168.137.0".parse().unwrap()).contains("gateway"));
    assert!(wrong(|c| c.range = Some(("10.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap()))).contains("range"));
    assert!(wrong(|c| c.domain = "a..b".into()).contains("domain"));
    let reservation = Reservation {
        mac: "00-15-5D-01-02-03".into(),
        address: Some("192.168.137.1".parse().unwrap()),
        name: None,
        boot_file: None,
    };
    let mut config = NatConfig { reservations: vec![reservation.clone()], ..NatConfig::default() };
    assert!(config.check().unwrap_err().to_string().contains("no guest's address"));
    config.reservations[0].address = Some("192.168.137.9".parse().unwrap());
    config.check().unwrap();
    config.reservations.push(reservation);
    assert!(config.check().is_err());
}

#[test]
fn messages_survive_the_way() {
    let forward = Forward {
        protocol: Protocol::Udp,
        listen: "127.0.0.1:2222".parse().unwrap(),
        guest: "192.168.137.10:22".parse().unwrap(),
    };
    let config = NatConfig { forwards: vec![forward], ..NatConfig::default() };
    let port = NatPort::Switch { socket: "switch.sock".into(), ticket: "t".into() };
    let message = ToNat { id: 7, request: NatRequest::Start { config: Box::new(config), port } };
    let bytes = serde_json::to_vec(&message).unwrap();
    assert_eq!(serde_json::from_slice::<ToNat>(&bytes).unwrap(), message);
    for cut in 0..bytes.len() {
        bulkhead_nat_protocol::fuzz::fuzz(&bytes[..cut]);
    }
}
