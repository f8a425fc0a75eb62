//! A producer that writes its AMQP frames itself, since an ordinary client's types forbid what some
//! producers send: short strings that are no UTF-8. It knows one channel, confirms, and no heartbeat.

use super::broker::SOON;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A short string property, as its flag in the content header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Property(u16);

pub(crate) const CONTENT_TYPE: Property = Property(1 << 15);
pub(crate) const CONTENT_ENCODING: Property = Property(1 << 14);
pub(crate) const CORRELATION_ID: Property = Property(1 << 10);
pub(crate) const REPLY_TO: Property = Property(1 << 9);
pub(crate) const MESSAGE_ID: Property = Property(1 << 7);
pub(crate) const TYPE: Property = Property(1 << 5);
pub(crate) const APP_ID: Property = Property(1 << 3);
const HEADERS: Property = Property(1 << 13);

/// The kinds of frames.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xce;

/// A method, as (class, number).
type Method = (u16, u16);

/// A connection with one channel, which has confirms.
#[derive(Debug)]
pub(crate) struct RawProducer {
    line: TcpStream,
}

impl RawProducer {
    /// To the virtual host `/`, as `guest`.
    pub(crate) async fn connect(uri: &str) -> RawProducer {
        let address = uri.split('@').nth(1).unwrap().split('/').next().unwrap();
        let mut raw = RawProducer { line: TcpStream::connect(address).await.unwrap() };
        raw.line.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        raw.expect((10, 10)).await;
        let login = [table(&[]), short(b"PLAIN"), long(b"\0guest\0guest"), short(b"en_US")];
        raw.call(0, (10, 11), &login.concat()).await;
        let offered = raw.expect((10, 30)).await;
        // Its own limits, and no heartbeat.
        raw.call(0, (10, 31), &[&offered[..6], &[0, 0]].concat()).await;
        raw.call(0, (10, 40), &[short(b"/"), short(b""), vec![0]].concat()).await;
        raw.expect((10, 41)).await;
        raw.call(1, (20, 10), &short(b"")).await;
        raw.expect((20, 11)).await;
        raw.call(1, (85, 10), &[0]).await;
        raw.expect((85, 11)).await;
        raw
    }

    /// Publishes and waits for the confirm. `headers` is an encoded [`table`].
    pub(crate) async fn publish(
        &mut self,
        (exchange, key): (&str, &[u8]),
        properties: &[(Property, &[u8])],
        headers: &[u8],
        body: &[u8],
    ) {
        let to = [vec![0, 0], short(exchange.as_bytes()), short(key), vec![0]];
        self.call(1, (60, 40), &to.concat()).await;
        let mut fields: Vec<(Property, Vec<u8>)> =
            properties.iter().map(|(property, text)| (*property, short(text))).collect();
        fields.push((HEADERS, headers.to_vec()));
        // The highest flag comes first.
        fields.sort_by(|one, other| other.cmp(one));
        let flags = fields.iter().fold(0, |flags, (property, _)| flags | property.0);
        let mut header = [60_u16.to_be_bytes(), [0, 0]].concat();
        header.extend(u64::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(u16::to_be_bytes(flags));
        header.extend(fields.into_iter().flat_map(|(_, bytes)| bytes));
        self.write(HEADER, 1, &header).await;
        self.write(BODY, 1, body).await;
        self.expect((60, 80)).await;
    }

    async fn call(&mut self, channel: u16, (class, method): Method, arguments: &[u8]) {
        let name = [class.to_be_bytes(), method.to_be_bytes()].concat();
        self.write(METHOD, channel, &[&name, arguments].concat()).await;
    }

    async fn write(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend(long(payload));
        frame.push(FRAME_END);
        self.line.write_all(&frame).await.unwrap();
    }

    /// The arguments of the next method, which must be this one.
    async fn expect(&mut self, method: Method) -> Vec<u8> {
        let reading = async {
            let mut start = [0; 7];
            self.line.read_exact(&mut start).await.unwrap();
            let size = u32::from_be_bytes(start[3..].try_into().unwrap());
            let mut payload = vec![0; size as usize + 1];
            self.line.read_exact(&mut payload).await.unwrap();
            payload
        };
        let payload = tokio::time::timeout(SOON, reading).await.expect("the broker is silent");
        let got = [&payload[..2], &payload[2..4]].map(|n| u16::from_be_bytes([n[0], n[1]]));
        let text = String::from_utf8_lossy(&payload);
        assert_eq!((got[0], got[1]), method, "the broker says {text:?}");
        payload[4..].to_vec()
    }
}

/// A table of text values.
pub(crate) fn table(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
    let entries =
        entries.iter().flat_map(|(name, text)| [short(name), b"S".to_vec(), long(text)].concat());
    long(&entries.collect::<Vec<u8>>())
}

fn short(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}
