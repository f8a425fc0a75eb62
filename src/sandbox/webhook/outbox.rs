//! What waits to be posted, by when it is due: bounded, and put together in batches.
//!
//! Holds and hands out. It waits for nothing and reads no clock.

use std::collections::BTreeMap;

use tokio::{sync::oneshot, time::Instant};

use super::{
    Webhook,
    course::{Course, Due, Form, Notice},
};

/// What one post holds.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) form: Form,
    pub(super) notices: Vec<Notice>,
    /// How often it has been posted already.
    pub(super) tries: u32,
    /// Tells the send that waits for the first answer.
    pub(super) first_answer: Option<oneshot::Sender<()>>,
}

impl Parcel {
    /// Whether it may share a post with others.
    fn is_social(&self) -> bool {
        self.form == Form::PassThrough && self.tries == 0 && self.first_answer.is_none()
    }
}

/// Everything that is to be posted.
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Outbox {
    /// By when it is due; what is due at the same time, as it came.
    waiting: BTreeMap<(Instant, u64), Parcel>,
    sequence: u64,
    /// The open batch, and when it is closed at the latest.
    batch: Option<(Instant, Parcel)>,
    /// Events here, and those handed out and not yet released.
    held: usize,
}

/// What became of a [`Course`].
#[derive(Debug, Default)]
pub(in crate::sandbox) struct Put {
    /// Events that found no place.
    pub(in crate::sandbox) dropped: u64,
    /// Each ends when an event that goes before the answer has been posted, or will not be.
    pub(in crate::sandbox) early: Vec<oneshot::Receiver<()>>,
}

impl Outbox {
    /// Takes in what is to be posted about one message, `most` events being the bound of all.
    pub(in crate::sandbox) fn put(&mut self, course: Course, most: usize) -> Put {
        let mut put = Put::default();
        for Due { at, form, early, notice } in course.due {
            if self.held >= most {
                put.dropped += 1;
                continue;
            }
            self.held += 1;
            let (told, tells) = oneshot::channel();
            let first_answer = early.then_some(told);
            put.early.extend(early.then_some(tells));
            let notices = vec![notice];
            self.put_back(Parcel { form, notices, tries: 0, first_answer }, at);
        }
        put
    }

    /// Posts a parcel again at `at`. Its events were held all the time.
    pub(super) fn put_back(&mut self, parcel: Parcel, at: Instant) {
        self.sequence += 1;
        self.waiting.insert((at, self.sequence), parcel);
    }

    /// The next parcel that is due. Its events count as held until they are released.
    pub(super) fn take(&mut self, now: Instant, settings: &Webhook) -> Option<Parcel> {
        while let Some(entry) = self.waiting.first_entry().filter(|entry| entry.key().0 <= now) {
            let parcel = entry.remove();
            if settings.batch == 1 || !parcel.is_social() {
                return Some(parcel);
            }
            match &mut self.batch {
                Some((_, batch)) => batch.notices.extend(parcel.notices),
                None => self.batch = Some((now + settings.batch_within, parcel)),
            }
            if self.batch.as_ref().is_some_and(|(_, b)| b.notices.len() >= settings.batch) {
                return self.close_batch();
            }
        }
        if self.batch.as_ref().is_some_and(|(closes, _)| *closes <= now) {
            return self.close_batch();
        }
        None
    }

    fn close_batch(&mut self) -> Option<Parcel> {
        self.batch.take().map(|(_, parcel)| parcel)
    }

    /// Forgets all that is here. How many events these were.
    pub(super) fn empty(&mut self) -> u64 {
        let waiting = std::mem::take(&mut self.waiting).into_values();
        let parcels = waiting.chain(self.close_batch());
        let events = parcels.map(|parcel| parcel.notices.len()).sum();
        self.release(events);
        events as u64
    }

    /// When there is something to hand out next.
    pub(super) fn next(&self) -> Option<Instant> {
        let waiting = self.waiting.first_key_value().map(|((at, _), _)| *at);
        let batch = self.batch.as_ref().map(|(closes, _)| *closes);
        waiting.into_iter().chain(batch).min()
    }

    /// Events that were handed out have found their end.
    pub(super) fn release(&mut self, events: usize) {
        self.held = self.held.saturating_sub(events);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::sandbox::webhook::{Accepted, Event};

    fn batches_of(batch: usize) -> Webhook {
        Webhook { batch, batch_within: Duration::from_millis(5), ..Webhook::default() }
    }

    /// Events of one form, each with how long after `now` it is due.
    fn due(now: Instant, form: Form, events: &[(u64, Event)]) -> Course {
        let due = events.iter().map(|(after, event)| Due {
            at: now + Duration::from_millis(*after),
            form,
            early: false,
            notice: Notice { event: *event, at_ms: 0, of: Arc::new(Accepted::default()) },
        });
        Course { due: due.collect(), ..Course::default() }
    }

    fn events(parcel: Option<Parcel>) -> Vec<Event> {
        parcel.into_iter().flat_map(|parcel| parcel.notices).map(|notice| notice.event).collect()
    }

    #[test]
    fn what_is_due_comes_by_its_time_then_as_it_was_put() {
        use Event::{Delivered, Read, Sent};
        let (now, settings) = (Instant::now(), batches_of(1));
        let mut outbox = Outbox::default();
        outbox.put(due(now, Form::Chakra, &[(2, Read), (1, Sent), (1, Delivered)]), 9);
        assert_eq!(outbox.next(), Some(now + Duration::from_millis(1)));
        assert!(outbox.take(now, &settings).is_none());
        let later = now + Duration::from_millis(2);
        let taken = [(); 4].map(|()| events(outbox.take(later, &settings)));
        assert_eq!(taken, [vec![Sent], vec![Delivered], vec![Read], vec![]]);
    }

    #[test]
    fn a_batch_closes_when_it_is_full_or_has_waited() {
        use Event::{Delivered, Read, Sent};
        let (now, settings) = (Instant::now(), batches_of(2));
        let mut outbox = Outbox::default();
        outbox.put(due(now, Form::PassThrough, &[(0, Sent), (0, Delivered), (0, Read)]), 9);
        assert_eq!(events(outbox.take(now, &settings)), [Sent, Delivered]);
        assert!(outbox.take(now, &settings).is_none(), "it waits for company");
        let closes = now + settings.batch_within;
        assert_eq!(outbox.next(), Some(closes));
        assert_eq!(events(outbox.take(closes, &settings)), [Read]);
        assert_eq!(outbox.next(), None);
    }

    #[test]
    fn chakras_own_shape_and_repeated_posts_travel_alone() {
        let (now, settings) = (Instant::now(), batches_of(9));
        let mut outbox = Outbox::default();
        outbox.put(due(now, Form::Chakra, &[(0, Event::Sent), (0, Event::Read)]), 9);
        assert_eq!(events(outbox.take(now, &settings)), [Event::Sent]);
        let again =
            Parcel { tries: 1, form: Form::PassThrough, ..outbox.take(now, &settings).unwrap() };
        outbox.put_back(again, now);
        assert_eq!(events(outbox.take(now, &settings)), [Event::Read]);
    }

    #[test]
    fn the_bound_holds_until_events_are_released() {
        let (now, settings) = (Instant::now(), batches_of(1));
        let mut outbox = Outbox::default();
        let three = [(0, Event::Sent), (0, Event::Delivered), (0, Event::Read)];
        assert_eq!(outbox.put(due(now, Form::Chakra, &three), 2).dropped, 1);
        let under_way = outbox.take(now, &settings);
        assert_eq!(outbox.put(due(now, Form::Chakra, &three[..1]), 2).dropped, 1);
        outbox.release(events(under_way).len());
        assert_eq!(outbox.put(due(now, Form::Chakra, &three[..1]), 2).dropped, 0);
        assert_eq!(outbox.empty(), 2);
        assert_eq!(outbox.put(due(now, Form::Chakra, &three), 2).dropped, 1);
    }

    #[test]
    fn whoever_waits_for_an_event_that_finds_no_place_waits_no_longer() {
        let now = Instant::now();
        let mut course = due(now, Form::Chakra, &[(0, Event::Sent)]);
        course.due[0].early = true;
        let put = Outbox::default().put(course, 0);
        assert_eq!((put.dropped, put.early.len()), (1, 0));
    }
}
