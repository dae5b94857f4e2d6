//! Messages over a real socket, and what the two sides owe each other across versions.

use bulkhead_linux::SeqPacket;
use bulkhead_vm_description::{Size, VmDescription};
use bulkhead_worker_protocol::*;
use std::io::{Read, Write};
use std::os::fd::AsFd;

fn description() -> Box<VmDescription> {
    let id = "01890f3e-2c1b-7f3a-8a3e-0123456789ab".parse().unwrap();
    Box::new(VmDescription::new(id, "web", Size::from_mib(64)))
}

#[test]
fn requests_replies_and_descriptors_arrive() {
    let (a, b) = SeqPacket::pair().unwrap();
    let starter: Channel<ToWorker, FromWorker> = Channel::new(a);
    let worker: Channel<FromWorker, ToWorker> = Channel::new(b);

    let (reader, mut writer) = std::io::pipe().unwrap();
    let resources = Request::Resources { names: vec!["firmware".into()] };
    starter.send(&ToWorker { id: 1, request: resources.clone() }, &[reader.as_fd()]).unwrap();
    let start = Request::Start { description: description(), paused: false };
    starter.send(&ToWorker { id: 2, request: start.clone() }, &[]).unwrap();

    let first = worker.receive().unwrap().unwrap();
    assert_eq!(first.message, ToWorker { id: 1, request: resources });
    writer.write_all(b"seabios").unwrap();
    drop(writer);
    let mut text = String::new();
    std::fs::File::from(first.descriptors.into_iter().next().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "seabios");
    assert_eq!(worker.receive().unwrap().unwrap().message.request, start);

    let stats = Box::new(Stats { guest_instructions: None, ..Stats::default() });
    for message in [
        FromWorker::Reply(Reply { id: 2, result: Ok(Answer::Done) }),
        FromWorker::Event(Event::State { state: VmState::Running }),
        FromWorker::Event(Event::GuestCrashed { parameters: [1, 2, 3, 4, u64::MAX], text: Some("panic".into()) }),
        FromWorker::Event(Event::Ended { by: EndedBy::DebugExit(3), detail: None, stats }),
    ] {
        worker.send(&message, &[]).unwrap();
        assert_eq!(starter.receive().unwrap().unwrap().message, message);
    }
    drop(worker);
    assert!(starter.receive().unwrap().is_none());
}

#[test]
fn a_newer_peer_is_understood_as_far_as_possible() {
    let (a, b) = SeqPacket::pair().unwrap();
    let worker: Channel<FromWorker, ToWorker> = Channel::new(b);
    a.send(br#"{"id":1,"urgent":true,"request":{"hello":{"version":9,"features":["x"],"colour":"red"}}}"#, &[])
        .unwrap();
    let hello = worker.receive().unwrap().unwrap().message;
    assert_eq!(hello.request, Request::Hello(Hello { version: 9, features: vec!["x".into()] }));

    a.send(br#"{"id":7,"request":{"teleport":{"to":"mars"}}}"#, &[]).unwrap();
    let error = worker.receive().unwrap_err();
    assert!(matches!(error, ChannelError::Malformed { id: Some(7), .. }), "{error:?}");

    a.send(b"not json", &[]).unwrap();
    assert!(matches!(worker.receive().unwrap_err(), ChannelError::Malformed { id: None, .. }));

    let (c, d) = SeqPacket::pair().unwrap();
    let starter: Channel<ToWorker, FromWorker> = Channel::new(d);
    c.send(br#"{"reply":{"id":3,"result":{"Err":{"kind":"on_fire","message":"hot"}}}}"#, &[]).unwrap();
    let FromWorker::Reply(reply) = starter.receive().unwrap().unwrap().message else { panic!() };
    assert_eq!(reply.result.unwrap_err().kind, ProblemKind::Failed);
}

#[test]
fn the_texts_on_the_wire_are_fixed() {
    let text = |message: &FromWorker| serde_json::to_string(message).unwrap();
    assert_eq!(
        text(&FromWorker::Event(Event::State { state: VmState::Paused })),
        r#"{"event":{"state":{"state":"paused"}}}"#
    );
    assert_eq!(
        text(&FromWorker::Reply(Reply { id: 4, result: Ok(Answer::Done) })),
        r#"{"reply":{"id":4,"result":{"Ok":"done"}}}"#
    );
    let request = ToWorker { id: 5, request: Request::EjectMedium { drive: "ide1.0".into() } };
    assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"id":5,"request":{"eject_medium":{"drive":"ide1.0"}}}"#);
    let guest = GuestRequest::ListKeys { pool: KeyPool::AutoExternal };
    let request = ToWorker { id: 6, request: Request::Guest(guest) };
    assert_eq!(
        serde_json::to_string(&request).unwrap(),
        r#"{"id":6,"request":{"guest":{"list_keys":{"pool":"auto_external"}}}}"#
    );
}
