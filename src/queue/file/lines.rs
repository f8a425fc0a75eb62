//! Lines of a file, each bounded: one endless line must not fill the memory.

use bytes::{Buf, Bytes};
use std::io::{self, BufRead};

/// Of a longer line only this much is kept: enough to see that it is over the limit of a body, and
/// to find its id.
pub(super) const MAX_LINE_BYTES: usize = 1024 * 1024;

/// What some editors put before all text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Lines with their number, from 1; empty ones are passed over, and a byte order mark before the first.
pub struct Lines<R> {
    reader: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Lines of `reader`, from its present place.
    pub fn new(reader: R) -> Lines<R> {
        Lines { reader, number: 0 }
    }

    /// One line without its end, cut to the bound; none at the end of the file.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        loop {
            let available = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                available => available?,
            };
            if available.is_empty() {
                return Ok((!line.is_empty()).then_some(line));
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let piece = &available[..end.unwrap_or(available.len())];
            let room = MAX_LINE_BYTES.saturating_sub(line.len());
            line.extend_from_slice(&piece[..piece.len().min(room)]);
            let used = end.map_or(available.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_some() {
                return Ok(Some(line));
            }
        }
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<(u64, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut line = match self.next_line() {
                Ok(line) => Bytes::from(line?),
                Err(error) => return Some(Err(error)),
            };
            self.number += 1;
            if self.number == 1 && line.starts_with(BYTE_ORDER_MARK) {
                line.advance(BYTE_ORDER_MARK.len());
            }
            if !line.trim_ascii().is_empty() {
                return Some(Ok((self.number, line)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<(u64, usize)> {
        Lines::new(text).map(|line| line.map(|(n, body)| (n, body.len())).unwrap()).collect()
    }

    #[test]
    fn empty_lines_count_but_do_not_show() {
        assert_eq!(read(b"a\n\n  \nbb\r\nccc"), [(1, 1), (4, 3), (5, 3)]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        assert_eq!(read("\u{feff}a\n\u{feff}b\n".as_bytes()), [(1, 1), (2, 4)]);
        assert_eq!(read("\u{feff}\r\na".as_bytes()), [(2, 1)]);
    }

    #[test]
    fn an_endless_line_is_cut_and_the_next_one_is_whole() {
        let mut text = vec![b'x'; 3 * MAX_LINE_BYTES];
        text.extend_from_slice(b"\nnext\n");
        assert_eq!(read(&text), [(1, MAX_LINE_BYTES), (2, 4)]);
    }
}
