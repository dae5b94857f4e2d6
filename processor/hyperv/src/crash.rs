//! Crash reports: the MSRs in which a dying guest leaves parameters and the end of its log (TLFS 12.3).

use bulkhead_guest_memory::GuestMemory;

/// The guest crashed.
pub(crate) const NOTIFY: u64 = 1 << 63;
/// Parameters 3 and 4 are address and length of a text.
pub(crate) const MESSAGE: u64 = 1 << 62;
/// Reports between two resets: a kernel makes one or two. The rest is dropped, or a guest could flood whoever listens.
pub(crate) const MAX_REPORTS: u32 = 4;
/// Longest text: one page.
const MAX_MESSAGE: u64 = 4096;

/// What a crashing guest reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestCrash {
    /// The five parameters; their meaning is the guest's.
    pub parameters: [u64; 5],
    /// The end of its log, when it gave one; at most 4096 characters, printable ones and line ends only.
    pub text: Option<String>,
}

/// Takes crash reports. Called on a VP's thread; it must not wait.
pub trait CrashSink: Send + Sync {
    /// The guest says that it has crashed. It may still run on, for a dump or a reboot.
    fn guest_crashed(&self, crash: GuestCrash);
}

/// The report that a write of `control` with [`NOTIFY`] makes.
pub(crate) fn report(control: u64, parameters: [u64; 5], memory: &GuestMemory) -> GuestCrash {
    let text = (control & MESSAGE != 0).then(|| read_text(memory, parameters[3], parameters[4])).flatten();
    GuestCrash { parameters, text }
}

/// The text goes to people's terminals and logs, so nothing but plain characters is let through.
fn read_text(memory: &GuestMemory, gpa: u64, len: u64) -> Option<String> {
    let mut bytes = vec![0; len.min(MAX_MESSAGE) as usize];
    memory.read(gpa, &mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let plain = text.trim_end_matches('\0').chars().map(|c| if c == '\n' || !c.is_control() { c } else { ' ' });
    Some(plain.collect())
}
