//! The map for what each job looks up.

use std::collections::HashMap;

/// std's map with a hash of a few instructions: of its own, SipHash, each look took 160, and a job makes a
/// dozen of them. Each map has a seed of chance, so nobody can choose keys that meet.
pub(crate) type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
