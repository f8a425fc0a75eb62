//! The Dockerfile. There is no engine to build it with: what its steps need is looked at instead, and Cargo
//! is asked whether it takes the first of them.

use super::{path, read, tool, well};
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::process::Command;

/// The instructions with their arguments, continued lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = read("Dockerfile");
    let lines = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let joined = lines.replace("\\\n", " ");
    let split = |line: &str| {
        let (name, arguments) = line.split_once(' ')?;
        Some((name.to_owned(), arguments.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    joined.lines().filter_map(split).collect()
}

/// What is copied out of the repository.
fn copied() -> BTreeSet<String> {
    let copies = instructions().into_iter().filter(|(name, _)| name == "COPY");
    let of_context = copies.filter(|(_, arguments)| !arguments.contains("--from="));
    let sources = |arguments: &str| {
        let words: Vec<&str> = arguments.split(' ').collect();
        words[..words.len() - 1].iter().map(|&word| word.to_owned()).collect::<Vec<_>>()
    };
    of_context.flat_map(|(_, arguments)| sources(&arguments)).collect()
}

/// The lines `cargo build …`.
fn builds() -> Vec<String> {
    let runs = instructions().into_iter().filter(|(name, _)| name == "RUN");
    let steps = |run: String| run.split(" && ").map(str::to_owned).collect::<Vec<_>>();
    let steps = runs.flat_map(|(_, run)| steps(run));
    steps.filter(|step| step.starts_with("cargo build")).collect()
}

#[test]
fn hadolint_finds_nothing() {
    well(tool("hadolint").arg(path("Dockerfile")));
}

#[test]
fn the_context_is_what_is_copied_and_is_all_that_is_compiled_in() {
    let copied = copied();
    for source in &copied {
        assert!(path(source).exists(), "COPY {source}");
    }
    let ignore = read(".dockerignore");
    let kept = ignore.lines().filter_map(|line| line.strip_prefix('!')).map(str::to_owned);
    assert_eq!(kept.collect::<BTreeSet<_>>(), copied, ".dockerignore");

    let mut folders = vec![path("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            if file.is_dir() {
                folders.push(file);
                continue;
            }
            let source = std::fs::read_to_string(&file).unwrap();
            let included = source.split("include_str!(\"").skip(1);
            for name in included.filter_map(|rest| rest.split('"').next()) {
                let whole = file.parent().unwrap().join(name).canonicalize().unwrap();
                let inside = copied.iter().any(|root| whole.starts_with(path(root)));
                assert!(inside, "{} is compiled in, but not copied", whole.display());
            }
        }
    }
}

#[test]
fn cargo_takes_the_dependency_layer_and_the_flags() {
    let builds = builds();
    assert_eq!(builds.len(), 2, "the dependencies, then the program");
    assert_eq!(builds[0], builds[1], "else the first builds what the second does not use");
    let layer = tempfile::tempdir().unwrap();
    for file in ["Cargo.toml", "Cargo.lock"] {
        std::fs::copy(path(file), layer.path().join(file)).unwrap();
    }
    symlink(path("vendor"), layer.path().join("vendor")).unwrap();
    std::fs::create_dir(layer.path().join("src")).unwrap();
    std::fs::write(layer.path().join("src/main.rs"), "fn main() {}").unwrap();
    std::fs::write(layer.path().join("src/lib.rs"), "").unwrap();
    let cargo = || {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(layer.path());
        cargo
    };
    let here = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let resolved =
        ["metadata", "--locked", "--offline", "--format-version=1", "--filter-platform", &here];
    let (metadata, _) = well(cargo().args(resolved));
    assert!(metadata.contains(r#""name":"chakra-sender""#));
    // With -h it reads its arguments and builds nothing.
    let (help, _) = well(cargo().args(builds[0].split(' ').skip(1)).arg("-h"));
    assert!(help.contains("Usage: cargo build"), "{help}");
}

#[test]
fn the_builder_has_the_toolchain_of_the_manifest() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let version = manifest["package"]["rust-version"].as_str().unwrap();
    let from: Vec<String> =
        instructions().into_iter().filter(|(name, _)| name == "FROM").map(|(_, of)| of).collect();
    assert!(from.iter().any(|of| of.starts_with(&format!("rust:{version}."))), "{from:?}");
}

#[test]
fn the_image_runs_a_worker_as_nobody_special() {
    let of = |name: &str| -> String {
        let last = instructions().into_iter().rfind(|(instruction, _)| instruction == name);
        last.unwrap_or_else(|| panic!("no {name}")).1
    };
    assert_eq!(of("ENTRYPOINT"), r#"["/usr/bin/chakra-sender"]"#);
    assert_eq!(of("CMD"), r#"["worker"]"#);
    // By number: Kubernetes cannot tell of a name that it is not root.
    assert_eq!(of("USER"), "65532:65532");
    let settings = chakra_sender::config::load(None, std::iter::empty()).unwrap();
    let listen = settings.admin.listen.unwrap();
    assert!(of("HEALTHCHECK").ends_with(&format!(r#""http://{listen}/livez"]"#)));
}
