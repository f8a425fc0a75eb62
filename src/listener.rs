//! An HTTP listener that nobody can exhaust: so many connections at once, a bound on the time for a
//! request's header, on a connection's age and on the bytes read ahead. Knows no route.

use axum::http::Request;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
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
    /// Connections at once. One more takes the place of that which has been silent, or has not brought its
    /// request, for longest, so that clients which only hold connections keep nobody out. Where all are
    /// being answered, it waits.
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
        S: Service<Request<Arriving>, Response = Response, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        let mut connections = JoinSet::new();
        let mut open: Vec<Open> = Vec::new();
        let steps = Arc::new(Steps::default());
        loop {
            let is_full = open.len() >= bounds.connections;
            let place = !is_full || open.iter().any(Open::is_idle);
            tokio::select! {
                () = stop.cancelled() => break,
                // Else each request would wake this task twice.
                () = steps.changed.notified(), if is_full => {}
                Some(ended) = connections.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    open.retain(|one| one.id != Some(id));
                }
                accepted = self.socket.accept(), if place && connections.len() <= bounds.connections => {
                    match accepted {
                        Ok((stream, _)) => {
                            if is_full {
                                take_place(&mut open);
                            }
                            let mut one = Open::new(&stop, &steps);
                            let answers = answer(stream, service.clone(), bounds, one.clone(), stop.clone());
                            one.id = Some(connections.spawn(answers).id());
                            open.push(one);
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

/// Ends the connection that has been idle for longest.
fn take_place(open: &mut Vec<Open>) {
    let idle = open.iter().enumerate().filter(|(_, one)| one.is_idle());
    if let Some((longest, _)) = idle.min_by_key(|(_, one)| one.state.last_step.load(Relaxed)) {
        open.swap_remove(longest).leave.cancel();
    }
}

/// What the connections of a listener do, in its order.
#[derive(Debug, Default)]
struct Steps {
    count: AtomicU64,
    /// Told when an answer begins and when it ends.
    changed: Notify,
}

/// A connection, as its listener sees it.
#[derive(Debug, Clone)]
struct Open {
    id: Option<task::Id>,
    /// It is to end: at once, unless it is being answered.
    leave: CancellationToken,
    state: Arc<State>,
    steps: Arc<Steps>,
}

#[derive(Debug, Default)]
struct State {
    /// A request's header has come, its body not yet.
    is_arriving: AtomicBool,
    /// All of a request has come and has no answer yet.
    is_answering: AtomicBool,
    /// When it came, its last header came, or its last answer ended.
    last_step: AtomicU64,
}

impl Open {
    fn new(stop: &CancellationToken, steps: &Arc<Steps>) -> Open {
        let (leave, steps) = (stop.child_token(), Arc::clone(steps));
        let one = Open { id: None, leave, state: Arc::default(), steps };
        one.step();
        one
    }

    fn is_idle(&self) -> bool {
        !self.state.is_answering.load(Relaxed)
    }

    fn step(&self) {
        self.state.last_step.store(self.steps.count.fetch_add(1, Relaxed), Relaxed);
    }

    async fn answer<S>(
        &self,
        service: &S,
        request: Request<Incoming>,
    ) -> Result<Response, Infallible>
    where
        S: Service<Request<Arriving>, Response = Response, Error = Infallible>,
    {
        self.step();
        self.state.is_arriving.store(true, Relaxed);
        let request = request.map(|body| Arriving { body, of: self.clone() });
        let response = service.call(request).await;
        self.step();
        self.state.is_arriving.store(false, Relaxed);
        self.state.is_answering.store(false, Relaxed);
        self.steps.changed.notify_one();
        response
    }

    /// The request's body is in, or nobody wants it.
    fn has_arrived(&self) {
        if self.state.is_arriving.swap(false, Relaxed) {
            self.state.is_answering.store(true, Relaxed);
            self.steps.changed.notify_one();
        }
    }
}

/// A request's body. Until it is read, or nobody wants it, its connection may lose its place: else clients that
/// never end their bodies could hold all of them.
#[derive(Debug)]
pub struct Arriving {
    body: Incoming,
    of: Open,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.of.has_arrived();
    }
}

/// One connection, to its end.
async fn answer<S>(
    stream: TcpStream,
    service: S,
    bounds: Bounds,
    open: Open,
    stop: CancellationToken,
) where
    S: Service<Request<Arriving>, Response = Response, Error = Infallible>,
{
    let first = timeout(FIRST_BYTE.min(bounds.header), stream.readable());
    let Some(Ok(Ok(()))) = open.leave.run_until_cancelled(first).await else { return };
    let mut builder = http1::Builder::new();
    // Without a timer hyper has no timeout at all.
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.header);
    builder.max_buf_size(READ_AHEAD_BYTES);
    let service = service_fn(|request| open.answer(&service, request));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { tokio::select! { () = open.leave.cancelled() => {}, () = sleep(MAX_AGE) => {} } } => {
            let lost_its_place = open.leave.is_cancelled() && !stop.is_cancelled();
            if lost_its_place && open.state.is_arriving.load(Relaxed) {
                return;
            }
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
            let echo = async |body: Bytes| body;
            let routes = Router::new().route("/", get(async || "here\n").post(echo));
            let routes = routes.route("/slow", get(slow));
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
    async fn clients_that_never_end_their_bodies_keep_nobody_out() {
        let listener = Serving::start(3, LONG).await;
        let mut holding = Vec::new();
        for _ in 0..8 {
            let mut stream = listener.connect().await;
            let begun = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{";
            stream.write_all(begun).await.unwrap();
            holding.push(stream);
            assert!(listener.ask().await.starts_with("HTTP/1.1 200"));
        }
    }

    #[tokio::test]
    async fn who_was_answered_last_loses_its_place_last() {
        let listener = Serving::start(2, LONG).await;
        let mut kept = listener.connect().await;
        let mut silent = listener.connect().await;
        silent.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        for _ in 0..3 {
            kept.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx")
                .await
                .unwrap();
            let mut answer = [0; 512];
            let length = kept.read(&mut answer).await.unwrap();
            assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
            assert!(listener.ask().await.starts_with("HTTP/1.1 200"));
        }
        assert_eq!(read(&mut silent).await, "");
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
