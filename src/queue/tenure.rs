//! Whose a lane is, and for how long. Decides nothing: the queue begins and ends it, the worker heeds it.

use tokio_util::future::FutureExt;
use tokio_util::sync::CancellationToken;

/// One worker's time with one lane. A lane that comes back to the same worker begins a new one: who had
/// it in between may just have spent its burst.
#[derive(Debug, Clone)]
pub struct Tenure {
    serial: u64,
    over: CancellationToken,
    settled: CancellationToken,
}

impl Tenure {
    /// `serial` is greater than that of any earlier tenure of this process. `over` ends it, `settled`
    /// tells that no other worker can be serving the lane any more.
    pub fn new(serial: u64, over: CancellationToken, settled: CancellationToken) -> Tenure {
        Tenure { serial, over, settled }
    }

    /// That of a process which shares its lanes with nobody, until `over`.
    pub fn alone(over: CancellationToken) -> Tenure {
        let settled = CancellationToken::new();
        settled.cancel();
        Tenure { serial: 0, over, settled }
    }

    /// Which of this process's tenures it is; later ones are greater.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Waits for this as long as the lane is ours; none when it goes elsewhere first: what has not begun
    /// by then is to be given back.
    pub fn unless_over<T>(&self, what: impl Future<Output = T>) -> impl Future<Output = Option<T>> {
        // Not by `run_until_cancelled`, which has room for it twice: thousands of jobs wait like this.
        what.with_cancellation_token(&self.over)
    }

    /// Whether the number is surely ours alone. Until then another worker may serve one of the lane's two
    /// queues, so each paces at half the rate.
    pub fn is_settled(&self) -> bool {
        self.settled.is_cancelled()
    }

    /// Comes when the number is surely ours alone.
    pub async fn settled(&self) {
        self.settled.cancelled().await;
    }
}
