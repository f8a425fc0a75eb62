//! What was measured, where and when: the head of the page.

use crate::version::version;
use chakra_sender::clock;
use std::process::Command;

/// The first lines, `command` being what makes them again.
pub(crate) fn described(command: &str) -> String {
    let date = clock::wall().strftime("%Y-%m-%d");
    let (cpu, cores) = (processor(), cores());
    let (memory, load) = (memory(), load());
    let (rustc, rabbitmq, ours) =
        (said("rustc", "--version"), version(), env!("CARGO_PKG_VERSION"));
    format!(
        "# Performance\n\n\
         Written by `{command}`, not by hand. All on one machine and its loopback: RabbitMQ, the sender, the \
         API, the producer. The API is a sink that takes everything in at once, in the sandbox's words; the \
         jobs stand in the queues before the sender starts, unless a row says otherwise. Measured is between \
         5% and 95% of the messages that the sink has taken in, so no start counts; all jobs had their \
         results, and none was sent twice.\n\n\
         | | |\n|---|---|\n\
         | date | {date} |\n\
         | machine | {cpu}, {cores} cores, {memory} |\n\
         | load before (1, 5, 15 min) | {load} |\n\
         | chakra-sender | {ours} |\n\
         | RabbitMQ | {rabbitmq} |\n\
         | compiler | {rustc} |\n"
    )
}

/// Which processor.
pub(crate) fn processor() -> String {
    field("/proc/cpuinfo", "model name")
}

/// What a program says of itself.
pub(crate) fn said(program: &str, asked: &str) -> String {
    let said = Command::new(program).arg(asked).output();
    said.map_or_else(
        |_| "unknown".into(),
        |said| String::from_utf8_lossy(&said.stdout).trim().into(),
    )
}

/// The first value of a name in one of the kernel's lists.
fn field(file: &str, name: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim());
    value.unwrap_or("unknown").to_owned()
}

fn memory() -> String {
    let kibibytes = field("/proc/meminfo", "MemTotal").replace(" kB", "").parse::<u64>();
    kibibytes
        .map_or_else(|_| "unknown".into(), |memory| format!("{} GiB", memory.div_ceil(1 << 20)))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(", ")
}
