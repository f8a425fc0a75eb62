//! A job's life for a person. Words of workers of another version are shown as they are, tamed.

use super::life::Life;
use crate::cli::numbers::about;
use crate::cli::output::tame;
use crate::policy::rest;
use crate::wire::{Class, JobId};
use crate::worker::{Fault, Stands, Step};
use jiff::Timestamp;
use std::time::Duration;

/// How it stands first, then what happened, a line each.
pub(super) fn life(id: &JobId, life: &Life, now: Timestamp) -> String {
    let view = &life.view;
    let mut text = format!("job {id}");
    if let Some(number) = &view.phone_number_id {
        text += &format!(", number {number}");
    }
    if let Some(recipient) = &view.recipient {
        text += &format!(", to {}", tame(recipient));
    }
    if let Some(replay) = view.replay {
        text += &format!(", replay {replay}");
    }
    let worker = life.worker.as_deref().map(tame).unwrap_or_default();
    text += &format!("\n{}\n", stands(id, &view.stands, &worker, now));
    if !life.steps.is_empty() {
        text.push('\n');
    }
    for (n, (worker, step)) in life.steps.iter().enumerate() {
        if let (Some(at), Some(words)) = (step.at(), words(step)) {
            text += &format!("{at:.3}  {}  {words}\n", tame(worker));
        }
        if n == 0 && view.left_out > 0 {
            text += &format!("  … {} steps left out …\n", view.left_out);
        }
    }
    text
}

fn stands(id: &JobId, stands: &Stands, worker: &str, now: Timestamp) -> String {
    match stands {
        Stands::InHand { since, until, .. } => {
            let mut text = format!("in hand of {worker}: {}", in_hand(stands));
            text += &format!("\nsince {since:.3} ({})", about(rest(now, *since)));
            if let Some(until) = until {
                text += &format!(", until {until:.3} ({})", about(rest(*until, now)));
            }
            text
        }
        Stands::PutOff { since, why, due, in_doubt } => {
            let why = put_off(why);
            let doubt = if *in_doubt { "; it may have been sent" } else { "" };
            let due = due.unwrap_or(*since);
            let when = match due > now {
                true => format!("until {due:.3} ({})", about(rest(due, now))),
                false => format!(
                    "due since {due:.3}: it is about to come back, or stands in its number's lane"
                ),
            };
            format!("in a wait queue for {why}{doubt}\n{when}; put there by {worker} at {since:.3}")
        }
        Stands::Begun { since, attempt } => format!(
            "may have been sent: attempt {attempt} began at {since:.3} in {worker} and left no answer; \
             it is looked for when RabbitMQ brings it back"
        ),
        Stands::Answered { since, attempts, last_error, due } => {
            let error = last_error.as_deref().map(tame).unwrap_or_else(|| "no error".to_owned());
            let due = due.map(|due| format!(", not before {due:.3}")).unwrap_or_default();
            format!(
                "waits for its next attempt{due}: attempt {attempts} failed ({error}) at {since:.3} \
                 in {worker}"
            )
        }
        Stands::Returned { since } => {
            format!("in RabbitMQ: {worker} had it at {since:.3} and began nothing; it comes again")
        }
        Stands::Over { since, status, attempts, fault, is_dead_letter } => {
            let mut text = format!("over since {since:.3}: {}", tame(status));
            if let Some(fault) = fault {
                text += &format!(" ({})", of_fault(fault));
            }
            if let Some(attempts) = attempts {
                text += &format!(", requests made: {attempts}");
            }
            text += &format!(", by {worker}");
            if *is_dead_letter {
                text += &format!(
                    "\nits original is in the dead letters: chakra-sender dead-letters show {id}"
                );
            }
            text
        }
        Stands::DeadLetter { since, class, code, .. } => {
            let since = since.map(|since| format!(" since {since:.3}")).unwrap_or_default();
            let class = class.map_or("unknown", Class::name);
            let code = code.map(|code| format!(", code {code}")).unwrap_or_default();
            format!(
                "in the dead letters{since}: {class}{code}\n\
                 all about it: chakra-sender dead-letters show {id}"
            )
        }
        Stands::Unknown => {
            format!("{worker} tells what this version does not understand: use its version")
        }
    }
}

/// What a job in hand waits for.
fn in_hand(stands: &Stands) -> String {
    let Stands::InHand { at, because, waiting, rate, behind, .. } = stands else {
        return String::new();
    };
    match &**at {
        "ledger" => "waits for the ledger, which cannot be read just now (see /readyz)".to_owned(),
        "line" => match behind {
            Some(other) => {
                format!("waits for an earlier job to the same recipient, {}", tame(other))
            }
            None => "waits for an earlier job to the same recipient".to_owned(),
        },
        "look" => "may have been sent: its message is looked for".to_owned(),
        "due" => "waits until it is due".to_owned(),
        "recipient" => "waits for its recipient's pace".to_owned(),
        "lane" => {
            format!("waits for its number's turn: {}", turn(because.as_deref(), *waiting, *rate))
        }
        "call" => "its request is under way".to_owned(),
        "settlement" => "what came of it is being recorded and published".to_owned(),
        other => format!("at {}", tame(other)),
    }
}

/// What the next turn of its number waits for.
fn turn(because: Option<&str>, waiting: Option<usize>, rate: Option<f64>) -> String {
    match because {
        Some("pace") | None => pace(waiting, rate),
        Some("calls") => "as many calls are under way as may be".to_owned(),
        Some("recording") => {
            "RabbitMQ or the ledger takes nothing, so nothing is sent (see /readyz)".to_owned()
        }
        Some("account") => {
            "the account's brake is on, since ChakraHQ fails or bars the account".to_owned()
        }
        Some("throttled") => "Meta asked to leave the number alone, as it went too fast".to_owned(),
        Some("blocked") => "Meta says that the number may not send".to_owned(),
        Some("maintenance") => "Meta works on the number".to_owned(),
        Some(other) => tame(other),
    }
}

fn pace(waiting: Option<usize>, rate: Option<f64>) -> String {
    let (Some(waiting), Some(rate)) = (waiting, rate.filter(|rate| *rate > 0.0)) else {
        return "its pace".to_owned();
    };
    #[expect(clippy::cast_precision_loss, reason = "a forecast")]
    let takes = Duration::try_from_secs_f64(waiting as f64 / rate).unwrap_or(Duration::MAX);
    format!("{waiting} of its jobs wait here for its pace of {rate:.1}/s, about {}", about(takes))
}

/// What a job waits for in a wait queue.
fn put_off(why: &str) -> String {
    match why {
        "retry" => "its next attempt".to_owned(),
        "not-before" => "its not_before".to_owned(),
        "recipient" => "its recipient's pace".to_owned(),
        "hold" => "the end of a pause (of its number, template or account)".to_owned(),
        "doubt" => "the next look for its message".to_owned(),
        "identical" => {
            "the end of another job's doubt, whose message to the same recipient is the same"
                .to_owned()
        }
        "handed-back" => "a worker that has its number's lane".to_owned(),
        other => tame(other),
    }
}

/// What happened; none where this version does not understand it.
fn words(step: &Step) -> Option<String> {
    Some(match step {
        Step::Brought { attempts, last_error, waited_for, .. } => {
            let mut text = format!("first received; requests made since: {attempts}");
            if let Some(error) = last_error {
                text += &format!(", the last one failed ({})", tame(error));
            }
            if let Some(why) = waited_for {
                text += &format!(", it waited for {}", put_off(why));
            }
            text
        }
        Step::Received { earlier: 0, .. } => "received".to_owned(),
        Step::Received { earlier, .. } => {
            format!("received, after {earlier} earlier deliveries of this message")
        }
        Step::Waited { of, seconds, .. } => {
            format!("waited {seconds:.1} s for {}", waited_for(of))
        }
        Step::Attempted { attempt, seconds, fault, .. } => {
            format!("attempt {attempt} failed after {seconds:.1} s: {}", of_fault(fault))
        }
        Step::PutOff { why, due, in_doubt, .. } => {
            let due = due.map(|due| format!(" until {due:.3}")).unwrap_or_default();
            let doubt = if *in_doubt { "; it may have been sent" } else { "" };
            format!("to a wait queue{due} for {}{doubt}", put_off(why))
        }
        Step::Ended { status, fault, .. } => {
            let fault = fault.as_ref().map(|fault| format!(" ({})", of_fault(fault)));
            format!("{}{}", tame(status), fault.unwrap_or_default())
        }
        Step::Unknown => return None,
    })
}

fn waited_for(of: &str) -> String {
    match of {
        "ledger" => "the ledger".to_owned(),
        "line" => "earlier jobs to the same recipient".to_owned(),
        "look" => "a look whether it had been sent".to_owned(),
        "due" => "its time".to_owned(),
        "recipient" => "its recipient's pace".to_owned(),
        "lane" => "its number's turn".to_owned(),
        other => tame(other),
    }
}

/// Such as `throttled, about the number, code 130429, HTTP 400`.
fn of_fault(fault: &Fault) -> String {
    let Fault { class, scope, code, http_status } = fault;
    let mut text = format!("{}, about the {}", class.name(), scope.name());
    if let Some(code) = code {
        text += &format!(", code {code}");
    }
    if let Some(status) = http_status {
        text += &format!(", HTTP {status}");
    }
    text
}
