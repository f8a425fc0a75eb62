//! Taking lanes away whose numbers are gone: does what `leaving` says, step by step with `retire`. The
//! record keeps the lane until its queues are deleted, so that another worker goes on where this one ends.

use super::super::control::append;
use super::super::inbox::{End, Inbox};
use super::super::record::Entry;
use super::super::retire;
use super::super::topology::Topology;
use super::{Epoch, Step};
use crate::clock;
use crate::wire::NumberId;
use std::sync::Arc;

impl Epoch {
    /// Begins what is due. Only a settled view says surely that a lane is ours alone.
    pub(super) fn retire(&mut self, inbox: &Inbox) {
        // Where nothing may be declared, an administrator removes them.
        if !inbox.settings.declare || self.settles_at.is_some() {
            return;
        }
        let vanished = inbox.directory.vanished(&self.recorded.borrow());
        let (ours, now) = (self.assigned.borrow().clone(), clock::monotonic());
        let steps = self.leaving.step(ours.keys(), &vanished, inbox.directory.retire_after(), now);
        for number in steps.bind {
            tracing::info!(%number, "the plugin has this number again: its lane stays");
            self.declare(inbox, &number, true);
        }
        for number in &steps.begun {
            let why =
                "the plugin has not had its number for long: its lane is drained, then deleted";
            tracing::warn!(%number, "{why}");
        }
        for number in steps.look {
            let (connection, lane) = (Arc::clone(&self.connection), lane(inbox, &number));
            self.tasks.spawn(async move {
                let left = retire::unbind(&connection, &lane).await;
                Step::Looked(number, left.ok().map(|left| left.jobs))
            });
        }
    }

    /// So many jobs wait in the lane. Where none does, it is closed, and deleted once all that was in
    /// hand of it is settled: a deleted queue would forget what a worker that dies has in hand.
    pub(super) fn looked(&mut self, inbox: &Inbox, number: NumberId, jobs: Option<u32>) {
        // It may have returned while the broker was asked: then it stays.
        let is_gone = inbox.directory.vanished(&self.recorded.borrow()).contains(&number);
        let jobs = jobs.filter(|_| is_gone);
        if !self.leaving.looked(&number, jobs, clock::monotonic()) {
            return;
        }
        self.opened.leave(&number);
        let settled = self.opened.settled(&number);
        let (connection, lane) = (Arc::clone(&self.connection), lane(inbox, &number));
        let (desk, directory) = (Arc::clone(&inbox.desk), Arc::clone(&inbox.directory));
        self.tasks.spawn(async move {
            tokio::select! {
                () = settled => {}
                () = directory.returned(&number) => return Step::Kept(number),
            }
            if !retire::delete_if_empty(&connection, &lane).await.unwrap_or(false) {
                return Step::Kept(number);
            }
            tracing::info!(%number, "the lane of a number that is gone was empty: deleted");
            let gone = Entry::LaneGone { number, at: clock::wall() };
            match append(&desk.publisher, &desk.names, &gone).await {
                Ok(()) => Step::Ended(End::Stopped),
                Err(error) => Step::Ended(End::Lost(error.to_string())),
            }
        });
    }
}

fn lane(inbox: &Inbox, number: &NumberId) -> Topology {
    Topology::lane(&inbox.desk.names, &inbox.settings, number)
}
