//! The folder: over reopening, age, size, damage and strangers.

use super::*;
use std::fs;

const KEEP: Duration = Duration::from_secs(800);
const BOUNDS: StoreBounds = StoreBounds { keep: KEEP, max_entries: 1_000_000 };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn open(folder: &Path) -> (Store, Left) {
    Store::open(folder, BOUNDS, at(0)).unwrap()
}

fn open_record(key: u128) -> Change {
    Change::Open { key, value: format!("open {key}").into() }
}

fn finish(key: u128) -> Change {
    Change::Finish { key, value: format!("finished {key}").into(), claim: Some(key + 1_000) }
}

fn text(store: &Store, key: u128) -> Option<String> {
    store.get(key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

#[test]
fn what_was_committed_is_there_at_the_next_opening_and_only_the_unfinished_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    store.commit(&[open_record(1), open_record(2), open_record(3)]).unwrap();
    store.commit(&[finish(2), Change::Remove { key: 3 }, open_record(4)]).unwrap();
    store
        .commit(&[Change::Mark { key: 9, strikes: 2 }, Change::Mark { key: 8, strikes: 1 }])
        .unwrap();
    store.commit(&[Change::Unmark { key: 8 }]).unwrap();
    drop(store);

    let (store, mut left) = open(folder.path());
    left.open.sort();
    assert_eq!(left.open, [(1, b"open 1".to_vec()), (4, b"open 4".to_vec())]);
    assert_eq!(left.marks, [(9, 2)]);
    assert_eq!(text(&store, 2).unwrap(), "finished 2");
    assert_eq!(store.claimed_by(1_002).unwrap(), Some(2));
    assert_eq!((text(&store, 3), store.claimed_by(1_001).unwrap()), (None, None));
}

#[test]
fn finished_records_leave_by_age_and_unfinished_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    store.commit(&[open_record(1), finish(2)]).unwrap();
    for eighth in 1..=7 {
        store.sweep(at(eighth * 100)).unwrap();
        store.commit(&[finish(2 + u128::try_from(eighth).unwrap())]).unwrap();
    }
    assert!(text(&store, 2).is_some(), "its time is not over");
    store.sweep(at(901)).unwrap();
    assert_eq!((text(&store, 2), store.claimed_by(1_002).unwrap()), (None, None));
    assert!(text(&store, 3).is_some() && text(&store, 1).is_some());
}

#[test]
fn the_longest_finished_leave_first_where_there_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = StoreBounds { max_entries: 80, ..BOUNDS };
    let (store, _) = Store::open(folder.path(), bounds, at(0)).unwrap();
    for key in 0..200 {
        store.commit(&[finish(key)]).unwrap();
        store.sweep(at(i64::try_from(key).unwrap() / 100)).unwrap();
    }
    let kept = (0..200).filter(|key| text(&store, *key).is_some()).count();
    assert!((80..=100).contains(&kept), "{kept} are kept");
    assert!(text(&store, 0).is_none() && text(&store, 199).is_some());
}

#[test]
fn a_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let _owner = open(folder.path());
    let refused = Store::open(folder.path(), BOUNDS, at(0)).unwrap_err();
    assert!(matches!(refused, StoreError::Locked(_)), "{refused}");
}

#[test]
fn a_folder_of_another_format_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    fs::write(folder.path().join("format"), "chakra-sender ledger 2\n").unwrap();
    let refused = Store::open(folder.path(), BOUNDS, at(0)).unwrap_err();
    assert!(refused.to_string().contains("not a ledger of this version"), "{refused}");
    assert_eq!(
        fs::read_to_string(folder.path().join("format")).unwrap(),
        "chakra-sender ledger 2\n"
    );
}

/// A journal with a few commits in it, and its path.
fn with_journal(folder: &Path) -> PathBuf {
    let (store, _) = open(folder);
    for key in 0..50 {
        store.commit(&[open_record(key), finish(key + 100)]).unwrap();
    }
    drop(store);
    let files = fs::read_dir(folder.join("store")).unwrap().map(|entry| entry.unwrap().path());
    let mut journals = files.filter(|path| path.extension().is_some_and(|end| end == "jnl"));
    journals.next().expect("the store has a journal")
}

/// The length of what was written: the file is longer, and ends with zeros.
fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

#[test]
fn damage_at_any_place_of_the_journal_is_told_and_never_read_as_empty() {
    let whole = tempfile::tempdir().unwrap();
    let journal = with_journal(whole.path());
    let mut bytes = fs::read(&journal).unwrap();
    let end = written(&bytes);
    bytes.truncate(end);
    for place in (0..end).step_by(end / 40) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0xff;
        fs::write(&journal, damaged).unwrap();
        let tip = fs::read(whole.path().join("tip")).unwrap();
        match Store::open(whole.path(), BOUNDS, at(0)) {
            Err(StoreError::Damaged { .. }) => {}
            Err(other) => panic!("byte {place} of {end}: {other}"),
            Ok((store, _)) => {
                let all = (0..50).all(|key| text(&store, key).is_some());
                assert!(all, "byte {place} of {end}: read as if nothing were missing");
            }
        }
        fs::write(&journal, &bytes).unwrap();
        fs::write(whole.path().join("tip"), tip).unwrap();
    }
}

#[test]
fn a_journal_that_was_cut_short_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let journal = with_journal(folder.path());
    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, &bytes[..written(&bytes) / 2]).unwrap();
    let refused = Store::open(folder.path(), BOUNDS, at(0)).unwrap_err();
    let told = refused.to_string();
    assert!(told.contains("commits are missing") && told.contains("move it away"), "{told}");
}

#[test]
fn a_torn_end_that_was_never_committed_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let journal = with_journal(folder.path());
    let mut bytes = fs::read(&journal).unwrap();
    let end = written(&bytes);
    // The beginning of one more batch, as a kill in the middle of a write leaves it.
    let torn = bytes[..20].to_vec();
    bytes.truncate(end);
    bytes.extend(torn);
    fs::write(&journal, bytes).unwrap();
    let (store, _) = open(folder.path());
    assert!(text(&store, 49).is_some());
    store.commit(&[open_record(777)]).unwrap();
    drop(store);
    assert!(text(&open(folder.path()).0, 777).is_some());
}

#[test]
fn a_lost_tail_after_the_machine_went_down_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let journal = with_journal(folder.path());
    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, &bytes[..written(&bytes) / 2]).unwrap();
    let tip = fs::read_to_string(folder.path().join("tip")).unwrap();
    let (commits, _boot) = tip.split_once(' ').unwrap();
    fs::write(folder.path().join("tip"), format!("{commits} of-an-earlier-boot\n")).unwrap();
    let (store, left) = open(folder.path());
    assert!(!left.open.is_empty() && text(&store, 49).is_none());
}
