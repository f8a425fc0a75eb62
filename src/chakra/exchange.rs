//! One HTTP exchange, with its answer read up to a limit, and the one question that matters when
//! there is no answer: did any byte of the request leave? Nothing is read into the answer here.

use bytes::{Bytes, BytesMut};
use reqwest::header::{HeaderName, LOCATION, RETRY_AFTER};
use reqwest::{RequestBuilder, Response};
use std::error::Error;

/// What came of a request.
#[derive(Debug, Clone)]
pub(super) enum Exchange {
    /// It surely never left, for this reason.
    NeverSent(String),
    /// It may have arrived, but no status came back, for this reason.
    NoAnswer(String),
    /// A status came back.
    Answered(Reply),
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Every `Retry-After`.
    pub(super) retry_after: Vec<String>,
    pub(super) location: Option<String>,
    pub(super) body: Bytes,
    /// False where the body broke off or was over the limit.
    pub(super) whole: bool,
}

/// Sends a request and reads at most `limit` bytes of the answer.
pub(super) async fn perform(request: RequestBuilder, limit: usize) -> Exchange {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return unanswered(error),
    };
    let (body, whole) = read(&mut response, limit).await;
    Exchange::Answered(Reply {
        status: response.status().as_u16(),
        retry_after: texts(&response, &RETRY_AFTER),
        location: texts(&response, &LOCATION).pop(),
        body,
        whole,
    })
}

/// The length that the header promises is not trusted, and need not be there.
async fn read(response: &mut Response, limit: usize) -> (Bytes, bool) {
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if chunk.len() <= limit - body.len() => body.extend_from_slice(&chunk),
            Ok(Some(chunk)) => {
                body.extend_from_slice(&chunk[..limit - body.len()]);
                return (body.freeze(), false);
            }
            Ok(None) => return (body.freeze(), true),
            Err(_) => return (body.freeze(), false),
        }
    }
}

fn texts(response: &Response, name: &HeaderName) -> Vec<String> {
    let values = response.headers().get_all(name).iter();
    values.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
}

fn unanswered(error: reqwest::Error) -> Exchange {
    // The address holds the plugin's id.
    let error = error.without_url();
    let reason = chain(&error).map(ToString::to_string).collect::<Vec<_>>().join(": ");
    match never_sent(&error) {
        true => Exchange::NeverSent(reason),
        false => Exchange::NoAnswer(reason),
    }
}

/// Measured for reqwest 0.13.5: refused, unresolvable, a TLS handshake that fails or stays silent
/// are `is_connect`; a connection that was gone before the first write is hyper's `is_canceled`.
/// All else, `is_timeout` alone included, may have been sent.
fn never_sent(error: &reqwest::Error) -> bool {
    error.is_connect() || error.is_builder() || is_canceled(error)
}

fn is_canceled(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| error.downcast_ref().is_some_and(hyper::Error::is_canceled))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;
    use hyper::client::conn::http1::handshake;
    use hyper_util::rt::TokioIo;

    #[tokio::test]
    async fn a_request_that_met_a_dead_connection_is_known_as_never_sent() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let (mut sender, connection) = handshake(TokioIo::new(ours)).await.unwrap();
        drop(connection);
        let request = hyper::Request::new(Empty::<Bytes>::new());
        let error = sender.send_request(request).await.unwrap_err();
        assert!(is_canceled(&Outer(error)));
        assert!(!is_canceled(&std::io::Error::other("reset")));
    }

    /// reqwest too has hyper's error deeper in the chain.
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] hyper::Error);
}
