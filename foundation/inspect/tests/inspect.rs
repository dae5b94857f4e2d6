//! Paths, depth, laziness, rendering.

use bulkhead_inspect::{Inspect, InspectError, Node, Tree, Value, WHOLE, inspect};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::cell::Cell;
use std::sync::Arc;

#[derive(Default)]
struct Vp {
    rip: u64,
    halted: bool,
    visits: Cell<u32>,
}

impl Inspect for Vp {
    fn inspect(&self, node: &mut Node<'_>) {
        self.visits.set(self.visits.get() + 1);
        node.hex("rip", self.rip).value("halted", self.halted).child_with("apic", |node| {
            node.value("pending", 3u8).bytes("irr", &[0, 0x80]);
        });
    }
}

struct Vm {
    vps: Vec<Vp>,
    computed: Cell<u32>,
}

impl Inspect for Vm {
    fn inspect(&self, node: &mut Node<'_>) {
        node.value("name", "web\x1b[2J").value("offset", -5i32);
        for (index, vp) in self.vps.iter().enumerate() {
            node.child(format_args!("vp{index}"), vp);
        }
        node.value_with("digest", || {
            self.computed.set(self.computed.get() + 1);
            Value::Unsigned(7)
        });
    }
}

fn vm() -> Vm {
    let vps = vec![Vp { rip: 0xfff0, ..Vp::default() }, Vp { halted: true, ..Vp::default() }];
    Vm { vps, computed: Cell::new(0) }
}

#[test]
fn a_path_leads_to_a_value_and_touches_nothing_else() {
    let vm = vm();
    assert_eq!(inspect(&vm, "vp1/halted", WHOLE).unwrap(), Tree::Value(Value::Bool(true)));
    assert_eq!(inspect(&vm, "/vp1//apic/irr/", 0).unwrap(), Tree::Value(Value::Bytes(vec![0, 0x80])));
    assert_eq!(inspect(&vm, "vp0", 0).unwrap(), Tree::Closed);
    assert_eq!((vm.vps[0].visits.get(), vm.vps[1].visits.get(), vm.computed.get()), (0, 2, 0));
    assert_eq!(inspect(&vm, "digest", 0).unwrap(), Tree::Value(Value::Unsigned(7)));
    assert_eq!(vm.computed.get(), 1);
}

#[test]
fn depth_closes_children() {
    let vm = vm();
    assert_eq!(inspect(&vm, "", 0).unwrap(), Tree::Closed);
    let one = inspect(&vm, "", 1).unwrap();
    assert_eq!(one.get("vp0"), Some(&Tree::Closed));
    assert_eq!(vm.vps[0].visits.get(), 0);
    let two = inspect(&vm, "", 2).unwrap();
    assert_eq!(two.get("vp0").unwrap().get("apic"), Some(&Tree::Closed));
    assert_eq!(two.get("vp0").unwrap().get("rip"), Some(&Tree::Value(Value::Hex(0xfff0))));
    assert_eq!(inspect(&vm, "vp0", 1).unwrap(), *two.get("vp0").unwrap());
}

#[test]
fn text_and_json() {
    let tree = inspect(&vm(), "", 2).unwrap();
    let text = "\
name   = web\\u{1b}[2J
offset = -5
vp0/
  rip    = 0xfff0
  halted = false
  apic/ …
vp1/
  rip    = 0x0
  halted = true
  apic/ …
digest = 7
";
    assert_eq!(tree.to_string(), text);
    let json = inspect(&vm(), "vp0", WHOLE).unwrap().to_json();
    let expected = r#"{"apic":{"irr":"00 80","pending":3},"halted":false,"rip":"0xfff0"}"#;
    assert_eq!(json, expected.parse::<serde_json::Value>().unwrap());
    assert_eq!(inspect(&vm(), "vp0/rip", 0).unwrap().to_string(), "0xfff0\n");
    assert!(inspect(&vm(), "vp0", 0).unwrap().to_json().is_null());
}

#[test]
fn a_wrong_path_says_what_there_is() {
    let error = |path| inspect(&vm(), path, WHOLE).unwrap_err();
    assert_eq!(error("vp2/rip").to_string(), "`vp2` does not exist: `/` has name, offset, vp0, vp1, digest");
    assert_eq!(error("vp0/apic/isr").to_string(), "`vp0/apic/isr` does not exist: `vp0/apic` has pending, irr");
    let expected = InspectError::NotAnObject { path: "vp0/rip".into(), found: "0xfff0".into() };
    assert_eq!(error("vp0/rip/low"), expected);
}

/// A hanging device is the very moment when somebody looks.
#[test]
fn a_held_lock_is_shown_instead_of_waited_for() {
    let device = Arc::new(Mutex::new(Vp::default()));
    assert_eq!(inspect(&device, "halted", 0).unwrap(), Tree::Value(Value::Bool(false)));
    let _held = device.lock();
    let text = inspect(&device, "", WHOLE).unwrap().to_string();
    assert_eq!(text, "locked = in use by another thread\n");
}

/// A tree of random shape, whose nodes know their own path.
#[derive(Clone, Debug)]
enum Shape {
    Leaf(u64),
    Inner(Vec<Shape>),
}

impl Inspect for Shape {
    fn inspect(&self, node: &mut Node<'_>) {
        match self {
            Shape::Leaf(number) => drop(node.value("number", *number)),
            Shape::Inner(shapes) => drop(node.children(shapes)),
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    any::<u64>()
        .prop_map(Shape::Leaf)
        .prop_recursive(4, 40, 5, |inner| proptest::collection::vec(inner, 0..5).prop_map(Shape::Inner))
}

fn check_paths(root: &Shape, tree: &Tree, path: &str) {
    assert_eq!(&inspect(root, path, WHOLE).unwrap(), tree, "at {path}");
    if let Tree::Object(children) = tree {
        for (name, child) in children {
            check_paths(root, child, &format!("{path}/{name}"));
        }
    }
}

proptest! {
    #[test]
    fn every_path_finds_what_the_whole_tree_shows(shape in shape()) {
        check_paths(&shape, &inspect(&shape, "", WHOLE).unwrap(), "");
    }
}
