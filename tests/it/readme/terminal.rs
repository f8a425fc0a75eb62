//! Somebody types what stands in README.md, and looks at what comes.

use super::document::Block;
use crate::support::broker::Broker;
use crate::support::process::{Ended, Process, Program};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs that run until they are ended.
const STAYING: [&str; 3] =
    ["chakra-sender worker", "chakra-sender sandbox", "chakra-sender results"];

/// A folder in which commands are typed, as if it were the clone.
pub(super) struct Desk {
    folder: tempfile::TempDir,
    path: String,
    variables: Vec<(String, String)>,
    /// What stands for what in a command.
    instead: Vec<(&'static str, String)>,
    running: Vec<Running>,
}

impl Desk {
    /// With this program as `chakra-sender`, its broker, and an admin listener on any free port.
    pub(super) fn new(broker: &Broker) -> Desk {
        let bin = Path::new(env!("CARGO_BIN_EXE_chakra-sender")).parent().unwrap();
        let mut desk = Desk::bare(&[bin]);
        desk.set("rabbitmq.uri", broker.uri());
        desk.set("admin.listen", "127.0.0.1:0");
        desk
    }

    /// With these folders first on PATH.
    pub(super) fn bare(first: &[&Path]) -> Desk {
        let own = std::env::var_os("PATH").unwrap();
        let first = first.iter().map(|folder| folder.to_path_buf());
        let path = std::env::join_paths(first.chain(std::env::split_paths(&own))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        std::fs::create_dir(&config).unwrap();
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").read_dir().unwrap();
        for file in files.map(|file| file.unwrap()) {
            std::fs::copy(file.path(), config.join(file.file_name())).unwrap();
        }
        Desk {
            folder,
            path: path.into_string().unwrap(),
            variables: Vec::new(),
            instead: Vec::new(),
            running: Vec::new(),
        }
    }

    /// Sets a key such as `chakra.token` in the environment of all that is typed from now on.
    pub(super) fn set(&mut self, key: &str, value: &str) {
        let name = format!("CHAKRA_SENDER__{}", key.to_uppercase().replace('.', "__"));
        self.export(&name, value);
    }

    /// Sets a variable.
    pub(super) fn export(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Types `here`, or sees it, where the README has `there`.
    pub(super) fn instead_of(&mut self, there: &'static str, here: impl Into<String>) {
        self.instead.push((there, here.into()));
    }

    /// A file that is there before.
    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Types a block, and what it reads; what is to be seen must come. Returns all lines.
    pub(super) async fn follow(&mut self, block: &Block, typed: &str) -> Vec<String> {
        let at = format!("README.md:{}", block.line);
        let lines = self.enter(&block.text, typed, block.seen.as_deref(), &at).await;
        let says = |line: &String| {
            line.trim().strip_prefix("export CHAKRA_SENDER__CHAKRA__BASE_URL=").map(str::to_owned)
        };
        if let Some(base) = lines.iter().find_map(says) {
            self.export("CHAKRA_SENDER__CHAKRA__BASE_URL", &base);
        }
        lines
    }

    /// Types commands. What ends must end well; what stays is left running once all was seen.
    pub(super) async fn enter(
        &mut self,
        commands: &str,
        typed: &str,
        seen: Option<&str>,
        at: &str,
    ) -> Vec<String> {
        let (script, seen) = (self.here(commands), self.here(seen.unwrap_or_default()));
        assert!(!script.contains('…'), "{at}: what stands for this?\n{script}");
        let expected: Vec<&str> = seen.lines().collect();
        // Who is asked must be at a terminal. Lines look otherwise there, so none is compared.
        let is_asked = typed == YES;
        assert!(!is_asked || expected.is_empty(), "{at}: a question, and something to be seen");
        let mut running = match is_asked {
            true => self.at_a_terminal(&script),
            false => self.in_bash(&script),
        };
        running.process().write(typed);
        if !stays(commands) {
            if !is_asked {
                running.process().close_stdin();
            }
            let ended = running.end().await;
            assert_eq!(ended.code, Some(0), "{at}:\n{script}\n{}", ended.said());
            let missing = missing(&expected, &ended.out);
            assert_eq!(missing, None, "{at}: not seen in this:\n{}", ended.said());
            return ended.out;
        }
        let all = |lines: &[String]| !lines.is_empty() && missing(&expected, lines).is_none();
        let is_seen = running.process().out.until(all).await;
        let lines = running.process().out.lines();
        let missing = missing(&expected, &lines);
        assert!(is_seen, "{at}: not seen, {missing:?}, in this:\n{}", lines.join("\n"));
        self.running.push(running);
        lines
    }

    /// Ctrl-C for everything that stays. Each must end; returns their lines.
    pub(super) async fn end_all(&mut self) -> Vec<Vec<String>> {
        let mut said = Vec::new();
        for process in self.running.drain(..).rev() {
            process.signal("INT");
            let ended = process.end().await;
            assert_eq!(ended.code, Some(0), "{}", ended.said());
            said.push(ended.out);
        }
        said
    }

    /// What is typed here.
    fn here(&self, commands: &str) -> String {
        let replace = |text: String, (there, here): &(&str, String)| text.replace(there, here);
        self.instead.iter().fold(commands.to_owned(), replace)
    }

    /// As it stands there, a shell's stderr beside its stdout. The first that fails ends it.
    fn in_bash(&self, script: &str) -> Running {
        let script = format!("exec 2>&1\n{script}");
        self.start(Program::other("bash").with(&["-ec", &script]))
    }

    /// The same with a terminal.
    fn at_a_terminal(&self, script: &str) -> Running {
        let file = self.write("typed.sh", script).display().to_string();
        let run = format!("bash -e {file}");
        self.start(Program::other("script").with(&["-qefc", &run, "/dev/null"]))
    }

    fn start(&self, program: Program) -> Running {
        let program = program.within(self.folder.path()).in_a_group().env("PATH", &self.path);
        let set = |program: Program, (name, value): &(String, String)| program.env(name, value);
        let process = self.variables.iter().fold(program, set).start();
        Running { group: Some(process.child.id()), process: Some(process) }
    }
}

/// Whether commands end with one that runs until it is ended.
fn stays(commands: &str) -> bool {
    let last = commands.trim_end().lines().last().unwrap_or_default();
    STAYING.iter().any(|staying| last.starts_with(staying)) && !last.contains("--take")
}

/// What is typed where a question is asked.
pub(super) const YES: &str = "y\n";

/// A shell with what it started, which all end with its value.
struct Running {
    process: Option<Process>,
    /// None once all have ended.
    group: Option<u32>,
}

impl Running {
    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    fn signal(&self, name: &str) {
        if let Some(group) = self.group {
            let kill = Command::new("kill").args(["-s", name, "--", &format!("-{group}")]).status();
            assert!(kill.unwrap().success());
        }
    }

    async fn end(mut self) -> Ended {
        let ended = self.process.take().unwrap().end().await;
        self.group = None;
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

/// The first line that was to be seen and was not, in the order of all lines; others may stand between.
pub(super) fn missing<'e>(expected: &[&'e str], lines: &[String]) -> Option<&'e str> {
    let mut lines = lines.iter();
    let mut seen = |expected: &str| lines.any(|line| is_such(line.trim_end(), expected.trim_end()));
    expected.iter().filter(|line| line.trim() != "…").find(|line| !seen(line)).copied()
}

/// Whether a line is as expected, where `…` stands for anything.
fn is_such(line: &str, expected: &str) -> bool {
    let parts: Vec<&str> = expected.split('…').collect();
    let [first, between @ .., last] = &parts[..] else { return line == expected };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn dots_stand_for_anything_and_lines_keep_their_order() {
    assert!(is_such("a worker is up", "a … is up") && is_such("a is up", "a …is up"));
    assert!(is_such("x y z", "… y …") && is_such("same", "same") && !is_such("same", "sam"));
    assert!(!is_such("a b", "a … b") && !is_such("b a", "a …"));
    let lines = ["one", "two", "three"].map(str::to_owned);
    assert_eq!(missing(&["one", "…", "three"], &lines), None);
    assert_eq!(missing(&["two", "one"], &lines), Some("one"));
}
