//! Messages that nobody sent, for a receiver's load: the sandbox makes them up at an even pace.
//!
//! Their webhooks come as those of sent messages do. They stand in no listing.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    super::{Shared, serve::wall_ms},
    Accepted,
};

/// How often messages are made up.
const BEAT: Duration = Duration::from_millis(10);
/// What is made up at once at most, in time of the pace: after a stall the rest is left out.
const MOST_AT_ONCE: Duration = Duration::from_secs(1);

/// Makes up messages until stopped, at the pace of the settings.
pub(in crate::sandbox) async fn make_up(shared: Arc<Shared>, stop: CancellationToken) {
    let making = async {
        let (mut made_up_to, mut sequence) = (Instant::now(), 0);
        loop {
            let rate = shared.state().webhook.load;
            if rate == 0 {
                shared.load_changed.notified().await;
                made_up_to = Instant::now();
                continue;
            }
            let now = Instant::now();
            let one = Duration::from_secs(1) / rate;
            made_up_to = made_up_to.max(now.checked_sub(MOST_AT_ONCE).unwrap_or(made_up_to));
            while made_up_to + one <= now {
                made_up_to += one;
                sequence += 1;
                one_message(&shared, now, sequence);
            }
            sleep(BEAT).await;
        }
    };
    stop.run_until_cancelled(making).await;
}

fn one_message(shared: &Shared, now: Instant, sequence: u64) {
    let course = {
        let mut state = shared.state();
        let message = Accepted {
            wamid: format!("wamid.LOAD{sequence:020}"),
            to: format!("49{:011}", sequence % 100_000_000_000),
            kind: "text".into(),
            opaque: Some(format!("load-{sequence}")),
            ..Accepted::default()
        };
        state.course_of_made_up(message, sequence, now, wall_ms())
    };
    // Nobody waits for an answer here.
    drop(shared.post_soon(course));
}
