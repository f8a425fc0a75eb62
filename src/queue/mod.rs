//! Where jobs come from and how they are settled: RabbitMQ, or a file. Decides nothing about a job.

pub mod file;
mod heard;
mod holds;
mod listing;
mod operators;
pub mod rabbitmq;
mod served;
mod tenure;

pub use heard::{Heard, Listening};
pub use holds::{Holds, HoldsChanged};
pub use listing::{Answer, Listed, Listing, PluginNumbers, Refresher};
pub use operators::{OperatorPause, Operators, Orders};
pub use served::{Ready, Served, Workers};
pub use tenure::Tenure;

use crate::metrics::{Departure, Token};
use crate::policy::{History, Reschedule, Settlement, Why};
use crate::wire::{InvalidJob, NumberId, Priority, SendJob};

/// What a queue and its worker tell each other beside the jobs.
#[derive(Debug, Clone, Default)]
pub struct Notices {
    /// The worker's word: numbers to be left alone.
    pub holds: Holds,
    /// Operators' word.
    pub operators: Operators,
    /// The queue's word: numbers whose lanes are this worker's.
    pub served: Served,
    /// The worker's word: numbers of which it wants to hear every status.
    pub listening: Listening,
}

/// One delivery of a job, in hand until its receipt is settled.
#[derive(Debug)]
pub struct Incoming<R> {
    /// The number whose lane it came by; none where no lane is known (a bad line of a file).
    pub lane: Option<NumberId>,
    /// The job, or what is wrong with it.
    pub job: Result<SendJob, InvalidJob>,
    /// Its past.
    pub history: History,
    /// What it waited for before it came back; none when it comes for the first time.
    pub waited_for: Option<crate::policy::Why>,
    /// Which of the lane's two queues it came by.
    pub priority: Priority,
    /// How often the queue has delivered it before, to anybody.
    pub earlier: u32,
    /// The time with its lane by which it came.
    pub tenure: Tenure,
    /// How to settle it.
    pub receipt: R,
    /// That it is here: it must leave.
    pub token: Token,
}

impl<R: Receipt> Incoming<R> {
    /// Lets go of it with nothing settled: the queue delivers it again, or has done so.
    pub fn let_go(self) {
        self.token.leave(match self.receipt.is_ours() {
            true => Departure::Returned,
            false => Departure::Void,
        });
    }
}

/// The right, and the duty, to settle one delivery. Dropped unsettled, the queue delivers it again.
pub trait Receipt: Send + Sync + 'static {
    /// Whether the delivery is still ours. False once its connection is gone: the broker has given
    /// the job back, so it must not be sent from here.
    fn is_ours(&self) -> bool;

    /// Records what follows, waits until it is safe (confirmed, flushed), and only then lets go of
    /// the delivery. `until_safe` is dropped in between. An error means that the job is still the
    /// queue's and will be delivered again.
    fn settle(
        self,
        settlement: &Settlement,
        until_safe: impl Send,
    ) -> impl std::future::Future<Output = Result<(), SettleError>> + Send;
}

/// A settlement that was not recorded, or not let go of.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SettleError {
    /// The delivery was no longer ours: the job comes again.
    #[error("the delivery is no longer ours: {0}")]
    Lost(String),
    /// The worker stopped before the settlement was safe: the job comes again.
    #[error("stopped before the settlement was safe")]
    Stopped,
    /// What follows could not be written.
    #[error("the settlement could not be written: {0}")]
    Unwritten(String),
}

impl From<&Settlement> for Departure {
    /// How a delivery left that was settled so.
    fn from(settlement: &Settlement) -> Departure {
        match settlement {
            Settlement::Finish(_) => Departure::Finished,
            Settlement::DeadLetter { .. } => Departure::DeadLetter,
            Settlement::Reschedule(Reschedule { why: Why::HandedBack, .. }) => Departure::Returned,
            Settlement::Reschedule(_) => Departure::Rescheduled,
        }
    }
}

impl From<&SettleError> for Departure {
    /// How a delivery left whose settlement failed.
    fn from(error: &SettleError) -> Departure {
        match error {
            SettleError::Lost(_) => Departure::Void,
            SettleError::Stopped | SettleError::Unwritten(_) => Departure::Returned,
        }
    }
}
