//! A small disk for a ledger, and how it gets full.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

/// Room enough for `ledger.min_free` (256 MiB) and what a store takes ahead.
const SIZE: &str = "size=480m";

/// What is written at once.
const MEBIBYTE: usize = 1 << 20;

/// What fills it.
const FILLER: &str = "filler";

/// Whether this user may mount one.
pub(crate) fn can_be_had() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let can = run("mount", &["-t", "tmpfs", "-o", SIZE, "tmpfs"], dir.path());
    can && run("umount", &[], dir.path())
}

/// Mounts one here.
pub(crate) fn mount(here: &Path) {
    std::fs::create_dir(here).unwrap();
    assert!(run("mount", &["-t", "tmpfs", "-o", SIZE, "tmpfs"], here), "no disk for the ledger");
}

/// Fills it to the last byte.
pub(crate) fn fill(disk: &Path) {
    let mut filler = File::create(disk.join(FILLER)).unwrap();
    let full = loop {
        if let Err(full) = filler.write_all(&[0; MEBIBYTE]) {
            break full;
        }
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull);
}

/// Makes room again.
pub(crate) fn clear(disk: &Path) {
    std::fs::remove_file(disk.join(FILLER)).unwrap();
}

/// Takes it away. A worker that was killed just now may still be leaving it.
pub(crate) fn unmount(disk: &Path) {
    run("umount", &["--lazy"], disk);
}

fn run(program: &str, arguments: &[&str], on: &Path) -> bool {
    let output = Command::new(program).args(arguments).arg(on).output();
    output.is_ok_and(|done| done.status.success())
}
