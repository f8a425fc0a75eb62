//! The worker beside the bare loop: the same jobs, queues, exchange and API, in turns.

use crate::Length;
use crate::ground::{Ground, Lap, StoodStill, Window, free_address, on_new_ground};
use crate::report::{Against, Row};
use crate::statuses::EACH;
use crate::stock::Special;
use crate::support::broker::Broker;
use crate::support::process::{Program, beside};
use crate::support::webhook::SECRET;

/// What the worker does beside what it does by default, and what is expected then.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A ledger in memory.
    Plain,
    /// A ledger on the disk.
    Durable,
    /// A reply for each job, and its statuses by webhook.
    Statuses,
}

impl Manner {
    const ALL: [Manner; 3] = [Manner::Plain, Manner::Durable, Manner::Statuses];

    pub(crate) fn name(self, lanes: usize) -> String {
        let lanes = if lanes == 1 { "1 lane".to_owned() } else { format!("{lanes} lanes") };
        match self {
            Manner::Plain => lanes,
            Manner::Durable => format!("{lanes}, durable ledger"),
            Manner::Statuses => format!("{lanes}, replies and {} statuses a job", EACH.len()),
        }
    }

    /// Of the bare loop's throughput, and of its processor time.
    fn targets(self) -> (f64, Option<f64>) {
        match self {
            Manner::Plain => (0.9, Some(1.3)),
            Manner::Durable => (0.8, None),
            Manner::Statuses => (0.6, None),
        }
    }

    fn jobs(self, length: &Length) -> usize {
        match self {
            Manner::Plain | Manner::Durable => length.jobs,
            Manner::Statuses => length.jobs_with_statuses,
        }
    }

    /// Lets a worker do so many jobs in this manner.
    pub(crate) async fn lap(
        self,
        ground: &mut Ground<'_>,
        program: Program,
        jobs: usize,
    ) -> Result<Window, StoodStill> {
        match self {
            Manner::Plain => ground.lap(program, &Lap::of(jobs)).await,
            Manner::Durable => {
                // Beside the program: on the disk, where the folder for temporary files may not be.
                let folder = tempfile::tempdir_in(beside("").parent().unwrap()).unwrap();
                let program = program.set("ledger.path", folder.path().to_str().unwrap());
                ground.lap(program, &Lap::of(jobs)).await
            }
            Manner::Statuses => {
                let listen = free_address();
                let lap = Lap {
                    special: Special { reply_to: Some(ground.replies().await), recipients: None },
                    statuses_to: Some(listen),
                    statuses: EACH.len(),
                    ..Lap::of(jobs)
                };
                let program = program.set("webhook.listen", &listen.to_string());
                ground.lap(program.set("webhook.secret", SECRET), &lap).await
            }
        }
    }
}

/// The rows of so many lanes whose name is wanted.
pub(crate) async fn run(
    lanes: usize,
    length: &Length,
    is_wanted: impl Fn(&str) -> bool,
    broker: &mut Broker,
) -> Vec<Row> {
    let manners: Vec<Manner> =
        Manner::ALL.into_iter().filter(|manner| is_wanted(&manner.name(lanes))).collect();
    let (mut bare, mut worker) = (Vec::new(), vec![Vec::new(); manners.len()]);
    for _round in 0..length.rounds {
        for (manner, windows) in manners.iter().zip(&mut worker) {
            let window = on_new_ground(broker, lanes, async |ground| {
                manner.lap(ground, ground.worker(), manner.jobs(length)).await
            });
            windows.push(window.await);
        }
        let window = on_new_ground(broker, lanes, async |ground| {
            ground.lap(ground.bare_loop(), &Lap::of(length.jobs)).await
        });
        bare.push(window.await);
    }
    let row = |(manner, worker): (Manner, Vec<Window>)| {
        let (throughput_at_least, cpu_at_most) = manner.targets();
        let (name, bare) = (manner.name(lanes), bare.clone());
        Row::Against(Against { name, worker, bare, throughput_at_least, cpu_at_most })
    };
    manners.into_iter().zip(worker).map(row).collect()
}

/// The names of the rows of so many lanes.
pub(crate) fn names(lanes: usize) -> Vec<String> {
    Manner::ALL.map(|manner| manner.name(lanes)).into()
}
