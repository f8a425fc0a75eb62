//! Measures embedded stores for the ledger: `ledger-store COMMAND STORE FOLDER [sync] [JOBS]`, where
//! COMMAND is `load`, `open` (what `load` left), `kill`, `corrupt` or `full` (with a small tmpfs as FOLDER).

mod stores;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use stores::{Any, Change, GENERATION, Key, Store, open};

/// Jobs under way at once: what is begun is finished this many jobs later.
const UNDER_WAY: u64 = 1_000;

fn main() -> Result<(), Any> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [command, store, folder, rest @ ..] = words.as_slice() else {
        return Err("COMMAND STORE FOLDER".into());
    };
    let sync = rest.iter().any(|word| word == "sync");
    let jobs = rest.iter().find_map(|word| word.parse().ok()).unwrap_or(1_000_000);
    let folder = Path::new(folder);
    match command.as_str() {
        "load" => load(store, folder, sync, jobs),
        "open" => reopen(store, folder, sync),
        "write" => write(store, folder, sync),
        "kill" => kill(store, folder, sync),
        "corrupt" => corrupt(store, folder),
        "full" => full(store, folder),
        other => Err(format!("no command {other}").into()),
    }
}

/// The same well spread bits for the same number.
fn mix(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn key(job: u64) -> Key {
    (u128::from(mix(job)) << 64 | u128::from(mix(!job))).to_be_bytes()
}

fn value(job: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    for word in 0.. {
        if bytes.len() >= length {
            break;
        }
        bytes.extend(mix(job.wrapping_mul(31) + word).to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

const FINISHED: usize = 200;
const BEGUN: usize = 80;

/// One group commit in which `count` jobs are received, as many are begun and as many finished.
fn batch(first: u64, count: u64) -> Vec<Change> {
    let mut changes = Vec::with_capacity(3 * count as usize);
    for job in first..first + count {
        changes.push(Change::Open(key(job), value(job, 60)));
        if let Some(job) = job.checked_sub(UNDER_WAY / 4) {
            changes.push(Change::Open(key(job), value(job, BEGUN)));
        }
        if let Some(job) = job.checked_sub(UNDER_WAY) {
            changes.push(Change::Finish(key(job), value(job, FINISHED), key(job | 1 << 63)));
        }
    }
    changes
}

/// Writes jobs from `first` on, in batches of 3 to 198 records, until `done` says so after a commit.
fn run(
    store: &mut dyn Store,
    first: u64,
    mut done: impl FnMut(u64, Duration) -> Result<bool, Any>,
) -> Result<u64, Any> {
    let mut job = first;
    loop {
        let count = 1 + mix(job) % 66;
        for new in job..job + count {
            if store.finished(&key(new))?.is_some() {
                return Err(format!("job {new} is known before it was sent").into());
            }
        }
        let changes = batch(job, count);
        let begin = Instant::now();
        store.commit(&changes, job / GENERATION)?;
        job += count;
        if done(job, begin.elapsed())? {
            return Ok(job);
        }
    }
}

/// How many of the jobs before `end` are lost, and how many have another value.
fn check(store: &dyn Store, end: u64) -> Result<(u64, u64), Any> {
    let (mut lost, mut wrong) = (0, 0);
    for job in 0..end {
        let (found, length) = match job + UNDER_WAY < end {
            true => (store.finished(&key(job))?, FINISHED),
            false => {
                (store.open_value(&key(job))?, if job + UNDER_WAY / 4 < end { BEGUN } else { 60 })
            }
        };
        match found {
            None => lost += 1,
            Some(found) if found != value(job, length) => wrong += 1,
            Some(_) => {}
        }
    }
    Ok((lost, wrong))
}

fn load(name: &str, folder: &Path, sync: bool, jobs: u64) -> Result<(), Any> {
    let mut store = open(name, folder, sync)?;
    let mut waits = Vec::new();
    let (begin, used) = (Instant::now(), cpu_ticks());
    let end = run(&mut *store, 0, |job, wait| {
        waits.push(wait);
        Ok(job >= jobs)
    })?;
    let (took, used) = (begin.elapsed(), (cpu_ticks() - used) as f64 * 10_000.0);
    waits.sort();
    let (middle, p99, worst) =
        (waits[waits.len() / 2], waits[waits.len() * 99 / 100], waits[waits.len() - 1]);
    let begin = Instant::now();
    for job in 0..100_000 {
        store.finished(&key(job | 1 << 62))?;
    }
    let miss = begin.elapsed() / 100_000;
    println!(
        "{name} sync={sync}: {:.0} jobs/s, {:.1} us CPU a job, commit p50 {middle:?} p99 {p99:?} max {worst:?}, miss {miss:?}, peak RSS {} KiB",
        end as f64 / took.as_secs_f64(),
        used / end as f64,
        peak_rss_kib(),
    );
    // As a killed process leaves it.
    std::mem::forget(store);
    println!("{name}: {} MiB on disk, {} files", disk(folder)?.1 >> 20, disk(folder)?.0);
    Ok(())
}

fn reopen(name: &str, folder: &Path, sync: bool) -> Result<(), Any> {
    let begin = Instant::now();
    let store = open(name, folder, sync)?;
    println!("{name}: open took {:?}, peak RSS {} KiB", begin.elapsed(), peak_rss_kib());
    std::mem::forget(store);
    Ok(())
}

fn write(name: &str, folder: &Path, sync: bool) -> Result<(), Any> {
    let mut store = open(name, folder, sync)?;
    let first = std::env::var("FIRST")?.parse()?;
    run(&mut *store, first, |job, _| {
        println!("{job}");
        std::io::stdout().flush()?;
        Ok(false)
    })?;
    Ok(())
}

fn kill(name: &str, folder: &Path, sync: bool) -> Result<(), Any> {
    let mut end = 0;
    for round in 0..20 {
        let mut child = std::process::Command::new(std::env::current_exe()?)
            .args(["write", name, &folder.display().to_string(), if sync { "sync" } else { "" }])
            .env("FIRST", end.to_string())
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(
                100 + mix(round ^ u64::from(std::process::id())) % 900,
            ));
            child.kill().and_then(|()| child.wait())
        });
        for line in lines {
            end = line?.parse()?;
        }
        killer.join().unwrap()?;
        // What was under way may be there as well: the check asks for what was committed alone.
        let store = open(name, folder, sync)?;
        let (mut lost, mut wrong) = (0, 0);
        for job in 0..end {
            let found = store.finished(&key(job))?.map(|found| found == value(job, FINISHED));
            let found = match found {
                None if job + UNDER_WAY >= end => store.open_value(&key(job))?.map(|_| true),
                found => found,
            };
            lost += u64::from(found.is_none());
            wrong += u64::from(found == Some(false));
        }
        println!("{name}: kill {round} after job {end}: lost {lost}, wrong {wrong}");
        // The batch under way was perhaps written: go on after it.
        while store.open_value(&key(end))?.is_some() || store.finished(&key(end))?.is_some() {
            end += 1;
        }
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Any> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    found.sort();
    Ok(found)
}

fn disk(folder: &Path) -> Result<(usize, u64), Any> {
    use std::os::unix::fs::MetadataExt;
    let files = files(folder)?;
    let bytes =
        files.iter().map(|file| file.metadata().map_or(0, |about| about.blocks() * 512)).sum();
    Ok((files.len(), bytes))
}

/// Damages one place of one file of a copy at a time, and tells what opening and reading say.
fn corrupt(name: &str, folder: &Path) -> Result<(), Any> {
    let (whole, copy) = (folder.join("whole"), folder.join("copy"));
    let mut store = open(name, &whole, false)?;
    let end = run(&mut *store, 0, |job, _| Ok(job >= 60_000))?;
    let copy_of = |from: &Path, to: &Path| -> Result<(), Any> {
        drop(std::fs::remove_dir_all(to));
        for file in files(from)? {
            let target = to.join(file.strip_prefix(from)?);
            std::fs::create_dir_all(target.parent().unwrap())?;
            std::fs::copy(file, target)?;
        }
        Ok(())
    };
    // Copied while it is open: as a killed process leaves it, with its log not yet merged.
    let left = folder.join("left");
    copy_of(&whole, &left)?;
    drop(store);
    for file in files(&left)? {
        let relative = file.strip_prefix(&left)?;
        let bytes = std::fs::read(&file)?;
        // Journals are allocated ahead: damage lies within what is written.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            continue;
        }
        for (what, place) in [
            ("1 byte at 30 %", used * 3 / 10),
            ("1 byte at 50 %", used / 2),
            ("16 bytes at 70 %", used * 7 / 10),
            ("cut at 50 %", used / 2),
        ] {
            copy_of(&left, &copy)?;
            let mut damaged = bytes.clone();
            match what.starts_with("cut") {
                true => damaged.truncate(place),
                false => damaged[place..]
                    .iter_mut()
                    .take(if what.starts_with("16") { 16 } else { 1 })
                    .for_each(|byte| *byte ^= 0x55),
            }
            std::fs::write(copy.join(relative), damaged)?;
            let said = std::panic::catch_unwind(|| match open(name, &copy, false) {
                Err(error) => format!("open: {error}"),
                Ok(store) => match check(&*store, end) {
                    Err(error) => format!("read: {error}"),
                    Ok((0, 0)) => "all there".into(),
                    Ok((lost, wrong)) => format!("SILENT: {lost} lost, {wrong} wrong"),
                },
            });
            let said = said.unwrap_or_else(|_| "PANIC".into());
            println!("{name} {} ({used} bytes), {what}: {said}", relative.display());
        }
    }
    Ok(())
}

fn full(name: &str, folder: &Path) -> Result<(), Any> {
    let (data, ballast) = (folder.join("data"), folder.join("ballast"));
    std::fs::write(&ballast, vec![1; 24 << 20])?;
    let mut end = 0;
    let mut store = open(name, &data, false)?;
    let error = run(&mut *store, 0, |job, _| {
        end = job;
        Ok(job > 3_000_000)
    });
    println!("{name}: full after {end} jobs: {:?}", error.map_err(|error| error.to_string()));
    println!(
        "{name}: reading while full: {:?}",
        check(&*store, end).map_err(|error| error.to_string())
    );
    std::fs::remove_file(&ballast)?;
    let again = store.commit(&[Change::Open(key(1 << 40), vec![1])], end / GENERATION);
    println!(
        "{name}: after space is free, the same handle: {:?}",
        again.map_err(|error| error.to_string())
    );
    drop(store);
    let mut store = open(name, &data, false)?;
    println!(
        "{name}: reopened: (lost, wrong) = {:?}",
        check(&*store, end).map_err(|error| error.to_string())
    );
    let again = store.commit(&[Change::Open(key(1 << 41), vec![1])], end / GENERATION);
    println!("{name}: reopened, a commit: {:?}", again.map_err(|error| error.to_string()));
    Ok(())
}

fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

fn peak_rss_kib() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap().trim().trim_end_matches(" kB").to_owned()
}
