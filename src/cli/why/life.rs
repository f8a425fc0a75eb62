//! One life of each job from what several workers tell of it. Values in, values out.

use super::page::Report;
use crate::wire::{JobId, NumberId};
use crate::worker::{Found, JobView, Stands, Step};
use jiff::Timestamp;
use serde_json::{Value, json};

/// All that is known of one job, or of one replay of it.
#[derive(Debug)]
pub(super) struct Life {
    /// As the worker has it that knows best how it stands.
    pub(super) view: JobView,
    /// That worker; none where the dead letters tell it.
    pub(super) worker: Option<String>,
    /// What happened, in order, and in which worker.
    pub(super) steps: Vec<(String, Step)>,
}

/// What workers answered, of that number alone where one is named. A view without a number is of a ledger, and
/// is taken for the same job's where there is only one.
pub(super) fn lives(reports: Vec<Report>, number: Option<&NumberId>) -> Vec<Life> {
    let views = reports.into_iter().flat_map(|Report { worker, found: Found { jobs, .. } }| {
        jobs.into_iter().map(move |view| (worker.clone(), view))
    });
    let (named, nameless): (Vec<_>, Vec<_>) =
        views.partition(|(_, view)| view.phone_number_id.is_some());
    let mut lives: Vec<Life> = Vec::new();
    for (worker, view) in named.into_iter().chain(nameless) {
        let mut same = lives.iter_mut().filter(|life| life.is_of(&view));
        match (same.next(), same.next()) {
            (Some(life), None) => life.add(worker, view),
            (None, _) | (Some(_), Some(_)) => lives.push(Life::new(worker, view)),
        }
    }
    lives.retain(|life| {
        let own = &life.view.phone_number_id;
        number.is_none() || own.is_none() || own.as_ref() == number
    });
    for life in &mut lives {
        life.steps.sort_by_key(|(_, step)| step.at());
    }
    lives.sort_by_key(|life| (life.view.phone_number_id.clone(), life.view.replay));
    lives
}

impl Life {
    fn new(worker: String, view: JobView) -> Life {
        let steps = view.steps.iter().map(|step| (worker.clone(), step.clone())).collect();
        Life { view, worker: Some(worker), steps }
    }

    /// Whether a view is of the same job, as far as can be told.
    fn is_of(&self, view: &JobView) -> bool {
        let number = &view.phone_number_id;
        self.view.replay == view.replay
            && (number.is_none() || self.view.phone_number_id == *number)
    }

    fn add(&mut self, worker: String, view: JobView) {
        self.steps.extend(view.steps.iter().map(|step| (worker.clone(), step.clone())));
        self.view.left_out = self.view.left_out.saturating_add(view.left_out);
        if rank(&view.stands) > rank(&self.view.stands) {
            let JobView { stands, recipient, .. } = view;
            self.view.stands = stands;
            self.view.recipient = self.view.recipient.take().or(recipient);
            self.worker = Some(worker);
        }
    }

    /// Every key is always present, null where unknown.
    pub(super) fn to_json(&self, id: &JobId) -> Value {
        let JobView { phone_number_id, recipient, replay, stands, left_out, .. } = &self.view;
        let steps: Vec<Value> =
            self.steps.iter().map(|(worker, step)| told(worker, step)).collect();
        json!({
            "id": id,
            "phone_number_id": phone_number_id,
            "recipient": recipient,
            "replay": replay,
            "worker": self.worker,
            "stands": stands,
            "steps": steps,
            "left_out": left_out,
        })
    }
}

fn told(worker: &str, step: &Step) -> Value {
    let mut step = serde_json::to_value(step).unwrap_or_default();
    if let Some(step) = step.as_object_mut() {
        step.insert("worker".to_owned(), worker.into());
    }
    step
}

/// Who has it in hand knows best; of the others who saw it last.
fn rank(stands: &Stands) -> (bool, Option<Timestamp>) {
    (matches!(stands, Stands::InHand { .. }), stands.since())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(worker: &str, number: Option<&str>, stands: Value, steps: Value) -> Value {
        let job = json!({
            "phone_number_id": number, "recipient": null, "replay": null, "stands": stands,
            "steps": steps, "left_out": 0,
        });
        json!({ "worker": worker, "jobs": [job] })
    }

    fn told(answers: Vec<Value>, number: Option<&NumberId>) -> Vec<Life> {
        lives(Report::read(answers), number)
    }

    fn put_off(at: &str) -> Value {
        json!({ "is": "put-off", "since": at, "why": "retry", "due": null, "in_doubt": false })
    }

    fn over(at: &str) -> Value {
        json!({
            "is": "over", "since": at, "status": "accepted", "attempts": 2, "fault": null,
            "is_dead_letter": false,
        })
    }

    fn in_hand(at: &str) -> Value {
        json!({
            "is": "in-hand", "at": "lane", "since": at, "until": null, "because": "pace", "waiting": 3,
            "rate": 1.0, "behind": null,
        })
    }

    const EARLY: &str = "2027-01-15T08:00:00.000Z";
    const LATE: &str = "2027-01-15T08:01:00.000Z";

    #[test]
    fn who_has_it_in_hand_is_believed_and_the_steps_of_all_stand_in_their_order() {
        let received = |at| json!([{ "step": "received", "at": at, "earlier": 0 }]);
        let lives = told(
            vec![
                report("new", Some("1"), in_hand(EARLY), received(LATE)),
                report("old", Some("1"), put_off(LATE), received(EARLY)),
            ],
            None,
        );
        assert_eq!((lives.len(), lives[0].worker.as_deref()), (1, Some("new")));
        let order: Vec<&str> = lives[0].steps.iter().map(|(worker, _)| worker.as_str()).collect();
        assert_eq!(order, ["old", "new"]);
    }

    #[test]
    fn of_those_that_had_it_the_last_is_believed_and_a_ledger_belongs_to_the_one_number() {
        let reports = vec![
            report("ledger", None, over(LATE), json!([])),
            report("w", Some("1"), put_off(EARLY), json!([])),
        ];
        let lives = told(reports, None);
        assert_eq!((lives.len(), lives[0].worker.as_deref()), (1, Some("ledger")));
        assert_eq!(lives[0].view.phone_number_id.as_ref().unwrap().as_str(), "1");
    }

    #[test]
    fn one_id_of_two_numbers_is_two_jobs_and_a_number_picks_one() {
        let reports = || {
            vec![
                report("a", Some("1"), in_hand(EARLY), json!([])),
                report("b", Some("2"), in_hand(EARLY), json!([])),
            ]
        };
        assert_eq!(told(reports(), None).len(), 2);
        let two = NumberId::parse("2").unwrap();
        let picked = told(reports(), Some(&two));
        assert_eq!((picked.len(), picked[0].worker.as_deref()), (1, Some("b")));
    }

    #[test]
    fn what_a_later_version_tells_is_no_harm() {
        let later = report(
            "w",
            Some("1"),
            json!({ "is": "elsewhere", "since": 7 }),
            json!([{ "step": "danced", "at": EARLY }]),
        );
        let lives = told(vec![later, json!(7), json!({ "worker": "odd" })], None);
        assert_eq!((lives.len(), &lives[0].view.stands), (1, &Stands::Unknown));
        assert_eq!(lives[0].steps, [("w".to_owned(), Step::Unknown)]);
    }
}
