//! Jobs whose message may have been taken in without an answer, and what statuses told of them meanwhile:
//! a status of a job's message shows that Meta has it. Bounded by number and by time; what is not remembered
//! is looked for in its chat. Quiet: time comes as an argument.

use crate::queue::{Heard, Listening};
use crate::wire::{JobId, NumberId, SendJob};
use jiff::Timestamp;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Jobs waited for at once, about 300 bytes each. An outage leaves as many in doubt as calls were under way.
const MOST: usize = 20_000;

/// Messages that statuses may tell of one job before it asks. More than its own are others' with the same id.
const MOST_TOLD: usize = 4;

/// A job in doubt is noted anew at each of its looks, one a minute at least. One that was not for so long went
/// elsewhere.
const LASTS: Duration = Duration::from_secs(15 * 60);

/// The jobs that are waited for.
#[derive(Debug)]
pub(super) struct Awaited {
    jobs: HashMap<JobId, Waiting>,
    /// Of which numbers the queue is to hear all. One leaves only when all are looked over, so that a number
    /// with now and then a doubt is not bound and unbound all the time.
    listening: Listening,
}

#[derive(Debug)]
struct Waiting {
    number: NumberId,
    since: Instant,
    told: Vec<Told>,
}

/// A message that a status told to be the job's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// Meta's id of it.
    pub(super) message_id: String,
    /// When what was told of it first happened, by Meta's clock.
    pub(super) at: Timestamp,
}

impl Awaited {
    pub(super) fn new(listening: Listening) -> Awaited {
        Awaited { jobs: HashMap::new(), listening }
    }

    /// Listens for the job's message. Not where the producer has set data of its own in the place of our id:
    /// its statuses do not tell the job, as long as its message id is not known.
    pub(super) fn listen(&mut self, job: &SendJob, now: Instant) {
        if !job.message.carries_id() {
            return;
        }
        if let Some(waiting) = self.jobs.get_mut(&job.id) {
            waiting.since = now;
        } else if self.jobs.len() < MOST {
            let number = job.phone_number_id.clone();
            self.listening.add(&number);
            let waiting = Waiting { number, since: now, told: Vec::new() };
            self.jobs.insert(job.id.clone(), waiting);
        }
    }

    /// A status came.
    pub(super) fn hear(&mut self, heard: &Heard) {
        if let Some(job) = &heard.job
            && let Some(waiting) = self.jobs.get_mut(job)
            && heard.number.as_ref() == Some(&waiting.number)
        {
            let is_known = waiting.told.iter().any(|told| told.message_id == heard.message_id);
            if !is_known && waiting.told.len() < MOST_TOLD {
                waiting.told.push(Told { message_id: heard.message_id.clone(), at: heard.at });
            }
        }
    }

    /// The messages that statuses told to be the job's, in the order in which they came.
    pub(super) fn told_of(&self, job: &SendJob) -> Vec<Told> {
        self.of(job).map(|waiting| waiting.told.clone()).unwrap_or_default()
    }

    /// Whether a status has shown that a message is another job's.
    pub(super) fn is_anothers(&self, message_id: &str, job: &SendJob) -> bool {
        let mut others = self.jobs.iter().filter(|(id, _)| **id != job.id);
        others.any(|(_, other)| other.told.iter().any(|told| told.message_id == message_id))
    }

    /// The job is in doubt no more.
    pub(super) fn forget(&mut self, job: &SendJob) {
        if self.of(job).is_some() {
            self.jobs.remove(&job.id);
        }
    }

    /// An id that is used for another number's message is not this job.
    fn of(&self, job: &SendJob) -> Option<&Waiting> {
        self.jobs.get(&job.id).filter(|waiting| waiting.number == job.phone_number_id)
    }

    /// Forgets what went elsewhere, and listens only where something is waited for.
    pub(super) fn look_over(&mut self, now: Instant) {
        self.jobs.retain(|_, waiting| now.saturating_duration_since(waiting.since) < LASTS);
        self.listening.replace(self.jobs.values().map(|waiting| waiting.number.clone()).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use jiff::Timestamp;

    fn job(id: &str, more: &str) -> SendJob {
        let body = format!(
            r#"{{"id":"{id}","phone_number_id":"1","message":{{"messaging_product":"whatsapp",
                "to":"+4915123456789","text":{{"body":"x"}}{more}}}}}"#
        );
        SendJob::parse(&Bytes::from(body), None).unwrap()
    }

    fn heard(job: &str, number: &str, message_id: &str) -> Heard {
        Heard {
            job: Some(JobId::parse(job).unwrap()),
            number: Some(NumberId::parse(number).unwrap()),
            message_id: message_id.into(),
            at: Timestamp::UNIX_EPOCH,
            fault: None,
        }
    }

    /// What is waited for, and the numbers that are listened to.
    fn begin() -> (Awaited, impl Fn() -> usize) {
        let listening = Listening::default();
        let numbers = listening.watch();
        (Awaited::new(listening), move || numbers.borrow().len())
    }

    #[test]
    fn the_messages_that_are_told_of_a_job_in_doubt_are_kept_in_their_order() {
        let (mut awaited, listened) = begin();
        let (one, other, now) = (job("one", ""), job("other", ""), Instant::now());
        awaited.hear(&heard("one", "1", "wamid.0"));
        awaited.listen(&one, now);
        assert_eq!((awaited.told_of(&one), listened()), (vec![], 1));
        awaited.hear(&heard("one", "2", "wamid.0"));
        let ids = ["wamid.1", "wamid.2", "wamid.1", "wamid.3", "wamid.4", "wamid.5"];
        for message_id in ids {
            awaited.hear(&heard("one", "1", message_id));
        }
        let told: Vec<String> =
            awaited.told_of(&one).into_iter().map(|told| told.message_id).collect();
        assert_eq!(told, ["wamid.1", "wamid.2", "wamid.3", "wamid.4"]);
        assert!(awaited.is_anothers("wamid.1", &other) && !awaited.is_anothers("wamid.1", &one));
        let elsewhere = SendJob { phone_number_id: NumberId::parse("2").unwrap(), ..one.clone() };
        awaited.forget(&elsewhere);
        assert_eq!((awaited.told_of(&elsewhere), awaited.told_of(&one).len()), (vec![], 4));
        awaited.forget(&one);
        assert_eq!((awaited.told_of(&one), listened()), (vec![], 1));
        awaited.look_over(now);
        assert_eq!(listened(), 0);
    }

    #[test]
    fn data_of_the_producers_own_tells_no_job() {
        let (mut awaited, listened) = begin();
        let own = job("one", r#","biz_opaque_callback_data":"one""#);
        awaited.listen(&own, Instant::now());
        assert_eq!(listened(), 0);
    }

    #[test]
    fn a_job_that_went_elsewhere_is_forgotten() {
        let (mut awaited, listened) = begin();
        let now = Instant::now();
        awaited.listen(&job("gone", ""), now);
        awaited.listen(&job("here", ""), now);
        awaited.listen(&job("here", ""), now + LASTS);
        awaited.look_over(now + LASTS);
        assert_eq!((awaited.jobs.len(), listened()), (1, 1));
    }

    #[test]
    fn no_more_are_waited_for_than_the_bound() {
        let (mut awaited, _) = begin();
        for n in 0..=MOST {
            awaited.listen(&job(&format!("job-{n}"), ""), Instant::now());
        }
        assert_eq!(awaited.jobs.len(), MOST);
    }
}
