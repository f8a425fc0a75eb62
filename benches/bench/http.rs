//! As much of HTTP/1.1 as both ends of the sink need: messages with a length, one after another on a
//! connection that is kept. The sink is to cost as little as it can, since it shares the machine with what
//! is measured.

use std::io;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// What a connection has brought and nobody has read yet.
#[derive(Default)]
pub(crate) struct Buffer(Vec<u8>);

/// Where the head and the body of the first message end.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    head: usize,
    body: usize,
}

impl Buffer {
    /// Waits for a whole message; none where the other side has closed.
    pub(crate) async fn fill(&mut self, stream: &mut TcpStream) -> io::Result<Option<Ends>> {
        loop {
            if let Some(ends) = self.ends().filter(|ends| ends.body <= self.0.len()) {
                return Ok(Some(ends));
            }
            if stream.read_buf(&mut self.0).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Its first line and header.
    pub(crate) fn head(&self, ends: Ends) -> &str {
        std::str::from_utf8(&self.0[..ends.head]).unwrap_or_default()
    }

    /// Its body, where that is text.
    pub(crate) fn body(&self, ends: Ends) -> &str {
        std::str::from_utf8(&self.0[ends.head..ends.body]).unwrap_or_default()
    }

    /// Makes room for the next one.
    pub(crate) fn forget(&mut self, ends: Ends) {
        self.0.drain(..ends.body);
    }

    fn ends(&self) -> Option<Ends> {
        let blank = self.0.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = blank + 4;
        let lines = self.0[..blank].split(|byte| *byte == b'\n');
        let length = lines.filter_map(length).next().unwrap_or(0);
        Some(Ends { head, body: head + length })
    }
}

fn length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    let value = name.eq_ignore_ascii_case(NAME).then_some(value)?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}
