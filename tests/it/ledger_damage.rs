//! A ledger whose disk changed what was written: it is told with the file's name, and nothing new is
//! sent, whether a start meets it or a look-up.

use crate::ledger::{finish, named, open};
use crate::support::broker::Broker;
use crate::support::process::{IN_TIME, Program, sandbox};
use chakra_sender::clock;
use chakra_sender::wire::SendJob;
use fjall::KeyspaceCreateOptions;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tokio::time::timeout;

const JOBS: u32 = 200;

fn job(nth: u32) -> SendJob {
    named(&format!("order-{nth}"))
}

/// A ledger whose finished jobs lie in tables, as they do after a while, and the largest of these.
async fn written(folder: &Path) -> PathBuf {
    let ledger = open(folder);
    let all = (0..JOBS).map(async |nth| finish(&ledger, &job(nth), &format!("wamid.{nth}")).await);
    futures_util::future::join_all(all).await;
    ledger.close();
    let database = fjall::Database::builder(folder.join("database")).open().unwrap();
    for name in database.list_keyspace_names() {
        let records = database.keyspace(&name, KeyspaceCreateOptions::default).unwrap();
        records.rotate_memtable_and_wait().unwrap();
    }
    drop(database);
    let keyspaces = fs::read_dir(folder.join("database/keyspaces")).unwrap();
    let tables = keyspaces.flat_map(|keyspace| {
        let tables = fs::read_dir(keyspace.unwrap().path().join("tables")).unwrap();
        tables.map(|table| table.unwrap().path())
    });
    tables.max_by_key(|table| fs::metadata(table).unwrap().len()).expect("there is no table")
}

/// One bit, in the midst of the records of jobs. The second time it is as it was.
fn flip(table: &Path) {
    let file = fs::File::options().read(true).write(true).open(table).unwrap();
    let (mut byte, place) = ([0], file.metadata().unwrap().len() / 2);
    file.read_exact_at(&mut byte, place).unwrap();
    file.write_all_at(&[byte[0] ^ 1], place).unwrap();
}

#[tokio::test]
async fn a_worker_whose_ledger_has_one_broken_bit_ends_at_its_start_with_the_name_of_the_file() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let folder = tempfile::tempdir().unwrap();
    let table = written(folder.path()).await;
    flip(&table);
    let program = Program::worker(&sandbox, &broker);
    let ended = program.set("ledger.path", &folder.path().display().to_string()).run().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let last = ended.err.last().unwrap();
    assert!(last.contains(&table.display().to_string()) && last.contains("damaged"), "{last}");
}

#[tokio::test]
async fn a_record_that_breaks_under_a_running_ledger_stops_new_sends_until_the_file_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let table = written(folder.path()).await;
    let ledger = open(folder.path());
    let mut trouble = ledger.trouble();
    flip(&table);
    let unread = (0..JOBS).filter(|nth| ledger.look_up(&job(*nth).id).is_err()).count();
    assert!(unread > 0, "no look-up met the damage");
    let told = timeout(IN_TIME, trouble.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    let told = told.unwrap();
    assert!(told.contains(&folder.path().display().to_string()), "{told}");
    assert!(told.contains("damaged"), "{told}");
    // It is looked at again, and remains what it is, now with the name of the file.
    let file = table.display().to_string();
    let names = |told: &Option<String>| told.as_ref().is_some_and(|told| told.contains(&file));
    timeout(IN_TIME, trouble.wait_for(names)).await.expect("the file is not named").unwrap();
    assert!(ledger.receive(&job(0), None, clock::wall()).is_err(), "an unread ledger says unknown");

    flip(&table);
    timeout(IN_TIME, trouble.wait_for(Option::is_none)).await.expect("still in trouble").unwrap();
    for nth in 0..JOBS {
        assert_eq!(ledger.look_up(&job(nth).id).unwrap().len(), 1, "{nth}");
    }
}
