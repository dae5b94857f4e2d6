//! The keyboard controller as SeaBIOS and Linux's i8042, atkbd and psmouse drivers use it.

use bulkhead_device::{Device, Line, LineInput, PortIo, PowerRequest, PowerSink};
use bulkhead_ps2::{Buttons, Key, Leds, Movement, Ps2};
use parking_lot::Mutex;
use std::sync::Arc;

#[derive(Default)]
struct Irqs {
    level: [bool; 16],
    rises: [u32; 16],
}

impl LineInput for Irqs {
    fn set_input(&mut self, input: u32, level: bool) {
        self.level[input as usize] = level;
        self.rises[input as usize] += u32::from(level);
    }
}

#[derive(Default)]
struct Requests(Mutex<Vec<PowerRequest>>);

impl PowerSink for Requests {
    fn request(&self, request: PowerRequest) {
        self.0.lock().push(request);
    }
}

struct Pc {
    ps2: Ps2,
    irqs: Arc<Mutex<Irqs>>,
    requests: Arc<Requests>,
}

impl Pc {
    fn new() -> Pc {
        let (irqs, requests) = (Arc::new(Mutex::new(Irqs::default())), Arc::new(Requests::default()));
        let line = |irq| Line::new(irqs.clone(), irq);
        Pc { ps2: Ps2::new("ps2", line(1), line(12), requests.clone()), irqs, requests }
    }
    fn command(&mut self, command: u8) {
        self.ps2.port_write(Ps2::COMMAND, 0, 1, command.into());
    }
    fn data(&mut self, byte: u8) {
        self.ps2.port_write(Ps2::DATA, 0, 1, byte.into());
    }
    fn tell_mouse(&mut self, byte: u8) -> Vec<u8> {
        self.command(0xd4);
        self.data(byte);
        self.read_all()
    }
    fn status(&mut self) -> u8 {
        self.ps2.port_read(Ps2::COMMAND, 0, 1) as u8
    }
    fn read(&mut self) -> u8 {
        self.ps2.port_read(Ps2::DATA, 0, 1) as u8
    }
    fn read_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.status() & 1 != 0 {
            bytes.push(self.read());
        }
        bytes
    }
    fn level(&self, irq: usize) -> bool {
        self.irqs.lock().level[irq]
    }
    fn rises(&self, irq: usize) -> u32 {
        self.irqs.lock().rises[irq]
    }
}

/// SeaBIOS: ps2_keyboard_setup.
#[test]
fn firmware_sets_up_the_keyboard() {
    let mut pc = Pc::new();
    pc.command(0xad);
    pc.command(0xa7);
    assert_eq!(pc.read_all(), [0u8; 0]);
    pc.command(0xaa);
    assert_eq!(pc.read_all(), [0x55]);
    pc.command(0xab);
    assert_eq!(pc.read_all(), [0x00]);
    for (bytes, reply) in [
        (vec![0xff], vec![0xfa, 0xaa]),
        (vec![0xf5], vec![0xfa]),
        (vec![0xf0, 0x02], vec![0xfa]),
        (vec![0xf4], vec![0xfa]),
    ] {
        let mut last = Vec::new();
        for byte in bytes {
            pc.data(byte);
            last = pc.read_all();
        }
        assert_eq!(last, reply);
    }
    pc.command(0x60);
    pc.data(0x61);
    pc.command(0x20);
    assert_eq!(pc.read_all(), [0x61]);
}

#[test]
fn keys_are_translated_to_set_1_one_interrupt_per_byte() {
    let mut pc = Pc::new();
    pc.command(0x60);
    pc.data(0x45);
    pc.ps2.key(Key::Plain(0x1e), true);
    assert!(pc.level(1));
    pc.ps2.key(Key::Plain(0x1e), false);
    pc.ps2.key(Key::Extended(0x48), true);
    pc.ps2.key(Key::Extended(0x48), false);
    pc.ps2.key(Key::Plain(0x41), true);
    pc.ps2.key(Key::Plain(0x41), false);
    assert_eq!(pc.read_all(), [0x1e, 0x9e, 0xe0, 0x48, 0xe0, 0xc8, 0x41, 0xc1]);
    assert_eq!((pc.level(1), pc.rises(1)), (false, 8));
    pc.ps2.key(Key::Pause, true);
    pc.ps2.key(Key::Pause, false);
    assert_eq!(pc.read_all(), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    // Untranslated, as the keyboard sends them.
    pc.command(0x60);
    pc.data(0x05);
    pc.ps2.key(Key::Plain(0x1e), true);
    pc.ps2.key(Key::Plain(0x1e), false);
    pc.ps2.key(Key::Plain(0x41), true);
    pc.ps2.key(Key::Extended(0x48), false);
    assert_eq!(pc.read_all(), [0x1c, 0xf0, 0x1c, 0x83, 0xe0, 0xf0, 0x75]);
    for byte in [0xf0, 1] {
        pc.data(byte);
        assert_eq!(pc.read_all(), [0xfa]);
    }
    pc.ps2.key(Key::Extended(0x1d), false);
    assert_eq!(pc.read_all(), [0xe0, 0x9d]);
}

#[test]
fn keyboard_commands() {
    let mut pc = Pc::new();
    let mut send = |bytes: &[u8]| {
        bytes
            .iter()
            .flat_map(|byte| {
                pc.data(*byte);
                pc.read_all()
            })
            .collect::<Vec<u8>>()
    };
    assert_eq!(send(&[0xed, 0x06]), [0xfa, 0xfa]);
    assert_eq!(send(&[0xee]), [0xee]);
    assert_eq!(send(&[0xf2]), [0xfa, 0xab, 0x83]);
    assert_eq!(send(&[0xf0, 0x00]), [0xfa, 0xfa, 0x02]);
    assert_eq!(send(&[0xf0, 0x03]), [0xfa, 0xfe]);
    assert_eq!(send(&[0xf3, 0x00]), [0xfa, 0xfa]);
    assert_eq!(send(&[0xed, 0xf4]), [0xfa, 0xfa], "a command instead of a parameter");
    assert_eq!(send(&[0xfe, 0x01]), [0xfa, 0xfe]);
    assert_eq!(pc.ps2.leds(), Leds { scroll: false, num: true, caps: true });
    pc.data(0xf5);
    pc.read_all();
    assert!(pc.ps2.key(Key::Plain(2), true));
    assert_eq!(pc.read_all(), [0u8; 0], "scanning is off");
    pc.data(0xf4);
    pc.read_all();
    assert_eq!((0..100).filter(|_| pc.ps2.key(Key::Plain(2), true)).count(), 65, "then keys are refused");
}

/// i8042_check_aux, i8042_check_mux and the test of IRQ 12.
#[test]
fn linux_probes_the_auxiliary_port() {
    let mut pc = Pc::new();
    pc.command(0x60);
    pc.data(0x76);
    for byte in [0x5a, 0xf0, 0x56, 0xa4] {
        pc.command(0xd3);
        pc.data(byte);
        assert_eq!((pc.status() & 0x21, pc.read()), (0x21, byte));
    }
    assert_eq!(pc.rises(12), 4);
    pc.command(0xa9);
    assert_eq!(pc.read_all(), [0]);
    for (command, mode) in [(0xa7, 0x20), (0xa8, 0x00)] {
        pc.command(command);
        pc.command(0x20);
        assert_eq!(pc.read() & 0x20, mode);
    }
    pc.command(0xd2);
    pc.data(0x77);
    assert_eq!((pc.status() & 0x21, pc.read()), (0x01, 0x77));
}

/// psmouse: identify, wheel and five buttons, stream packets.
#[test]
fn the_mouse_becomes_a_five_button_wheel_mouse() {
    let mut pc = Pc::new();
    assert_eq!(pc.tell_mouse(0xff), [0xfa, 0xaa, 0x00]);
    assert_eq!(pc.tell_mouse(0xf2), [0xfa, 0x00]);
    for (rates, id) in [([200, 100, 80], 3), ([200, 200, 80], 4)] {
        for rate in rates {
            assert_eq!(pc.tell_mouse(0xf3), [0xfa]);
            assert_eq!(pc.tell_mouse(rate), [0xfa]);
        }
        assert_eq!(pc.tell_mouse(0xf2), [0xfa, id]);
    }
    pc.ps2.mouse(Movement { right: 5, ..Movement::default() }, Buttons::default());
    assert_eq!(pc.read_all(), [0u8; 0], "not reporting yet");
    assert_eq!(pc.tell_mouse(0xf4), [0xfa]);
    assert_eq!(pc.tell_mouse(0xe9), [0xfa, 0x20, 2, 80]);
    let buttons = Buttons { left: true, back: true, ..Buttons::default() };
    pc.ps2.mouse(Movement { right: -3, down: 4, wheel: -1 }, buttons);
    assert!(pc.level(12));
    assert_eq!(pc.read_all(), [0x39, 0xfd, 0xfc, 0x1f]);
    pc.ps2.mouse(Movement { right: 300, ..Movement::default() }, buttons);
    assert_eq!(pc.read_all(), [0x09, 255, 0, 0x10, 0x09, 45, 0, 0x10]);
    pc.ps2.mouse(Movement::default(), buttons);
    assert_eq!(pc.read_all(), [0u8; 0], "nothing new");
    assert_eq!(pc.tell_mouse(0xeb), [0xfa, 0x09, 0, 0, 0x10]);
}

#[test]
fn movements_add_up_while_nobody_reads() {
    let mut pc = Pc::new();
    pc.tell_mouse(0xf4);
    for _ in 0..1000 {
        pc.ps2.mouse(Movement { right: 1, down: -1, wheel: 0 }, Buttons::default());
    }
    let packets = pc.read_all();
    let sum: i32 =
        packets.chunks(3).map(|packet| i32::from(packet[1]) - if packet[0] & 0x10 != 0 { 256 } else { 0 }).sum();
    assert_eq!(sum, 1000);
    assert!(packets.len() < 60);
}

#[test]
fn reset_and_a20_in_all_their_forms() {
    let mut pc = Pc::new();
    pc.command(0xfe);
    pc.command(0xff);
    pc.command(0xd1);
    pc.data(0x02);
    pc.ps2.port_write(Ps2::PORT_92, 0, 1, 1);
    assert_eq!(*pc.requests.0.lock(), [PowerRequest::Reset; 3]);
    assert_eq!(pc.ps2.port_read(Ps2::PORT_92, 0, 1), 0);
    pc.command(0xdf);
    assert_eq!(pc.ps2.port_read(Ps2::PORT_92, 0, 1), 2);
    pc.command(0xd0);
    assert_eq!(pc.read() & 3, 3);
    pc.command(0xd1);
    pc.data(0x01);
    assert_eq!(pc.ps2.port_read(Ps2::PORT_92, 0, 1), 0);
    pc.ps2.reset();
    assert_eq!(pc.ps2.port_read(Ps2::PORT_92, 0, 1), 2);
}

#[test]
fn restored_in_the_middle_of_a_key_it_goes_on() {
    let mut pc = Pc::new();
    pc.command(0x60);
    pc.data(0x47);
    pc.tell_mouse(0xf4);
    pc.ps2.key(Key::Extended(0x4b), false);
    pc.ps2.mouse(Movement { right: 9, down: 0, wheel: 0 }, Buttons::default());
    assert_eq!(pc.read(), 0xe0);
    pc.command(0xd4);
    let state = pc.ps2.save().unwrap();
    let irqs = Arc::new(Mutex::new(Irqs::default()));
    let line = |irq| Line::new(irqs.clone(), irq);
    let ps2 = Ps2::restore("ps2", line(1), line(12), pc.requests.clone(), &state).unwrap();
    let mut other = Pc { ps2, irqs: irqs.clone(), requests: pc.requests.clone() };
    assert!(other.level(1));
    for pc in [&mut pc, &mut other] {
        pc.data(0xf2);
        assert_eq!(pc.read_all(), [0xcb, 0xfa, 0x00, 0x08, 9, 0]);
    }
    assert_eq!(pc.ps2.save().unwrap(), other.ps2.save().unwrap());
}
