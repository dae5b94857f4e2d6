//! Channel messages and packets, byte by byte as real drivers write and expect them.

use bulkhead_guest_memory::GuestRange;
use bulkhead_vmbus_protocol::{
    ChannelFlags, GuestMessage, HostMessage, MessageError, OfferMessage, Outgoing, PacketError, PacketKind, Version,
    class, message_pipe, parse_packet,
};
use uuid::uuid;

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn first_contact_of_version_5_3() {
    let mut message = words(&[0x0e, 0, 0x0005_0003, 1, 2, 0]);
    message.extend(0x1234_5000u64.to_le_bytes());
    message.extend(0x1234_6000u64.to_le_bytes());
    let GuestMessage::InitiateContact(contact) = GuestMessage::parse(&message).unwrap() else { panic!() };
    assert_eq!((contact.version, contact.target_vp, contact.target_info), (Version::V5_3, 1, 2));
    assert_eq!(contact.monitor_pages, [0x1234_5000, 0x1234_6000]);
    assert_eq!(contact.version.to_string(), "5.3");
    let response = HostMessage::VersionResponse { supported: true, connection: 4 }.encode();
    assert_eq!(response, words(&[0x0f, 0, 1, 4]));
}

#[test]
fn an_offer_has_196_bytes_with_every_field_in_its_place() {
    let offer = OfferMessage {
        class: class::SCSI,
        instance: uuid!("00112233-4455-6677-8899-aabbccddeeff"),
        flags: ChannelFlags::NAMED_PIPE | ChannelFlags::ENUMERATE_DEVICE_INTERFACE,
        mmio_megabytes: 8,
        user: message_pipe(),
        sub_channel: 3,
        relid: 0x123,
    };
    let bytes = HostMessage::Offer(Box::new(offer)).encode();
    assert_eq!(bytes.len(), 196);
    assert_eq!(bytes[..8], words(&[1, 0]));
    // The wire bytes of the SCSI controller's type.
    let scsi = [0xd9, 0x63, 0x61, 0xba, 0xa1, 0x04, 0x29, 0x4d, 0xb6, 0x05, 0x72, 0xe2, 0xff, 0xb1, 0xdc, 0x7f];
    assert_eq!(bytes[8..24], scsi);
    assert_eq!(bytes[24..32], [0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66]);
    assert_eq!((bytes[56], bytes[58], bytes[60], bytes[180]), (0x11, 8, 4, 3));
    assert_eq!(bytes[184..188], 0x123u32.to_le_bytes());
    assert_eq!(bytes[188..192], [0xff, 0, 1, 0]);
    assert_eq!(bytes[192..], 0x2123u32.to_le_bytes());
}

#[test]
fn short_and_unknown_messages_are_refused() {
    assert_eq!(GuestMessage::parse(&[5]), Err(MessageError::TooShort { kind: 0, len: 1, needed: 8 }));
    let open = words(&[5, 0, 1, 1, 0xe1e10]);
    assert_eq!(GuestMessage::parse(&open), Err(MessageError::TooShort { kind: 5, len: 20, needed: 148 }));
    assert_eq!(GuestMessage::parse(&words(&[99, 0])), Err(MessageError::UnknownType(99)));
    // What only hosts send.
    assert_eq!(GuestMessage::parse(&words(&[1; 49])), Err(MessageError::UnknownType(1)));
}

#[test]
fn answers_echo_what_guests_look_for() {
    let open = HostMessage::OpenResult { relid: 5, open_id: 0x77, status: 0 };
    assert_eq!(open.encode(), words(&[6, 0, 5, 0x77, 0]));
    assert_eq!(
        HostMessage::GpadlCreated { relid: 5, gpadl: 0xe1e10, status: 0 }.encode(),
        words(&[10, 0, 5, 0xe1e10, 0])
    );
    assert_eq!(HostMessage::GpadlTorndown { gpadl: 0xe1e10 }.encode(), words(&[12, 0, 0xe1e10]));
    assert_eq!(HostMessage::ModifyChannelResponse { relid: 5, status: 0 }.encode(), words(&[24, 0, 5, 0]));
    let refused = HostMessage::SocketResult { endpoint: class::SCSI, service: class::IDE, status: 1 };
    assert_eq!(refused.encode().len(), 44);
}

#[test]
fn a_packet_of_40_bytes_takes_64_in_the_ring() {
    let packet = Outgoing::InBand { transaction: 9, wants_completion: true, payload: &[7; 40] };
    let mut bytes = Vec::new();
    packet.encode(0x100, &mut bytes).unwrap();
    assert_eq!((bytes.len(), packet.ring_len()), (64, 64));
    assert_eq!(bytes[..16], [6, 0, 2, 0, 7, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(bytes[56..], (0x100u64 << 32).to_le_bytes());
    let parsed = parse_packet(&bytes[..56], &mut Vec::new()).unwrap();
    assert_eq!(
        (parsed.kind, parsed.transaction, parsed.wants_completion, parsed.payload),
        (PacketKind::InBand, 9, true, 16)
    );
}

#[test]
fn transfer_pages_lead_with_their_ranges() {
    let packet = Outgoing::TransferPages { transaction: 3, set: 0xcafe, ranges: &[(60, 0x1000)], payload: &[1; 40] };
    let mut bytes = Vec::new();
    packet.encode(0, &mut bytes).unwrap();
    assert_eq!(bytes[..8], [7, 0, 4, 0, 9, 0, 1, 0]);
    assert_eq!(bytes[16..24], [0xfe, 0xca, 0, 0, 1, 0, 0, 0]);
    assert_eq!(bytes[24..32], words(&[60, 0x1000]));
    assert_eq!(bytes.len(), packet.ring_len());
    let endless = vec![0; 600_000];
    let packet = Outgoing::Completion { transaction: 0, payload: &endless };
    assert_eq!(packet.encode(0, &mut Vec::new()), None);
}

fn gpa_direct(len: u32, offset: u32, pages: &[u64], count: u32) -> Vec<u8> {
    let mut packet = vec![9, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    packet.extend(words(&[0, count, len, offset]));
    pages.iter().for_each(|page| packet.extend(page.to_le_bytes()));
    let payload = packet.len();
    packet.extend([0x55; 64]);
    packet[2] = (payload / 8) as u8;
    packet[4] = (packet.len() / 8) as u8;
    packet
}

#[test]
fn guest_pages_become_ranges() {
    let packet = gpa_direct(0x1800, 0xc00, &[0x10, 0x11, 0x20], 1);
    let mut data = Vec::new();
    let parsed = parse_packet(&packet, &mut data).unwrap();
    assert_eq!(packet.len() - parsed.payload, 64);
    assert_eq!(data, [GuestRange { gpa: 0x10c00, len: 0x1400 }, GuestRange { gpa: 0x20000, len: 0x400 }]);
}

#[test]
fn guest_pages_that_do_not_fit_are_refused() {
    let bad = |packet: &[u8]| matches!(parse_packet(packet, &mut Vec::new()), Err(PacketError::BadLength { .. }));
    assert!(bad(&gpa_direct(0x3001, 0, &[1, 2, 3], 1)), "one page short");
    assert!(bad(&gpa_direct(0x1000, 0x1000, &[1, 2], 1)), "an offset beyond the first page");
    assert!(bad(&gpa_direct(0x1000, 0, &[u64::MAX], 1)), "a page beyond the address space");
    assert!(bad(&gpa_direct(0x1000, 0, &[1], u32::MAX)), "more ranges than bytes");
    assert!(bad(&gpa_direct(u32::MAX, 0xfff, &[1], 1)), "4 GiB");
    let mut short = gpa_direct(0x1000, 0, &[1], 1);
    short[4] -= 1;
    assert!(bad(&short), "a length that disagrees");
    let mut early = gpa_direct(0x1000, 0, &[1], 1);
    early[2] = 2;
    assert!(bad(&early), "a payload over the ranges");
    let mut unknown = gpa_direct(0x1000, 0, &[1], 1);
    unknown[0] = 8;
    assert_eq!(parse_packet(&unknown, &mut Vec::new()), Err(PacketError::UnknownType(8)));
}
