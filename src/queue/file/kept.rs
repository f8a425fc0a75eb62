//! A file of JSON lines that this program appends to and reads back after a stop. It may be anybody's file,
//! named by mistake: nothing is cut away but the torn end of a line of ours.

use super::lines::MAX_LINE_BYTES;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The longest line of ours: a dead letter has a whole line of the jobs in it, each of whose bytes takes six
/// where it is escaped.
const MAX_KEPT_BYTES: usize = 6 * MAX_LINE_BYTES + 64 * 1024;

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}", path = .path.display())]
pub struct OpenError {
    path: PathBuf,
    reason: io::Error,
}

/// A file that is not changed until it is [taken](Kept::take).
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    file: File,
    /// How each line of ours begins.
    begins: &'static str,
    /// Lines that were shown, and their bytes.
    lines: u64,
    bytes: u64,
}

impl Kept {
    /// Opens it, or makes it.
    pub(super) fn open(path: &Path, begins: &'static str) -> Result<Kept, OpenError> {
        let failed = |reason| OpenError { path: path.to_owned(), reason };
        // A device may have no end, and a pipe gives nothing back.
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            let reason = "it is no regular file, and is read back when a run goes on; - is stdout";
            return Err(failed(io::Error::new(ErrorKind::InvalidInput, reason)));
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = file.map_err(failed)?;
        Ok(Kept { path: path.to_owned(), file, begins, lines: 0, bytes: 0 })
    }

    /// Shows each whole line that was not shown yet. True where a torn one stands behind them.
    pub(super) fn read(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), serde_json::Error>,
    ) -> Result<bool, OpenError> {
        let file = self.file.try_clone().map_err(|reason| self.failed(reason))?;
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(self.bytes)).map_err(|reason| self.failed(reason))?;
        loop {
            let mut line = Vec::new();
            let mut bounded = (&mut reader).take(MAX_KEPT_BYTES as u64 + 1);
            bounded.read_until(b'\n', &mut line).map_err(|reason| self.failed(reason))?;
            if line.len() > MAX_KEPT_BYTES {
                return Err(self.not_ours(&format!("it is longer than {MAX_KEPT_BYTES} bytes")));
            }
            if line.last() != Some(&b'\n') {
                let begins = self.begins.as_bytes();
                return match line.starts_with(begins) || begins.starts_with(&line) {
                    true => Ok(!line.is_empty()),
                    false => Err(self.not_ours(&format!("it does not begin with {}", self.begins))),
                };
            }
            each(&line).map_err(|error| self.not_ours(&error.to_string()))?;
            self.lines += 1;
            self.bytes += line.len() as u64;
        }
    }

    /// Reads on, and gives the file to append to. A last line that a kill left torn is cut away: what it would
    /// have told is told again.
    pub(super) fn take(
        mut self,
        each: impl FnMut(&[u8]) -> Result<(), serde_json::Error>,
    ) -> Result<File, OpenError> {
        if self.read(each)? {
            self.file.set_len(self.bytes).map_err(|reason| self.failed(reason))?;
        }
        Ok(self.file)
    }

    fn not_ours(&self, why: &str) -> OpenError {
        let number = self.lines + 1;
        let reason = format!(
            "line {number} is not what this program writes ({why}); nothing was changed: name another file"
        );
        self.failed(io::Error::new(ErrorKind::InvalidData, reason))
    }

    fn failed(&self, reason: io::Error) -> OpenError {
        OpenError { path: self.path.clone(), reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGINS: &str = r#"{"event":"#;

    fn opened(path: &Path) -> Result<Kept, OpenError> {
        Kept::open(path, BEGINS)
    }

    /// Finds the file as it would be, then takes it; what was shown, and what it holds in the end.
    fn taken(text: &[u8]) -> (Result<Vec<String>, String>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        std::fs::write(&path, text).unwrap();
        let mut shown = Vec::new();
        let mut each = |line: &[u8]| {
            serde_json::from_slice::<serde_json::Value>(line)?;
            shown.push(String::from_utf8_lossy(line).trim().to_owned());
            Ok(())
        };
        let mut kept = opened(&path).unwrap();
        let ended = kept.read(&mut each).and_then(|_| kept.take(&mut each));
        let ended = ended.map(|_| shown).map_err(|error| error.to_string());
        (ended, std::fs::read(&path).unwrap())
    }

    #[test]
    fn a_torn_line_of_ours_is_cut_away_wherever_it_is_torn() {
        let ours = "{\"event\":\"result\",\"text\":\"größe\"}\n".as_bytes();
        for torn in 0..ours.len() {
            let (ended, left) = taken(&[ours, &ours[..torn]].concat());
            assert_eq!(ended.unwrap().len(), 1, "{torn}");
            assert_eq!(left, ours, "{torn}");
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_refused_and_stays_as_it_is() {
        for (text, why) in [
            (
                r#"{"id":"a","message":{}}"#,
                r#"line 1 is not what this program writes (it does not begin"#,
            ),
            ("{\"event\":1}\nnotes", "line 2 is not what"),
            ("notes\n", "line 1 is not what this program writes (expected ident"),
        ] {
            let (ended, left) = taken(text.as_bytes());
            let error = ended.unwrap_err();
            assert!(error.contains(why), "{error}");
            assert_eq!(left, text.as_bytes());
        }
    }

    #[test]
    fn a_line_without_an_end_and_a_device_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        // Takes no room on the disk.
        File::create(&path).unwrap().set_len(1 << 33).unwrap();
        let error = opened(&path).unwrap().read(|_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("longer than 6356992 bytes"), "{error}");
        for other in [folder.path(), Path::new("/dev/null")] {
            let error = opened(other).unwrap_err().to_string();
            assert!(
                error.ends_with(
                    "it is no regular file, and is read back when a run goes on; - is stdout"
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn what_another_run_has_added_since_the_first_look_is_read_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        std::fs::write(&path, "{\"event\":1}\n{\"event\":").unwrap();
        let mut kept = opened(&path).unwrap();
        let mut shown = 0;
        let mut each = |_: &[u8]| {
            shown += 1;
            Ok(())
        };
        assert!(kept.read(&mut each).unwrap());
        std::fs::write(&path, "{\"event\":1}\n{\"event\":2}\n{\"event\":3}\n").unwrap();
        kept.take(&mut each).unwrap();
        assert_eq!(shown, 3);
        assert_eq!(std::fs::read(&path).unwrap().len(), 36);
    }
}
