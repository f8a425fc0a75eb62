//! The ChakraHQ client against raw sockets: what is on the wire, and which failures surely sent
//! nothing. The table is the one measured for reqwest; an update of reqwest must keep it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail anywhere")]

use bytes::Bytes;
use chakra_sender::chakra::{Client, ClientSettings, PluginError};
use chakra_sender::policy::{Answer, Failure};
use chakra_sender::wire::{Class, NumberId, Scope};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MESSAGE: &str = "{\"to\":\"+15550100\", \"text\" : {\"body\":\"h\u{e9} \\u00e9\"} }\n";
const ACCEPTED: &str = r#"{"_data":{"whatsappMessageId":"wamid.A"},"_errors":[]}"#;

/// Long enough never to be the reason, unless silence is the story.
const PATIENT: Duration = Duration::from_secs(20);
const IMPATIENT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn the_request_on_the_wire_is_exactly_the_documented_one() {
    let server = Server::start().await;
    let client = server.client();
    let (answer, request) =
        tokio::join!(send(&client), server.answer(ok("application/json", ACCEPTED)));
    assert_eq!(answer, accepted("wamid.A"));
    let path = "/v1/ext/plugin/whatsapp/7d9f-a1/api/v24.0/1027729340496751/messages";
    assert_eq!(request.line, format!("POST {path} HTTP/1.1"));
    assert_eq!(request.header("authorization"), Some("Bearer sesame"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let length = MESSAGE.len().to_string();
    assert_eq!(request.header("content-length"), Some(length.as_str()));
    let agent = concat!("chakra-sender/", env!("CARGO_PKG_VERSION"));
    assert_eq!(request.header("user-agent"), Some(agent));
    assert_eq!(request.body, MESSAGE.as_bytes());
}

#[tokio::test]
async fn the_plugin_is_asked_for_its_numbers() {
    let server = Server::start().await;
    let body = r#"{"whatsappPhoneNumbers":[{"id":"1027","throughput":{"level":"HIGH"}}]}"#;
    let client = server.client();
    let (plugin, request) =
        tokio::join!(client.plugin(), server.answer(ok("application/json", body)));
    let plugin = plugin.unwrap();
    assert_eq!(plugin.numbers[0].id.as_str(), "1027");
    assert_eq!(plugin.numbers[0].throughput_level.as_deref(), Some("HIGH"));
    assert_eq!(request.line, "GET /v1/ext/plugin/whatsapp/7d9f-a1/config HTTP/1.1");
    assert_eq!(request.header("authorization"), Some("Bearer sesame"));
}

#[tokio::test]
async fn a_plugin_that_cannot_be_reached_is_told_from_a_refused_token() {
    let server = Server::start().await;
    let client = server.client();
    let refusal = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let (plugin, _) = tokio::join!(client.plugin(), server.answer(refusal));
    assert_eq!(plugin, Err(PluginError::Token { status: 401 }));
    drop(server);
    assert!(matches!(client.plugin().await, Err(PluginError::Unreachable(_))));
}

#[tokio::test]
async fn a_replaced_token_is_shown_by_the_next_call_and_neither_shows_in_any_text() {
    let server = Server::start().await;
    let client = server.client();
    let both = "sesame and sesame-new";
    let refusal = format!(
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{both}",
        both.len()
    );
    let replace = async {
        let mut socket = server.accept().await;
        let request = read_request(&mut socket).await;
        assert_eq!(client.replace_token(&"sesame-new".into()).ok(), Some(true));
        socket.write_all(refusal.as_bytes()).await.unwrap();
        request
    };
    let (under_way, its_request) = tokio::join!(send(&client), replace);
    let (next, next_request) = tokio::join!(send(&client), server.answer(&refusal));
    assert_eq!(its_request.header("authorization"), Some("Bearer sesame"));
    assert_eq!(next_request.header("authorization"), Some("Bearer sesame-new"));
    for answer in [under_way, next] {
        let message = failed(answer).message;
        assert!(message.ends_with("[token] and [token]"), "{message}");
    }
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let server = Server::start().await;
    let client = server.client();
    drop(server);
    assert_never_sent(send(&client).await);
}

#[tokio::test]
async fn a_name_without_an_address_sent_nothing() {
    assert_never_sent(send(&client("http://nothing.invalid", PATIENT, PATIENT)).await);
}

#[tokio::test]
async fn a_tls_handshake_that_is_closed_sent_nothing() {
    let server = Server::start().await;
    let client = client(&server.address("https"), PATIENT, PATIENT);
    let (answer, ()) = tokio::join!(send(&client), async { drop(server.accept().await) });
    assert_never_sent(answer);
}

#[tokio::test]
async fn a_tls_handshake_without_an_answer_sent_nothing() {
    let server = Server::start().await;
    let client = client(&server.address("https"), PATIENT, IMPATIENT);
    let (answer, _silent) = tokio::join!(send(&client), server.accept());
    assert_never_sent(answer);
}

#[tokio::test]
async fn a_server_that_closes_after_reading_leaves_doubt() {
    let server = Server::start().await;
    let client = server.client();
    let (answer, _) = tokio::join!(send(&client), server.answer(""));
    assert_doubt(answer, None);
}

#[tokio::test]
async fn half_of_the_headers_leave_doubt() {
    let server = Server::start().await;
    let client = server.client();
    let (answer, _) = tokio::join!(send(&client), server.answer("HTTP/1.1 200 OK\r\ncontent-le"));
    assert_doubt(answer, None);
}

#[tokio::test]
async fn a_reset_after_reading_leaves_doubt() {
    let server = Server::start().await;
    let client = server.client();
    let (answer, ()) = tokio::join!(send(&client), async {
        let mut socket = server.accept().await;
        read_request(&mut socket).await;
        socket.set_zero_linger().unwrap();
    });
    assert_doubt(answer, None);
}

#[tokio::test]
async fn silence_leaves_doubt() {
    let server = Server::start().await;
    let client = client(&server.address("http"), IMPATIENT, PATIENT);
    let (answer, _silent) = tokio::join!(send(&client), server.accept());
    assert_doubt(answer, None);
}

#[tokio::test]
async fn a_success_that_breaks_off_leaves_doubt() {
    for length in ["content-length: 900\r\n", "transfer-encoding: chunked\r\n"] {
        let server = Server::start().await;
        let client = server.client();
        let chunk = match length.starts_with('c') {
            true => "",
            false => "1f\r\n",
        };
        let cut = format!("HTTP/1.1 200 OK\r\n{length}\r\n{chunk}{{\"_data\":{{\"whatsappMess");
        let (answer, _) = tokio::join!(send(&client), server.answer(cut));
        assert_doubt(answer, Some(200));
    }
}

#[tokio::test]
async fn a_success_that_is_no_json_leaves_doubt() {
    let server = Server::start().await;
    let client = server.client();
    let (answer, _) = tokio::join!(send(&client), server.answer(ok("text/html", "<html>ok")));
    assert_doubt(answer, Some(200));
}

#[tokio::test]
async fn an_answer_over_the_limit_is_not_read_to_its_end() {
    let server = Server::start().await;
    let client = server.client();
    let (answer, written) = tokio::join!(send(&client), async {
        let mut socket = server.accept().await;
        read_request(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        // Without an end: only the client's hanging up ends it.
        let mut written = 0;
        while socket.write_all(&[b' '; 16 * 1024]).await.is_ok() {
            written += 16 * 1024;
        }
        written
    });
    assert_doubt(answer, Some(200));
    assert!(written >= 64 * 1024);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Server::start().await;
    let elsewhere = Server::start().await;
    let client = server.client();
    let location = elsewhere.address("http");
    let redirect =
        format!("HTTP/1.1 307 Go\r\nlocation: {location}/login?k=v\r\ncontent-length: 0\r\n\r\n");
    let (answer, _) = tokio::join!(send(&client), server.answer(redirect));
    let failure = failed(answer);
    assert_eq!((failure.class, failure.scope), (Class::Blocked, Scope::Account));
    assert!(failure.message.contains(&format!("redirected to {location}/login:")), "{failure:?}");
    let visited = tokio::time::timeout(Duration::ZERO, elsewhere.0.accept()).await;
    assert!(visited.is_err(), "somebody followed");
}

#[tokio::test]
async fn a_refusal_is_read_with_its_code_and_its_wait() {
    let server = Server::start().await;
    let client = server.client();
    let body = r#"{"_data":[],"_errors":["(#130429) Rate limit hit"]}"#;
    let head = "HTTP/1.1 400 Bad Request\r\nretry-after: 7\r\nconnection: close";
    let (answer, _) = tokio::join!(send(&client), server.answer(format!("{head}\r\n\r\n{body}")));
    let failure = failed(answer);
    assert_eq!((failure.class, failure.scope), (Class::Throttled, Scope::Number));
    assert_eq!((failure.code, failure.http_status), (Some(130429), Some(400)));
    assert_eq!(failure.wait, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn a_receipt_needs_no_id() {
    let server = Server::start().await;
    let client = server.client();
    let body = Bytes::from_static(br#"{"status":"read"}"#);
    let answer = ok("application/json", r#"{"success":true}"#);
    let number = number();
    let (answer, _) = tokio::join!(client.send(&number, body, false), server.answer(answer));
    assert_eq!(answer, Answer::Accepted { whatsapp_message_id: None });
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_not_used_again() {
    let server = Server::start().await;
    let client = server.client();
    let (answer, ()) = tokio::join!(send(&client), async {
        let mut socket = server.accept().await;
        read_request(&mut socket).await;
        socket.write_all(ok("application/json", ACCEPTED).as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        // The client has seen it once it closes its side.
        assert_eq!(socket.read(&mut [0]).await.unwrap(), 0);
    });
    assert_eq!(answer, accepted("wamid.A"));
    let (answer, _) = tokio::join!(send(&client), server.answer(ok("application/json", ACCEPTED)));
    assert_eq!(answer, accepted("wamid.A"));
}

#[tokio::test]
async fn a_connection_closed_under_the_second_request_leaves_doubt() {
    let server = Server::start().await;
    let client = server.client();
    let (answer, mut socket) = tokio::join!(send(&client), async {
        let mut socket = server.accept().await;
        read_request(&mut socket).await;
        socket.write_all(ok("application/json", ACCEPTED).as_bytes()).await.unwrap();
        socket
    });
    assert_eq!(answer, accepted("wamid.A"));
    // The same socket: the connection was kept.
    let (answer, ()) = tokio::join!(send(&client), async {
        read_request(&mut socket).await;
        drop(socket);
    });
    assert_doubt(answer, None);
}

#[tokio::test]
async fn nothing_shows_the_token() {
    let server = Server::start().await;
    let client = server.client();
    assert!(!format!("{client:?}").contains("sesame"));
    let echo = "HTTP/1.1 401 No\r\nconnection: close\r\n\r\n{\"error\":\"bad key sesame\"}";
    let (answer, _) = tokio::join!(send(&client), server.answer(echo));
    assert!(!format!("{answer:?}").contains("sesame"));
}

struct Server(TcpListener);

impl Server {
    async fn start() -> Server {
        Server(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn address(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.0.local_addr().unwrap())
    }

    fn client(&self) -> Client {
        client(&self.address("http"), PATIENT, PATIENT)
    }

    async fn accept(&self) -> TcpStream {
        self.0.accept().await.unwrap().0
    }

    /// Reads one request, writes these bytes, closes.
    async fn answer(&self, bytes: impl AsRef<[u8]>) -> Request {
        let mut socket = self.accept().await;
        let request = read_request(&mut socket).await;
        socket.write_all(bytes.as_ref()).await.unwrap();
        request
    }
}

struct Request {
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

async fn read_request(socket: &mut TcpStream) -> Request {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        assert!(socket.read_buf(&mut bytes).await.unwrap() > 0, "closed inside the head");
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut request = Request { line, headers, body: bytes.split_off(head + 4) };
    let length = request.header("content-length").map_or(0, |length| length.parse().unwrap());
    while request.body.len() < length {
        assert!(socket.read_buf(&mut request.body).await.unwrap() > 0, "closed inside the body");
    }
    request
}

fn client(base_url: &str, timeout: Duration, connect_timeout: Duration) -> Client {
    Client::new(ClientSettings {
        base_url: base_url.into(),
        token: "sesame".into(),
        plugin_id: "7d9f-a1".into(),
        api_version: "v24.0".into(),
        timeout,
        connect_timeout,
        max_in_flight: 4,
    })
    .unwrap()
}

async fn send(client: &Client) -> Answer {
    client.send(&number(), Bytes::from_static(MESSAGE.as_bytes()), true).await
}

fn number() -> NumberId {
    NumberId::parse("1027729340496751").unwrap()
}

fn ok(content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn accepted(id: &str) -> Answer {
    Answer::Accepted { whatsapp_message_id: Some(id.into()) }
}

fn failed(answer: Answer) -> Failure {
    match answer {
        Answer::Failed(failure) => failure,
        Answer::Accepted { .. } => panic!("accepted: {answer:?}"),
    }
}

fn assert_never_sent(answer: Answer) {
    let failure = failed(answer);
    assert_eq!((failure.class, failure.http_status), (Class::Unavailable, None), "{failure:?}");
    assert!(failure.message.starts_with("not sent: "), "{failure:?}");
}

fn assert_doubt(answer: Answer, status: Option<u16>) {
    let failure = failed(answer);
    assert_eq!((failure.class, failure.http_status), (Class::Ambiguous, status), "{failure:?}");
}
