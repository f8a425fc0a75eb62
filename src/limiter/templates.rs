//! Pauses of templates, each on one number and in one language. It never waits: it says when to ask
//! again.

use super::{Pause, Probe, Told, Turned, Wait};
use crate::wire::NumberId;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use tokio::time::Instant;

/// Templates in trouble at once, far more than an account has that fails in one day. One that finds no
/// room is not paused: each of its jobs waits by its own retries.
const MAX_TEMPLATES: usize = 10_000;

/// A template on one number and in one language, by its hash: its name can be long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TemplateKey(u64);

/// The templates that are paused, in under 100 bytes each.
#[derive(Debug, Default)]
pub struct Templates {
    paused: HashMap<TemplateKey, Pause>,
    hasher: RandomState,
}

impl Templates {
    /// None is paused: what is asked about one would be answered with yes.
    pub fn is_empty(&self) -> bool {
        self.paused.is_empty()
    }

    /// The key of a template.
    pub fn key(&self, number: &NumberId, name: &str, language: &str) -> TemplateKey {
        TemplateKey(self.hasher.hash_one((number, name, language)))
    }

    /// Whether a request may go now. Takes nothing.
    pub fn ask(&self, key: TemplateKey, now: Instant) -> Result<(), Wait> {
        self.paused.get(&key).map_or(Ok(()), |pause| pause.ask(now))
    }

    /// One request goes now, if the template lets it: as the probe where it is paused.
    pub fn pass(&mut self, key: TemplateKey, now: Instant) -> Result<Option<Probe>, Wait> {
        self.paused.get_mut(&key).map_or(Ok(None), |pause| pause.pass(now))
    }

    /// What came of a request that was sent then; `probe` if it was one.
    pub fn ended(
        &mut self,
        key: TemplateKey,
        probe: Option<Probe>,
        told: Told,
        sent: Instant,
        now: Instant,
    ) -> Option<Turned> {
        let is_new = !self.paused.contains_key(&key);
        match told {
            Told::Works | Told::Nothing if is_new => return None,
            Told::Refused(_) if is_new && !self.has_room(now) => return None,
            Told::Works | Told::Nothing | Told::Refused(_) => {}
        }
        let turned = self.paused.entry(key).or_default().ended(probe, told, sent, now);
        if turned == Some(Turned::Free) {
            self.paused.remove(&key);
        }
        turned
    }

    /// Forgets what is over and was never tried, if that is needed.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.paused.len() >= MAX_TEMPLATES {
            self.paused.retain(|_, pause| pause.ask(now).is_err());
        }
        self.paused.len() < MAX_TEMPLATES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MINUTE: Told = Told::Refused(Duration::from_secs(60));

    fn number(digits: &str) -> NumberId {
        NumberId::parse(digits).unwrap()
    }

    #[test]
    fn a_pause_is_of_one_template_on_one_number_in_one_language() {
        let (mut templates, now) = (Templates::default(), Instant::now());
        let key = templates.key(&number("1"), "sale", "en");
        assert!(templates.ended(key, None, MINUTE, now, now).is_some());
        assert!(templates.pass(key, now).is_err());
        for (digits, name, language) in
            [("2", "sale", "en"), ("1", "bill", "en"), ("1", "sale", "de")]
        {
            let other = templates.key(&number(digits), name, language);
            assert_eq!(templates.pass(other, now), Ok(None));
        }
        let later = now + Duration::from_secs(60);
        let probe = templates.pass(key, later).unwrap();
        assert_eq!(templates.pass(key, later), Err(Wait::ForProbe));
        assert_eq!(templates.ended(key, probe, Told::Works, later, later), Some(Turned::Free));
        assert!(templates.is_empty());
    }

    #[test]
    fn a_full_map_takes_no_more_until_some_are_over() {
        let (mut templates, now) = (Templates::default(), Instant::now());
        let keys: Vec<TemplateKey> = (0..=MAX_TEMPLATES)
            .map(|nth| templates.key(&number("1"), &nth.to_string(), "en"))
            .collect();
        let (last, most) = keys.split_last().unwrap();
        for key in most {
            assert!(templates.ended(*key, None, MINUTE, now, now).is_some());
        }
        assert_eq!(templates.ended(*last, None, MINUTE, now, now), None);
        assert_eq!(templates.pass(*last, now), Ok(None));
        let later = now + Duration::from_secs(60);
        assert!(templates.ended(*last, None, MINUTE, later, later).is_some());
        assert_eq!(templates.paused.len(), 1);
    }
}
