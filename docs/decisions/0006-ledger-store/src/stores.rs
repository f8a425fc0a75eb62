//! The candidates behind one small interface.

use std::fs::File;
use std::path::Path;
use std::{error::Error, io};

pub type Any = Box<dyn Error + Send + Sync>;
pub type Key = [u8; 16];

/// Jobs in each of the generations that a real ledger drops as a whole.
pub const GENERATION: u64 = 125_000;
const CACHE: usize = 16 << 20;

pub enum Change {
    Open(Key, Vec<u8>),
    Finish(Key, Vec<u8>, Key),
}

pub trait Store: Send {
    fn commit(&mut self, batch: &[Change], generation: u64) -> Result<(), Any>;
    fn open_value(&self, key: &Key) -> Result<Option<Vec<u8>>, Any>;
    fn finished(&self, key: &Key) -> Result<Option<Vec<u8>>, Any>;
}

pub fn open(name: &str, folder: &Path, sync: bool) -> Result<Box<dyn Store>, Any> {
    std::fs::create_dir_all(folder)?;
    Ok(match name {
        "fjall" => Box::new(Fjall::open(folder, sync)?),
        "redb" => Box::new(Redb::open(folder, sync)?),
        "sqlite" => Box::new(Sqlite::open(folder, sync)?),
        other => return Err(format!("no store {other}").into()),
    })
}

struct Fjall {
    db: fjall::Database,
    open: fjall::Keyspace,
    /// Newest last.
    generations: Vec<fjall::Keyspace>,
    claims: Vec<fjall::Keyspace>,
    sync: bool,
}

impl Fjall {
    fn open(folder: &Path, sync: bool) -> Result<Fjall, Any> {
        let db = fjall::Database::builder(folder)
            .cache_size(4 << 20)
            .worker_threads(1)
            .max_journaling_size(64 << 20)
            .open()?;
        let mut fjall = Fjall {
            open: db.keyspace("open", options)?,
            db,
            generations: vec![],
            claims: vec![],
            sync,
        };
        while fjall.db.keyspace_exists(&format!("g{}", fjall.generations.len())) {
            fjall.grow()?;
        }
        Ok(fjall)
    }

    fn grow(&mut self) -> Result<(), Any> {
        let number = self.generations.len();
        self.generations.push(self.db.keyspace(&format!("g{number}"), options)?);
        self.claims.push(self.db.keyspace(&format!("c{number}"), options)?);
        Ok(())
    }
}

fn options() -> fjall::KeyspaceCreateOptions {
    let lazy = fjall::compaction::Leveled::default().with_l0_threshold(8);
    fjall::KeyspaceCreateOptions::default()
        .max_memtable_size(2 << 20)
        .compaction_strategy(std::sync::Arc::new(lazy))
}

impl Store for Fjall {
    fn commit(&mut self, batch: &[Change], generation: u64) -> Result<(), Any> {
        while self.generations.len() as u64 <= generation {
            self.grow()?;
        }
        let mode =
            if self.sync { fjall::PersistMode::SyncData } else { fjall::PersistMode::Buffer };
        let mut write = self.db.batch().durability(Some(mode));
        let (finished, claims) = (self.generations.last().unwrap(), self.claims.last().unwrap());
        for change in batch {
            match change {
                Change::Open(key, value) => write.insert(&self.open, *key, value.as_slice()),
                Change::Finish(key, value, claim) => {
                    write.remove(&self.open, *key);
                    write.insert(finished, *key, value.as_slice());
                    write.insert(claims, *claim, *key);
                }
            }
        }
        Ok(write.commit()?)
    }

    fn open_value(&self, key: &Key) -> Result<Option<Vec<u8>>, Any> {
        Ok(self.open.get(key)?.map(|value| value.to_vec()))
    }

    fn finished(&self, key: &Key) -> Result<Option<Vec<u8>>, Any> {
        for generation in self.generations.iter().rev() {
            if let Some(value) = generation.get(key)? {
                return Ok(Some(value.to_vec()));
            }
        }
        Ok(None)
    }
}

type Table = redb::TableDefinition<'static, &'static [u8], &'static [u8]>;
const OPEN: Table = Table::new("open");
const FINISHED: Table = Table::new("finished");
const CLAIMS: Table = Table::new("claims");

struct Redb {
    db: redb::Database,
}

/// redb has no commit that reaches the file and is not synced; a backend that does not sync is one.
#[derive(Debug)]
struct Unsynced(redb::backends::FileBackend);

impl redb::StorageBackend for Unsynced {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

impl Redb {
    fn open(folder: &Path, sync: bool) -> Result<Redb, Any> {
        let path = folder.join("ledger.redb");
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE);
        let db = if sync {
            builder.create(path)?
        } else {
            let file =
                File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            builder.create_with_backend(Unsynced(redb::backends::FileBackend::new(file)?))?
        };
        Ok(Redb { db })
    }

    fn get(&self, table: Table, key: &Key) -> Result<Option<Vec<u8>>, Any> {
        use redb::ReadableDatabase;
        let read = self.db.begin_read()?;
        match read.open_table(table) {
            Ok(table) => Ok(table.get(key.as_slice())?.map(|value| value.value().to_vec())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Store for Redb {
    fn commit(&mut self, batch: &[Change], _generation: u64) -> Result<(), Any> {
        let write = self.db.begin_write()?;
        {
            let (mut open, mut finished) = (write.open_table(OPEN)?, write.open_table(FINISHED)?);
            let mut claims = write.open_table(CLAIMS)?;
            for change in batch {
                match change {
                    Change::Open(key, value) => {
                        drop(open.insert(key.as_slice(), value.as_slice())?)
                    }
                    Change::Finish(key, value, claim) => {
                        open.remove(key.as_slice())?;
                        finished.insert(key.as_slice(), value.as_slice())?;
                        claims.insert(claim.as_slice(), key.as_slice())?;
                    }
                }
            }
        }
        Ok(write.commit()?)
    }

    fn open_value(&self, key: &Key) -> Result<Option<Vec<u8>>, Any> {
        self.get(OPEN, key)
    }

    fn finished(&self, key: &Key) -> Result<Option<Vec<u8>>, Any> {
        self.get(FINISHED, key)
    }
}

struct Sqlite {
    db: rusqlite::Connection,
    /// Tables there are.
    generations: u64,
}

impl Sqlite {
    fn open(folder: &Path, sync: bool) -> Result<Sqlite, Any> {
        let db = rusqlite::Connection::open(folder.join("ledger.sqlite"))?;
        let sync = if sync { "FULL" } else { "NORMAL" };
        db.execute_batch(&format!(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous={sync}; PRAGMA cache_size=-{};
             PRAGMA wal_autocheckpoint=4000; PRAGMA cell_size_check=1;
             CREATE TABLE IF NOT EXISTS open(key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID;",
            CACHE >> 10
        ))?;
        db.set_prepared_statement_cache_capacity(64);
        let count = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'g%'";
        let generations = db.query_row(count, [], |row| row.get::<_, i64>(0))? as u64;
        Ok(Sqlite { db, generations })
    }

    fn get(&self, table: &str, key: &Key) -> Result<Option<Vec<u8>>, Any> {
        use rusqlite::OptionalExtension;
        let sql = format!("SELECT value FROM {table} WHERE key=?1");
        Ok(self.db.prepare_cached(&sql)?.query_row([key], |row| row.get(0)).optional()?)
    }
}

impl Store for Sqlite {
    fn commit(&mut self, batch: &[Change], generation: u64) -> Result<(), Any> {
        while self.generations <= generation {
            for table in ["g", "c"] {
                let sql = format!(
                    "CREATE TABLE {table}{}(key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID",
                    self.generations
                );
                self.db.execute_batch(&sql)?;
            }
            self.generations += 1;
        }
        let write = self.db.transaction()?;
        {
            let newest = self.generations - 1;
            let into = |table: &str| {
                write.prepare_cached(&format!("INSERT OR REPLACE INTO {table} VALUES(?1,?2)"))
            };
            let (mut open, mut finished) = (into("open")?, into(&format!("g{newest}"))?);
            let mut claims = into(&format!("c{newest}"))?;
            let mut closed = write.prepare_cached("DELETE FROM open WHERE key=?1")?;
            for change in batch {
                match change {
                    Change::Open(key, value) => open.execute((key, value))?,
                    Change::Finish(key, value, claim) => {
                        closed.execute([key])?;
                        finished.execute((key, value))?;
                        claims.execute((claim, key))?
                    }
                };
            }
        }
        Ok(write.commit()?)
    }

    fn open_value(&self, key: &Key) -> Result<Option<Vec<u8>>, Any> {
        self.get("open", key)
    }

    fn finished(&self, key: &Key) -> Result<Option<Vec<u8>>, Any> {
        for generation in (0..self.generations).rev() {
            if let Some(value) = self.get(&format!("g{generation}"), key)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}
