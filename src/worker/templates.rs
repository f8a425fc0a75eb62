//! Templates that Meta cannot take just now: their jobs wait outside of the worker, and one probe at a
//! time goes when a pause is over. Decides by `limiter`.

use super::lock;
use crate::clock;
use crate::limiter::{self, Probe, TemplateKey, Told, Turned, Wait};
use crate::policy::Answer;
use crate::wire::SendJob;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// While a probe is out the other jobs of its template come back after this to see what it brought. It
/// may have to wait for its number's turn, and there may be thousands of them.
const PROBE_TAKES: Duration = Duration::from_secs(10);

/// A log shows so much of a template's name, which producers write. Meta allows 512 characters.
const MAX_SHOWN_NAME: usize = 64;

/// The templates of all numbers; clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Templates(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    paused: Mutex<limiter::Templates>,
    /// A pause began: who has a job of it in hand should look.
    begun: Notify,
}

impl Templates {
    /// The right to use the job's template once; the error says when to come back for it.
    pub(super) fn pass(&self, job: &SendJob) -> Result<Use, Duration> {
        let now = clock::monotonic();
        let mut probe = None;
        if let Some((mut paused, key)) = self.look_up(job) {
            let passed = paused.pass(key, now).map_err(|wait| rest(wait, now))?;
            probe = passed.map(|probe| (key, probe));
        }
        Ok(Use { templates: self.clone(), probe })
    }

    /// The pauses, and which would be the job's; none where nothing is paused, or no template is used.
    fn look_up(&self, job: &SendJob) -> Option<(MutexGuard<'_, limiter::Templates>, TemplateKey)> {
        let paused = lock(&self.0.paused);
        if paused.is_empty() {
            return None;
        }
        let template = job.message.template()?;
        let key = paused.key(&job.phone_number_id, &template.name, &template.language);
        Some((paused, key))
    }
}

/// The right to use a template once. Dropped without an answer it is given back.
#[derive(Debug)]
pub(super) struct Use {
    templates: Templates,
    probe: Option<(TemplateKey, Probe)>,
}

impl Use {
    /// Comes if the template is paused before the job has its turn, with the time to come back after.
    pub(super) async fn withdrawn(&self, job: &SendJob) -> Duration {
        if self.probe.is_some() || !job.message.has_template() {
            return std::future::pending().await;
        }
        loop {
            let begun = self.templates.0.begun.notified();
            if let Some((paused, key)) = self.templates.look_up(job) {
                let now = clock::monotonic();
                if let Err(wait) = paused.ask(key, now) {
                    return rest(wait, now);
                }
            }
            begun.await;
        }
    }

    /// What came of the request, which was sent then.
    pub(super) fn ended(mut self, job: &SendJob, answer: &Answer, sent: Instant) {
        let told = Told::of_template(answer);
        let probe = self.probe.take().map(|(_, probe)| probe);
        if probe.is_none() && !matches!(told, Told::Refused(_)) {
            return;
        }
        let Some(template) = job.message.template() else { return };
        let (number, now) = (&job.phone_number_id, clock::monotonic());
        let turned = {
            let mut paused = lock(&self.templates.0.paused);
            let key = paused.key(number, &template.name, &template.language);
            paused.ended(key, probe, told, sent, now)
        };
        let name: String = template.name.chars().take(MAX_SHOWN_NAME).collect();
        match turned {
            Some(Turned::Held(until)) => {
                let wait = until - now;
                tracing::warn!(%number, name, ?wait, "this template waits, then it is probed");
                self.templates.0.begun.notify_waiters();
            }
            Some(Turned::Free) => tracing::info!(%number, name, "this template goes on"),
            None => {}
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Some((key, probe)) = self.probe.take() {
            let now = clock::monotonic();
            lock(&self.templates.0.paused).ended(key, Some(probe), Told::Nothing, now, now);
        }
    }
}

fn rest(wait: Wait, now: Instant) -> Duration {
    match wait {
        Wait::Until(until) => until.saturating_duration_since(now),
        Wait::ForProbe => PROBE_TAKES,
    }
}
