//! `completions` and `man`: what a shell and `man` know of the command line, made of the command line itself.

use super::output::print;
use super::{Arguments, End, NAME};
use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender completions bash > /etc/bash_completion.d/chakra-sender
  chakra-sender completions zsh > ~/.zfunc/_chakra-sender
  chakra-sender completions fish > ~/.config/fish/completions/chakra-sender.fish")]
pub(super) struct CompletionsArguments {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender man | man -l -                          read the page
  chakra-sender man --out /usr/local/share/man/man1     a page for each command")]
pub(super) struct ManArguments {
    /// Writes a page for each command into this folder, which must be there; else the program's own page is printed
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

pub(super) fn completions(arguments: &CompletionsArguments) -> anyhow::Result<End> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), NAME, &mut script);
    print(script)?;
    Ok(End::Done)
}

pub(super) fn man(arguments: &ManArguments) -> anyhow::Result<End> {
    match &arguments.out {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
            print(page)?;
        }
        Some(folder) => write(folder)?,
    }
    Ok(End::Done)
}

fn write(folder: &Path) -> anyhow::Result<()> {
    let wrote = clap_mangen::generate_to(Arguments::command(), folder);
    wrote.with_context(|| format!("writing man pages into {}", folder.display()))
}
