//! An HTTP listener that nobody can exhaust: so many connections at once, a bound on the time for a
//! request's header, on a connection's age and on the bytes read ahead. Knows no route.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A connection is closed after this, between two requests, so that none is held for ever.
const MAX_AGE: Duration = Duration::from_secs(600);

/// How long an answer under way may take once its connection is to be closed.
const GRACE: Duration = Duration::from_secs(2);

/// The pause after a failed accept (no more file descriptors), which would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// A connection that has brought nothing by then is closed: it may only keep others from being accepted.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// What is read ahead for one connection. A header that is longer is refused.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// What one listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// For the log.
    pub name: &'static str,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
    /// A client that has not sent a request's header by then is cut off; so is one that keeps a
    /// connection and asks for nothing.
    pub header: Duration,
}

/// A listener, bound but not yet answering.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes the address. Fails when another process has it.
    pub async fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Listener { socket, address })
    }

    /// The address taken, with the port that the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, and then for as long as answers under way need, bounded.
    pub async fn serve(self, routes: Router, bounds: Bounds, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.socket.accept(), if connections.len() < bounds.connections => {
                    match accepted {
                        Ok((stream, _)) => {
                            connections.spawn(answer(stream, routes.clone(), bounds, stop.clone()));
                        }
                        Err(error) => {
                            tracing::warn!(listener = bounds.name, %error, "cannot accept");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
        // Closed before the last answer: whoever comes now is to go elsewhere.
        drop(self.socket);
        while connections.join_next().await.is_some() {}
    }
}

/// One connection, to its end.
async fn answer(stream: TcpStream, routes: Router, bounds: Bounds, stop: CancellationToken) {
    let first = timeout(FIRST_BYTE.min(bounds.header), stream.readable());
    let Some(Ok(Ok(()))) = stop.run_until_cancelled(first).await else { return };
    let mut builder = http1::Builder::new();
    // Without a timer hyper has no timeout at all.
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.header);
    builder.max_buf_size(READ_AHEAD_BYTES);
    let service = TowerToHyperService::new(routes);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { tokio::select! { () = stop.cancelled() => {}, () = sleep(MAX_AGE) => {} } } => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(listener = bounds.name, %error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A listener that answers, until the end of the story.
    struct Serving {
        address: SocketAddr,
        stop: CancellationToken,
        serving: JoinSet<()>,
    }

    impl Serving {
        async fn start(connections: usize, header: Duration) -> Serving {
            let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
            let address = listener.local_addr();
            let stop = CancellationToken::new();
            let bounds = Bounds { name: "story", connections, header };
            let routes = Router::new().route("/", get(async || "here\n"));
            let mut serving = JoinSet::new();
            serving.spawn(listener.serve(routes, bounds, stop.clone()));
            Serving { address, stop, serving }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        /// The whole answer, header and body, as text.
        async fn ask(&self) -> String {
            let mut stream = self.connect().await;
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            read(&mut stream).await
        }
    }

    /// Ends when the listener closes the connection; a time limit of the test run is its bound.
    async fn read(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    const LONG: Duration = Duration::from_secs(90);

    #[tokio::test]
    async fn a_client_that_asks_nothing_is_cut_off() {
        let listener = Serving::start(8, Duration::from_millis(20)).await;
        let mut silent = listener.connect().await;
        silent.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        read(&mut silent).await;
        assert!(listener.ask().await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn one_too_many_waits_until_another_one_has_left() {
        let listener = Serving::start(1, LONG).await;
        let first = listener.connect().await;
        let mut asking = std::pin::pin!(listener.ask());
        assert!(timeout(Duration::from_millis(50), asking.as_mut()).await.is_err());
        drop(first);
        assert!(asking.await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_header_without_an_end_is_refused() {
        let listener = Serving::start(8, LONG).await;
        let mut stream = listener.connect().await;
        let header = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(2 * READ_AHEAD_BYTES));
        // It may be closed before all is written.
        drop(stream.write_all(header.as_bytes()).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_idle_clients() {
        let mut listener = Serving::start(8, LONG).await;
        let _idle = listener.connect().await;
        assert!(listener.ask().await.starts_with("HTTP/1.1 200"));
        listener.stop.cancel();
        listener.serving.join_next().await.unwrap().unwrap();
        assert!(TcpStream::connect(listener.address).await.is_err(), "the port is free again");
    }
}
