//! The HTTP listener for operators: is it alive, is it ready, what does it count, how stands it with each
//! phone number. Changes nothing and needs no token; serves until it is told to stop, which is after the
//! drain.

use crate::metrics::Metrics;
use crate::readiness::Readiness;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Connections at once; more wait to be accepted. A few scrapers and probes need one each.
const MAX_CONNECTIONS: usize = 64;

/// A client that has not sent a request's header by then is cut off; so is one that keeps a
/// connection and asks for nothing. Longer than the usual scrape interval.
const HEADER_TIMEOUT: Duration = Duration::from_secs(90);

/// A connection is closed after this, between two requests, so that none is held for ever.
const MAX_AGE: Duration = Duration::from_secs(600);

/// How long an answer under way may take once its connection is to be closed.
const GRACE: Duration = Duration::from_secs(2);

/// The pause after a failed accept (no more file descriptors), which would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The page `/numbers`, as it is when asked: who serves it does not know what stands there.
pub type NumbersPage = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// The listener, bound but not yet answering.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Takes the address. Fails when another process has it.
    pub async fn bind(address: SocketAddr) -> io::Result<Admin> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Admin { listener, address })
    }

    /// The address taken, with the port that the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, and then for as long as answers under way need, bounded.
    pub async fn serve(
        self,
        metrics: Arc<Metrics>,
        readiness: Readiness,
        numbers: NumbersPage,
        stop: CancellationToken,
    ) {
        self.serve_routes(routes(metrics, readiness, numbers), HEADER_TIMEOUT, stop).await;
    }

    async fn serve_routes(self, routes: Router, header: Duration, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    match accepted {
                        Ok((stream, _)) => {
                            connections.spawn(answer(stream, routes.clone(), header, stop.clone()));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "admin listener cannot accept");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
        while connections.join_next().await.is_some() {}
    }
}

fn routes(metrics: Arc<Metrics>, readiness: Readiness, numbers: NumbersPage) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(render).with_state(metrics))
        .route("/numbers", get(async move || json(&numbers())))
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.report();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}

async fn render(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn json(page: &serde_json::Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], page.to_string()).into_response()
}

/// One connection, to its end.
async fn answer(stream: TcpStream, routes: Router, header: Duration, stop: CancellationToken) {
    let mut builder = http1::Builder::new();
    // Without a timer hyper has no timeout at all.
    builder.timer(TokioTimer::new()).header_read_timeout(header);
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
        tracing::debug!(%error, "admin connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A listener that answers, until the end of the story.
    struct Listener {
        address: SocketAddr,
        readiness: Readiness,
        stop: CancellationToken,
        serving: JoinSet<()>,
    }

    impl Listener {
        async fn start(header: Duration) -> Listener {
            let admin = Admin::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
            let address = admin.local_addr();
            let readiness = Readiness::new(&["rabbitmq"]);
            let metrics = Arc::new(Metrics::new().unwrap());
            let stop = CancellationToken::new();
            let mut serving = JoinSet::new();
            let numbers: NumbersPage = Arc::new(|| serde_json::json!([{ "number": "1027" }]));
            let routes = routes(metrics, readiness.clone(), numbers);
            serving.spawn(admin.serve_routes(routes, header, stop.clone()));
            Listener { address, readiness, stop, serving }
        }

        /// The whole answer, header and body, as text.
        async fn ask(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = format!("{request} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    #[tokio::test]
    async fn a_process_is_alive_before_it_is_ready() {
        let listener = Listener::start(HEADER_TIMEOUT).await;
        listener.readiness.missing("rabbitmq", "connecting to 127.0.0.1:5672: refused");
        assert!(listener.ask("GET /livez").await.starts_with("HTTP/1.1 200"));
        let unready = listener.ask("GET /readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
        assert!(
            unready.ends_with("rabbitmq: connecting to 127.0.0.1:5672: refused\n"),
            "{unready}"
        );
        listener.readiness.clear("rabbitmq");
        let ready = listener.ask("GET /readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200") && ready.ends_with("ready\n"), "{ready}");
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_that_prometheus_reads() {
        let listener = Listener::start(HEADER_TIMEOUT).await;
        let answer = listener.ask("GET /metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("chakra_sender_build_info{"), "{answer}");
    }

    #[tokio::test]
    async fn numbers_come_as_json() {
        let listener = Listener::start(HEADER_TIMEOUT).await;
        let answer = listener.ask("GET /numbers").await;
        assert!(answer.contains("content-type: application/json"), "{answer}");
        assert!(answer.ends_with(r#"[{"number":"1027"}]"#), "{answer}");
    }

    #[tokio::test]
    async fn only_reading_is_possible() {
        let listener = Listener::start(HEADER_TIMEOUT).await;
        assert!(listener.ask("HEAD /livez").await.starts_with("HTTP/1.1 200"));
        for path in ["/livez", "/numbers"] {
            assert!(listener.ask(&format!("POST {path}")).await.starts_with("HTTP/1.1 405"));
        }
        assert!(listener.ask("GET /jobs").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn a_client_that_asks_nothing_is_cut_off() {
        let listener = Listener::start(Duration::from_millis(20)).await;
        let mut silent = TcpStream::connect(listener.address).await.unwrap();
        silent.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        let mut rest = Vec::new();
        // Ends when the listener closes the connection; a time limit of the test run is its bound.
        silent.read_to_end(&mut rest).await.unwrap();
        assert!(listener.ask("GET /livez").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_idle_clients() {
        let mut listener = Listener::start(HEADER_TIMEOUT).await;
        let _idle = TcpStream::connect(listener.address).await.unwrap();
        assert!(listener.ask("GET /livez").await.starts_with("HTTP/1.1 200"));
        listener.stop.cancel();
        listener.serving.join_next().await.unwrap().unwrap();
        assert!(TcpStream::connect(listener.address).await.is_err(), "the port is free again");
    }
}
