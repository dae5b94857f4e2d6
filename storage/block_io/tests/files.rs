//! Every way to the kernel against a model: contents, lengths, holes, errors, misaligned direct I/O.

use bulkhead_block_io::{Cache, HostFile, IoLoop, IoMode, OpenOptions};
use bulkhead_disk::test_support::XorShift;
use bulkhead_disk::{Buffer, Durability, ErrorKind, File, MemoryFile, read_vec, write_vec};
use std::path::Path;

const MODES: [IoMode; 3] = [IoMode::Ring, IoMode::Threads, IoMode::Inline];

/// The loop of a mode, or None (with the reason printed) where the machine refuses it.
fn io_loop(mode: IoMode) -> Option<IoLoop> {
    match IoLoop::new(mode) {
        Ok(io) => Some(io),
        Err(error) => {
            eprintln!("skipped: {mode:?}: {error}");
            None
        }
    }
}

fn open(io: &IoLoop, path: &Path, cache: Cache, create: bool) -> HostFile {
    OpenOptions::new().cache(cache).create_new(create).open(&io.context(), path).unwrap()
}

/// A folder on the file system of the build, which knows direct I/O (tmpfs does not).
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

async fn compare(file: &HostFile, model: &MemoryFile) {
    assert_eq!(file.len(), model.len());
    assert!(read_vec(file, 0, file.len() as usize).await.unwrap() == model.to_vec(), "contents differ");
}

async fn random_operations(file: HostFile, seed: u64) {
    let model = MemoryFile::new("model");
    let mut random = XorShift::new(seed);
    for round in 0..400u64 {
        let offset = random.below(200_000);
        let len = 1 + random.below(30_000);
        let end = (offset + len).min(file.len());
        let range = offset.min(end)..end;
        match random.below(8) {
            0..3 => {
                let data: Vec<u8> = (0..len).map(|n| (n + round) as u8).collect();
                let stable = if random.one_in(40) { Durability::Stable } else { Durability::Cached };
                file.write(offset, Buffer::copy_of(&data), stable).await.into_result().unwrap();
                write_vec(&model, offset, &data).await.unwrap();
            }
            3 => {
                // Whole sectors: the fast way of direct I/O.
                let (offset, data) = (offset / 4096 * 4096, vec![round as u8; 8192]);
                write_vec(&file, offset, &data).await.unwrap();
                write_vec(&model, offset, &data).await.unwrap();
            }
            4 => {
                file.zero_range(range.clone()).await.unwrap();
                model.zero_range(range).await.unwrap();
            }
            5 => {
                file.punch(range.clone()).await.unwrap();
                model.punch(range).await.unwrap();
            }
            6 if random.one_in(4) => {
                file.set_len(offset).await.unwrap();
                model.set_len(offset).await.unwrap();
            }
            6 => {
                file.allocate(offset..offset + len).await.unwrap();
                model.allocate(offset..offset + len).await.unwrap();
            }
            _ if !range.is_empty() => {
                let got = read_vec(&file, range.start, (range.end - range.start) as usize).await.unwrap();
                let want = read_vec(&model, range.start, got.len()).await.unwrap();
                assert!(got == want, "round {round}: {range:?}");
            }
            _ if random.one_in(8) => file.flush().await.unwrap(),
            _ => {}
        }
    }
    compare(&file, &model).await;
}

#[test]
fn every_mode_and_cache_behaves_as_the_model() {
    let folder = folder();
    for mode in MODES {
        for cache in [Cache::Writeback, Cache::Direct] {
            let Some(io) = io_loop(mode) else { continue };
            let path = folder.path().join(format!("{mode:?}-{cache:?}"));
            let file = open(&io, &path, cache, true);
            if file.cache() != cache {
                eprintln!("skipped: no direct I/O on {}", path.display());
            }
            io.run_until(random_operations(file, 11)).unwrap();
        }
    }
}

#[test]
fn many_requests_run_at_once_and_holes_are_found() {
    let folder = folder();
    for mode in MODES {
        let Some(io) = io_loop(mode) else { continue };
        let path = folder.path().join(format!("{mode:?}"));
        let file = std::rc::Rc::new(open(&io, &path, Cache::Direct, true));
        io.run_until(async move {
            file.set_len(64 << 20).await.unwrap();
            // More than the ring has entries.
            let writes =
                (0..1000u64).map(|n| file.write(n * 8192, Buffer::copy_of(&[n as u8; 4096]), Durability::Cached));
            let done = bulkhead_disk::join_all(writes.collect()).await;
            assert!(done.into_iter().all(|completion| completion.result.is_ok()));
            for n in [0u64, 7, 999] {
                assert_eq!(read_vec(&*file, n * 8192, 4096).await.unwrap(), [n as u8; 4096]);
            }
            assert_eq!(file.data_after(0).await.unwrap().unwrap().start, 0);
            assert_eq!(file.data_after(32 << 20).await.unwrap(), None);
        })
        .unwrap();
    }
}

#[test]
fn errors_name_kind_and_place() {
    let folder = folder();
    let path = folder.path().join("a");
    let io = IoLoop::new(IoMode::Auto).unwrap();
    let missing = OpenOptions::new().open(&io.context(), &path).err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    std::fs::write(&path, [1; 1000]).unwrap();
    let file = OpenOptions::new().read_only(true).open(&io.context(), &path).unwrap();
    let label = path.clone();
    io.run_until(async move {
        let short = read_vec(&file, 900, 200).await.unwrap_err();
        assert_eq!((short.kind(), short.offset()), (ErrorKind::OutOfRange, Some(900)));
        assert!(short.to_string().contains(&*label.to_string_lossy()), "{short}");
        assert_eq!(write_vec(&file, 0, &[0]).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    })
    .unwrap();
    let folder_error = OpenOptions::new().read_only(true).open(&io.context(), folder.path()).err().unwrap();
    assert_eq!(folder_error.kind(), ErrorKind::InvalidInput);
}
