//! The bytes of a table on their way to who parses it: bounded, their lines counted, their quotes watched.
//! Two things the parser does not tell: on which line a row begins, and that a quote is never closed, by
//! which the rest of a table would be one value of one person.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The longest row. A quote that is never closed must not read the rest of a table into the memory.
const MAX_ROW_BYTES: usize = 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A file of which one row can be read, until somebody asks for the next.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    left: usize,
    watch: Watch,
}

impl Source {
    pub(super) fn open(path: &Path, delimiter: u8) -> io::Result<Source> {
        Ok(Source { file: File::open(path)?, left: MAX_ROW_BYTES, watch: Watch::new(delimiter) })
    }

    /// Another row may be read.
    pub(super) fn next_row(&mut self) {
        self.left = MAX_ROW_BYTES;
    }

    /// The line on which the first row at or after this byte begins. Rows are asked for in their order.
    pub(super) fn line_at(&mut self, byte: u64) -> u64 {
        let starts = &mut self.watch.starts;
        while starts.len() > 1 && starts[0].0 < byte {
            starts.pop_front();
        }
        starts.front().map_or(self.watch.line, |(_, line)| *line)
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let line = self.watch.starts.back().map_or(1, |(_, line)| *line);
            let reason = format!(
                "line {line}: the row is longer than {MAX_ROW_BYTES} bytes: is a quote not closed?"
            );
            return Err(io::Error::other(reason));
        }
        let most = buffer.len().min(self.left);
        let read = self.file.read(&mut buffer[..most])?;
        self.left -= read;
        let watched = match read {
            0 => self.watch.end(),
            _ => self.watch.follow(&buffer[..read]),
        };
        watched.map_err(io::Error::other)?;
        Ok(read)
    }
}

/// Where in a row the next byte stands: as RFC 4180 has it, and the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a row: empty lines are none.
    Row,
    Value,
    Plain,
    /// With the line of the quote.
    Quoted(u64),
    /// Behind a quote that ends the value, or is the first of two; with the line of the one that began it.
    Quote(u64),
}

#[derive(Debug)]
struct Watch {
    delimiter: u8,
    at: At,
    byte: u64,
    line: u64,
    /// Whether the byte before was a carriage return, which has ended the line already.
    is_returned: bool,
    /// Byte and line at which rows begin that were read and not asked for.
    starts: VecDeque<(u64, u64)>,
}

impl Watch {
    fn new(delimiter: u8) -> Watch {
        Watch {
            delimiter,
            at: At::Row,
            byte: 0,
            line: 1,
            is_returned: false,
            starts: VecDeque::new(),
        }
    }

    fn follow(&mut self, bytes: &[u8]) -> Result<(), String> {
        for byte in bytes {
            let mark = usize::try_from(self.byte).ok().and_then(|at| BYTE_ORDER_MARK.get(at));
            if mark != Some(byte) {
                self.at = self.step(*byte)?;
            }
            self.byte += 1;
            if *byte == b'\r' || (*byte == b'\n' && !self.is_returned) {
                self.line += 1;
            }
            self.is_returned = *byte == b'\r';
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<At, String> {
        let is_end = matches!(byte, b'\r' | b'\n');
        if self.at == At::Row && !is_end {
            self.starts.push_back((self.byte, self.line));
        }
        Ok(match (self.at, byte) {
            (At::Quoted(from), b'"') => At::Quote(from),
            (At::Quoted(from), _) | (At::Quote(from), b'"') => At::Quoted(from),
            (At::Row | At::Value, b'"') => At::Quoted(self.line),
            _ if is_end => At::Row,
            _ if byte == self.delimiter => At::Value,
            // Its end was another value's beginning.
            (At::Quote(from), _) if from < self.line => return Err(not_closed(from)),
            (At::Row | At::Value | At::Plain | At::Quote(_), _) => At::Plain,
        })
    }

    fn end(&self) -> Result<(), String> {
        match self.at {
            At::Quoted(from) => Err(not_closed(from)),
            At::Row | At::Value | At::Plain | At::Quote(_) => Ok(()),
        }
    }
}

fn not_closed(line: u64) -> String {
    format!("line {line}: a quote is not closed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use csv::{ByteRecord, ReaderBuilder};
    use proptest::prelude::*;

    /// The lines on which the parser's rows begin, the header's among them.
    fn lines(text: &[u8]) -> Result<Vec<u64>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table");
        std::fs::write(&path, text).unwrap();
        let source = Source::open(&path, b',').unwrap();
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(7)
            .from_reader(source);
        let (mut record, mut lines) = (ByteRecord::new(), Vec::new());
        while reader.read_byte_record(&mut record).map_err(|error| error.to_string())? {
            let byte = record.position().unwrap().byte();
            lines.push(reader.get_mut().line_at(byte));
        }
        Ok(lines)
    }

    #[test]
    fn rows_are_told_by_the_line_that_an_editor_shows() {
        for (text, expected) in [
            ("a,b\n1,2\n3,4\n", &[1, 2, 3][..]),
            ("a,b\r\n1,2\r\n3,4\r\n", &[1, 2, 3]),
            ("a,b\r1,2\r3,4\r", &[1, 2, 3]),
            ("\n\r\n\na,b\n\n1,2\r\n\r\n\r\n3,4", &[4, 6, 9]),
            ("\u{feff}\"a\n\",b\n1,2\n\"3\r\nx\",4\r\n5,6", &[1, 3, 4, 6]),
        ] {
            assert_eq!(lines(text.as_bytes()).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_quote_that_is_not_closed_is_told_by_its_line_and_a_lawful_one_is_not() {
        for (text, line) in [
            ("a,b\n1,\"Ann\n2,Bob\n3,C\n", 2),
            ("a,b\r\n1,2\r\n\"3,4\r\n", 3),
            ("a,b\n1,\"", 2),
            // The next quote is taken for its end.
            ("a,b\n1,\"Ann\n2,\"Bob\n3,C\n", 2),
            ("a,b\n1,\"Ann\n2,\"Bob\"\n3,C\n", 2),
        ] {
            let error = lines(text.as_bytes()).unwrap_err();
            assert_eq!(error, not_closed(line), "{text:?}");
        }
        for text in [
            "a,b\n1,\"x\ny\"\n",
            "a,b\n1,5\" pipe\n",
            "a\n\"Ann\" Smith\n",
            "a\n\"\"\"\"",
            "a\n\" \"",
        ] {
            assert!(lines(text.as_bytes()).is_ok(), "{text:?}");
        }
    }

    proptest! {
        /// Rows are the parser's: as many starts as rows, each on the line where its first byte stands.
        #[test]
        fn it_finds_the_rows_that_the_parser_finds(text in "[\"\r\n,a]{0,40}") {
            if let Ok(told) = lines(text.as_bytes()) {
                let mut watch = Watch::new(b',');
                watch.follow(text.as_bytes()).unwrap();
                let found: Vec<u64> = watch.starts.iter().map(|(_, line)| *line).collect();
                prop_assert_eq!(told, found);
            }
        }
    }
}
