//! The messages.

use crate::{GuestAnswer, GuestRequest, Stats};
use bulkhead_vm_description::{DriveKind, Medium, VmDescription};
use serde::{Deserialize, Serialize};

/// A packet to the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToWorker {
    /// Chosen by the sender; the reply carries it.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// Introduces one side to the other; the first message each way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version that the sender speaks.
    pub version: u32,
    /// Abilities beyond the version, by name.
    #[serde(default)]
    pub features: Vec<String>,
}

/// What a worker can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First of all. Answer: `hello`.
    Hello(Hello),
    /// The packet's descriptors, in order, under these names. May be sent several times, also while the VM runs.
    Resources {
        /// One per descriptor.
        names: Vec<String>,
    },
    /// Makes the VM and runs it. Once.
    Start {
        /// What it is made of; its files are resources.
        description: Box<VmDescription>,
        /// Makes it, but leaves it paused.
        #[serde(default)]
        paused: bool,
    },
    /// Makes the VM from the resources `saved.state` and `saved.memory`, and runs it. Once, in place of `start`.
    Restore {
        /// What it was made of when it was saved. Where its files are may have changed.
        description: Box<VmDescription>,
        /// Makes it, but leaves it paused.
        #[serde(default)]
        paused: bool,
    },
    /// Stops the processors and waits until no device has work in flight.
    Pause,
    /// Goes on after `pause`.
    Resume,
    /// Saves the whole VM into the resources `saved.state` and `saved.memory`, then ends the worker.
    Save,
    /// Ends the VM at once, as by pulling the plug.
    Stop,
    /// Presses the reset button.
    Reset,
    /// Presses the power button: the guest's operating system decides.
    PowerButton,
    /// Adds a disk or a DVD drive to a SCSI controller: `scsi0.5`. Its files are resources. The VM description of whoever saves
    /// this VM has to name it too.
    AttachDrive {
        /// The place.
        drive: String,
        /// What the drive is.
        kind: DriveKind,
        /// What is in it. A disk has one; a DVD drive may be empty.
        #[serde(default)]
        medium: Option<Box<Medium>>,
    },
    /// Removes a drive from a SCSI controller. When this is answered, its files are closed.
    DetachDrive {
        /// The place.
        drive: String,
    },
    /// Puts a medium into a CD or floppy drive: `ide1.0`, `scsi0.5`, `floppy`. The file is a resource.
    InsertMedium {
        /// The drive.
        drive: String,
        /// What to put in.
        medium: Box<Medium>,
    },
    /// Takes the medium out.
    EjectMedium {
        /// The drive.
        drive: String,
    },
    /// Merges the top of a disk's chain into its parent while the VM runs. The parent was passed as
    /// [`merge_target`](crate::resource::merge_target). It has begun when this is answered; events tell the rest.
    MergeDisk {
        /// Name of the disk's file in the description.
        disk: String,
    },
    /// The answer to [`MergeNews::Switching`].
    SwitchDisk {
        /// The disk.
        disk: String,
        /// The parent is durably known as the disk: go on with it. Otherwise the merge ends and the disk stays as it was.
        switched: bool,
    },
    /// What the display shows, as PNG. Answer: `document`.
    Screenshot,
    /// Live state as JSON. Answer: `document`.
    Inspect {
        /// Name of a device, or empty for everything.
        #[serde(default)]
        path: String,
    },
    /// Counters so far. Answer: `stats`.
    Stats,
    /// Something for the guest's own drivers and daemons.
    Guest(GuestRequest),
}

/// A packet from the worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWorker {
    /// Answers a request.
    Reply(Reply),
    /// Something happened.
    Event(Event),
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// That of the request.
    pub id: u64,
    /// What came of it.
    pub result: Result<Answer, Problem>,
}

/// A successful answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done.
    Done,
    /// Who the worker is.
    Hello(Hello),
    /// Counters.
    Stats(Box<Stats>),
    /// Of a request for the guest.
    Guest(GuestAnswer),
    /// Bytes, in the memfd that is the packet's descriptor.
    Document {
        /// How many.
        length: u64,
        /// `image/png`, `application/json`.
        media_type: String,
    },
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// For programs.
    pub kind: ProblemKind,
    /// For people: what was tried, why it failed, what to do.
    pub message: String,
}

/// Kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The request makes no sense: a name that does not exist, a broken limit.
    Invalid,
    /// This build cannot do that.
    Unsupported,
    /// This host cannot do that now: no KVM, no memory.
    Unavailable,
    /// Not in this state of the VM, or while somebody else uses what is needed.
    WrongState,
    /// What was named is not there.
    NotFound,
    /// The host's permissions refuse it.
    Refused,
    /// It was tried and failed.
    #[serde(other)]
    Failed,
}

/// What happens without being asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The VM has another state.
    State {
        /// Which.
        state: VmState,
    },
    /// The guest was reset and starts again.
    Reset,
    /// A disk is being merged.
    Merge {
        /// Name of its file in the description.
        disk: String,
        /// What happened.
        news: MergeNews,
    },
    /// The heartbeat service says something else about the guest than before: `ok`, `lost`, `no contact`.
    Heartbeat {
        /// What.
        state: String,
    },
    /// A program in the guest has connected to this port of the host; the packet's descriptor is the host's end.
    SocketAccepted {
        /// Which.
        port: u32,
    },
    /// The guest says through the Hyper-V interface that it has crashed. It may still run on, for a dump or a reboot.
    GuestCrashed {
        /// The five crash parameters; their meaning is the guest's.
        parameters: [u64; 5],
        /// The end of its log, if it gave one; at most 4096 characters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
    /// The VM has ended; the worker closes the connection after this.
    Ended {
        /// Why.
        by: EndedBy,
        /// For people, when there is more to say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// Counters of the whole run.
        stats: Box<Stats>,
    },
}

/// How a merge goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeNews {
    /// Bytes of the disk that are in the parent.
    Progress {
        /// Done.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// The parent durably holds everything, and the guest's writes wait. Whoever remembers which file is the disk remembers
    /// the parent now, and answers with `switch_disk`.
    Switching,
    /// The parent is the disk; the merged file is not used any more.
    Merged,
    /// The disk stays as it was.
    Failed(Problem),
}

/// States of a VM in its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Nothing is made yet.
    Created,
    /// The processors run.
    Running,
    /// They stand still, and so does VM time.
    Paused,
    /// The state is being written.
    Saving,
    /// It is over.
    Ended,
}

/// Why a VM ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The guest switched itself off.
    PowerOff,
    /// The guest reset itself, and `no_reboot` is set.
    Reset,
    /// The guest's processor shut down, and `no_reboot` is set.
    TripleFault,
    /// `stop`.
    Stop,
    /// The state was saved.
    Saved,
    /// The guest wrote this to the debug-exit port.
    DebugExit(u32),
    /// The starter is gone.
    Disconnected,
    /// Something failed; the detail says what.
    #[serde(other)]
    Failed,
}

impl std::fmt::Display for EndedBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EndedBy::PowerOff => "power_off",
            EndedBy::Reset => "reset",
            EndedBy::TripleFault => "triple_fault",
            EndedBy::Stop => "stop",
            EndedBy::Saved => "saved",
            EndedBy::DebugExit(_) => "debug_exit",
            EndedBy::Disconnected => "disconnected",
            EndedBy::Failed => "failed",
        })
    }
}
