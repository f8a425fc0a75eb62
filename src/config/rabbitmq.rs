//! The section `[rabbitmq]`: URIs that the AMQP library understands as they are meant, and files of
//! certificates that can be read.

use super::reader::Reader;
use super::sections::{MINUTE, SECOND};
use super::settings::{ClientIdentity, RabbitmqSettings};
use lapin::uri::AMQPUri;
use reqwest::Url;
use secrecy::SecretString;

/// Stands here and not in the reference's layer, since `rabbitmq.uri_file` would be given beside it.
pub(super) const DEFAULT_URI: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";

/// Reads the section.
pub(super) fn rabbitmq(from: &mut Reader) -> Option<RabbitmqSettings> {
    let uris = from.secret("rabbitmq.uri", amqp_uris);
    let is_given = from.is_given("rabbitmq.uri") || from.is_given("rabbitmq.uri_file");
    let uris = if is_given { uris } else { amqp_uris(DEFAULT_URI).ok() };
    let password = from.secret("rabbitmq.password", not_empty);
    let prefix = from.text("rabbitmq.prefix", |prefix| {
        let lawful = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        match (1..=64).contains(&prefix.len()) && prefix.bytes().all(lawful) {
            true => Ok(prefix.to_owned()),
            false => Err("must be 1 to 64 of a-z, 0-9, \".\", \"_\" and \"-\"".into()),
        }
    });
    let declare = from.flag("rabbitmq.declare");
    let ca_file = from.file("rabbitmq.ca_file");
    let identity = client_identity(from);
    let connect_timeout = from.duration("rabbitmq.connect_timeout", SECOND..=5 * MINUTE);
    let heartbeat = from.duration("rabbitmq.heartbeat", SECOND..=10 * MINUTE);
    if heartbeat.is_some_and(|heartbeat| heartbeat.subsec_nanos() != 0) {
        from.problem("rabbitmq.heartbeat", "must be whole seconds: AMQP knows no parts of one");
    }
    let password = password.as_deref();
    Some(RabbitmqSettings {
        uris: uris?.into_iter().map(|uri| with_password(uri, password)).collect(),
        prefix: prefix?,
        declare: declare?,
        ca_file,
        identity,
        connect_timeout: connect_timeout?,
        heartbeat: heartbeat?,
    })
}

fn not_empty(secret: &str) -> Result<String, String> {
    if secret.is_empty() { Err("must not be empty".into()) } else { Ok(secret.to_owned()) }
}

/// Reads the nodes' URIs. The reasons name a URI by its place, since it may hold a password.
fn amqp_uris(text: &str) -> Result<Vec<Url>, String> {
    let read = |(index, uri): (usize, &str)| {
        amqp_uri(uri.trim()).map_err(|reason| match text.contains(',') {
            true => format!("(URI {}) {reason}", index + 1),
            false => reason,
        })
    };
    text.split(',').enumerate().map(read).collect()
}

fn amqp_uri(text: &str) -> Result<Url, String> {
    const LAWFUL: &str = "must be amqp:// or amqps://user:password@host:port/vhost, with other \
                          characters than letters and digits percent-encoded in user, password and vhost";
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "amqp" | "amqps"));
    let url = url.ok_or(LAWFUL)?;
    // The AMQP library would take the % for itself, and most often the login would fail.
    if !is_encoded(text) {
        return Err(
            "has a % that begins no percent-encoding: write %25 for the character itself".into()
        );
    }
    // The AMQP library would take an IPv6 address, or no host at all, for localhost.
    match url.domain() {
        Some(host) if !host.is_empty() => {}
        _ => return Err("must name a host: a name or an IPv4 address".into()),
    }
    if url.path() == "/" {
        let reason =
            "ends with /, which names the virtual host \"\": leave the / out or write /%2f";
        return Err(reason.into());
    }
    text.parse::<AMQPUri>().map_err(|_| LAWFUL)?;
    Ok(url)
}

/// Whether two hexadecimal digits follow each `%`.
fn is_encoded(text: &str) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_hexdigit();
    text.split('%')
        .skip(1)
        .all(|part| part.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(is_digit)))
}

fn with_password(mut uri: Url, password: Option<&str>) -> SecretString {
    if let Some(password) = password {
        // It encodes all that needs it but a %, which could be an encoding already.
        let password = password.replace('%', "%25");
        // Fails only for a URL without a host, and these have one.
        let replaced = uri.set_password(Some(&password));
        debug_assert!(replaced.is_ok(), "an AMQP URI with a host takes a password");
    }
    SecretString::from(String::from(uri))
}

fn client_identity(from: &mut Reader) -> Option<ClientIdentity> {
    const CERTIFICATE: &str = "rabbitmq.client_cert_file";
    const KEY: &str = "rabbitmq.client_key_file";
    const ARCHIVE: &str = "rabbitmq.client_p12_file";
    const PASSWORD: &str = "rabbitmq.client_p12_password";
    let certificate = from.file(CERTIFICATE);
    let key = from.file(KEY);
    let archive = from.file(ARCHIVE);
    let password = from.secret(PASSWORD, |password| Ok(SecretString::from(password)));
    for (one, other) in [(CERTIFICATE, KEY), (KEY, CERTIFICATE), (PASSWORD, ARCHIVE)] {
        if from.is_given(one) && !from.is_given(other) {
            from.problem(one, format!("needs {other} as well"));
        }
    }
    if from.is_given(CERTIFICATE) && from.is_given(ARCHIVE) {
        from.problem(ARCHIVE, format!("is given, and so is {CERTIFICATE}: keep one"));
    }
    match (certificate, key, archive) {
        (Some(certificate), Some(key), _) => Some(ClientIdentity::Pem { certificate, key }),
        (_, _, Some(archive)) => {
            Some(ClientIdentity::Pkcs12 { archive, password: password.unwrap_or_default() })
        }
        _ => None,
    }
}
