//! A real RabbitMQ for a story: one node for all of them, with names of its own for each, or a private
//! node for stories that stop it.

use super::process::IN_TIME;
use chakra_sender::queue::rabbitmq::topology::Names;
use chakra_sender::queue::rabbitmq::{
    Accept, ConnectionSettings, RabbitSettings, TlsSettings, TopologySettings, Touch,
};
use chakra_sender::wire::{NumberId, Priority};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Queue};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt;

/// Between two looks at a queue.
const LOOK: Duration = Duration::from_millis(20);

/// No event of a story takes longer.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// A node of one story, and the port of its AMQP listener.
#[derive(Debug)]
pub(crate) struct Node {
    dir: tempfile::TempDir,
    /// Where AMQP answers.
    pub(crate) port: u16,
    /// Where it answers over TLS, if it was prepared to.
    pub(crate) tls_port: u16,
}

/// A broker and the names of one story.
#[derive(Debug)]
pub(crate) struct Broker {
    uri: String,
    /// All names of this story begin with it.
    pub(crate) prefix: String,
    node: Option<Node>,
}

impl Broker {
    /// The node of `CHAKRA_TEST_AMQP`, or one for this process.
    pub(crate) fn shared() -> Broker {
        static OWN: OnceLock<String> = OnceLock::new();
        #[expect(clippy::disallowed_methods, reason = "set by tests/with-rabbitmq")]
        let given = std::env::var("CHAKRA_TEST_AMQP").ok();
        let uri = given.unwrap_or_else(|| OWN.get_or_init(|| Node::start(|_| {}).keep()).clone());
        Broker { uri, prefix: prefix(), node: None }
    }

    /// A node for this story alone.
    pub(crate) fn private() -> Broker {
        Broker::prepared(|_| {})
    }

    /// The same; `prepare` may put files into its folder first, such as `extra.conf`.
    pub(crate) fn prepared(prepare: impl FnOnce(&Path)) -> Broker {
        let node = Node::start(prepare);
        Broker { uri: uri(node.port), prefix: prefix(), node: Some(node) }
    }

    /// The node of a private broker.
    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// The address.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// The names.
    pub(crate) fn names(&self) -> Names {
        Names::new(&self.prefix)
    }

    /// Waits until nobody consumes a paused number's lane: what comes before may still be sent.
    pub(crate) async fn left(&self, number: &str) {
        let client = self.client().await;
        let lane = self.names().lane(&NumberId::parse(number).unwrap(), Priority::Normal);
        let leaving = tokio::time::timeout(IN_TIME, async {
            while client.ask(&lane).await.unwrap().consumer_count() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        });
        leaving.await.expect("the lane is consumed although its number is paused");
    }

    /// Settings that suit most stories: any number gets a lane, patience is short.
    pub(crate) fn settings(&self) -> RabbitSettings {
        RabbitSettings {
            connection: ConnectionSettings {
                uris: vec![self.uri.clone().into()],
                tls: TlsSettings::default(),
                heartbeat: Duration::from_secs(10),
                connect_timeout: Duration::from_secs(5),
            },
            topology: TopologySettings {
                prefix: self.prefix.clone(),
                declare: true,
                lane_max_length: None,
                results_keep: Duration::from_secs(3_600),
                results_max_bytes: 1 << 20,
                dead_letters_keep: Duration::from_secs(3_600),
            },
            numbers: Vec::new(),
            accept: Accept::Any,
            retire_after: Duration::from_secs(600),
            touch: Touch::unmarked(),
            report: Arc::new(|_| serde_json::Value::Null),
            max_lanes: 10,
            prefetch: Arc::new(|_| 10),
            max_held: 1_000,
        }
    }

    /// An ordinary client of the broker: a producer or a consumer.
    pub(crate) async fn client(&self) -> Client {
        let properties = ConnectionProperties::default();
        let connection = Connection::connect(&self.uri, properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Client { connection, channel }
    }
}

/// A connection and a channel with confirms.
pub(crate) struct Client {
    connection: Connection,
    /// For all that the methods here do not do.
    pub(crate) channel: Channel,
}

impl Client {
    /// Publishes and waits for the confirm.
    pub(crate) async fn publish(&self, to: (&str, &str), body: &[u8], properties: BasicProperties) {
        let (exchange, key) = (to.0.into(), to.1.into());
        let options = BasicPublishOptions::default();
        let written = self.channel.basic_publish(exchange, key, options, body, properties).await;
        assert!(written.unwrap().await.unwrap().is_ack());
    }

    /// What the broker says of a queue. On a channel of its own: an error, where it is missing, closes it.
    pub(crate) async fn ask(&self, queue: &str) -> lapin::Result<Queue> {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let channel = self.connection.create_channel().await?;
        channel.queue_declare(queue.into(), passive, FieldTable::default()).await
    }

    /// Jobs that stand ready in a queue.
    pub(crate) async fn depth(&self, queue: &str) -> u32 {
        self.ask(queue).await.unwrap().message_count()
    }

    /// The next message of a queue, which is taken out of it.
    pub(crate) async fn take(&self, queue: &str) -> Delivery {
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer =
            self.channel.basic_consume(queue.into(), "".into(), options, none).await.unwrap();
        let next = tokio::time::timeout(SOON, consumer.next()).await;
        let delivery = next.unwrap_or_else(|_| panic!("nothing came to {queue}")).unwrap().unwrap();
        assert!(delivery.ack(BasicAckOptions::default()).await.unwrap());
        let options = BasicCancelOptions::default();
        self.channel.basic_cancel(consumer.tag(), options).await.unwrap();
        // What came after it goes back.
        while let Some(Ok(more)) = consumer.next().await {
            more.reject(lapin::options::BasicRejectOptions { requeue: true }).await.unwrap();
        }
        delivery
    }
}

impl Node {
    fn start(prepare: impl FnOnce(&Path)) -> Node {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        script(&["start", path(dir.path()), &std::process::id().to_string()]);
        let env = std::fs::read_to_string(dir.path().join("env")).unwrap();
        let port = |name: &str| {
            let port = env.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            port.parse().unwrap()
        };
        Node { port: port("AMQP_PORT="), tls_port: port("AMQPS_PORT="), dir }
    }

    /// Its folder.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Stops it politely. (3.10 killed within a second of its first stream never brings that stream
    /// up again.)
    pub(crate) fn stop(&self) {
        script(&["stop", path(self.dir.path())]);
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&self) {
        script(&["kill", path(self.dir.path())]);
    }

    /// Starts it again, with the same port and data.
    pub(crate) fn restart(&self) {
        script(&["restart", path(self.dir.path())]);
    }

    /// `rabbitmqctl`, and what it says.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let mut all = vec!["ctl", path(self.dir.path())];
        all.extend(arguments);
        script(&all)
    }

    /// Leaves the node to end with the process.
    fn keep(self) -> String {
        let uri = uri(self.port);
        std::mem::forget(self);
        uri
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

fn script(arguments: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rabbitmq-node");
    let done = Command::new(script).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    assert!(done.status.success(), "rabbitmq-node {arguments:?} failed");
    String::from_utf8(done.stdout).unwrap()
}

fn path(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

fn uri(port: u16) -> String {
    format!("amqp://guest:guest@127.0.0.1:{port}/%2f")
}

/// A name of its own for a story, whose log is shown where it fails.
fn prefix() -> String {
    let filter = tracing_subscriber::EnvFilter::new("chakra_sender=debug");
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer();
    // One for the process.
    let _already = log.try_init();
    format!("story-{:08x}", fastrand::u32(..))
}
