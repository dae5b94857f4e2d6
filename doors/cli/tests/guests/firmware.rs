//! Guests that SeaBIOS starts from CD and floppy.

use crate::support::{Guest, guest_file, is_long, worker_is_there};

#[test]
fn grub_starts_from_cd_and_floppy() {
    for (option, source, medium) in [("--cdrom", "cd", "cd-one.iso"), ("--floppy", "floppy", "floppy-one.img")] {
        let Some(image) = guest_file(&format!("grub-media/{medium}")).filter(|_| worker_is_there()) else { return };
        // The floppy is opened for writing, and other tests may have it too.
        let copy = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(image, copy.path()).unwrap();
        let path = copy.path().to_str().unwrap();
        let mut guest = Guest::boot(["--engine", "soft", "--memory", "64M", option, path, "--boot", source]);
        guest.expect("Medium one", 120);
        guest.terminate();
        assert_eq!(guest.end(30).0.code(), Some(0));
    }
}

/// A VM that boots one of the CDs of `boot-cds`.
fn boot_cd(name: &str, memory: &str) -> Option<Guest> {
    let cd = guest_file(&format!("boot-cds/{name}.iso")).filter(|_| worker_is_there())?;
    Some(Guest::boot(["--engine", "soft", "--memory", memory, "--no-reboot", "--cdrom", cd.to_str()?, "--boot", "cd"]))
}

#[test]
fn grub_starts_32_bit_kernels() {
    for kernel in if is_long() { &["686-pae", "686"][..] } else { &["686-pae"] } {
        let Some(mut guest) = boot_cd(&format!("linux-{kernel}"), "256M") else { return };
        guest.expect("FIRST-PROCESS", 600);
        let answer = guest.command("uname -rm", 60);
        assert!(answer.contains(&format!("-{kernel} i686\n")), "{answer}");
        guest.send("off\n");
        assert_eq!(guest.end(60).0.code(), Some(0));
    }
}

#[test]
fn memtest_finds_no_errors() {
    for bits in ["x64", "ia32"] {
        let Some(mut guest) = boot_cd(&format!("memtest-{bits}"), "32M") else { return };
        let screen = if is_long() {
            guest.expect_screen(7200, |screen| screen.contains("Pass:  1 ") || !screen.contains("Errors: 0"))
        } else {
            // The tests count from 0.
            guest.expect_screen(600, |screen| screen.contains("Test #1"))
        };
        assert!(screen.contains("Memtest86+") && screen.contains("Errors: 0"), "{screen}");
        guest.terminate();
        assert_eq!(guest.end(30).0.code(), Some(0));
    }
}
