//! `worker`: the main job, from RabbitMQ until told to stop.

use super::numbers::Page;
use super::reload::{Reloading, Requests, Sources};
use super::webhook::{Answering, Bound};
use super::why::JobPage;
use super::{End, parts, token, under_signals};
use crate::admin::{Admin, Pages, Reloads};
use crate::chakra::Client;
use crate::clock;
use crate::config::{Accept as AcceptSetting, DRAIN_BEYOND_CALL, Settings};
use crate::ledger::Ledger;
use crate::limiter::Rates;
use crate::metrics::Metrics;
use crate::queue::rabbitmq::{
    Accept, BrokerState, Question, RabbitQueue, RabbitSettings, ReportOf, Touch,
};
use crate::queue::{Operators, PluginNumbers};
use crate::readiness::Readiness;
use crate::supervisor::{Drain, Hangups, Phase};
use crate::telemetry::LogFilter;
use crate::worker::{PluginAsker, Worker, WorkerSettings};
use anyhow::Context;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Their names in `/readyz`.
const RABBITMQ: &str = "rabbitmq";
const LEDGER: &str = "ledger";

/// A plugin that is silent for longer does not hold up the start: what it says later counts then.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The queue shows that it broke a moment after its jobs have ended.
const EXPLAIN_AT_MOST: Duration = Duration::from_secs(1);

/// The queue decides who gets a lane, and the hall serves each of them, also those of the record that
/// are beyond numbers.max_lanes. A connection has no more channels (RabbitMQ's default channel_max).
const LANES_AT_MOST: usize = 2_047;

pub(super) async fn run(sources: Sources) -> anyhow::Result<End> {
    // Before all else: one that comes during the start must not end the process.
    let hangups = Hangups::catch().context("catching signals")?;
    let settings = sources.load()?;
    settings.require_account()?;
    let log = parts::start_log(&settings)?;
    for warning in settings.warnings(parts::today()) {
        tracing::warn!("{warning}");
    }
    let drain = CancellationToken::new();
    let reread = Reread { hangups, asked: Requests::default(), sources, log };
    under_signals(&drain, work(settings, reread, drain.clone())).await
}

/// For settings that are read again while the worker runs.
struct Reread {
    hangups: Hangups,
    asked: Requests,
    sources: Sources,
    log: LogFilter,
}

async fn work(settings: Settings, reread: Reread, drain: CancellationToken) -> anyhow::Result<End> {
    let metrics = Arc::new(Metrics::new()?);
    let readiness = Readiness::new(&[RABBITMQ, LEDGER]);
    let known = Known::default();
    let (pages, requests) = (known.pages(), reread.asked.clone());
    let mut services = Services::start(&settings, &metrics, &readiness, pages, requests).await?;
    let webhook = Bound::bind(&settings).await?;
    let client = parts::client(&settings)?;
    let ledger = parts::ledger(&settings)?;
    services.show_trouble(&ledger, readiness.clone());
    let look_for_token = services.follow_token(&settings, &client);
    let rates = watch::Sender::new(parts::rates(&settings)?);
    let mut plugin = services.ask_plugin(&settings, &client, &rates);
    // It may take a while: a stop does not wait for it.
    if drain.run_until_cancelled(first_answer(&mut plugin)).await.is_none() {
        services.stop().await;
        return Ok(End::Done);
    }
    let (refresher, mut current) = (plugin.refresher.clone(), rates.subscribe());
    let rabbit = RabbitSettings {
        touch: parts::touch(&ledger),
        report: known.report(),
        ..rabbit(&settings, plugin, current.clone())
    };
    let (mut queue, incoming) =
        RabbitQueue::start(rabbit, Arc::clone(&metrics)).map_err(anyhow::Error::msg)?;
    services.show(&queue, readiness.clone());
    let webhook = webhook.answer(&mut queue, client.clone(), ledger.clone(), Arc::clone(&metrics));
    let worker = Worker::new(
        WorkerSettings {
            max_lanes: LANES_AT_MOST,
            rates: current.borrow_and_update().clone(),
            ..parts::worker_settings(&settings)?
        },
        client.clone(),
        ledger,
        Arc::clone(&metrics),
        queue.may_send(),
        queue.notices(),
        drain.clone(),
    );
    let views = worker.views();
    services.follow_rates(current, move |rates| views.retune(rates));
    known.fill(&worker, queue.notices().operators);
    let reloading = Reloading {
        sources: reread.sources,
        settings: settings.clone(),
        rates,
        tuner: worker.tuner(),
        client,
        log: reread.log,
        metrics: Arc::clone(&metrics),
    };
    let also = move || {
        look_for_token.notify_one();
        refresher.ask_now();
    };
    services.tasks.spawn(reloading.run(reread.hangups, reread.asked, also, services.stop.clone()));
    let mut hall = JoinSet::from_iter([worker.hearing(queue.heard()).run(incoming)]);
    tracing::info!(prefix = settings.rabbitmq.prefix, "started");

    let broken = worked(queue.state(), &mut hall, &drain).await;
    drain.cancel();
    readiness.draining();
    let drained = stop(queue, hall, webhook, services, settings.worker.drain_timeout).await;
    parts::tell_balance(&metrics);
    match broken {
        Some(reason) => anyhow::bail!("{reason}"),
        None if drained => Ok(End::Done),
        None => Ok(End::NotWell),
    }
}

/// Comes when the worker is to stop: told so, or with the reason why it cannot go on.
async fn worked(
    mut state: watch::Receiver<BrokerState>,
    hall: &mut JoinSet<()>,
    drain: &CancellationToken,
) -> Option<String> {
    tokio::select! {
        // A broken queue ends the hall too: its reason is the one to tell.
        biased;
        () = drain.cancelled() => None,
        reason = broken(&mut state) => Some(reason),
        ended = hall.join_next() => Some(why_it_ended(&mut state, ended).await),
    }
}

/// The phases of a stop, in order. True when none of them had to be cut short.
async fn stop(
    queue: RabbitQueue,
    mut hall: JoinSet<()>,
    webhook: Answering,
    services: Services,
    at_most: Duration,
) -> bool {
    let drain = Drain::begin(at_most);
    queue.stop_consuming();
    let finish = async { while hall.join_next().await.is_some() {} };
    // Closing keeps its time: else what is settled at the last moment is never confirmed.
    let jobs_at_most = at_most.saturating_sub(DRAIN_BEYOND_CALL);
    let finished = drain.phase("finish the jobs in hand", jobs_at_most, finish).await;
    // Late, since ChakraHQ may not repeat what nobody takes; what was taken is confirmed before the close.
    let answered = drain.phase("answer the webhooks", DRAIN_BEYOND_CALL, webhook.stop()).await;
    let closed =
        drain.phase("close the connections to RabbitMQ", DRAIN_BEYOND_CALL, queue.close()).await;
    let stopped = drain.phase("stop the admin listener", DRAIN_BEYOND_CALL, services.stop()).await;
    [finished, answered, closed, stopped].iter().all(|phase| *phase == Phase::Done(()))
}

/// Why the hall ended by itself. It does when no more jobs can come: the queue's state tells why.
async fn why_it_ended(
    state: &mut watch::Receiver<BrokerState>,
    ended: Option<Result<(), JoinError>>,
) -> String {
    if let Some(Err(defect)) = ended {
        return format!("the hall ended by a defect: {defect}");
    }
    let told = tokio::time::timeout(EXPLAIN_AT_MOST, broken(state)).await;
    told.unwrap_or_else(|_| "the hall ended by itself: no more jobs can come".to_owned())
}

async fn broken(state: &mut watch::Receiver<BrokerState>) -> String {
    loop {
        if let BrokerState::Broken(reason) = &*state.borrow_and_update() {
            return reason.clone();
        }
        if state.changed().await.is_err() {
            return "the queue ended by itself".to_owned();
        }
    }
}

/// Waits for the plugin's first answer, though not for long: one that cannot be asked stops nothing, and
/// lanes that were made once stand in the record.
async fn first_answer(plugin: &mut PluginNumbers) {
    let answered = plugin.listing.wait_for(|listing| listing.asked().is_some());
    if tokio::time::timeout(ANSWER_WITHIN, answered).await.is_err() {
        tracing::warn!("the plugin does not tell its numbers in time: starting without");
    }
}

fn rabbit(
    settings: &Settings,
    plugin: PluginNumbers,
    rates: watch::Receiver<Rates>,
) -> RabbitSettings {
    RabbitSettings {
        connection: parts::connection(settings),
        topology: parts::topology(settings),
        prefetch: parts::prefetch(rates),
        max_held: settings.worker.max_held,
        numbers: settings.numbers.overrides.iter().map(|number| number.id.clone()).collect(),
        accept: match settings.numbers.accept {
            AcceptSetting::Any => Accept::Any,
            AcceptSetting::Plugin => Accept::Plugin(plugin),
        },
        max_lanes: settings.numbers.max_lanes,
        retire_after: settings.numbers.retire_after,
        touch: Touch::unmarked(),
        report: Arc::new(|_| serde_json::Value::Null),
    }
}

/// What the worker knows of its numbers and jobs, once it is there; the listener answers before.
#[derive(Debug, Clone, Default)]
struct Known(Arc<OnceLock<(Page, JobPage)>>);

impl Known {
    fn fill(&self, worker: &Worker, operators: Operators) {
        let pages = || (Page::new(worker.views(), operators), JobPage::new(worker.jobs()));
        self.0.get_or_init(pages);
    }

    /// To who asks all workers.
    fn report(&self) -> ReportOf {
        let known = self.clone();
        Arc::new(move |question| known.answer(question))
    }

    /// To who asks this one.
    fn pages(&self) -> Pages {
        let (numbers, jobs) = (self.clone(), self.clone());
        Pages {
            numbers: Arc::new(move || match numbers.0.get() {
                Some((page, jobs)) => page.with_failures(jobs.jobs(), clock::wall()),
                None => serde_json::json!([]),
            }),
            job: Arc::new(move |id| jobs.answer(&Question::Job(id.clone()))),
        }
    }

    fn answer(&self, question: &Question) -> serde_json::Value {
        match (self.0.get(), question) {
            (Some((numbers, _)), Question::Numbers) => numbers.to_json(clock::wall()),
            (None, Question::Numbers) => serde_json::json!([]),
            (Some((_, jobs)), Question::Job(id)) => jobs.to_json(id),
            (None, Question::Job(_)) => serde_json::Value::Null,
        }
    }
}

/// What serves operators beside the hall.
struct Services {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Services {
    async fn start(
        settings: &Settings,
        metrics: &Arc<Metrics>,
        readiness: &Readiness,
        pages: Pages,
        requests: Requests,
    ) -> anyhow::Result<Services> {
        let mut services = Services { tasks: JoinSet::new(), stop: CancellationToken::new() };
        if let Some(listen) = settings.admin.listen {
            let admin =
                Admin::bind(listen).await.with_context(|| format!("admin.listen = {listen}"))?;
            tracing::info!(address = %admin.local_addr(), "the admin listener");
            let (metrics, readiness) = (Arc::clone(metrics), readiness.clone());
            let token = settings.admin.token.clone();
            let reloads = Reloads { token, ask: Arc::new(move || requests.ask()) };
            let serve = admin.serve(metrics, readiness, pages, reloads, services.stop.clone());
            services.tasks.spawn(serve);
        }
        Ok(services)
    }

    /// Asks the plugin for its numbers, at once and from time to time, and keeps their rates.
    fn ask_plugin(
        &mut self,
        settings: &Settings,
        client: &Client,
        rates: &watch::Sender<Rates>,
    ) -> PluginNumbers {
        let asker = PluginAsker::new(client.clone(), settings.numbers.refresh, rates.clone());
        let numbers = asker.numbers();
        self.tasks.spawn(asker.run(self.stop.clone()));
        numbers
    }

    /// Tells each change of the rates.
    fn follow_rates(
        &mut self,
        mut rates: watch::Receiver<Rates>,
        on_rates: impl Fn(&Rates) + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            while let Some(Ok(())) = stop.run_until_cancelled(rates.changed()).await {
                on_rates(&rates.borrow_and_update());
            }
        });
    }

    /// Takes a token that is rotated in its file, also while the jobs in hand are finished. What it
    /// returns makes it look at once.
    fn follow_token(&mut self, settings: &Settings, client: &Client) -> Arc<Notify> {
        let now = Arc::new(Notify::new());
        if let Some(file) = settings.chakra.token_file.clone() {
            let (client, now, stop) = (client.clone(), Arc::clone(&now), self.stop.clone());
            self.tasks.spawn(token::follow(file, client, now, stop));
        }
        now
    }

    /// Shows the broker's state on `/readyz` and in the log, as it changes.
    fn show(&mut self, queue: &RabbitQueue, readiness: Readiness) {
        let mut state = queue.state();
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            loop {
                let now = state.borrow_and_update().clone();
                match now {
                    BrokerState::Up => {
                        tracing::info!("RabbitMQ is up");
                        readiness.clear(RABBITMQ);
                    }
                    BrokerState::Connecting(reason) => {
                        readiness.missing(RABBITMQ, format!("connecting: {reason}"));
                    }
                    BrokerState::Blocked(reason) => {
                        tracing::warn!(%reason, "RabbitMQ takes nothing: no new send starts");
                        readiness.missing(RABBITMQ, format!("blocked by the broker: {reason}"));
                    }
                    BrokerState::Broken(reason) => readiness.missing(RABBITMQ, reason),
                }
                let changed = tokio::select! {
                    () = stop.cancelled() => return,
                    changed = state.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
            }
        });
    }

    /// Shows on `/readyz` why nothing new is begun.
    fn show_trouble(&mut self, ledger: &Ledger, readiness: Readiness) {
        let mut trouble = ledger.trouble();
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            loop {
                match &*trouble.borrow_and_update() {
                    None => readiness.clear(LEDGER),
                    Some(reason) => readiness.missing(LEDGER, reason.as_str()),
                }
                match stop.run_until_cancelled(trouble.changed()).await {
                    Some(Ok(())) => {}
                    Some(Err(_)) | None => return,
                }
            }
        });
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hall_that_ends_with_a_broken_queue_is_explained_by_the_queue() {
        let (queue, mut state) = watch::channel(BrokerState::Connecting("not yet".into()));
        let tell = async {
            tokio::task::yield_now().await;
            queue.send_replace(BrokerState::Broken("a lane of another kind".into()));
        };
        let (told, ()) = tokio::join!(why_it_ended(&mut state, Some(Ok(()))), tell);
        assert_eq!(told, "a lane of another kind");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hall_that_ends_without_a_reason_says_so() {
        let (_queue, mut state) = watch::channel(BrokerState::Up);
        let told = why_it_ended(&mut state, Some(Ok(()))).await;
        assert!(told.starts_with("the hall ended by itself"), "{told}");
    }
}
