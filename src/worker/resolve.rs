//! A job that may have been sent: whether a status or its chat shows that it was. What that means is
//! `policy`'s to say.

use super::awaited::Told;
use super::handle::{IDENTICAL_WAITS, Stopped};
use super::looking::Crowded;
use super::{Hall, lock};
use crate::clock;
use crate::ledger::{Delivery, LedgerError};
use crate::policy::{self, Doubt, History, Sighting, Verdict};
use crate::queue::{Incoming, Receipt};
use crate::wire::SendJob;
use std::time::Duration;

/// A job in doubt came by its number's urgent queue: it sleeps no longer than this there before its
/// look is due.
const LOOK_SLEEPS: Duration = Duration::from_secs(1);

impl Hall {
    /// Notes that the job is in doubt, and listens for statuses of its message.
    pub(super) async fn doubt(
        &self,
        job: &SendJob,
        delivery: &Delivery,
        doubt: Doubt,
    ) -> Result<(), LedgerError> {
        lock(&self.awaited).listen(job, clock::monotonic());
        delivery.doubt(job, doubt.strength).await
    }

    /// Looks for the job's message when that is due, unless a status has shown it before. Returns its past
    /// when it is to be sent.
    pub(super) async fn resolve<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
        delivery: &Delivery,
        doubt: Doubt,
        history: History,
    ) -> Result<History, Stopped> {
        self.noted(job, self.doubt(job, delivery, doubt).await);
        self.unless_told(job, delivery, &history, &doubt)?;
        let due = policy::look_due(&history, &doubt, &self.live.borrow().doubt);
        let later = || Stopped::settled(policy::in_doubt(&history, doubt, due));
        let rest = policy::rest(due, clock::wall());
        if rest > LOOK_SLEEPS {
            return Err(later());
        }
        if delivery.is_behind_in_doubt(job) {
            let due = clock::wall() + IDENTICAL_WAITS;
            let looked = Doubt { looks: doubt.looks.max(1), ..doubt };
            return Err(Stopped::settled(policy::in_doubt(&history, looked, due)));
        }
        let turn = async {
            tokio::time::sleep(rest).await;
            self.looking.turn().await
        };
        let turn = incoming.tenure.unless_over(turn).await.ok_or_else(later)?;
        // Also in the time of its wait.
        self.unless_told(job, delivery, &history, &doubt)?;
        let again = || {
            let (now, chance) = (clock::wall(), fastrand::f64());
            Stopped::settled(policy::look_crowded(&history, doubt, now, chance))
        };
        turn.map_err(|Crowded| again())?;
        // What it shows is true of the moment in which it was asked.
        let now = clock::wall();
        let look = self.look(job, incoming, delivery, doubt, &history);
        let sighting = incoming.tenure.unless_over(look).await.ok_or_else(later)??;
        if let Sighting::Found { whatsapp_message_id } = &sighting
            && !delivery.claim(whatsapp_message_id)
        {
            return Err(again());
        }
        let policy = self.live.borrow().doubt;
        match policy::judge(job, &history, &doubt, sighting, &policy, now) {
            Verdict::Settle(settlement) => Err(Stopped::Settled(settlement)),
            Verdict::Resend(history) => {
                // Unrecorded, it would be looked for again: no harm.
                self.noted(job, delivery.answered(&history, now).await);
                Ok(*history)
            }
        }
    }

    /// Ends a job whose message a status has shown. A message that another job has taken by a look says
    /// nothing: the two cannot be told apart in the chat, and this one may take the other's.
    fn unless_told(
        &self,
        job: &SendJob,
        delivery: &Delivery,
        history: &History,
        doubt: &Doubt,
    ) -> Result<(), Stopped> {
        let told = lock(&self.awaited).told_of(job);
        let mut its_own = told.into_iter().filter(|told| policy::is_told(history, doubt, told.at));
        let Some(Told { message_id, .. }) = its_own.find(|told| delivery.claim(&told.message_id))
        else {
            return Ok(());
        };
        self.metrics.doubt_settled_by_status();
        tracing::debug!(job = %job.id, "a status shows that it was taken in");
        Err(Stopped::settled(policy::found(job, history, message_id, clock::wall())))
    }

    async fn look<R: Receipt>(
        &self,
        job: &SendJob,
        incoming: &Incoming<R>,
        delivery: &Delivery,
        doubt: Doubt,
        history: &History,
    ) -> Result<Sighting, Stopped> {
        // Not for as long as it waited: a kill that meets a waiting job tells nothing of it.
        let mark = self.suspect(job, incoming, "look").await;
        let _mark = mark.map_err(Stopped::Settled)?;
        let after = policy::sent_after(history, &doubt);
        let others = delivery.identical_in_doubt(job);
        let is_claimed =
            |id: &str| delivery.is_claimed(id) || lock(&self.awaited).is_anothers(id, job);
        Ok(self.looking.look(job, after, others, is_claimed).await)
    }
}
