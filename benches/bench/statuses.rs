//! What becomes of each message: `sent`, `delivered` and `read`, each a signed webhook of its own, on
//! connections that are kept.

use crate::http::Buffer;
use crate::support::webhook::signature;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

/// The statuses of a message.
pub(crate) const EACH: [&str; 3] = ["sent", "delivered", "read"];

/// Posts at once: enough to wait for the broker's confirms, fewer than a worker takes. Each message is told of
/// by one, so that its statuses keep their order.
const POSTS: usize = 100;

/// Messages that wait to be told of.
const WAITING: usize = 256;

/// Before a webhook is repeated that was not taken.
const PAUSE: Duration = Duration::from_millis(20);

/// A message that was taken in.
pub(crate) struct Accepted {
    id: String,
    number: String,
    opaque: String,
}

impl Accepted {
    /// Reads the request.
    pub(crate) fn read(id: &str, number: &str, body: &str) -> Accepted {
        const OPAQUE: &str = r#""biz_opaque_callback_data":""#;
        let opaque = body.split_once(OPAQUE).and_then(|(_, rest)| rest.split_once('"'));
        let opaque = opaque.map_or("", |(opaque, _)| opaque);
        Accepted { id: id.to_owned(), number: number.to_owned(), opaque: opaque.to_owned() }
    }

    fn webhook(&self, status: &str) -> String {
        let Accepted { id, number, opaque } = self;
        format!(
            r#"{{"object":"whatsapp_business_account","entry":[{{"id":"8","changes":[{{"field":"messages","value":{{"messaging_product":"whatsapp","metadata":{{"display_phone_number":"919901258400","phone_number_id":"{number}"}},"statuses":[{{"id":"{id}","status":"{status}","timestamp":"1795168800","recipient_id":"919901258433","biz_opaque_callback_data":"{opaque}"}}]}}}}]}}]}}"#
        )
    }
}

/// Posts webhooks to one worker. It ends with its last value.
#[derive(Clone)]
pub(crate) struct Poster {
    messages: mpsc::Sender<Accepted>,
    _posting: Arc<JoinSet<()>>,
}

impl Poster {
    /// To a listener that may come later.
    pub(crate) fn start(to: SocketAddr) -> Poster {
        let (messages, taken) = mpsc::channel(WAITING);
        let taken = Arc::new(Mutex::new(taken));
        let posting = (0..POSTS).map(|_| post_all(to, Arc::clone(&taken))).collect();
        Poster { messages, _posting: Arc::new(posting) }
    }

    /// Takes a message over, once there is room.
    pub(crate) async fn tell(&self, message: Accepted) {
        assert!(self.messages.send(message).await.is_ok(), "nobody posts any more");
    }
}

async fn post_all(to: SocketAddr, taken: Arc<Mutex<mpsc::Receiver<Accepted>>>) {
    let mut line = None;
    loop {
        let next = taken.lock().await.recv().await;
        let Some(message) = next else { return };
        for status in EACH {
            let body = message.webhook(status);
            while !post(&mut line, to, &body).await.unwrap_or(false) {
                line = None;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether it was taken.
async fn post(
    line: &mut Option<(TcpStream, Buffer)>,
    to: SocketAddr,
    body: &str,
) -> io::Result<bool> {
    if line.is_none() {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        *line = Some((stream, Buffer::default()));
    }
    let Some((stream, buffer)) = line else { return Ok(false) };
    let (length, signature) = (body.len(), signature(body.as_bytes()));
    let request = format!(
        "POST /webhook HTTP/1.1\r\nhost: sink\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{signature}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let Some(ends) = buffer.fill(stream).await? else { return Ok(false) };
    let taken = buffer.head(ends).contains(" 200 ");
    buffer.forget(ends);
    Ok(taken)
}
