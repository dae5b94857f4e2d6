//! File copy from the host into the guest, in pieces of 6 KiB.

use crate::ServiceError;
use crate::conversation::{Identity, Later, Outcome, Request, Service};
use crate::error::STATUS_OK;
use crate::message::Version;
use crate::saved_state::SavedService;
use crate::text::utf16_field;
use bulkhead_reactor::Time;
use bulkhead_vmbus_channel::class;
use std::io;
use std::time::Duration;
use uuid::uuid;

const START: u32 = 0;
const WRITE: u32 = 1;
const COMPLETE: u32 = 2;
const CANCEL: u32 = 3;
/// Operation and two service ids, which nobody looks at.
const HEADER: usize = 36;
const NAME_UNITS: usize = 260;
const FLAG_OVERWRITE: u32 = 1;
const FLAG_CREATE_PATH: u32 = 2;
/// Bytes of one piece.
pub const PIECE: usize = 6144;
const PATIENCE: Duration = Duration::from_secs(35);

/// What is copied. Read on the device loop, so it has to answer at once: a regular file, or memory.
pub trait Source: Send {
    /// How many bytes there are.
    fn len(&self) -> u64;

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// Those of the file; also when it ends earlier than it said.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The folder in the guest.
    pub folder: String,
    /// The file's name in it.
    pub name: String,
    /// An existing file is replaced.
    pub overwrite: bool,
    /// Missing folders are made.
    pub create_folders: bool,
}

/// Hears how the copy ended.
pub type Copied = Box<dyn FnOnce(Result<(), ServiceError>) + Send>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Start,
    Write { offset: u64 },
    Complete,
    Cancel,
}

struct Copy {
    source: Box<dyn Source>,
    start: Vec<u8>,
    step: Step,
    /// What the step's request did not do yet.
    due: bool,
    failure: Option<ServiceError>,
    answer: Copied,
}

/// The service.
#[derive(Default)]
pub struct FileCopy {
    ready: bool,
    copy: Option<Copy>,
    /// A copy was under way when the VM was saved: the guest has to forget it.
    cancel_first: bool,
}

impl FileCopy {
    /// Copies a file into the guest.
    pub fn copy(&mut self, source: Box<dyn Source>, to: &Destination, answer: Copied, later: &mut Later) {
        let service = Self::IDENTITY.name;
        let start = if !self.ready {
            Err(ServiceError::NotReady { service })
        } else if self.copy.is_some() {
            Err(ServiceError::Busy { service, what: "another file" })
        } else {
            start_message(to, source.len())
        };
        match start {
            Ok(start) => {
                self.copy = Some(Copy { source, start, step: Step::Start, due: true, failure: None, answer });
            }
            Err(error) => later.push(Box::new(move || answer(Err(error)))),
        }
    }

    /// How many bytes of the running copy the guest has, and how many there are.
    pub fn progress(&self) -> Option<(u64, u64)> {
        let copy = self.copy.as_ref()?;
        let done = match copy.step {
            Step::Start | Step::Cancel => 0,
            Step::Write { offset } => offset,
            Step::Complete => copy.source.len(),
        };
        Some((done, copy.source.len()))
    }

    fn end(&mut self, result: Result<(), ServiceError>, later: &mut Later) {
        if let Some(Copy { answer, .. }) = self.copy.take() {
            later.push(Box::new(move || answer(result)));
        }
    }
}

impl Copy {
    /// The next message, or why it cannot be made.
    fn message(&self) -> Result<Vec<u8>, ServiceError> {
        match self.step {
            Step::Start => Ok(self.start.clone()),
            Step::Write { offset } => {
                let len = (self.source.len() - offset).min(PIECE as u64) as usize;
                let mut data = header(WRITE);
                data.extend(0u32.to_le_bytes());
                data.extend(offset.to_le_bytes());
                data.extend((len as u32).to_le_bytes());
                let from = data.len();
                // Always the whole structure: drivers read it as one.
                data.resize(from + PIECE, 0);
                let read = self.source.read_exact_at(offset, &mut data[from..from + len]);
                read.map_err(|error| ServiceError::Source { offset, why: error.to_string() })?;
                Ok(data)
            }
            Step::Complete => Ok(header(COMPLETE)),
            Step::Cancel => Ok(header(CANCEL)),
        }
    }

    fn go(&mut self, step: Step) {
        (self.step, self.due) = (step, true);
    }

    /// After the guest has done a step.
    fn advance(&mut self) -> bool {
        let len = self.source.len();
        match self.step {
            Step::Start if len == 0 => self.go(Step::Complete),
            Step::Start => self.go(Step::Write { offset: 0 }),
            Step::Write { offset } if len - offset <= PIECE as u64 => self.go(Step::Complete),
            Step::Write { offset } => self.go(Step::Write { offset: offset + PIECE as u64 }),
            Step::Complete | Step::Cancel => return true,
        }
        false
    }
}

fn header(operation: u32) -> Vec<u8> {
    let mut data = operation.to_le_bytes().to_vec();
    data.resize(HEADER, 0);
    data
}

fn start_message(to: &Destination, size: u64) -> Result<Vec<u8>, ServiceError> {
    let mut data = header(START);
    data.extend(utf16_field("the file's name", &to.name, NAME_UNITS)?);
    // Linux's daemon makes the folders that a slash follows.
    let unix = to.folder.starts_with('/') && !to.folder.ends_with('/');
    let folder = format!("{}{}", to.folder, if unix { "/" } else { "" });
    data.extend(utf16_field("the folder", &folder, NAME_UNITS)?);
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let flags = flag(to.overwrite, FLAG_OVERWRITE) | flag(to.create_folders, FLAG_CREATE_PATH);
    data.extend(flags.to_le_bytes());
    data.extend(size.to_le_bytes());
    Ok(data)
}

impl Service for FileCopy {
    const IDENTITY: Identity = Identity {
        name: "file-copy",
        class: class::FILE_COPY,
        instance: uuid!("eb765408-105f-49b6-b4aa-c123b64d17d4"),
        message_type: 7,
        frameworks: &[Version::new(3, 0)],
        messages: &[Version::new(1, 1)],
    };

    type Config = ();

    fn new(_: ()) -> FileCopy {
        FileCopy::default()
    }

    fn restore(_: (), saved: &SavedService, version: Option<Version>, _now: Time) -> FileCopy {
        let ready = version.is_some();
        FileCopy { ready, copy: None, cancel_first: ready && saved.copying }
    }

    fn save(&self) -> SavedService {
        SavedService { copying: self.copy.is_some() || self.cancel_first, ..SavedService::default() }
    }

    fn inspect(&self) -> serde_json::Value {
        serde_json::json!({ "progress": self.progress() })
    }

    fn ready(&mut self, _now: Time, _version: Version, _later: &mut Later) {
        self.ready = true;
    }

    fn closed(&mut self, _now: Time, later: &mut Later) {
        (self.ready, self.cancel_first) = (false, false);
        self.end(Err(ServiceError::Closed { service: Self::IDENTITY.name, what: "a copy" }), later);
    }

    fn next_request(&mut self, _now: Time, _later: &mut Later) -> Option<Request> {
        if self.cancel_first {
            return Some(Request { data: header(CANCEL), patience: Some(PATIENCE) });
        }
        let copy = self.copy.as_mut().filter(|copy| copy.due)?;
        let data = copy.message().unwrap_or_else(|error| {
            copy.failure = Some(error);
            copy.step = Step::Cancel;
            header(CANCEL)
        });
        copy.due = false;
        Some(Request { data, patience: Some(PATIENCE) })
    }

    fn outcome(&mut self, _now: Time, outcome: Outcome<'_>, later: &mut Later) {
        if std::mem::take(&mut self.cancel_first) {
            return;
        }
        let Some(copy) = &mut self.copy else { return };
        let failure = match outcome {
            Outcome::Reply { status: STATUS_OK, .. } => None,
            Outcome::Reply { status, .. } => Some(ServiceError::Refused { what: "the file", status }),
            Outcome::TimedOut => Some(ServiceError::TimedOut { service: Self::IDENTITY.name, within: PATIENCE }),
        };
        match failure {
            // The daemon keeps a half-written file open until it is told.
            Some(error) if matches!(copy.step, Step::Write { .. } | Step::Complete) => {
                copy.failure = Some(error);
                copy.go(Step::Cancel);
            }
            Some(error) => {
                let error = copy.failure.take().unwrap_or(error);
                self.end(Err(error), later);
            }
            None => {
                if copy.advance() {
                    let result = copy.failure.take().map_or(Ok(()), Err);
                    self.end(result, later);
                }
            }
        }
    }
}

impl std::fmt::Debug for FileCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileCopy").field("ready", &self.ready).field("progress", &self.progress()).finish()
    }
}
