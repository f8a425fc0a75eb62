//! The program as a process of its own: started with nothing but the settings of its story, read line
//! by line, stopped by signals, killed at the end of the story.

use super::broker::Broker;
use super::world::{NUMBER, OTHER, text};
use chakra_sender::sandbox::{Fault, Number, Sandbox, SandboxConfig};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

/// No event of a story takes longer, on a busy machine and without optimisation.
pub(crate) const IN_TIME: Duration = Duration::from_secs(45);

/// Between two looks at what tells nothing by itself.
const LOOK: Duration = Duration::from_millis(20);

/// ChakraHQ's API key in all stories: it must never show.
pub(crate) const TOKEN: &str = "the-very-secret-token";

/// A sandbox with two numbers that have no ceiling.
pub(crate) async fn sandbox(change: impl FnOnce(&mut SandboxConfig)) -> Sandbox {
    let mut config = SandboxConfig { token: TOKEN.into(), ..SandboxConfig::default() };
    config.numbers = [NUMBER, OTHER].map(|id| Number { rate: Some(0), ..Number::new(id) }).into();
    change(&mut config);
    Sandbox::start(config).await.unwrap()
}

/// `[[faults]]` in TOML.
pub(crate) fn faults(toml: &str) -> Vec<Fault> {
    SandboxConfig::from_toml(toml).unwrap().faults
}

/// Writes a file of lines.
pub(crate) fn write(dir: &tempfile::TempDir, name: &str, lines: &[String]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// Sends one job by each of the two numbers: then both lanes stand.
pub(crate) async fn use_both_lanes(broker: &Broker, admin: &AdminPage) {
    let dir = tempfile::tempdir().unwrap();
    let one = text("lane-of-one", "x");
    let other = text("lane-of-other", "x").replace(NUMBER, OTHER);
    let file = write(&dir, "jobs.jsonl", &[one, other]).display().to_string();
    let put = Program::new(&["enqueue", &file]).on(broker).run().await;
    assert_eq!(put.code, Some(0), "{}", put.said());
    for number in [NUMBER, OTHER] {
        admin.says("/metrics", 200, &format!(r#"number="{number}",status="accepted"}} 1"#)).await;
    }
}

/// The lines of a file; none where it does not exist yet.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until a file has this many lines.
pub(crate) async fn wait_for_lines(path: &Path, count: usize) {
    let grown = async {
        while lines(path).len() < count {
            tokio::time::sleep(LOOK).await;
        }
    };
    let waited = timeout(IN_TIME, grown).await;
    assert!(waited.is_ok(), "{} has only {} lines", path.display(), lines(path).len());
}

/// Cargo tells a test where it has put our program. A benchmark, which it tells nothing, has it beside itself.
fn ours() -> PathBuf {
    option_env!("CARGO_BIN_EXE_chakra-sender")
        .map_or_else(|| beside("chakra-sender"), PathBuf::from)
}

/// A program in the folder of the running one.
pub(crate) fn beside(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().with_file_name(name)
}

/// A command that is not started yet.
pub(crate) struct Program(Command);

impl Program {
    /// With nothing in its environment but PATH.
    pub(crate) fn new<S: AsRef<OsStr>>(arguments: &[S]) -> Program {
        Program::other(ours()).with(arguments)
    }

    /// Another program than ours, in the same way.
    pub(crate) fn other(program: impl AsRef<OsStr>) -> Program {
        let mut command = Command::new(program);
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        Program(command)
    }

    /// Gives it arguments.
    pub(crate) fn with<S: AsRef<OsStr>>(mut self, arguments: &[S]) -> Program {
        self.0.args(arguments);
        self
    }

    /// Sets a key such as `chakra.token`.
    pub(crate) fn set(self, key: &str, value: &str) -> Program {
        let name = key.to_uppercase().replace('.', "__");
        self.env(&format!("CHAKRA_SENDER__{name}"), value)
    }

    /// Sets a variable that is no setting.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Program {
        self.0.env(name, value);
        self
    }

    /// Starts it in this folder.
    pub(crate) fn within(mut self, folder: &Path) -> Program {
        self.0.current_dir(folder);
        self
    }

    /// Starts it as the first of a process group, as a shell does with what is typed.
    pub(crate) fn in_a_group(mut self) -> Program {
        self.0.process_group(0);
        self
    }

    /// Points it at a sandbox.
    pub(crate) fn at(self, sandbox: &Sandbox) -> Program {
        self.calling(&sandbox.base_url())
    }

    /// Points it at whoever answers like a sandbox there.
    pub(crate) fn calling(self, base_url: &str) -> Program {
        self.set("chakra.base_url", base_url)
            .set("chakra.token", TOKEN)
            .set("chakra.plugin_id", &SandboxConfig::default().plugin_id)
            .set("log.format", "json")
    }

    /// Gives it the broker and the names of a story.
    pub(crate) fn on(self, broker: &Broker) -> Program {
        self.set("rabbitmq.uri", broker.uri()).set("rabbitmq.prefix", &broker.prefix)
    }

    /// A worker whose admin listener is on any free port.
    pub(crate) fn worker(sandbox: &Sandbox, broker: &Broker) -> Program {
        Program::new(&["worker"])
            .at(sandbox)
            .on(broker)
            .set("admin.listen", "127.0.0.1:0")
            .set("limits.number.rate", "1000")
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Process {
        self.0.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.0.spawn().unwrap();
        let out = Text::read(child.stdout.take().unwrap());
        let err = Text::read(child.stderr.take().unwrap());
        Process { child, out, err }
    }

    /// Runs it to its end.
    pub(crate) async fn run(self) -> Ended {
        let mut process = self.start();
        process.close_stdin();
        process.end().await
    }
}

/// A stream of lines as far as it has been read.
#[derive(Clone)]
pub(crate) struct Text(watch::Receiver<Seen>);

#[derive(Default)]
struct Seen {
    lines: Vec<String>,
    ended: bool,
}

impl Text {
    fn read(stream: impl Read + Send + 'static) -> Text {
        let (seen, text) = watch::channel(Seen::default());
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
                seen.send_modify(|seen| seen.lines.push(line));
            }
            seen.send_modify(|seen| seen.ended = true);
        });
        Text(text)
    }

    /// What has come until now.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.borrow().lines.clone()
    }

    /// The first line that holds this, as soon as it comes.
    pub(crate) async fn line(&mut self, part: &str) -> String {
        let found = |lines: &[String]| lines.iter().find(|line| line.contains(part)).cloned();
        let told = |seen: &Seen| seen.ended || found(&seen.lines).is_some();
        let waited = timeout(IN_TIME, self.0.wait_for(told)).await.is_ok();
        let lines = self.lines();
        found(&lines).unwrap_or_else(|| {
            panic!("no line with {part:?} (in time: {waited}):\n{}", lines.join("\n"))
        })
    }

    /// Waits until the lines so far are such. False where they end before, or it takes too long.
    pub(crate) async fn until(&mut self, are_such: impl Fn(&[String]) -> bool) -> bool {
        let told = |seen: &Seen| seen.ended || are_such(&seen.lines);
        let waited = timeout(IN_TIME, self.0.wait_for(told)).await.is_ok();
        waited && are_such(&self.lines())
    }

    /// Waits for this many lines.
    pub(crate) async fn count(&mut self, count: usize) -> Vec<String> {
        let told = |seen: &Seen| seen.ended || seen.lines.len() >= count;
        let waited = timeout(IN_TIME, self.0.wait_for(told)).await.is_ok();
        let lines = self.lines();
        assert!(lines.len() >= count, "{} of {count} lines (in time: {waited})", lines.len());
        lines
    }

    async fn end(&mut self) -> bool {
        timeout(IN_TIME, self.0.wait_for(|seen| seen.ended)).await.is_ok()
    }
}

/// A running process, which ends with its value.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) out: Text,
    pub(crate) err: Text,
}

/// How a process ended, and all that it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// None where a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) out: Vec<String>,
    pub(crate) err: Vec<String>,
}

impl Ended {
    /// Everything that it said.
    pub(crate) fn said(&self) -> String {
        [self.out.join("\n"), self.err.join("\n")].join("\n")
    }

    /// Of how many messages a demo was told this.
    pub(crate) fn statuses(&self, status: &str) -> u64 {
        let line = self.out.iter().find_map(|line| line.strip_prefix("statuses: "));
        let counts = line.unwrap_or_else(|| panic!("{}", self.said())).split(", ");
        let count = counts.filter_map(|count| count.split_once(' ')).find(|(_, of)| *of == status);
        count.map_or(0, |(count, _)| count.parse().unwrap())
    }
}

impl Process {
    /// Sends a signal such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        // Not waited for yet, so the id is still its own.
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Writes to its stdin.
    pub(crate) fn write(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// The end of its stdin.
    pub(crate) fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end, which is the end of what it says.
    pub(crate) async fn end(mut self) -> Ended {
        let in_time = self.out.end().await && self.err.end().await;
        let (out, err) = (self.out.lines(), self.err.lines());
        assert!(in_time, "it did not end; stderr:\n{}", err.join("\n"));
        // wait() would close stdin first, on which a process may hang wrongly: both streams are shut
        // by now, so it has ended already.
        let status = self.child.wait().unwrap();
        Ended { code: status.code(), signal: status.signal(), out, err }
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn kill(self) -> Ended {
        self.signal("KILL");
        self.end().await
    }

    /// The admin listener, once the log has told where it is.
    pub(crate) async fn admin(&mut self) -> AdminPage {
        let line = self.err.line("the admin listener").await;
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        AdminPage(line["address"].as_str().unwrap().to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended or not: it must be gone.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The admin listener of a process.
pub(crate) struct AdminPage(String);

impl AdminPage {
    /// The listener at this address.
    pub(crate) fn at(address: &str) -> AdminPage {
        AdminPage(address.to_owned())
    }

    /// Its address.
    pub(crate) fn address(&self) -> &str {
        &self.0
    }

    /// The status and the body of a page; none while nobody answers.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        self.ask(&format!("GET {path} HTTP/1.0\r\n")).await
    }

    /// The same of a request by its first lines.
    pub(crate) async fn ask(&self, lines: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.0).await.ok()?;
        let request = format!("{lines}host: story\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }

    /// Looks at a page until it has this status and says this.
    pub(crate) async fn says(&self, path: &str, status: u16, part: &str) -> String {
        let mut last = None;
        let told = async {
            loop {
                last = self.get(path).await;
                match &last {
                    Some((now, body)) if *now == status && body.contains(part) => {
                        return body.clone();
                    }
                    _ => tokio::time::sleep(LOOK).await,
                }
            }
        };
        let told = timeout(IN_TIME, told).await;
        told.unwrap_or_else(|_| panic!("{path} never said {status} {part:?}, last: {last:?}"))
    }

    /// Where a browser finds a page.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0)
    }

    /// Waits until the worker is ready.
    pub(crate) async fn ready(&self) {
        self.says("/readyz", 200, "").await;
    }
}
