//! What a process uses, by the kernel's account.

use std::time::Duration;

/// Processor time in /proc is counted in these: 100 a second on every Linux (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// Bytes of memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// The highest resident size until now.
    pub(crate) peak: u64,
    /// The resident size.
    pub(crate) resident: u64,
}

/// Time on a processor until now, the kernel's on its behalf included.
pub(crate) fn processor_time(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // The name, in brackets, may hold spaces. utime and stime are the 14th and the 15th field.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |field: usize| fields[field - 3].parse::<u32>().unwrap();
    TICK * (ticks(14) + ticks(15))
}

/// Its memory.
pub(crate) fn memory(id: u32) -> Memory {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    };
    Memory { peak: bytes("VmHWM:"), resident: bytes("VmRSS:") }
}
