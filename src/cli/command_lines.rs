//! Command lines that people read and copy, in `--help` and in the documentation: the program takes each.

use super::{Arguments, NAME};
use clap::{Command, CommandFactory, Parser};
use std::path::{Path, PathBuf};

/// Commands whose output is JSON in any case, or nothing that a program would read.
const WITHOUT_JSON: [&str; 5] = ["worker", "results", "schema", "completions", "man"];

/// Folders with documentation, beside the root.
const FOLDERS: [&str; 5] = [".", "docs", "docs/decisions", "deploy", "config"];

#[test]
fn every_command_teaches_by_examples_that_it_takes() {
    for (name, command) in leaves() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Examples:"), "{name} --help has no examples");
        let examples: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        let its: Vec<String> = examples.iter().flat_map(|line| command_lines(line)).collect();
        assert!(its.iter().any(|line| line.contains(&name)), "{name} --help: {examples:?}");
        its.iter().for_each(|line| is_taken(line, &format!("{name} --help")));
    }
}

#[test]
fn every_command_has_json_for_programs() {
    for (name, command) in leaves() {
        let has_it = command.get_arguments().any(|argument| argument.get_id() == "json");
        let is_without = WITHOUT_JSON.contains(&name.as_str());
        assert!(has_it != is_without, "{name}: --json");
    }
}

#[test]
fn every_command_line_of_the_documentation_is_taken() {
    let mut count = 0;
    for file in documents() {
        let text = std::fs::read_to_string(&file).unwrap();
        let mut is_shell = false;
        for line in text.lines() {
            if let Some(language) = line.trim().strip_prefix("```") {
                is_shell = ["sh", "bash", "console"].contains(&language);
            } else if is_shell {
                for line in command_lines(line) {
                    is_taken(&line, &file.display().to_string());
                    count += 1;
                }
            }
        }
    }
    assert!(count > 20, "only {count} were found");
}

/// Each command that can be called, by its words.
fn leaves() -> Vec<(String, Command)> {
    fn walk(above: &str, command: &Command, into: &mut Vec<(String, Command)>) {
        for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
            let name = format!("{above} {}", command.get_name()).trim().to_owned();
            match command.has_subcommands() {
                true => walk(&name, command, into),
                false => into.push((name, command.clone())),
            }
        }
    }
    let mut all = Vec::new();
    walk("", &Arguments::command(), &mut all);
    all
}

/// What a line of a shell calls us with, without pipes, redirections, comments, and the explanation that
/// stands three blanks behind.
fn command_lines(line: &str) -> Vec<String> {
    let line = line.trim_start().trim_start_matches("$ ").trim_end_matches('&');
    let line = line.split(" #").next().unwrap_or_default();
    let parts = line.split([';', '|']).flat_map(|part| part.split("&&"));
    parts
        .filter_map(|part| {
            let from = part.find(&format!("{NAME} "))?;
            let is_called = part[..from]
                .split_whitespace()
                .all(|word| word.contains('=') || ["sudo", "env"].contains(&word));
            let called = part[from..].split("   ").next().unwrap_or_default();
            let called = called.split(" >").next().unwrap_or_default();
            is_called.then(|| called.trim().to_owned())
        })
        .collect()
}

fn is_taken(line: &str, place: &str) {
    let words = shlex::split(line).unwrap_or_else(|| panic!("{place}: {line}"));
    // The documentation's word for any number.
    let words = words.into_iter().map(|word| if word == "ID" { "1".to_owned() } else { word });
    if let Err(error) = Arguments::try_parse_from(words) {
        assert!(!error.use_stderr(), "{place}: {line}\n{error}");
    }
}

fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = FOLDERS.iter().flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "md")).collect()
}
