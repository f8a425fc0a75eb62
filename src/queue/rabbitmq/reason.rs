//! Why the broker did not do what was asked, in a sentence for people, and what to do about it. Shows no
//! password, and none of a library's inner words.

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Error, ErrorKind};
use std::io;

/// What to look at where something is missing that every worker makes.
pub(super) const NO_WORKER: &str = "is rabbitmq.prefix right, and has a worker run there?";

/// What a user needs who may not do this.
const RIGHTS: &str = "the user lacks this right (deploy/rabbitmq/permissions.md has the least ones; \
                      where it may not declare, set rabbitmq.declare = false)";

/// What went wrong, in the words of who said it: the broker, the system or lapin.
pub(super) fn explain(error: &Error) -> String {
    match (error.kind(), soft(error)) {
        (ErrorKind::ProtocolError(said), Some(AMQPSoftError::ACCESSREFUSED)) => {
            format!("{}: {RIGHTS}", said.get_message())
        }
        (ErrorKind::ProtocolError(said), _) => said.get_message().to_string(),
        (ErrorKind::IOError(error), _) => error.to_string(),
        (_, _) => error.to_string(),
    }
}

/// The same, where what is asked for is there as soon as a worker has run.
pub(super) fn explain_missing(error: &Error) -> String {
    match soft(error) {
        Some(AMQPSoftError::NOTFOUND) => format!("{}: {NO_WORKER}", explain(error)),
        _ => explain(error),
    }
}

/// Why a connection did not come about.
pub(super) fn unreachable(error: &Error, by_tls: bool) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(said) => {
            let remedy = match said.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
                    "check user and password in rabbitmq.uri"
                }
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                    "check the virtual host, which is the end of rabbitmq.uri, and who may use it"
                }
                AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_) => {
                    return said.get_message().to_string();
                }
            };
            format!("{}: {remedy}", said.get_message())
        }
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
            "what answers there does not speak AMQP: check host and port in rabbitmq.uri".to_owned()
        }
        ErrorKind::IOError(error) => not_open(error, by_tls),
        _ => error.to_string(),
    }
}

fn not_open(error: &io::Error, by_tls: bool) -> String {
    let said = error.to_string();
    let certificate = said.split_once("invalid peer certificate: ").map(|(_, why)| innermost(why));
    match (error.kind(), certificate) {
        (_, Some(why)) => format!(
            "its certificate is not trusted ({why}): rabbitmq.ca_file names the authority that \
             signed it"
        ),
        (io::ErrorKind::ConnectionRefused, None) => {
            format!("{said}: check that RabbitMQ runs there, and host and port in rabbitmq.uri")
        }
        (_, None) if said.contains("lookup") => {
            format!("{said}: check the host in rabbitmq.uri")
        }
        (_, None) if by_tls && said.contains("corrupt message") => {
            "it does not speak TLS there: use its TLS port (often 5671), or amqp:// in rabbitmq.uri"
                .to_owned()
        }
        (_, None) if !by_tls && hung_up(error.kind()) => format!(
            "{said}: it hung up at once; if this is its TLS port, rabbitmq.uri begins with amqps://"
        ),
        (_, None) => said,
    }
}

fn hung_up(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    [ConnectionAborted, ConnectionReset, UnexpectedEof, BrokenPipe].contains(&kind)
}

/// `CaUsedAsEndEntity` of `Other(OtherError(CaUsedAsEndEntity))`.
fn innermost(debugged: &str) -> &str {
    let inner = debugged.rsplit('(').next().unwrap_or(debugged);
    inner.trim_end_matches(')')
}

/// The channel error, where it is one.
pub(super) fn soft(error: &Error) -> Option<&AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(said) => match said.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::AMQPError;

    fn said(kind: impl Into<AMQPErrorKind>, text: &str) -> Error {
        ErrorKind::ProtocolError(AMQPError::new(kind.into(), text.into())).into()
    }

    fn system(kind: io::ErrorKind, text: &str) -> Error {
        io::Error::new(kind, text.to_owned()).into()
    }

    #[test]
    fn each_reason_says_what_to_do() {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, InvalidData, Other};
        let denied = AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED);
        let no_vhost = AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED);
        let certificate = "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))";
        for (error, by_tls, remedy) in [
            (
                said(denied.clone(), "ACCESS_REFUSED - Login was refused"),
                false,
                "user and password",
            ),
            (said(no_vhost, "NOT_ALLOWED - vhost x not found"), false, "the virtual host"),
            (
                system(ConnectionRefused, "Connection refused (os error 111)"),
                false,
                "RabbitMQ runs",
            ),
            (system(Other, "failed to lookup address information"), false, "the host in"),
            (system(InvalidData, "received corrupt message of type X"), true, "amqp://"),
            (system(ConnectionAborted, "connection aborted"), false, "amqps://"),
            (system(InvalidData, certificate), true, "(CaUsedAsEndEntity): rabbitmq.ca_file"),
        ] {
            let why = unreachable(&error, by_tls);
            assert!(why.contains(remedy), "{remedy:?}: {why}");
        }
        let refused = explain(&said(denied, "ACCESS_REFUSED - access to queue 'x'"));
        assert!(refused.contains("permissions.md"), "{refused}");
        let nothing = AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND);
        assert!(explain_missing(&said(nothing, "NOT_FOUND - no queue 'x'")).contains("prefix"));
    }
}
