//! Inspecting through pointers and locks.

use crate::{Inspect, Node};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::time::Duration;

/// A lock held this long belongs to something that hangs, and that is worth showing instead of hanging too.
const PATIENCE: Duration = Duration::from_millis(200);

const BUSY: &str = "in use by another thread";

impl<T: Inspect + ?Sized> Inspect for &T {
    fn inspect(&self, node: &mut Node<'_>) {
        (**self).inspect(node);
    }
}

impl<T: Inspect + ?Sized> Inspect for Box<T> {
    fn inspect(&self, node: &mut Node<'_>) {
        (**self).inspect(node);
    }
}

impl<T: Inspect + ?Sized> Inspect for Arc<T> {
    fn inspect(&self, node: &mut Node<'_>) {
        (**self).inspect(node);
    }
}

impl<T: Inspect + ?Sized> Inspect for Mutex<T> {
    fn inspect(&self, node: &mut Node<'_>) {
        match self.try_lock_for(PATIENCE) {
            Some(inner) => inner.inspect(node),
            None => drop(node.value("locked", BUSY)),
        }
    }
}

impl<T: Inspect + ?Sized> Inspect for RwLock<T> {
    fn inspect(&self, node: &mut Node<'_>) {
        match self.try_read_for(PATIENCE) {
            Some(inner) => inner.inspect(node),
            None => drop(node.value("locked", BUSY)),
        }
    }
}
