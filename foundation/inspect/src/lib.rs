//! Looking into live objects: a tree of named values, asked for by path, computed only along that path.
//!
//! An object implements [`Inspect`] by naming its values and children; [`inspect`] answers questions like `vp0/rip`. Children are
//! closures or objects that are not touched unless the path leads there.

mod impls;
mod node;
mod tree;

pub use node::Node;
pub use tree::{Tree, Value};

/// An object that can be looked into.
pub trait Inspect {
    /// Names this object's values and children. It must not wait for a guest or for I/O, and may be called at any time.
    fn inspect(&self, node: &mut Node<'_>);
}

/// As deep as needed.
pub const WHOLE: usize = usize::MAX;

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// There is no such name.
    #[error("`{path}` does not exist: `{parent}` has {}", list(.names))]
    NotFound {
        /// The path up to and with the name that was not found.
        path: String,
        /// The path of the object that was searched; `/` is the root.
        parent: String,
        /// What there is instead.
        names: Vec<String>,
    },
    /// The path goes on behind a value.
    #[error("`{path}` cannot be looked into: it is {found}")]
    NotAnObject {
        /// The path of the value.
        path: String,
        /// The value.
        found: String,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

/// Looks up `path`, names joined by `/` (empty: the object itself), and returns what is there down to `depth` levels below:
/// 0 shows only the value or that it is an object, 1 its values and the names of its children, [`WHOLE`] everything.
///
/// # Errors
/// `NotFound` with the names that exist, `NotAnObject`.
pub fn inspect(object: &dyn Inspect, path: &str, depth: usize) -> Result<Tree, InspectError> {
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let mut node = Node::new(&names, depth);
    if names.is_empty() && depth == 0 {
        return Ok(Tree::Closed);
    }
    object.inspect(&mut node);
    node.finish().map_err(|miss| miss.into_error(&names))
}
