//! Writing captures: a thread per capture, so that a slow reader holds up no frame.

use crate::plane::Captured;
use bulkhead_packets::PcapngWriter;
use crossbeam_channel::Sender;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;

/// Copies that may wait for the writer; more are lost.
const QUEUE: usize = 4096;

/// Starts a capture of the port `name` into `file`. It ends when the sender is dropped, or the file takes no more.
///
/// # Errors
/// Out of threads, or the file takes nothing.
pub fn start(file: OwnedFd, name: &str, snap: u32) -> io::Result<Sender<Captured>> {
    let mut writer = PcapngWriter::new(BufWriter::new(File::from(file)), name, snap)?;
    writer.get_mut().flush()?;
    let (sender, receiver) = crossbeam_channel::bounded::<Captured>(QUEUE);
    std::thread::Builder::new().name("capture".into()).spawn(move || {
        while let Ok(first) = receiver.recv() {
            let mut result = Ok(());
            for copy in std::iter::once(first).chain(receiver.try_iter()) {
                result = result.and_then(|()| writer.frame(copy.time, copy.direction, &copy.bytes, copy.len));
            }
            // What is there by now is on its way before the next wait.
            if let Err(error) = result.and_then(|()| writer.get_mut().flush()) {
                tracing::warn!("a capture ends: {error}");
                return;
            }
        }
    })?;
    Ok(sender)
}
