//! Opening a connection: several nodes in turn, TLS, a bound on the time, errors of one line that
//! never show a password. Does not reconnect by itself: who owns a connection decides what its loss
//! means. lapin's own recovery stays off, since it hides from consumers that their jobs went to others.

use super::reason::{explain, unreachable};
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::ReplyCode;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connect, Connection, ConnectionProperties};
use secrecy::{ExposeSecret, SecretString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// The first pause before connecting again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// No pause is longer: within 5 s of the broker's return everything flows again.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often the log says that the broker is still away.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// Closing politely is worth no longer wait.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// AMQP's reply code of a normal close.
pub(super) const CLOSED_NORMALLY: ReplyCode = 200;

/// Where the broker is and how to speak to it.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    /// `amqp://user:password@host:port/vhost` or `amqps://…`, one for each node, tried in turn.
    pub uris: Vec<SecretString>,
    /// Certificates.
    pub tls: TlsSettings,
    /// Silence of two heartbeats is a lost connection. A URI's own `?heartbeat=` wins.
    pub heartbeat: Duration,
    /// For one node: TCP, TLS and AMQP's handshake together.
    pub connect_timeout: Duration,
}

impl ConnectionSettings {
    /// The virtual host of the first node; `/` where none is named.
    pub fn vhost(&self) -> String {
        let uri = self.uris.first().and_then(|uri| uri.expose_secret().trim().parse().ok());
        uri.map_or_else(|| "/".to_owned(), |uri: AMQPUri| uri.vhost)
    }
}

/// Certificates, as files. They are read anew for each connection, so they can be renewed.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// PEM; trusted beside what the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Who we are; none: only by name and password.
    pub identity: Option<TlsIdentity>,
}

/// A client certificate.
#[derive(Debug, Clone)]
pub enum TlsIdentity {
    /// PEM certificate chain, and PEM key (PKCS #8).
    Pem {
        /// The chain.
        cert_file: PathBuf,
        /// Its key.
        key_file: PathBuf,
    },
    /// Both in one PKCS #12 file.
    Pkcs12 {
        /// The file.
        file: PathBuf,
        /// Its password.
        password: SecretString,
    },
}

/// Opens connections to the broker.
#[derive(Clone)]
pub(super) struct Connector {
    nodes: Vec<AMQPUri>,
    tls: TlsSettings,
    timeout: Duration,
}

impl fmt::Debug for Connector {
    /// The URIs carry passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.nodes.iter().map(place)).finish()
    }
}

impl Connector {
    /// Reads the URIs; the error is a sentence that shows none of them.
    pub(super) fn new(settings: &ConnectionSettings) -> Result<Connector, String> {
        let mut nodes = Vec::new();
        for (index, uri) in settings.uris.iter().enumerate() {
            let mut node: AMQPUri = uri.expose_secret().trim().parse().map_err(|_| {
                let number = index + 1;
                format!(
                    "rabbitmq.uri, number {number}: not amqp[s]://user:password@host:port/vhost"
                )
            })?;
            let heartbeat = u16::try_from(settings.heartbeat.as_secs()).unwrap_or(u16::MAX);
            node.query.heartbeat = node.query.heartbeat.or(Some(heartbeat));
            nodes.push(node);
        }
        match nodes.is_empty() {
            true => Err("rabbitmq.uri names no node".into()),
            false => Ok(Connector {
                nodes,
                tls: settings.tls.clone(),
                timeout: settings.connect_timeout,
            }),
        }
    }

    /// Tries each node once; the error is one line about each. `name` is shown in the broker's list
    /// of connections.
    pub(super) async fn connect(&self, name: &str) -> Result<Connection, String> {
        let tls = self.tls.load().await?;
        let mut failures = Vec::new();
        for node in &self.nodes {
            match tokio::time::timeout(self.timeout, open(node, &tls, name)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => failures.push(format!(
                    "RabbitMQ at {}: {}",
                    place(node),
                    unreachable(&error, node.scheme == AMQPScheme::AMQPS)
                )),
                Err(_) => failures.push(format!(
                    "RabbitMQ at {}: no answer within {} s (rabbitmq.connect_timeout)",
                    place(node),
                    self.timeout.as_secs_f64()
                )),
            }
        }
        Err(failures.join("; "))
    }
}

async fn open(node: &AMQPUri, tls: &OwnedTLSConfig, name: &str) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime()?;
    node.clone().connect_with_config(properties, tls.clone(), runtime).await
}

/// Where a node is, without its credentials.
fn place(node: &AMQPUri) -> String {
    format!("{}:{}", node.authority.host, node.authority.port)
}

impl TlsSettings {
    async fn load(&self) -> Result<OwnedTLSConfig, String> {
        let cert_chain = match &self.ca_file {
            Some(file) => {
                let pem = read("ca_file", file, Holds::Certificate).await?;
                Some(String::from_utf8_lossy(&pem).into_owned())
            }
            None => None,
        };
        let identity = match &self.identity {
            Some(TlsIdentity::Pem { cert_file, key_file }) => Some(OwnedIdentity::PKCS8 {
                pem: read("client_cert_file", cert_file, Holds::Certificate).await?,
                key: read("client_key_file", key_file, Holds::Key).await?,
            }),
            Some(TlsIdentity::Pkcs12 { file, password }) => Some(OwnedIdentity::PKCS12 {
                der: read("client_p12_file", file, Holds::Pkcs12).await?,
                password: password.expose_secret().to_owned(),
            }),
            None => None,
        };
        Ok(OwnedTLSConfig { identity, cert_chain })
    }
}

/// What a file should have in it.
#[derive(Clone, Copy)]
enum Holds {
    Certificate,
    Key,
    Pkcs12,
}

impl Holds {
    /// The labels are those of RFC 7468; PKCS #12 begins as any sequence in ASN.1 (RFC 7292).
    fn is_in(self, bytes: &[u8]) -> bool {
        let has = |label: &[u8]| bytes.windows(label.len()).any(|part| part == label);
        match self {
            Holds::Certificate => has(b"-----BEGIN CERTIFICATE-----"),
            Holds::Key => has(b"PRIVATE KEY-----"),
            Holds::Pkcs12 => bytes.starts_with(b"\x30"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Holds::Certificate => "certificate in PEM",
            Holds::Key => "private key in PEM",
            Holds::Pkcs12 => "PKCS #12",
        }
    }
}

/// Reads the file of a setting. The libraries that use it would name neither.
async fn read(setting: &str, file: &Path, holds: Holds) -> Result<Vec<u8>, String> {
    let of = |why: &dyn fmt::Display| format!("rabbitmq.{setting}: {}: {why}", file.display());
    let bytes = tokio::fs::read(file).await.map_err(|error| of(&error))?;
    match holds.is_in(&bytes) {
        true => Ok(bytes),
        false => Err(of(&format_args!("there is no {} in it", holds.name()))),
    }
}

/// Closes a connection politely, or gives up soon.
pub(super) async fn close(connection: &Connection) {
    let closing = connection.close(CLOSED_NORMALLY, "done".into());
    match tokio::time::timeout(CLOSE_TIMEOUT, closing).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(reason = %explain(&error), "connection already gone"),
        Err(_) => tracing::debug!("the broker does not answer the closing of a connection"),
    }
}

/// Pauses before trying again: they double up to a bound, and are spread over their whole length so
/// that workers which lost the same broker do not return together.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    taken: u32,
}

impl Pauses {
    /// The next pause; `chance` is 0 to 1.
    pub(super) fn next(&mut self, chance: f64) -> Duration {
        let longest = FIRST_PAUSE.saturating_mul(1 << self.taken.min(8)).min(LONGEST_PAUSE);
        self.taken = self.taken.saturating_add(1);
        longest.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// It worked: the next failure is a first one.
    pub(super) fn reset(&mut self) {
        self.taken = 0;
    }
}

/// What has been told of a broker that is away: the same reason is told once a minute.
#[derive(Debug, Default)]
pub(super) struct Told(Option<(String, Instant)>);

impl Told {
    /// Whether this is to be told now.
    pub(super) fn is_news(&mut self, reason: &str, now: Instant) -> bool {
        let is_old = |(last, at): &(String, Instant)| {
            last == reason && now.saturating_duration_since(*at) < TELL_EVERY
        };
        let is_news = !self.0.as_ref().is_some_and(is_old);
        if is_news {
            self.0 = Some((reason.to_owned(), now));
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(uri: &str) -> ConnectionSettings {
        ConnectionSettings {
            uris: vec![uri.to_owned().into()],
            tls: TlsSettings::default(),
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_millis(200),
        }
    }

    #[tokio::test]
    async fn a_file_of_tls_that_is_none_is_told_with_its_setting() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file.pem");
        std::fs::write(&file, "root:x:0:0\n").unwrap();
        let (cert_file, key_file) = (file.clone(), file.clone());
        let archive = TlsIdentity::Pkcs12 { file: file.clone(), password: "x".into() };
        for (ca_file, identity, what) in [
            (Some(file.clone()), None, "ca_file: FILE: there is no certificate in PEM in it"),
            (
                None,
                Some(TlsIdentity::Pem { cert_file, key_file }),
                "client_cert_file: FILE: there is no certificate in PEM in it",
            ),
            (None, Some(archive), "client_p12_file: FILE: there is no PKCS #12 in it"),
        ] {
            let told = TlsSettings { ca_file, identity }.load().await.unwrap_err();
            let what = what.replace("FILE", &file.display().to_string());
            assert_eq!(told, format!("rabbitmq.{what}"));
        }
    }

    #[test]
    fn a_bad_address_is_an_error_that_does_not_show_it() {
        let error = Connector::new(&settings("http://guest:secret@nowhere")).unwrap_err();
        assert!(error.contains("rabbitmq.uri") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_password_is_read_as_the_settings_encode_it_and_is_never_shown() {
        let settings = settings("amqp://guest:p%40ss%2Fword@127.0.0.1:1/%2f");
        let connector = Connector::new(&settings).unwrap();
        assert_eq!(connector.nodes[0].authority.userinfo.password, "p@ss/word");
        assert_eq!(format!("{connector:?}"), r#"["127.0.0.1:1"]"#);
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let connector = Connector::new(&settings("amqp://guest:secret@127.0.0.1:1/%2f")).unwrap();
        let error = connector.connect("test").await.unwrap_err();
        assert!(
            error.starts_with("RabbitMQ at 127.0.0.1:1: ") && error.contains("refused"),
            "{error}"
        );
        assert!(!error.contains("secret"));
    }

    #[tokio::test]
    async fn a_peer_that_accepts_and_stays_silent_is_given_up() {
        let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = peer.local_addr().unwrap().port();
        let uri = format!("amqp://guest:guest@127.0.0.1:{port}/%2f");
        let error = Connector::new(&settings(&uri)).unwrap().connect("test").await.unwrap_err();
        assert!(error.contains("no answer within 0.2 s"), "{error}");
    }

    #[test]
    fn a_broker_that_stays_away_is_told_once_a_minute_and_a_new_reason_at_once() {
        let (mut told, start) = (Told::default(), crate::clock::monotonic());
        let news: Vec<bool> = [("a", 0), ("a", 59), ("b", 60), ("b", 61), ("b", 120), ("b", 121)]
            .map(|(reason, second)| told.is_news(reason, start + Duration::from_secs(second)))
            .into();
        assert_eq!(news, [true, false, true, false, true, false]);
    }

    #[test]
    fn pauses_double_up_to_two_seconds_and_begin_anew() {
        let mut pauses = Pauses::default();
        let millis: Vec<u128> = (0..7).map(|_| pauses.next(1.0).as_millis()).collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 2000, 2000]);
        pauses.reset();
        assert_eq!(pauses.next(1.0), FIRST_PAUSE);
        assert_eq!(pauses.next(0.0), Duration::ZERO);
    }
}
