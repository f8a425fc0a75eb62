//! What a ChakraHQ in trouble costs: a probe now and then, and nothing else. The worker over lines in
//! memory, real HTTP. Where a request leaves doubt, the jobs are receipts: those may be repeated.

use crate::support::story::until;
use crate::support::world::{NUMBER, OTHER, Sent, World, job, text};
use chakra_sender::clock;
use chakra_sender::metrics::Metrics;
use chakra_sender::sandbox::Sandbox;
use chakra_sender::wire::Status;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Calls at once in these stories.
const IN_FLIGHT: usize = 16;

/// All that fails while the service is in trouble: what is under way when the brake goes on, the
/// failures that put it on, and the probes until the end of a story (at 1, 3 and 7 s, by then it ends).
const FAILED_AT_MOST: u64 = IN_FLIGHT as u64 + 10 + 3;

/// A world that tries long enough.
async fn patient(faults: &str) -> World {
    let mut world = World::with_faults(faults).await;
    world.settings.max_in_flight = IN_FLIGHT;
    world.settings.retry.max_attempts = 20;
    world
}

/// Jobs of both numbers.
fn messages(count: usize) -> Vec<String> {
    of_both(count, |id| text(id, "x"))
}

/// Jobs whose doubt does not matter.
fn receipts(count: usize) -> Vec<String> {
    let read = r#"{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}"#;
    of_both(count, |id| job(id, read, ""))
}

fn of_both(count: usize, line: impl Fn(&str) -> String) -> Vec<String> {
    let numbers = [NUMBER, OTHER].into_iter().cycle();
    let lines = (0..count).map(|n| line(&format!("job-{n}")));
    lines.zip(numbers).map(|(line, number)| line.replace(NUMBER, number)).collect()
}

/// What the worker's metrics say.
struct Seen(Arc<Metrics>);

impl Seen {
    /// The sum of all series that begin so and hold this.
    fn sum(&self, name: &str, part: &str) -> u64 {
        let text = self.0.render().unwrap();
        let name = format!("chakra_sender_{name}");
        let own = text.lines().filter(|line| line.starts_with(&name) && line.contains(part));
        own.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    fn failed(&self) -> u64 {
        ["unavailable", "ambiguous", "throttled", "blocked"]
            .map(|outcome| self.sum("attempts_total", &format!(r#"outcome="{outcome}""#)))
            .iter()
            .sum()
    }

    /// Waits until the brake is on, nothing is under way, and then for a probe that failed.
    async fn probe_failed(&self) {
        until(|| self.sum("brake ", "") == 1 && self.sum("in_flight ", "") == 0).await;
        let failed = self.failed();
        until(|| self.failed() > failed).await;
    }
}

/// Runs the jobs, and ends the trouble once the brake is on and a probe has failed. Every job is
/// accepted then, and few requests were made meanwhile.
async fn waited_out(world: World, lines: &[String], mend: impl AsyncFnOnce()) -> Sent {
    let seen = Seen(Arc::clone(&world.metrics));
    let (sent, ()) = tokio::join!(world.send(lines), async {
        seen.probe_failed().await;
        mend().await;
    });
    assert_eq!(sent.results.len(), lines.len());
    let accepted = sent.results.iter().filter(|result| result.status == Status::Accepted).count();
    assert_eq!(accepted, lines.len());
    assert!(seen.failed() <= FAILED_AT_MOST, "{} requests failed", seen.failed());
    assert_eq!(seen.sum("brake ", ""), 0);
    sent
}

/// Runs the jobs until a probe has failed. Every job is given back, and few attempts were made.
async fn given_back(world: World, lines: &[String]) {
    let seen = Seen(Arc::clone(&world.metrics));
    let stop = world.stop.clone();
    let (sent, ()) = tokio::join!(world.send(lines), async {
        seen.probe_failed().await;
        stop.cancel();
    });
    assert!(sent.results.is_empty());
    assert_eq!(sent.tally.unfinished, lines.len() as u64);
    assert!(seen.failed() <= FAILED_AT_MOST, "{} attempts failed", seen.failed());
    assert_eq!(seen.failed(), seen.sum("attempts_total", "unavailable"));
}

#[tokio::test]
async fn refused_connections_are_waited_out() {
    let mut world = patient("").await;
    // Bound, and nobody listens.
    let place = TcpSocket::new_v4().unwrap();
    place.set_reuseaddr(true).unwrap();
    place.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = place.local_addr().unwrap();
    world.base_url = Some(format!("http://{address}"));
    let mut arrived = None;
    let sent = waited_out(world, &messages(200), async || {
        arrived = Some(World::with(|sandbox| sandbox.listen = address).await);
    })
    .await;
    assert_eq!(sent.sandbox.record().count_requests(), 0);
    assert_eq!(arrived.unwrap().sandbox.record().count_accepted(), 200);
}

#[tokio::test]
async fn a_name_that_has_no_address_costs_no_job_its_outcome() {
    let mut world = patient("").await;
    world.base_url = Some("http://nothing.invalid".into());
    given_back(world, &messages(200)).await;
}

#[tokio::test]
async fn a_tls_handshake_that_fails_costs_no_job_its_outcome() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut world = patient("").await;
    world.base_url = Some(format!("https://{}", listener.local_addr().unwrap()));
    let mut closing = JoinSet::new();
    closing.spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
        }
    });
    given_back(world, &messages(200)).await;
}

#[tokio::test]
async fn a_storm_of_503_is_waited_out() {
    let world = patient("[[faults]]\nanswer = { status = 503, shape = 'html' }").await;
    let sandbox = Arc::clone(&world.sandbox);
    let sent = waited_out(world, &messages(300), async || healed(&sandbox)).await;
    assert!(sent.sandbox.record().count_requests() <= 300 + FAILED_AT_MOST);
    assert_eq!(sent.sandbox.record().count_accepted(), 300);
}

#[tokio::test]
async fn calls_that_time_out_are_waited_out() {
    ambiguous("hang = true").await;
}

#[tokio::test]
async fn lines_that_are_cut_before_an_answer_are_waited_out() {
    ambiguous("cut = 'before'").await;
}

#[tokio::test]
async fn lines_that_are_cut_after_the_headers_are_waited_out() {
    ambiguous("cut = 'headers'").await;
}

/// This fault, until the brake is on and a probe has failed.
async fn ambiguous(fault: &str) {
    let mut world = patient(&format!("[[faults]]\n{fault}")).await;
    world.timeout = Duration::from_millis(500);
    let sandbox = Arc::clone(&world.sandbox);
    waited_out(world, &receipts(200), async || healed(&sandbox)).await;
}

fn healed(sandbox: &Sandbox) {
    sandbox.set_faults(Vec::new()).unwrap();
}

#[tokio::test]
async fn answers_that_drip_are_waited_out() {
    let mut world = patient("").await;
    world.timeout = Duration::from_millis(500);
    let tap = Tap::before(world.sandbox.addr()).await;
    world.base_url = Some(format!("http://{}", tap.address));
    waited_out(world, &receipts(200), async || tap.open()).await;
}

/// Stands before a server. Until it is opened, each answer is one byte now and then.
struct Tap {
    address: SocketAddr,
    open: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Tap {
    async fn before(server: SocketAddr) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, is_open) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut lines = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                match *is_open.borrow() {
                    true => lines.spawn(pass_on(near, server)),
                    false => lines.spawn(drip(near)),
                };
            }
        });
        Tap { address, open, _task: task }
    }

    fn open(&self) {
        self.open.send_replace(true);
    }
}

async fn pass_on(mut near: TcpStream, server: SocketAddr) {
    let mut far = TcpStream::connect(server).await.unwrap();
    drop(copy_bidirectional(&mut near, &mut far).await);
}

/// Ends when the caller has left.
async fn drip(mut near: TcpStream) {
    let mut request = Vec::new();
    near.read_buf(&mut request).await.unwrap();
    let mut drop = near.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4096\r\n\r\n").await;
    while drop.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop = near.write_all(b" ").await;
    }
}

#[tokio::test]
async fn every_kind_of_hint_is_kept_by_the_whole_account() {
    let begun = (clock::monotonic(), clock::wall());
    let date = begun.1 + jiff::SignedDuration::from_secs(3);
    let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT");
    let second = Duration::from_secs(1);
    let stories = [
        ("headers = { retry-after = '1' }".to_owned(), second),
        // Cut to whole seconds.
        (format!("headers = {{ retry-after = '{date}' }}"), second),
        (r#"body = '{"retry_after_ms":1200}'"#.to_owned(), second),
        (r#"body = '{"_data":{"retry_after":"1"}}'"#.to_owned(), second),
        ("text = 'Slow down, retry after 1100 ms'".to_owned(), second),
        ("code = 80007".to_owned(), second),
    ];
    let mut all = JoinSet::new();
    for (answer, hint) in stories {
        all.spawn(async move {
            let fault = format!("[[faults]]\nfirst = 1\nanswer = {{ status = 429, {answer} }}");
            let mut world = patient(&fault).await;
            // One call at a time.
            world.settings.max_in_flight = 1;
            let sent = world.send(&messages(20)).await;
            assert!(sent.results.iter().all(|result| result.status == Status::Accepted));
            let record = sent.sandbox.record();
            assert_eq!(record.count_requests(), 21, "{answer}");
            let times: Vec<_> = record.requests().iter().map(|request| request.at).collect();
            let rest = times[1].duration_since(times[0]);
            assert!(rest >= hint, "{answer}: only {rest:?}");
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn one_probe_at_a_time_goes_while_the_service_hangs() {
    let mut world = patient("[[faults]]\nhang = true").await;
    world.timeout = Duration::from_millis(1_500);
    let (seen, stop) = (Seen(Arc::clone(&world.metrics)), world.stop.clone());
    let lines = receipts(100);
    let (sent, most) = tokio::join!(world.send(&lines), async {
        until(|| seen.sum("brake ", "") == 1 && seen.sum("in_flight ", "") == 0).await;
        let failed = seen.failed();
        let mut most = 0;
        until(|| {
            most = most.max(seen.sum("in_flight ", ""));
            seen.failed() > failed
        })
        .await;
        stop.cancel();
        most
    });
    assert_eq!(most, 1);
    assert_eq!(sent.tally.unfinished, 100);
}
