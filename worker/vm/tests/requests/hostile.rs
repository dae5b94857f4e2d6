//! Saved states of a hostile author: whole files with right checksums, and wrong numbers inside.

use crate::vm;
use crate::worker::{Worker, guest_file};
use bulkhead_saved_state::{SaveWriter, SavedFile, SavedState};
use bulkhead_vm_description::{DirectKernel, VmDescription};
use bulkhead_worker_protocol::{Request, resource};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Bytes that are CBOR already.
struct Raw(Vec<u8>);

impl minicbor::Encode<()> for Raw {
    fn encode<W: minicbor::encode::Write>(
        &self,
        encoder: &mut minicbor::Encoder<W>,
        _: &mut (),
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        encoder.writer_mut().write_all(&self.0).map_err(minicbor::encode::Error::write)
    }
}

fn save(folder: &Path, vm: VmDescription) {
    let mut worker = Worker::start();
    worker.run(vm);
    worker.expect("READY");
    for name in [resource::SAVED_STATE, resource::SAVED_MEMORY] {
        worker.pass(name, File::create_new(folder.join(name)).unwrap());
    }
    worker.done(Request::Save);
    worker.end();
}

/// The saved file with a few bytes of one section changed.
fn changed(path: &Path, random: &mut impl FnMut() -> usize) -> (String, Vec<u8>) {
    let mut saved = SavedFile::read(File::open(path).unwrap()).unwrap();
    let names: Vec<String> = saved.sections().map(|section| section.name().to_owned()).collect();
    let chosen = names[random() % names.len()].clone();
    let mut writer = SaveWriter::new(Vec::new()).unwrap();
    for name in names {
        let state = saved.take(&name).unwrap().into_state();
        let mut body = state.body().to_vec();
        if name == chosen && !body.is_empty() {
            for _ in 0..=random() % 6 {
                let at = random() % body.len();
                body[at] = random() as u8;
            }
        }
        writer.state(&name, &SavedState::encode(state.kind(), state.version(), &Raw(body)).unwrap()).unwrap();
    }
    (chosen, writer.finish().unwrap())
}

#[test]
fn hostile_saved_states_are_refused_or_run() {
    let Some(kernel) = guest_file("bare/echo") else { return };
    let mut vm = vm("4M");
    vm.direct_kernel =
        Some(DirectKernel { kernel: kernel.to_str().unwrap().into(), initrd: None, command_line: "".into() });
    let folder = tempfile::tempdir().unwrap();
    save(folder.path(), vm.clone());
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize
    };
    let rounds = if std::env::var_os("BULKHEAD_LONG").is_some() { 5000 } else { 150 };
    let (mut refused, mut ran) = (0, 0);
    for round in 0..rounds {
        let (section, bytes) = changed(&folder.path().join(resource::SAVED_STATE), &mut random);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut worker = Worker::start();
        worker.pass(resource::SAVED_STATE, file);
        worker.pass(resource::SAVED_MEMORY, File::open(folder.path().join(resource::SAVED_MEMORY)).unwrap());
        eprintln!("round {round}: {section}");
        match worker.try_restore(vm.clone()) {
            Ok(_) => ran += 1,
            Err(problem) => {
                assert!(!problem.message.is_empty());
                refused += 1;
            }
        }
        // Whatever it runs now, it listens, and ends in order.
        worker.end_now();
    }
    eprintln!("{refused} refused, {ran} ran");
    assert!(refused > 10 && ran > 10);
}
