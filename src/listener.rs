//! An HTTP listener that nobody can exhaust: so many connections at once, a bound on the time for a
//! request's header, on a connection's age and on the bytes read ahead. Knows no route.

use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{self, JoinSet};
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
    /// Connections at once. One more takes the place of the oldest that is not being answered, so that
    /// clients which only hold connections keep nobody out; where all are, it waits.
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
    pub async fn serve<S>(self, service: S, bounds: Bounds, stop: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        let mut connections = JoinSet::new();
        // In the order in which they came.
        let mut open: VecDeque<Open> = VecDeque::new();
        let changed = Arc::new(Notify::new());
        loop {
            let is_full = open.len() >= bounds.connections;
            let place = !is_full || open.iter().any(Open::is_idle);
            tokio::select! {
                () = stop.cancelled() => break,
                // Else each request would wake this task twice.
                () = changed.notified(), if is_full => {}
                Some(ended) = connections.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    open.retain(|one| one.id != Some(id));
                }
                accepted = self.socket.accept(), if place && connections.len() <= bounds.connections => {
                    match accepted {
                        Ok((stream, _)) => {
                            let mut one = Open::new(&stop, &changed);
                            one.id = Some(connections.spawn(answer(stream, service.clone(), bounds, one.clone())).id());
                            if is_full
                                && let Some(oldest) = open.iter().position(Open::is_idle)
                                && let Some(oldest) = open.remove(oldest)
                            {
                                oldest.leave.cancel();
                            }
                            open.push_back(one);
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

/// A connection, as its listener sees it.
#[derive(Debug, Clone)]
struct Open {
    id: Option<task::Id>,
    /// It is to end: at once, unless it is being answered.
    leave: CancellationToken,
    /// Whether a request of it has come and has no answer yet.
    is_answering: Arc<AtomicBool>,
    /// Told when an answer begins and when it ends.
    changed: Arc<Notify>,
}

impl Open {
    fn new(stop: &CancellationToken, changed: &Arc<Notify>) -> Open {
        let (leave, is_answering) = (stop.child_token(), Arc::default());
        Open { id: None, leave, is_answering, changed: Arc::clone(changed) }
    }

    fn is_idle(&self) -> bool {
        !self.is_answering.load(Ordering::Relaxed)
    }

    async fn answer<R>(&self, response: impl Future<Output = R>) -> R {
        self.is_answering.store(true, Ordering::Relaxed);
        self.changed.notify_one();
        let response = response.await;
        self.is_answering.store(false, Ordering::Relaxed);
        self.changed.notify_one();
        response
    }
}

/// One connection, to its end.
async fn answer<S>(stream: TcpStream, service: S, bounds: Bounds, open: Open)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    let first = timeout(FIRST_BYTE.min(bounds.header), stream.readable());
    let Some(Ok(Ok(()))) = open.leave.run_until_cancelled(first).await else { return };
    let mut builder = http1::Builder::new();
    // Without a timer hyper has no timeout at all.
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.header);
    builder.max_buf_size(READ_AHEAD_BYTES);
    let service = service_fn(|request| open.answer(service.call(request)));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { tokio::select! { () = open.leave.cancelled() => {}, () = sleep(MAX_AGE) => {} } } => {
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
    use axum::Router;
    use axum::routing::get;
    use hyper_util::service::TowerToHyperService;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A listener that answers, until the end of the story.
    struct Serving {
        address: SocketAddr,
        stop: CancellationToken,
        serving: JoinSet<()>,
        /// `/slow` was asked for.
        asked: Arc<Notify>,
        /// `/slow` is answered.
        may_answer: Arc<Notify>,
    }

    impl Serving {
        async fn start(connections: usize, header: Duration) -> Serving {
            let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
            let address = listener.local_addr();
            let stop = CancellationToken::new();
            let bounds = Bounds { name: "story", connections, header };
            let (asked, may_answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let of = (Arc::clone(&asked), Arc::clone(&may_answer));
            let slow = async move || {
                of.0.notify_one();
                of.1.notified().await;
                "slow\n"
            };
            let routes = Router::new().route("/", get(async || "here\n")).route("/slow", get(slow));
            let mut serving = JoinSet::new();
            let service = TowerToHyperService::new(routes);
            serving.spawn(listener.serve(service, bounds, stop.clone()));
            Serving { address, stop, serving, asked, may_answer }
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
    async fn clients_that_only_hold_connections_keep_nobody_out() {
        let listener = Serving::start(3, LONG).await;
        let mut silent = Vec::new();
        for begun in ["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
            let mut stream = listener.connect().await;
            stream.write_all(begun.as_bytes()).await.unwrap();
            silent.push(stream);
        }
        for _ in 0..4 {
            assert!(listener.ask().await.starts_with("HTTP/1.1 200"));
        }
    }

    #[tokio::test]
    async fn one_that_is_being_answered_keeps_its_place() {
        let listener = Serving::start(1, LONG).await;
        let mut slow = listener.connect().await;
        slow.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        listener.asked.notified().await;
        let mut asking = std::pin::pin!(listener.ask());
        assert!(timeout(Duration::from_millis(50), asking.as_mut()).await.is_err());
        listener.may_answer.notify_one();
        assert!(asking.await.starts_with("HTTP/1.1 200"));
        assert!(read(&mut slow).await.ends_with("slow\n"));
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
