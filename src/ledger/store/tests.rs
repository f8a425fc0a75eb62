//! The store as its callers see it, and what it says of damage. "Killed" is a copy of the folder as
//! it lies while the store is open.

use super::*;
use std::fs;

const HOUR: Duration = Duration::from_secs(3600);
const BOUNDS: Bounds = Bounds { keep: Duration::from_secs(8 * 3600), max_entries: 1_000_000 };

fn hour(hour: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + hour * 3600).unwrap()
}

fn open(folder: &Path) -> Result<Opened, StoreError> {
    Store::open(folder, BOUNDS, hour(0))
}

fn opened(folder: &Path) -> Store {
    open(folder).unwrap().store
}

fn value(key: u128) -> Vec<u8> {
    key.to_be_bytes().repeat(12)
}

fn unfinished(key: u128) -> Change {
    Change::Open { key, value: value(key) }
}

fn finish(key: u128) -> Change {
    Change::Finish { key, value: value(key), claim: Some((!key, value(key))) }
}

fn finished(key: u128) -> Option<Record> {
    Some(Record::Finished(value(key)))
}

/// Every file with its written part and its length: journals are long and mostly void.
struct Left(Vec<(PathBuf, Vec<u8>, u64)>);

impl Left {
    /// As a kill at this moment leaves it.
    fn by_kill(folder: &Path) -> Left {
        let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let mut bytes = fs::read(&path).unwrap();
                let length = bytes.len() as u64;
                bytes
                    .truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
                files.push((path.strip_prefix(folder).unwrap().to_owned(), bytes, length));
            }
        }
        files.sort();
        Left(files)
    }

    fn restored(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes, length) in &self.0 {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_len(*length).unwrap();
        }
        folder
    }

    /// Damages one byte at a time of the files whose name fits, and holds that it is told or harmless.
    fn each_flipped_byte_is_told(&self, fits: impl Fn(&str) -> bool, every: usize, keys: u128) {
        let mut told = 0;
        for (index, (path, bytes, _)) in self.0.iter().enumerate() {
            if !fits(path.file_name().unwrap().to_str().unwrap()) {
                continue;
            }
            for place in (0..bytes.len()).step_by(every) {
                let mut damaged = Left(self.0.clone());
                damaged.0[index].1[place] ^= 0x55;
                let folder = damaged.restored();
                let read = open(folder.path()).and_then(|opened| {
                    (0..keys)
                        .map(|key| Ok((key, opened.store.get(key)?)))
                        .collect::<Result<Vec<_>, _>>()
                });
                match read {
                    Ok(all) => {
                        let whole = all.iter().all(|(key, found)| *found == finished(*key));
                        assert!(whole, "{} at {place}: wrong without a word", path.display());
                    }
                    Err(StoreError::Damaged { .. }) => told += 1,
                    Err(other) => panic!("{} at {place}: {other}", path.display()),
                }
            }
        }
        assert!(told > 0, "no damage was met at all");
    }
}

#[test]
fn what_was_committed_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(folder.path());
    store.commit(&[unfinished(1), unfinished(2), unfinished(3)], hour(0)).unwrap();
    let mark = |key, strikes| Change::Mark { key, strikes };
    let remove = Change::Remove { key: 3 };
    store.commit(&[finish(2), remove, mark(7, 2), mark(8, 1)], hour(0)).unwrap();
    store.commit(&[Change::Unmark { key: 8 }], hour(0)).unwrap();

    let killed = Left::by_kill(folder.path()).restored();
    let again = open(killed.path()).unwrap();
    assert_eq!(again.unfinished, [(1, value(1))]);
    assert_eq!((again.marks, again.lost_commits), (vec![(7, 2)], 0));
    assert_eq!(again.store.get(1).unwrap(), Some(Record::Unfinished(value(1))));
    assert_eq!(again.store.get(2).unwrap(), finished(2));
    assert_eq!(again.store.get(3).unwrap(), None);
    assert_eq!(again.store.claim_on(!2).unwrap(), Some(value(2)));
    assert_eq!(again.store.claim_on(2).unwrap(), None);
    assert_eq!(again.store.finished_count(), 1);
}

#[test]
fn of_what_changes_twice_in_one_commit_the_last_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(folder.path());
    let former = |key| Change::Open { key, value: value(!key) };
    let remove = |key| Change::Remove { key };
    store.commit(&[former(1), unfinished(1), former(2), finish(2)], hour(0)).unwrap();
    store.commit(&[former(3), remove(3), remove(4), unfinished(4)], hour(0)).unwrap();

    let killed = Left::by_kill(folder.path()).restored();
    let Opened { store, mut unfinished, .. } = open(killed.path()).unwrap();
    unfinished.sort_unstable();
    assert_eq!(unfinished, [(1, value(1)), (4, value(4))]);
    assert_eq!(store.get(2).unwrap(), finished(2));
    assert_eq!(store.get(3).unwrap(), None);
}

#[test]
fn a_folder_is_used_by_one_store_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(folder.path());
    let refused = open(folder.path()).unwrap_err();
    assert!(matches!(&refused, StoreError::InUse(path) if path == folder.path()), "{refused}");
    drop(store);
    opened(folder.path());
}

#[test]
fn a_folder_of_another_version_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(opened(folder.path()));
    let format = folder.path().join("format");
    for other in ["chakra-sender ledger 2\n", ""] {
        fs::write(&format, other).unwrap();
        let refused = open(folder.path()).unwrap_err();
        assert!(matches!(refused, StoreError::Version { .. }), "{refused}");
        assert_eq!(fs::read_to_string(&format).unwrap(), other);
    }
}

#[test]
fn finished_records_leave_by_age_and_unfinished_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(folder.path());
    store.commit(&[unfinished(100), finish(0)], hour(0)).unwrap();
    for key in 1..8_u8 {
        store.commit(&[finish(key.into())], hour(key.into())).unwrap();
    }
    store.sweep(hour(8)).unwrap();
    assert_eq!(store.get(0).unwrap(), finished(0), "it is not older than is kept");
    store.sweep(hour(9)).unwrap();
    assert_eq!((store.get(0).unwrap(), store.claim_on(!0).unwrap()), (None, None));
    assert_eq!(store.get(1).unwrap(), finished(1));
    drop(store);

    let again = open(folder.path()).unwrap();
    assert_eq!(again.unfinished, [(100, value(100))]);
    assert_eq!(again.store.finished_count(), 7);
    again.store.sweep(hour(100)).unwrap();
    assert_eq!(again.store.finished_count(), 0);
    assert_eq!(again.store.get(100).unwrap(), Some(Record::Unfinished(value(100))));
}

#[test]
fn the_oldest_finished_records_leave_where_there_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { keep: 1000 * HOUR, max_entries: 16 };
    let store = Store::open(folder.path(), bounds, hour(0)).unwrap().store;
    for key in 0..100 {
        store.commit(&[finish(key)], hour(0)).unwrap();
        assert!(store.finished_count() <= 17, "{}", store.finished_count());
    }
    let left: Vec<u128> = (0..100).filter(|key| store.get(*key).unwrap().is_some()).collect();
    assert_eq!(left, Vec::from_iter(100 - store.finished_count() as u128..100));
    assert!(left.len() >= 14, "{left:?}");
    let killed = Left::by_kill(folder.path()).restored();
    let again = Store::open(killed.path(), bounds, hour(0)).unwrap().store;
    assert_eq!(again.finished_count(), store.finished_count());
}

#[test]
fn damage_to_the_journal_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(folder.path());
    for key in 0..3 {
        store.commit(&[finish(key)], hour(0)).unwrap();
    }
    let mut left = Left::by_kill(folder.path());
    left.each_flipped_byte_is_told(|name| name.ends_with(".jnl"), 23, 3);
    for (path, bytes, length) in &mut left.0 {
        if path.extension().is_some_and(|end| end == "jnl") {
            bytes.truncate(bytes.len() * 2 / 3);
            *length = bytes.len() as u64;
        }
    }
    let told = open(left.restored().path()).unwrap_err();
    assert!(told.to_string().contains("commits are missing"), "{told}");
    assert!(told.to_string().contains("Do not delete it lightly"), "{told}");
}

#[test]
fn damage_to_the_tables_and_their_lists_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(folder.path());
    store.commit(&Vec::from_iter((0..50).map(finish)), hour(0)).unwrap();
    store.newest_generation().keyspace.rotate_memtable_and_wait().unwrap();
    store.state.rotate_memtable_and_wait().unwrap();
    // What is in tables is no longer read from the journal.
    let mut left = Left::by_kill(folder.path());
    left.0.retain(|(path, ..)| path.extension().is_none_or(|end| end != "jnl"));
    left.each_flipped_byte_is_told(|name| name.starts_with('v') || name == "current", 19, 50);
    left.each_flipped_byte_is_told(|name| name.parse::<u64>().is_ok(), 397, 50);
}

#[test]
fn a_flipped_bit_in_a_table_is_told_at_the_opening() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(folder.path());
    store.commit(&Vec::from_iter((0..500).map(finish)), hour(0)).unwrap();
    store.newest_generation().keyspace.rotate_memtable_and_wait().unwrap();
    store.state.rotate_memtable_and_wait().unwrap();
    let left = Left::by_kill(folder.path());
    let mut told = 0;
    for (index, (path, bytes, _)) in left.0.iter().enumerate() {
        if path.parent().is_none_or(|parent| !parent.ends_with("tables")) {
            continue;
        }
        for place in (0..bytes.len()).step_by(2999) {
            let mut damaged = Left(left.0.clone());
            damaged.0[index].1[place] ^= 1;
            let folder = damaged.restored();
            match open(folder.path()) {
                Err(StoreError::Damaged { .. }) => told += 1,
                otherwise => panic!("{} at {place}: {otherwise:?}", path.display()),
            }
        }
    }
    assert!(told > 10, "{told} bytes were flipped");
}

#[test]
fn commits_lost_with_the_machine_are_counted_and_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(folder.path());
    store.commit(&[finish(1)], hour(0)).unwrap();
    drop(store);
    let mut line = 4_u64.to_be_bytes().to_vec();
    line.extend([b'0'; 36]);
    fs::write(folder.path().join("commits"), line).unwrap();

    let again = open(folder.path()).unwrap();
    assert_eq!((again.lost_commits, again.store.get(1).unwrap()), (3, finished(1)));
    again.store.commit(&[finish(2)], hour(0)).unwrap();
    drop(again);
    assert_eq!(open(folder.path()).unwrap().lost_commits, 0);
}

/// Of one writer.
const KILLS: u64 = 6;

const SMALL: Bounds = Bounds { keep: Duration::from_secs(8 * 3600), max_entries: 4_000 };

/// Not a test: what the next one starts and kills. Finishes keys, and notes how far it came.
#[test]
#[ignore = "writes until it is killed"]
fn a_writer_to_be_killed() {
    let folder = std::env::args().skip_while(|word| word != "--skip").nth(1).unwrap();
    let folder = Path::new(&folder);
    let store = Store::open(&folder.join("ledger"), SMALL, hour(0)).unwrap().store;
    let mut key = fs::read(folder.join("done")).map_or(0, |done| number(&done));
    let mut options = fs::File::options();
    options.create(true).write(true).truncate(false);
    let done = options.open(folder.join("done")).unwrap();
    loop {
        let keys = key..key + 20;
        store.commit(&Vec::from_iter(keys.clone().map(unfinished)), hour(0)).unwrap();
        store.commit(&Vec::from_iter(keys.map(finish)), hour(0)).unwrap();
        key += 20;
        std::os::unix::fs::FileExt::write_all_at(&done, &key.to_be_bytes(), 0).unwrap();
    }
}

/// Nought where nothing was written yet.
fn number(bytes: &[u8]) -> u128 {
    bytes.try_into().map_or(0, u128::from_be_bytes)
}

/// Some generations are begun and dropped between two kills.
#[test]
fn a_killed_writer_loses_nothing_that_it_committed() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = 0;
    for round in 1..=KILLS {
        let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "ledger::store::tests::a_writer_to_be_killed", "--ignored", "--skip"])
            .arg(folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let goal = before + u128::from(round) * 300;
        let done = loop {
            let done = fs::read(folder.path().join("done")).map_or(0, |done| number(&done));
            match writer.try_wait().unwrap() {
                None if done < goal => std::thread::yield_now(),
                None => break done,
                Some(ended) => panic!("the writer ended by itself: {ended}"),
            }
        };
        writer.kill().unwrap();
        writer.wait().unwrap();
        let again = Store::open(&folder.path().join("ledger"), SMALL, hour(0)).unwrap();
        for key in done.saturating_sub(3_000)..done {
            assert_eq!(again.store.get(key).unwrap(), finished(key), "{key} of {done}");
            assert_eq!(again.store.claim_on(!key).unwrap(), Some(value(key)));
        }
        assert!(again.unfinished.iter().all(|(key, _)| *key >= done));
        before = done;
    }
}
