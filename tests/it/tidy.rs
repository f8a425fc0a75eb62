//! The house's own rules, held by reading its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A module imports only from layers below its own. `sandbox` imports nothing of ours at all: it
/// would share our misreading of the vendor.
const LAYERS: [(&str, u8); 21] = [
    ("clock", 0),
    ("crash", 0),
    ("fast_map", 0),
    ("odd_json", 0),
    ("telemetry", 0),
    ("wire", 0),
    ("sandbox", 0),
    ("policy", 1),
    ("listener", 2),
    ("metrics", 2),
    ("readiness", 2),
    ("admin", 3),
    ("chakra", 3),
    ("ledger", 3),
    ("limiter", 3),
    ("queue", 3),
    ("webhook", 3),
    ("config", 4),
    ("supervisor", 4),
    ("worker", 4),
    ("cli", 5),
];

/// A longer file is two files.
const MAX_LINES: usize = 500;

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "no sources under {folder}");
    found
}

/// The module under `src` that a file belongs to; none for `lib.rs` and `main.rs`.
fn module(path: &Path) -> Option<String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path.strip_prefix(src).unwrap().iter().next().unwrap().to_str().unwrap();
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!["lib", "main"].contains(&name)).then(|| name.to_owned())
}

/// The modules that a source names as `crate::…`, in `use` lines and in paths.
fn imports(source: &str) -> Vec<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for line in code {
        for (at, _) in line.match_indices("crate::") {
            let rest = &line[at + "crate::".len()..];
            let list = rest.strip_prefix('{').map_or(rest, |list| list);
            let names: Vec<&str> = if rest.starts_with('{') {
                list.trim_end_matches("};").split(',').collect()
            } else {
                vec![list]
            };
            for name in names {
                let end = name.trim_start().find(|c: char| !(c.is_alphanumeric() || c == '_'));
                let name = name.trim_start();
                found.push(name[..end.unwrap_or(name.len())].to_owned());
            }
        }
    }
    found
}

#[test]
fn imports_run_one_way() {
    let layers: BTreeMap<&str, u8> = LAYERS.into_iter().collect();
    let mut broken = Vec::new();
    for (path, source) in sources("src") {
        let Some(own) = module(&path) else { continue };
        let Some(layer) = layers.get(own.as_str()) else {
            panic!("{own} has no layer: give it one in tests/it/tidy.rs and in ARCHITECTURE.md");
        };
        for import in imports(&source) {
            let lawful = import == own || layers.get(import.as_str()).is_some_and(|of| of < layer);
            if !lawful || (own == "sandbox" && import != "sandbox") {
                broken.push(format!("{}: crate::{import}", path.display()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "imports against the law of ARCHITECTURE.md:\n{}",
        broken.join("\n")
    );
}

#[test]
fn every_module_has_a_layer_and_every_layer_a_module() {
    let mut modules: Vec<String> =
        sources("src").iter().filter_map(|(path, _)| module(path)).collect();
    modules.sort();
    modules.dedup();
    let mut named: Vec<&str> = LAYERS.iter().map(|(name, _)| *name).collect();
    named.sort_unstable();
    assert_eq!(modules, named);
}

#[test]
fn no_file_is_longer_than_the_wall() {
    let long: Vec<String> = ["src", "tests", "benches"]
        .into_iter()
        .flat_map(sources)
        .filter(|(_, source)| source.lines().count() > MAX_LINES)
        .map(|(path, source)| format!("{}: {} lines", path.display(), source.lines().count()))
        .collect();
    assert!(long.is_empty(), "files over {MAX_LINES} lines:\n{}", long.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let silent: Vec<String> = sources("src")
        .into_iter()
        .filter(|(_, source)| !source.starts_with("//!"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "files without a //! opening:\n{}", silent.join("\n"));
}

#[test]
fn anyhow_lives_in_the_command_line_alone() {
    let strays: Vec<String> = sources("src")
        .into_iter()
        .filter(|(path, _)| module(path).is_some_and(|own| own != "cli"))
        .filter(|(_, source)| source.contains("anyhow"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(strays.is_empty(), "anyhow outside of cli:\n{}", strays.join("\n"));
}

#[test]
fn quiet_rooms_neither_wait_nor_look_at_the_clock() {
    let loud =
        [".await", "async fn", "clock::wall", "clock::monotonic", "crate::clock", "fastrand"];
    let mut broken = Vec::new();
    for (path, source) in sources("src") {
        let shown = path.display().to_string();
        let quiet = [
            "/wire/",
            "/policy/",
            "/limiter/",
            "chakra/codes",
            "chakra/classify",
            "admin/bearer",
            "webhook/door",
            "webhook/envelope",
            "webhook/notice",
            "webhook/seen",
            "webhook/signature",
        ];
        if !quiet.iter().any(|room| shown.contains(room)) {
            continue;
        }
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            if loud.iter().any(|word| line.contains(word)) {
                broken.push(format!("{shown}: {}", line.trim()));
            }
        }
    }
    assert!(broken.is_empty(), "loud words in quiet rooms:\n{}", broken.join("\n"));
}
