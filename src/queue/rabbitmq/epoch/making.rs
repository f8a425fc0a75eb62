//! Making lanes: for numbers that should have one, and for those of which a job came. Only the record makes
//! a lane; its owner makes its queues.

use super::super::control::{Control, append};
use super::super::declare::{DeclareError, declare};
use super::super::inbox::{End, Inbox, LaneRequest, NoLane};
use super::super::record::Entry;
use super::super::retire;
use super::super::topology::Topology;
use super::{Asked, Epoch, Step};
use crate::clock;
use crate::wire::NumberId;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Epoch {
    /// Only the record makes a lane: it is written there, and opened by its owner when it is read from
    /// there. Who asks waits until its queues stand.
    pub(super) fn ask(&mut self, inbox: &Inbox, LaneRequest { number, made }: LaneRequest) {
        if let Some(asked) = self.asked.get_mut(&number) {
            asked.waiting.retain(|made| !made.is_closed());
            return asked.waiting.push(made);
        }
        if self.recorded.borrow().contains(&number) {
            self.asked.insert(number.clone(), Asked { waiting: vec![made], declaring: false });
            return self.declare_asked(inbox, &number);
        }
        if let Some(reason) = self.refusal(inbox) {
            // Who asked may be gone.
            let _nobody = made.send(Err(NoLane(reason.into())));
            return;
        }
        self.asked.insert(number.clone(), Asked { waiting: vec![made], declaring: false });
        self.make(inbox, number);
    }

    /// Lanes for numbers of the plugin that have come since, without waiting for their first jobs.
    pub(super) fn make_lacking(&mut self, inbox: &Inbox) {
        // Where nothing may be declared, an administrator makes them.
        if inbox.settings.declare {
            let lacking = lacking(inbox, &self.recorded.borrow());
            for number in lacking {
                self.make(inbox, number);
            }
        }
    }

    /// This lane was deleted, by this worker or another. Who waits for it asks anew.
    pub(super) fn gone(&mut self, inbox: &Inbox, number: &NumberId) {
        let asked = self.asked.remove(number).unwrap_or_default();
        for made in asked.waiting {
            self.ask(inbox, LaneRequest { number: number.clone(), made });
        }
    }

    fn make(&mut self, inbox: &Inbox, number: NumberId) {
        let desk = Arc::clone(&inbox.desk);
        self.tasks.spawn(async move {
            let made = Entry::LaneMade { number, at: clock::wall() };
            match append(&desk.publisher, &desk.names, &made).await {
                Ok(()) => Step::Ended(End::Stopped),
                Err(error) => Step::Ended(End::Lost(error.to_string())),
            }
        });
    }

    /// Why no lane is made for one more number.
    fn refusal(&self, inbox: &Inbox) -> Option<&'static str> {
        let recorded = self.recorded.borrow();
        let coming = self.asked.keys().filter(|number| !recorded.contains(*number)).count();
        match recorded.len() + coming >= inbox.max_lanes {
            true => {
                Some("there are as many as numbers.max_lanes allows: raise it and replay the job")
            }
            false if !inbox.settings.declare => Some(
                "rabbitmq.declare is false: import what `check --definitions` prints and replay the job",
            ),
            false => None,
        }
    }

    /// Finds out whether the queues of a recorded lane stand. Many who ask at the same time cost one look.
    ///
    /// Only the lane's owner makes them: made again too soon after somebody deleted them, RabbitMQ (3.10)
    /// forgets to tell the consumer of the deleted ones, and nobody would ever consume the new ones.
    ///
    /// What is being deleted is not bound again: a job that found its way in would be deleted with it. Who
    /// asks for it waits until it was kept, or until the record says that it is gone.
    pub(super) fn declare_asked(&mut self, inbox: &Inbox, number: &NumberId) {
        if self.leaving.is_closed(number) {
            return;
        }
        let Some(asked) = self.asked.get_mut(number) else { return };
        if std::mem::replace(&mut asked.declaring, true) {
            return;
        }
        let open = self.opened.when_open(number);
        let create = inbox.settings.declare && self.assigned.borrow().contains_key(number);
        let topology = Topology::lane(&inbox.desk.names, &inbox.settings, number);
        let (connection, number) = (Arc::clone(&self.connection), number.clone());
        let binds = inbox.settings.declare;
        let stands = async move {
            match open {
                None => declare(&connection, &topology, create).await?,
                Some(open) => open
                    .await
                    .ok_or_else(|| DeclareError::Interrupted("the lane went elsewhere".into()))?,
            }
            // A job of it came without a way to it: it may be bound to nothing.
            if binds {
                let bound = retire::bind(&connection, &topology).await;
                bound.map_err(|error| DeclareError::Interrupted(error.to_string()))?;
            }
            Ok(())
        };
        self.tasks.spawn(async move { Step::Stands(number, stands.await) });
    }

    pub(super) fn declare(&mut self, inbox: &Inbox, number: &NumberId, create: bool) {
        let topology = Topology::lane(&inbox.desk.names, &inbox.settings, number);
        let (connection, number) = (Arc::clone(&self.connection), number.clone());
        self.tasks.spawn(async move {
            let declared = declare(&connection, &topology, create).await;
            Step::Stands(number, declared)
        });
    }

    pub(super) fn stands(
        &mut self,
        number: &NumberId,
        stands: Result<(), DeclareError>,
    ) -> Result<(), End> {
        let asked = self.asked.remove(number).unwrap_or_default();
        match stands {
            Ok(()) => {
                for made in asked.waiting {
                    let _nobody = made.send(Ok(()));
                }
                Ok(())
            }
            Err(DeclareError::Unfit(reason)) => Err(End::Broken(reason)),
            // Whoever waits comes again.
            Err(error @ (DeclareError::Interrupted(_) | DeclareError::Missing(_))) => {
                tracing::warn!(%number, %error, "the queues of this lane do not stand");
                Ok(())
            }
        }
    }
}

/// Records the lanes that are to be there from the start, and reads on until they stand in the record.
pub(super) async fn record_lacking(inbox: &Inbox, control: &mut Control) -> Result<(), End> {
    let desk = &inbox.desk;
    let new = lacking(inbox, control.record().lanes());
    for number in &new {
        let made = Entry::LaneMade { number: number.clone(), at: clock::wall() };
        let recorded = append(&desk.publisher, &desk.names, &made).await;
        recorded.map_err(|error| End::Lost(error.to_string()))?;
    }
    while !new.iter().all(|number| control.record().lanes().contains(number)) {
        control.next().await.map_err(|error| End::Lost(error.to_string()))?;
    }
    Ok(())
}

/// Which numbers should have a lane and do not, as far as there may be more lanes.
fn lacking(inbox: &Inbox, lanes: &BTreeSet<NumberId>) -> Vec<NumberId> {
    let mut lacking = inbox.directory.with_lane();
    lacking.retain(|number| !lanes.contains(number));
    let room = inbox.max_lanes.saturating_sub(lanes.len());
    if lacking.len() > room {
        let (lanes, left_out, max_lanes) = (lanes.len(), lacking.len() - room, inbox.max_lanes);
        tracing::warn!(lanes, left_out, max_lanes, "more numbers than numbers.max_lanes");
        lacking.truncate(room);
    }
    lacking
}
