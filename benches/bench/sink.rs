//! An instant ChakraHQ: it takes every message in and says so in the sandbox's own words, which it was given
//! before. It checks nothing, so that it costs little; it counts, and notes when a count was reached.
//!
//! It runs as a process of its own (`bench sink`), told what to do by GET: see [`order`]. Where single
//! requests are timed it stands in the process that times them.

use crate::http::{Buffer, Ends};
use crate::statuses::{Accepted, Poster};
use chakra_sender::clock;
use chakra_sender::sandbox::{Number, Sandbox, SandboxConfig};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The last characters of a message's id are counted up.
const COUNTED: usize = 12;

/// What the sandbox says, to be said again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answers {
    /// The plugin's configuration.
    config: String,
    /// The answer to a message: before its id, its id, after it.
    accepted: [String; 3],
}

impl Answers {
    /// Asks a sandbox with these numbers.
    pub(crate) async fn of_sandbox(numbers: &[String]) -> Answers {
        let unlimited = |id: &String| Number { rate: Some(0), ..Number::new(id) };
        let config = SandboxConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            numbers: numbers.iter().map(unlimited).collect(),
            ..SandboxConfig::default()
        };
        let (token, plugin) = (config.token.clone(), config.plugin_id.clone());
        let sandbox = Sandbox::start(config).await.unwrap();
        let plugin = format!("{}/v1/ext/plugin/whatsapp/{plugin}", sandbox.base_url());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let config = http.get(format!("{plugin}/config")).bearer_auth(&token);
        let message = r#"{"messaging_product":"whatsapp","to":"+919901258433","type":"text","text":{"body":"x"}}"#;
        let send = http
            .post(format!("{plugin}/api/v24.0/{}/messages", numbers[0]))
            .header("content-type", "application/json")
            .bearer_auth(&token)
            .body(message);
        let config = config.send().await.unwrap().text().await.unwrap();
        let accepted = send.send().await.unwrap().text().await.unwrap();
        sandbox.stop().await;
        let start = accepted.find("wamid.").unwrap_or_else(|| panic!("no id in {accepted}"));
        let end = start + accepted[start..].find('"').unwrap();
        let parts = [&accepted[..start], &accepted[start..end], &accepted[end..]];
        Answers { config, accepted: parts.map(str::to_owned) }
    }
}

/// What it does until told otherwise.
#[derive(Default)]
struct State {
    /// Messages since the last beginning.
    count: u64,
    began: Option<Instant>,
    /// Counts, and how long after the beginning they were reached.
    marks: Vec<(u64, Option<Duration>)>,
    /// When each of the messages came, where that is kept.
    arrivals: Option<Vec<Instant>>,
    /// How long an answer takes.
    delay: Duration,
    /// Who tells what became of a message.
    poster: Option<Poster>,
}

/// The sink. It ends with its value.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

struct Shared {
    answers: Answers,
    state: Mutex<State>,
    reached: Notify,
}

impl Sink {
    /// Listens on any free port.
    pub(crate) async fn start(answers: Answers) -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (state, reached) = Default::default();
        let shared = Arc::new(Shared { answers, state, reached });
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(&shared)));
        Sink { address, shared, _serving: serving }
    }

    /// From now on it notes when each message comes.
    pub(crate) fn keep_arrivals(&self) {
        self.shared.state().arrivals = Some(Vec::new());
    }

    /// When message `index` came, once it has.
    pub(crate) async fn arrival(&self, index: usize) -> Instant {
        let came = |state: &State| state.arrivals.as_ref().and_then(|all| all.get(index)).copied();
        self.shared.wait_for(came).await
    }
}

/// Runs it as a process, with answers out of a file.
pub(crate) async fn serve(answers: &Path) {
    let answers = serde_json::from_slice(&std::fs::read(answers).unwrap()).unwrap();
    let sink = Sink::start(answers).await;
    println!("listening on {}", sink.address);
    std::future::pending().await
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let shared = Arc::clone(&shared);
                connections.spawn(async move { shared.serve(stream).await });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the other side closes. Whoever gives orders asks once on a connection.
    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut buffer = Buffer::default();
        while let Some(ends) = buffer.fill(&mut stream).await? {
            let mut line = buffer.head(ends).split(' ');
            let (method, path) = (line.next().unwrap_or_default(), line.next().unwrap_or_default());
            if let ("POST", Some(number)) = (method, number(path)) {
                let said = self.message(number, &buffer, ends).await;
                stream.write_all(said.as_bytes()).await?;
            } else if path.ends_with("/config") {
                stream.write_all(answer(200, &self.answers.config).as_bytes()).await?;
            } else if let ("GET", Some(order)) = (method, path.strip_prefix("/sink/")) {
                let said = self.order(order).await;
                return stream.write_all(answer(200, &said).as_bytes()).await;
            } else {
                stream.write_all(answer(404, "{}").as_bytes()).await?;
            }
            buffer.forget(ends);
        }
        Ok(())
    }

    /// Takes a message in.
    async fn message(&self, number: &str, buffer: &Buffer, ends: Ends) -> String {
        let (count, delay, poster) = self.count();
        let [before, id, after] = &self.answers.accepted;
        let id = format!("{}{count:0COUNTED$x}", &id[..id.len() - COUNTED]);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(poster) = poster {
            // No faster than what becomes of messages can be told.
            poster.tell(Accepted::read(&id, number, buffer.body(ends))).await;
        }
        answer(200, &[before, &id[..], after].concat())
    }

    fn count(&self) -> (u64, Duration, Option<Poster>) {
        let mut state = self.state();
        state.count += 1;
        let (count, began) = (state.count, state.began);
        if let Some(arrivals) = &mut state.arrivals {
            arrivals.push(clock::monotonic());
            self.reached.notify_waiters();
        }
        if let Some((_, reached)) = state.marks.iter_mut().find(|(mark, _)| *mark == count) {
            *reached = began.map(|began| began.elapsed());
            self.reached.notify_waiters();
        }
        (count, state.delay, state.poster.clone())
    }

    /// What the harness wants:
    /// `begin/<count>/<count>/<delay in ms>/<address for statuses or ->`: counts anew, with two marks;
    /// `mark/<0 or 1>`: answers once that mark is reached, with the nanoseconds since the beginning;
    /// `count`: the messages since the beginning.
    async fn order(&self, order: &str) -> String {
        let words: Vec<&str> = order.split('/').collect();
        match words[..] {
            ["begin", first, second, delay, address] => {
                let marks = [first, second].map(|mark| (mark.parse().unwrap(), None)).into();
                let delay = Duration::from_millis(delay.parse().unwrap());
                let poster = address.parse().ok().map(Poster::start);
                let began = Some(clock::monotonic());
                *self.state() = State { began, marks, delay, poster, ..State::default() };
                String::new()
            }
            ["mark", mark] => {
                let mark: usize = mark.parse().unwrap();
                let reached = |state: &State| state.marks.get(mark).and_then(|(_, after)| *after);
                self.wait_for(reached).await.as_nanos().to_string()
            }
            ["count"] => self.state().count.to_string(),
            _ => panic!("an unknown order: {order}"),
        }
    }

    async fn wait_for<T>(&self, mut known: impl FnMut(&State) -> Option<T>) -> T {
        loop {
            let reached = self.reached.notified();
            tokio::pin!(reached);
            reached.as_mut().enable();
            if let Some(known) = known(&self.state()) {
                return known;
            }
            reached.await;
        }
    }
}

/// The number in the path of a message.
fn number(path: &str) -> Option<&str> {
    path.strip_suffix("/messages")?.rsplit('/').next()
}

fn answer(status: u16, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} -\r\ncontent-type: application/json; charset=utf-8\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}
