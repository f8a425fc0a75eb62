//! The folder of the ledger around its database: the lock, the version of the format, and what tells
//! of damage that the database would pass over: the checksums of its lists of tables and of the tables,
//! and the number of the last commit, kept apart from it so that a commit it lost is missed.

use super::store::StoreError;
use rustix::fs::Access;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The whole content of the file `format`.
const FORMAT: &str = "chakra-sender ledger 1\n";

/// Changes with each start of the machine: what the page cache held is lost with it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const BOOT_ID_BYTES: usize = 36;

/// Of a table at once.
const READ_BYTES: usize = 256 << 10;

/// Locked as long as it lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Eight bytes of a number, then the boot at which it was written.
    commits: File,
    boot: [u8; BOOT_ID_BYTES],
    _lock: File,
}

impl Folder {
    /// Creates what is not there, and refuses what another process or another version owns.
    pub(super) fn open(path: &Path) -> Result<Folder, StoreError> {
        let at = |path: &Path, source| StoreError::File { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(|source| at(path, source))?;
        let open = |name: &str| {
            let path = path.join(name);
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            file.map_err(|source| at(&path, source))
        };
        let lock = open("lock")?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::InUse(path.to_owned()),
            TryLockError::Error(source) => at(&path.join("lock"), source),
        })?;
        check_format(path)?;
        check_lists(&path.join("database").join("keyspaces"))?;
        let mut boot = [0; BOOT_ID_BYTES];
        let id = std::fs::read(BOOT_ID).map_err(|source| at(Path::new(BOOT_ID), source))?;
        boot.iter_mut().zip(id).for_each(|(to, from)| *to = from);
        Ok(Folder { path: path.to_owned(), commits: open("commits")?, boot, _lock: lock })
    }

    /// The folder itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the database lies.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join("database")
    }

    /// Notes the number of the last commit. It reaches the page cache, like the commit itself.
    pub(super) fn count(&self, commits: u64) -> Result<(), StoreError> {
        let mut line = [0; 8 + BOOT_ID_BYTES];
        line[..8].copy_from_slice(&commits.to_be_bytes());
        line[8..].copy_from_slice(&self.boot);
        self.commits.write_all_at(&line, 0).map_err(|source| self.failed(source))
    }

    /// How many commits the database misses. None may be missing within one run of the machine.
    pub(super) fn lost_commits(&self, present: u64) -> Result<u64, StoreError> {
        let mut line = [0; 8 + BOOT_ID_BYTES];
        match self.commits.read_exact_at(&mut line, 0) {
            Ok(()) => {}
            // Nothing was ever committed; the very first commit may lack its number.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && present <= 1 => {}
            Err(source) => return Err(self.failed(source)),
        }
        let (number, boot) = line.split_at(8);
        let number = number.try_into().map(u64::from_be_bytes).unwrap_or_default();
        let lost = number.saturating_sub(present);
        if lost > 0 && boot == self.boot {
            let what = format!("the last {lost} of {number} commits are missing");
            return Err(StoreError::Damaged { path: self.database(), what });
        }
        Ok(lost)
    }

    fn failed(&self, source: io::Error) -> StoreError {
        let path = self.path.join("commits");
        match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                StoreError::Damaged { path, what: "it is empty or cut".to_owned() }
            }
            _ => StoreError::File { path, source },
        }
    }
}

fn check_format(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join("format");
    let found = match std::fs::read_to_string(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(StoreError::File { path, source }),
    };
    // A kill may leave an empty file, and then there is no database yet.
    if found.is_empty() && !folder.join("database").exists() {
        return std::fs::write(&path, FORMAT).map_err(|source| StoreError::File { path, source });
    }
    match found == FORMAT {
        true => Ok(()),
        false => Err(StoreError::Version {
            path,
            found: found.trim_end().chars().take(64).collect(),
            known: FORMAT.trim_end(),
        }),
    }
}

/// Holds each keyspace's list of tables against its checksum. The database writes that and does not
/// read it: a flipped byte makes tables vanish, or the process ask for 70 GB and end. As written by
/// `persist_version` of lsm-tree 3.1.10: `current` is the list's number, XXH3 of its file, and a zero.
fn check_lists(keyspaces: &Path) -> Result<(), StoreError> {
    let failed = |path: &Path, source| StoreError::File { path: path.to_owned(), source };
    let entries = match std::fs::read_dir(keyspaces) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|source| failed(keyspaces, source))?,
    };
    for keyspace in entries {
        let keyspace = keyspace.map_err(|source| failed(keyspaces, source))?.path();
        let path = keyspace.join("current");
        let current = match std::fs::read(&path) {
            Ok(current) => current,
            // Killed while it was created; the counts miss one that was in use.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(failed(&path, source)),
        };
        let Some((number, checksum)) = current.split_first_chunk() else {
            return Err(another_checksum(path));
        };
        let list = keyspace.join(format!("v{}", u64::from_le_bytes(*number)));
        let Ok(bytes) = std::fs::read(&list) else { return Err(another_checksum(path)) };
        let mut expected = xxhash_rust::xxh3::xxh3_128(&bytes).to_le_bytes().to_vec();
        expected.push(0);
        if checksum != expected {
            return Err(another_checksum(list));
        }
    }
    Ok(())
}

/// Holds a table against the checksum that its list has for it; the database writes that and does not
/// read it. What is broken would show when a job's look-up meets it. Returns the bytes read.
pub(super) fn check_table(path: &Path, checksum: u128) -> Result<u64, StoreError> {
    let failed = |source| StoreError::File { path: path.to_owned(), source };
    let mut table = File::open(path).map_err(failed)?;
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    let mut part = vec![0; READ_BYTES];
    let mut bytes = 0;
    loop {
        let read = match table.read(&mut part) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(failed(source)),
        };
        hasher.update(&part[..read]);
        bytes += read as u64;
    }
    match hasher.digest128() == checksum {
        true => Ok(bytes),
        false => Err(another_checksum(path.to_owned())),
    }
}

fn another_checksum(path: PathBuf) -> StoreError {
    StoreError::Damaged { path, what: "its checksum is another".to_owned() }
}

/// Whether a worker could have its ledger there, as far as can be seen without making or locking anything.
pub(super) fn look_at(folder: &Path, min_free: u64) -> Result<(), String> {
    // `create_dir_all` makes the rest. An empty path is the current folder.
    let there = folder.ancestors().find(|path| path.exists()).filter(|path| *path != Path::new(""));
    let there = there.unwrap_or(Path::new("."));
    if !there.is_dir() {
        return Err(format!("{} is no folder", there.display()));
    }
    rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| format!("{} cannot be written into: {error}", there.display()))?;
    has_room(there, min_free)
}

/// Whether its disk has as much room as a new send asks for.
pub(super) fn has_room(folder: &Path, min_free: u64) -> Result<(), String> {
    match free_space(folder) {
        Ok(free) if free < min_free => Err(format!(
            "{}: {free} bytes are free, less than ledger.min_free ({min_free}): make room",
            folder.display()
        )),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Bytes that this process may still write on the disk of this folder.
pub(super) fn free_space(folder: &Path) -> Result<u64, StoreError> {
    let about = rustix::fs::statvfs(folder)
        .map_err(|error| StoreError::File { path: folder.to_owned(), source: error.into() })?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}
