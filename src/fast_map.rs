//! The map for what each job looks up.

use std::collections::HashMap;

/// std's map with a hash of a few instructions: of its own, SipHash, each look took 160, and a job makes a
/// dozen of them. Each map has a seed of chance, so keys that meet cannot be prepared; against who
/// times its answers to find some it is no defence.
pub(crate) type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
