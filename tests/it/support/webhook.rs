//! The webhook listener of a worker's process, and what a sender of webhooks does.

use super::broker::Broker;
use super::process::Process;
use hmac::{Hmac, Mac};
use lapin::message::Delivery;
use lapin::options::BasicGetOptions;
use serde_json::{Value, json};
use sha2::Sha256;
use std::fmt::Write;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The team's HMAC secret in all stories: it must never show.
pub(crate) const SECRET: &str = "the-very-secret-hmac-key";

/// Where a worker hears webhooks.
#[derive(Debug, Clone)]
pub(crate) struct Hook(String);

/// The answer to one request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The header, in small letters.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Hook {
    /// That of a process, once the log has told where it is.
    pub(crate) async fn of(process: &mut Process) -> Hook {
        let line = process.err.line("the webhook listener").await;
        let line: Value = serde_json::from_str(&line).unwrap();
        Hook(line["address"].as_str().unwrap().to_owned())
    }

    /// Where to post.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/webhook", self.0)
    }

    /// Posts a body with our signature.
    pub(crate) async fn post(&self, body: &Value) -> Answer {
        let body = body.to_string();
        self.send("POST /webhook", &signature(body.as_bytes()), body.as_bytes()).await
    }

    /// Posts a body with our signature, of which the second half comes this much later.
    pub(crate) async fn post_slowly(&self, body: &[u8], pause: Duration) {
        let mut stream = TcpStream::connect(&self.0).await.unwrap();
        let (length, signature) = (body.len(), signature(body));
        let head = format!("POST /webhook HTTP/1.1\r\ncontent-length: {length}\r\n{signature}");
        let head = format!("{head}host: story\r\nconnection: close\r\n\r\n");
        let (first, second) = body.split_at(length / 2);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(first).await.unwrap();
        tokio::time::sleep(pause).await;
        stream.write_all(second).await.unwrap();
        drop(stream.read_to_end(&mut Vec::new()).await);
    }

    /// Sends a request; `header` are further lines of it.
    pub(crate) async fn send(&self, what: &str, header: &str, body: &[u8]) -> Answer {
        let length = body.len();
        self.write(&format!("{what} HTTP/1.1\r\ncontent-length: {length}\r\n{header}"), body).await
    }

    /// Writes a request and reads what is answered, whatever becomes of the connection.
    pub(crate) async fn write(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(&self.0).await.unwrap();
        let head = format!("{head}host: story\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // It may be closed before all was written.
        drop(stream.write_all(body).await);
        let mut text = Vec::new();
        drop(stream.read_to_end(&mut text).await);
        let text = String::from_utf8(text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }
}

/// The header line that ChakraHQ signs a body with.
pub(crate) fn signature(body: &[u8]) -> String {
    let mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap().chain_update(body);
    let hex = mac.finalize().into_bytes().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    format!("X-Chakra-Signature-256: {hex}\r\n")
}

/// One status of a message, as Meta writes it into `statuses`.
pub(crate) fn status(message: &str, status: &str) -> Value {
    json!({ "id": message, "status": status, "timestamp": "1795168800",
        "recipient_id": "919901258433", "biz_opaque_callback_data": format!("job-of-{message}") })
}

/// Meta's body around statuses of one number.
pub(crate) fn of_meta(number: &str, statuses: &[Value]) -> Value {
    json!({ "object": "whatsapp_business_account", "entry": [{ "id": "8", "changes": [{
        "field": "messages", "value": { "messaging_product": "whatsapp", "statuses": statuses,
            "metadata": { "display_phone_number": "919901258400", "phone_number_id": number } } }] }] })
}

/// Everything that stands in the results queue, taken out.
pub(crate) async fn events(broker: &Broker) -> Vec<Delivery> {
    let client = broker.client().await;
    let queue = broker.names().results();
    let mut events = Vec::new();
    let options = BasicGetOptions { no_ack: true };
    while let Some(event) = client.channel.basic_get(queue.clone().into(), options).await.unwrap() {
        events.push(event.delivery);
    }
    events
}
