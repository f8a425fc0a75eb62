//! A table in CSV, each row of which fills a template to a job. The table is a file: it is read once to see
//! what would become of it, and once to do it.

use super::entries::Entry;
use super::ids::{Ids, derived};
use super::mask::masked;
use super::source::Source;
use super::template::{Mapping, Template};
use crate::config::read_text;
use crate::wire::{Recipient, SendJob};
use bytes::Bytes;
use csv::{ByteRecord, ErrorKind, ReaderBuilder, Trim};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most rows of a table: their ids are held to find those that stand in it twice.
const MAX_ROWS: usize = 5_000_000;

/// Why a pipe is refused.
const NO_FILE: &str = "a table is read twice, so it must be a file";

/// A table and its template.
#[derive(Debug, Clone)]
pub(super) struct Table {
    path: PathBuf,
    delimiter: u8,
    columns: Arc<[String]>,
    template: Arc<Template>,
}

impl Table {
    /// Opens both; the error is for who named them.
    pub(super) fn open(
        path: &Path,
        delimiter: u8,
        template: &Path,
        mappings: &[Mapping],
    ) -> Result<Table, String> {
        let named = |error: String| format!("{}: {error}", path.display());
        let is_file = std::fs::metadata(path).map(|metadata| metadata.is_file());
        match is_file {
            Ok(true) => {}
            Ok(false) => return Err(named(NO_FILE.into())),
            Err(_) if path == Path::new("-") => return Err(named(NO_FILE.into())),
            Err(error) => return Err(named(error.to_string())),
        }
        let mut reader = reader(path, delimiter).map_err(|error| named(error.to_string()))?;
        let header = reader.byte_headers().map_err(|error| named(error.to_string()))?;
        let columns = columns(header).map_err(|reason| named(reason.to_owned()))?;
        let text = read_text(template).map_err(|error| error.to_string());
        let template = text
            .and_then(|text| Template::read(&text, &columns, mappings))
            .map_err(|error| format!("{}: {error}", template.display()))?;
        Ok(Table { path: path.to_owned(), delimiter, columns, template: Arc::new(template) })
    }

    /// All rows, from the first.
    pub(super) fn rows(&self) -> io::Result<Rows> {
        let (reader, record) = (reader(&self.path, self.delimiter)?, ByteRecord::new());
        Ok(Rows { table: self.clone(), reader, record, seen: Ids::default() })
    }

    fn job(&self, row: &ByteRecord) -> Result<(SendJob, Bytes), String> {
        let cells = self.cells(row)?;
        let body = self.template.fill(|column| cells[column]);
        if self.template.has_id() {
            return parse(body.into());
        }
        let (job, body) = parse_unnamed(body.into())?;
        let id = match job.message.recipient() {
            None => derived(&job)?,
            // However the number is written, with a plus or with blanks: it is the same person.
            Some(recipient) => {
                let alike = |column: usize| match Recipient::from_to(cells[column]) == *recipient {
                    true => recipient.key(),
                    false => cells[column],
                };
                derived(&parse_unnamed(self.template.fill(alike).into())?.0)?
            }
        };
        let fields = body.strip_prefix(b"{").unwrap_or_default();
        parse([format!("{{\"id\":\"{id}\",").as_bytes(), fields].concat().into())
    }

    fn cells<'r>(&self, row: &'r ByteRecord) -> Result<Vec<&'r str>, String> {
        let cells = row.iter().zip(self.columns.iter());
        cells
            .map(|(cell, column)| {
                std::str::from_utf8(cell)
                    .map_err(|_| format!("column {column:?} is no UTF-8: save the table as UTF-8"))
            })
            .collect()
    }
}

/// The rows of a table, as jobs.
#[derive(Debug)]
pub(super) struct Rows {
    table: Table,
    reader: csv::Reader<Source>,
    /// The latest.
    record: ByteRecord,
    seen: Ids,
}

impl Rows {
    /// The latest row's job as the template's author laid it out, with its line and id, for a person. Its
    /// recipient is masked, unless all is to be shown.
    pub(super) fn shown(&self, line: u64, job: &SendJob, all: bool) -> String {
        let cell = |column: usize| String::from_utf8_lossy(&self.record[column]);
        let text = self.table.template.fill_as_written(|column| cell(column).into_owned());
        let text = format!("the first job (line {line}, id {}):\n{}", job.id, text.trim());
        match all {
            true => text,
            false => self.masked(&text, job),
        }
    }

    fn masked(&self, text: &str, job: &SendJob) -> String {
        let cells = self.record.iter().filter_map(|cell| str::from_utf8(cell).ok());
        let recipient = job.message.recipient();
        recipient.map_or_else(|| text.to_owned(), |recipient| masked(text, recipient, cells))
    }

    fn next_row(&mut self) -> io::Result<Option<Entry>> {
        loop {
            self.reader.get_mut().next_row();
            let read = self.reader.read_byte_record(&mut self.record);
            let byte = self.record.position().map_or(0, csv::Position::byte);
            let line = self.reader.get_mut().line_at(byte);
            let job = match read {
                Ok(false) => return Ok(None),
                // What spreadsheets leave at the end.
                Ok(true) if self.record.iter().all(<[u8]>::is_empty) => continue,
                Ok(true) => self.table.job(&self.record).and_then(|job| self.unseen(job)),
                Err(error) => match error.kind() {
                    ErrorKind::UnequalLengths { expected_len, len, .. } => {
                        Err(format!("it has {len} columns, the header has {expected_len}"))
                    }
                    _ => return Err(io::Error::other(error)),
                },
            };
            return Ok(Some(Entry { line, job }));
        }
    }

    fn unseen(&mut self, job: (SendJob, Bytes)) -> Result<(SendJob, Bytes), String> {
        if self.seen.len() >= MAX_ROWS {
            return Err(format!("a table has {MAX_ROWS} rows at most: split it"));
        }
        match self.seen.insert(job.0.id.as_str()) {
            true => Ok(job),
            false if self.table.template.has_id() => {
                let id = self.masked(job.0.id.as_str(), &job.0);
                Err(format!("an earlier line has the id {id:?} too"))
            }
            false => Err("an earlier line asks for the same message".into()),
        }
    }
}

impl Iterator for Rows {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<io::Result<Entry>> {
        self.next_row().transpose()
    }
}

fn parse(body: Bytes) -> Result<(SendJob, Bytes), String> {
    let job = SendJob::parse(&body, None).map_err(|invalid| invalid.reason)?;
    Ok((job, body))
}

/// The id is still to be made of what it reads.
fn parse_unnamed(body: Bytes) -> Result<(SendJob, Bytes), String> {
    let job = SendJob::parse(&body, Some("unnamed")).map_err(|invalid| invalid.reason)?;
    Ok((job, body))
}

fn reader(path: &Path, delimiter: u8) -> io::Result<csv::Reader<Source>> {
    let source = Source::open(path, delimiter)?;
    Ok(ReaderBuilder::new().delimiter(delimiter).trim(Trim::All).from_reader(source))
}

/// The names of the columns.
fn columns(header: &ByteRecord) -> Result<Arc<[String]>, &'static str> {
    if header.is_empty() {
        return Err("the table is empty");
    }
    if [b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| header.as_slice().starts_with(*mark)) {
        return Err("the table is UTF-16: save it as UTF-8");
    }
    let names = header.iter().map(|name| std::str::from_utf8(name).map(str::to_owned));
    names.collect::<Result<_, _>>().map_err(|_| "the header is no UTF-8: save the table as UTF-8")
}
