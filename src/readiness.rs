//! What the process still lacks before it can do its work, as told by its parts. `/readyz` shows
//! it; nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is missing, shared by all parts; cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// At most one reason for each part.
    missing: BTreeMap<&'static str, String>,
    draining: bool,
}

impl Readiness {
    /// A process of these parts, none of which has started.
    pub fn new(parts: &[&'static str]) -> Readiness {
        let missing = parts.iter().map(|part| (*part, "not started yet".to_owned())).collect();
        Readiness(Arc::new(Mutex::new(State { missing, draining: false })))
    }

    /// A part lacks something. The reason is shown to whoever asks: no secrets, no recipients.
    pub fn missing(&self, part: &'static str, reason: impl Into<String>) {
        self.state().missing.insert(part, reason.into());
    }

    /// A part has all it needs.
    pub fn clear(&self, part: &'static str) {
        self.state().missing.remove(part);
    }

    /// The process takes no more work. This does not end.
    pub fn draining(&self) {
        self.state().draining = true;
    }

    /// One line for each thing that is missing; none: ready.
    pub fn report(&self) -> Vec<String> {
        let state = self.state();
        let missing = state.missing.iter().map(|(part, reason)| format!("{part}: {reason}"));
        state.draining.then(|| "draining".to_owned()).into_iter().chain(missing).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one step, so a part that panicked has left nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_each_part_has_said_so() {
        let readiness = Readiness::new(&["rabbitmq", "plugin"]);
        readiness.clear("plugin");
        readiness.missing("rabbitmq", "connecting to 127.0.0.1:5672");
        assert_eq!(readiness.report(), ["rabbitmq: connecting to 127.0.0.1:5672"]);
        readiness.clone().clear("rabbitmq");
        assert!(readiness.report().is_empty());
    }

    #[test]
    fn a_process_that_drains_is_never_ready_again() {
        let readiness = Readiness::new(&["rabbitmq"]);
        readiness.draining();
        readiness.clear("rabbitmq");
        assert_eq!(readiness.report(), ["draining"]);
    }
}
