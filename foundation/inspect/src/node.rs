//! The builder that an object fills in. It records only what the path asks for.

use crate::{Inspect, InspectError, Tree, Value};
use std::fmt::Display;

/// Collects an object's values and children, or looks for one of them.
pub struct Node<'a> {
    goal: Goal<'a>,
    /// How many levels of the result are still wanted.
    depth: usize,
}

enum Goal<'a> {
    /// The path ends here: record everything.
    Collect(Vec<(String, Tree)>),
    /// Only the first of these names counts.
    Find { names: &'a [&'a str], seen: Vec<String>, found: Option<Result<Tree, Miss>> },
}

/// Where a path failed.
pub(crate) struct Miss {
    /// How many names of the path are left, with the one that failed.
    left: usize,
    why: Why,
}

enum Why {
    /// The names that there are.
    NotFound(Vec<String>),
    /// The value that has no children.
    NotAnObject(String),
}

impl Miss {
    pub fn into_error(self, names: &[&str]) -> InspectError {
        let failed = names.len() - self.left;
        match self.why {
            Why::NotFound(seen) => InspectError::NotFound {
                path: names[..=failed].join("/"),
                parent: if failed == 0 { "/".into() } else { names[..failed].join("/") },
                names: seen,
            },
            Why::NotAnObject(found) => InspectError::NotAnObject { path: names[..failed].join("/"), found },
        }
    }
}

impl<'a> Node<'a> {
    pub(crate) fn new(names: &'a [&'a str], depth: usize) -> Node<'a> {
        let goal = match names {
            [] => Goal::Collect(Vec::new()),
            _ => Goal::Find { names, seen: Vec::new(), found: None },
        };
        Node { goal, depth }
    }

    pub(crate) fn finish(self) -> Result<Tree, Miss> {
        match self.goal {
            Goal::Collect(children) => Ok(Tree::Object(children)),
            Goal::Find { found: Some(found), .. } => found,
            Goal::Find { names, seen, found: None } => Err(Miss { left: names.len(), why: Why::NotFound(seen) }),
        }
    }

    /// A number, word or flag.
    pub fn value(&mut self, name: impl Display, value: impl Into<Value>) -> &mut Self {
        self.value_with(name, || value.into())
    }

    /// A number that is read in hex: an address, register or mask.
    pub fn hex(&mut self, name: impl Display, value: impl Into<u64>) -> &mut Self {
        self.value_with(name, || Value::Hex(value.into()))
    }

    /// Bytes.
    pub fn bytes(&mut self, name: impl Display, value: &[u8]) -> &mut Self {
        self.value_with(name, || Value::Bytes(value.to_vec()))
    }

    /// Whatever displays, as text: an enum's state, an id, a time.
    pub fn display(&mut self, name: impl Display, value: impl Display) -> &mut Self {
        self.value_with(name, || Value::Text(value.to_string()))
    }

    /// A value that takes work to compute; `value` is called only when it is asked for.
    pub fn value_with(&mut self, name: impl Display, value: impl FnOnce() -> Value) -> &mut Self {
        self.entry(name, |names, _| match names {
            [] => Ok(Tree::Value(value())),
            rest => Err(Miss { left: rest.len(), why: Why::NotAnObject(value().to_string()) }),
        })
    }

    /// An object inside this one.
    pub fn child(&mut self, name: impl Display, child: &dyn Inspect) -> &mut Self {
        self.child_with(name, |node| child.inspect(node))
    }

    /// An object without a type of its own, or behind a lock; `fill` is called only when the path leads there.
    pub fn child_with(&mut self, name: impl Display, fill: impl FnOnce(&mut Node<'_>)) -> &mut Self {
        self.entry(name, |names, depth| {
            if names.is_empty() && depth == 0 {
                return Ok(Tree::Closed);
            }
            let mut node = Node::new(names, depth);
            fill(&mut node);
            node.finish()
        })
    }

    /// Children with the names 0, 1, 2 …
    pub fn children<'i, T: Inspect + 'i>(&mut self, items: impl IntoIterator<Item = &'i T>) -> &mut Self {
        items.into_iter().enumerate().for_each(|(index, item)| {
            self.child(index, item);
        });
        self
    }

    /// `make` gets the rest of the path below this entry and the levels that are wanted below it.
    fn entry(&mut self, name: impl Display, make: impl FnOnce(&[&str], usize) -> Result<Tree, Miss>) -> &mut Self {
        match &mut self.goal {
            Goal::Collect(children) => {
                // With no names left, nothing can be missed.
                if let Ok(tree) = make(&[], self.depth.saturating_sub(1)) {
                    children.push((name.to_string(), tree));
                }
            }
            Goal::Find { found: Some(_), .. } => {}
            Goal::Find { names, seen, found } => {
                let name = name.to_string();
                if names.first().is_some_and(|first| *first == name) {
                    *found = Some(make(&names[1..], self.depth));
                } else {
                    seen.push(name);
                }
            }
        }
        self
    }
}
