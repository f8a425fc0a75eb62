//! How many commits there were, in a file beside the store: one that lacks some of them has lost what
//! was safe. One line, always of the same length, overwritten in place.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Names the time since the machine came up. What was written before it went down may be lost without
/// anything being damaged: nothing here waits for the disk.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The digits of the greatest count.
const DIGITS: usize = 20;

#[derive(Debug)]
pub(super) struct Tip {
    file: File,
    boot: String,
    commits: u64,
    of_this_boot: bool,
}

impl Tip {
    /// Reads the file, or makes it.
    pub(super) fn open(path: &Path) -> io::Result<Tip> {
        let boot = std::fs::read_to_string(BOOT).unwrap_or_default().trim().to_owned();
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let text = io::read_to_string(&file)?;
        let (commits, written_at) = match text.trim_end().split_once(' ') {
            Some((commits, boot)) => (commits.parse().map_err(io::Error::other)?, boot.to_owned()),
            None if text.is_empty() => (0, boot.clone()),
            None => return Err(io::Error::other("not a count of commits")),
        };
        let of_this_boot = !boot.is_empty() && written_at == boot;
        Ok(Tip { file, boot, commits, of_this_boot })
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits
    }

    /// The count was written since the machine came up.
    pub(super) fn is_of_this_boot(&self) -> bool {
        self.of_this_boot
    }

    /// So many commits are safe now.
    pub(super) fn advance(&mut self, commits: u64) -> io::Result<()> {
        let line = format!("{commits:0DIGITS$} {}\n", self.boot);
        self.file.write_all_at(line.as_bytes(), 0)?;
        self.commits = commits;
        self.of_this_boot = true;
        Ok(())
    }
}
