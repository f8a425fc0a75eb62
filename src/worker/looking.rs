//! Looking for messages in chats: for jobs in doubt, and now and then for an accepted message, to see
//! that looking works. It keeps its own pace; what a look means is `policy`'s.

use super::lanes::sleep_until;
use super::lock;
use crate::chakra::Client;
use crate::clock;
use crate::ledger::Ledger;
use crate::limiter::{Gate, Rate};
use crate::metrics::Metrics;
use crate::policy::{self, Form, Sight, Sighting};
use crate::wire::{Message, Recipient, SendJob};
use jiff::{SignedDuration, Timestamp};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A look waits no longer in hand than this for the pace of looks; else it comes again later.
const MAX_LOOK_WAIT: Duration = Duration::from_secs(5);

/// When an accepted message is looked for, to see that it shows.
const PROBES: [Duration; 8] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(40),
    Duration::from_secs(80),
    Duration::from_secs(160),
];

/// Accepted messages are inspected no more often than this.
const INSPECT_EVERY_MILLIS: i64 = 5;

/// Probes under way at once; there is one for a type in a minute.
const MAX_PROBES: usize = 16;

/// A probe's message is not older than its acceptance but for the clocks.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(30);

/// Too many looks wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowded;

/// The looks of one worker.
#[derive(Debug)]
pub(super) struct Looking {
    chakra: Client,
    metrics: Arc<Metrics>,
    ledger: Ledger,
    gate: Mutex<Gate>,
    sight: Mutex<Sight>,
    /// When an accepted message was last inspected, in milliseconds of Unix time.
    inspected: Mutex<i64>,
    probes: mpsc::Sender<Probe>,
    asked: AsyncMutex<mpsc::Receiver<Probe>>,
}

/// An accepted message that must show sooner or later.
#[derive(Debug)]
struct Probe {
    message: Message,
    form: Form,
    recipient: Recipient,
    whatsapp_message_id: String,
    accepted: Timestamp,
}

impl Looking {
    /// What an earlier process has seen stands in the ledger.
    pub(super) fn new(
        chakra: Client,
        pace: Rate,
        metrics: Arc<Metrics>,
        ledger: Ledger,
    ) -> Looking {
        let sight = ledger.note().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let (probes, asked) = mpsc::channel(MAX_PROBES);
        Looking {
            chakra,
            metrics,
            ledger,
            gate: Mutex::new(Gate::new(pace, clock::monotonic())),
            sight: Mutex::new(sight.unwrap_or_default()),
            inspected: Mutex::new(0),
            probes,
            asked: AsyncMutex::new(asked),
        }
    }

    /// Goes on at another pace.
    pub(super) fn change_rate(&self, pace: Rate, now: Instant) {
        let mut gate = lock(&self.gate);
        if gate.rate() != pace {
            gate.change_rate(pace, now);
        }
    }

    /// Waits for the pace of looks. Each look takes one turn.
    pub(super) async fn turn(&self) -> Result<(), Crowded> {
        self.pass(MAX_LOOK_WAIT).await
    }

    /// Looks for the job's message, sent after that moment. `others` are the jobs in doubt whose
    /// messages are the same; `claimed` tells which messages are known to be other jobs'.
    pub(super) async fn look(
        &self,
        job: &SendJob,
        after: Timestamp,
        others: usize,
        claimed: impl Fn(&str) -> bool,
    ) -> Sighting {
        let (Some(recipient), Some(form)) = (job.message.recipient(), Form::of(&job.message))
        else {
            return Sighting::NoChat;
        };
        let sighting = match self.chakra.look(recipient, &job.message, after).await {
            Ok(matches) => {
                let free = |found: &policy::Match| {
                    !found.whatsapp_message_id.as_deref().is_some_and(&claimed)
                };
                let free = matches.into_iter().filter(free).collect();
                let lag = lock(&self.sight).lag(&form, clock::wall());
                policy::read_chat(free, others, lag)
            }
            Err(error) => Sighting::Blind(error.to_string()),
        };
        self.metrics.looked(&sighting);
        tracing::debug!(job = %job.id, saw = told(&sighting), "looked for it");
        sighting
    }

    /// A message was accepted: now and then it is looked for.
    pub(super) fn accepted(&self, job: &SendJob, whatsapp_message_id: &str, at: Timestamp) {
        if !self.may_inspect(at) {
            return;
        }
        let (Some(recipient), Some(form)) = (job.message.recipient(), Form::of(&job.message))
        else {
            return;
        };
        if !lock(&self.sight).takes(&form, at) {
            return;
        }
        let probe = Probe {
            message: job.message.clone(),
            form,
            recipient: recipient.clone(),
            whatsapp_message_id: whatsapp_message_id.to_owned(),
            accepted: at,
        };
        if self.probes.try_send(probe).is_err() {
            tracing::debug!("too many probes wait");
        }
    }

    /// Reading the form of each accepted message would cost more than it tells.
    fn may_inspect(&self, at: Timestamp) -> bool {
        let mut inspected = lock(&self.inspected);
        let is_due = at.as_millisecond().saturating_sub(*inspected) >= INSPECT_EVERY_MILLIS;
        if is_due {
            *inspected = at.as_millisecond();
        }
        is_due
    }

    /// Makes the probes, until told to stop.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut asked = self.asked.lock().await;
        let mut probing = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = probing.join_next() => {}
                Some(probe) = asked.recv(), if probing.len() < MAX_PROBES => {
                    let looking = Arc::clone(&self);
                    probing.spawn(async move { looking.probe(probe).await });
                }
            }
        }
    }

    /// Until the message shows, or has had all its time.
    async fn probe(&self, probe: Probe) {
        let Probe { message, form, recipient, whatsapp_message_id, accepted } = probe;
        let began = clock::monotonic();
        let after = accepted.checked_sub(CLOCK_SLACK).unwrap_or(Timestamp::MIN);
        let mut looked = false;
        for wait in PROBES {
            sleep_until(began + wait).await;
            if self.pass(wait).await.is_err() {
                continue;
            }
            let asked = clock::wall();
            match self.chakra.sees(&recipient, &message, &whatsapp_message_id, after).await {
                Ok(true) => {
                    self.note(|sight| sight.saw(&form, accepted, asked));
                    return tracing::debug!(?wait, "an accepted message shows in its chat");
                }
                Ok(false) => looked = true,
                Err(error) => tracing::debug!(%error, "cannot look"),
            }
        }
        if looked {
            tracing::warn!("an accepted message does not show in its chat: looking proves nothing");
            self.note(|sight| sight.missed(&form));
        }
    }

    fn note(&self, change: impl FnOnce(&mut Sight)) {
        let bytes = {
            let mut sight = lock(&self.sight);
            change(&mut sight);
            serde_json::to_vec(&*sight)
        };
        if let Ok(bytes) = bytes {
            self.ledger.keep_note(&bytes);
        }
    }

    /// Waits for the pace of looks, unless that would take too long.
    async fn pass(&self, at_most: Duration) -> Result<(), Crowded> {
        let moment = {
            let mut gate = lock(&self.gate);
            let now = clock::monotonic();
            if gate.free_at(now) > now + at_most {
                return Err(Crowded);
            }
            gate.reserve(now)
        };
        sleep_until(moment).await;
        Ok(())
    }
}

/// For logs: without Meta's id of the message, which has the recipient's phone number in it.
fn told(sighting: &Sighting) -> String {
    match sighting {
        Sighting::Found { whatsapp_message_id: _ } => "it".to_owned(),
        Sighting::Several => "several".to_owned(),
        Sighting::Nothing { lag: Some(lag) } => format!("nothing, where it shows within {lag:?}"),
        Sighting::Nothing { lag: None } => "nothing, which proves nothing".to_owned(),
        Sighting::Blind(reason) => format!("no list: {reason}"),
        Sighting::NoChat => "no chat".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_does_not_say_which_message_was_found() {
        let found = Sighting::Found { whatsapp_message_id: "wamid.1".into() };
        assert_eq!(told(&found), "it");
    }
}
