//! Where the fault harness may end the process: named stages in a job's way. Built without the
//! feature `crash-points`, as every release is, passing a stage is nothing at all. It decides nothing
//! and cleans nothing up: the end is SIGKILL's.

/// The stages of a job, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It may go; its beginning is not recorded yet.
    BeforeBegin,
    /// Its beginning is recorded; no byte of its request is written yet.
    AfterBegin,
    /// Its answer is read and not recorded.
    Answered,
    /// Its end is in the ledger and not published.
    Recorded,
    /// Its result is written to the broker and not confirmed.
    Published,
    /// Its result is confirmed; its delivery is not acknowledged.
    Confirmed,
    /// Its acknowledgement is written.
    Acknowledged,
}

impl Stage {
    /// From the first to the last.
    pub const ALL: [Stage; 7] = [
        Stage::BeforeBegin,
        Stage::AfterBegin,
        Stage::Answered,
        Stage::Recorded,
        Stage::Published,
        Stage::Confirmed,
        Stage::Acknowledged,
    ];

    /// Its name in `CHAKRA_CRASH_AT`.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::BeforeBegin => "before-begin",
            Stage::AfterBegin => "after-begin",
            Stage::Answered => "answered",
            Stage::Recorded => "recorded",
            Stage::Published => "published",
            Stage::Confirmed => "confirmed",
            Stage::Acknowledged => "acknowledged",
        }
    }
}

/// A job passes this stage.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub(crate) fn point(_stage: Stage) {}

/// A job passes this stage: the process ends here where `CHAKRA_CRASH_AT=<stage>:<n>` names it
/// and this is the n-th to pass.
#[cfg(feature = "crash-points")]
pub(crate) fn point(stage: Stage) {
    use std::sync::atomic::Ordering::SeqCst;
    let Some(armed) = armed::read() else { return };
    if armed.stage == stage && armed.passed.fetch_add(1, SeqCst) + 1 == armed.at {
        armed::end();
    }
}

#[cfg(feature = "crash-points")]
mod armed {
    use super::Stage;
    use std::sync::OnceLock;
    use std::sync::atomic::AtomicU64;

    /// Where this process ends.
    #[derive(Debug)]
    pub(super) struct Armed {
        pub(super) stage: Stage,
        /// The first is 1.
        pub(super) at: u64,
        pub(super) passed: AtomicU64,
    }

    /// What the environment says, read once. The house has no statics; this one is in no release, and
    /// a handle passed down to every stage would change the code that is to be proven.
    #[expect(
        clippy::expect_used,
        reason = "the harness writes it, and must not believe it crashed"
    )]
    pub(super) fn read() -> Option<&'static Armed> {
        static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var_os("CHAKRA_CRASH_AT")?;
            Some(text.to_str().and_then(parse).expect("CHAKRA_CRASH_AT is <stage>:<n>"))
        });
        armed.as_ref()
    }

    fn parse(text: &str) -> Option<Armed> {
        let (name, at) = text.split_once(':')?;
        let stage = Stage::ALL.into_iter().find(|stage| stage.name() == name)?;
        Some(Armed { stage, at: at.parse().ok()?, passed: AtomicU64::new(0) })
    }

    /// The signal that nothing can catch: no destructor runs, nothing is flushed.
    pub(super) fn end() -> ! {
        let sent =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            // Nothing may follow the stage, should the signal take a moment.
            debug_assert!(sent.is_ok(), "a process may always end itself");
            std::thread::park();
        }
    }
}
