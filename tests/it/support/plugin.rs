//! A plugin that answers as a story wants, asked as the worker's asker does it.

use chakra_sender::clock;
use chakra_sender::queue::rabbitmq::Accept;
use chakra_sender::queue::{Answer, Listed, Listing, PluginNumbers, Refresher};
use chakra_sender::wire::NumberId;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Which numbers it has, or why it cannot tell.
type Numbers = Result<Vec<NumberId>, String>;

/// A plugin; dropped, it is not asked any more.
pub(crate) struct FakePlugin {
    refresher: Refresher,
    listing: Arc<watch::Sender<Listing>>,
    _asking: JoinSet<()>,
}

impl FakePlugin {
    /// Asked when somebody wants it, not before.
    pub(crate) fn that_says(mut numbers: impl FnMut() -> Numbers + Send + 'static) -> FakePlugin {
        let (refresher, listing) =
            (Refresher::default(), Arc::new(watch::Sender::new(Listing::default())));
        let mut asking = JoinSet::new();
        let (wanted, told) = (refresher.clone(), Arc::clone(&listing));
        asking.spawn(async move {
            loop {
                wanted.wanted().await;
                let answer = numbers();
                told.send_modify(|listing| hear(listing, answer));
            }
        });
        FakePlugin { refresher, listing, _asking: asking }
    }

    /// The same, but these are known already.
    pub(crate) fn knows(self, numbers: &[&str]) -> FakePlugin {
        let numbers = numbers.iter().map(|digits| NumberId::parse(digits).unwrap());
        self.listing.send_modify(|listing| hear(listing, Ok(numbers.collect())));
        self
    }

    /// For the queue's settings.
    pub(crate) fn accept(&self) -> Accept {
        let (listing, refresher) = (self.listing.subscribe(), self.refresher.clone());
        Accept::Plugin(PluginNumbers { listing, refresher })
    }
}

fn hear(listing: &mut Listing, answer: Numbers) {
    let listed = Listed { ceiling: 80, status: None };
    listing.begin((clock::monotonic(), clock::wall()));
    listing.hear(answer.map(|numbers| Answer {
        numbers: numbers.into_iter().map(|number| (number, listed.clone())).collect(),
        is_complete: true,
    }));
}
