//! What stands in README.md: its blocks, and the commands within its text.

use std::path::Path;

/// What stands between two fences.
#[derive(Debug)]
pub(super) struct Block {
    /// The heading above it.
    pub(super) heading: String,
    /// The line of its first fence.
    pub(super) line: usize,
    pub(super) language: String,
    pub(super) text: String,
    /// What is to be seen after it, for commands: the block of `text` right below.
    pub(super) seen: Option<String>,
}

pub(crate) fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// All blocks but those that say what is to be seen.
pub(super) fn blocks() -> Vec<Block> {
    let (mut blocks, mut heading) = (Vec::<Block>::new(), String::new());
    let (mut open, mut follows) = (None::<Block>, false);
    for (number, line) in readme().lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => {
                let [language, heading] = [language, &heading].map(str::to_owned);
                let line = number + 1;
                open = Some(Block { heading, line, language, text: String::new(), seen: None });
            }
            (Some(_), Some(_)) => {
                let block = open.take().unwrap();
                match (&*block.language, follows) {
                    ("text", true) => blocks.last_mut().unwrap().seen = Some(block.text),
                    ("text", false) => panic!("line {}: seen after what?", block.line),
                    _ => blocks.push(block),
                }
                follows = blocks.last().unwrap().seen.is_none();
            }
            (Some(block), None) => block.text += &format!("{line}\n"),
            (None, None) if line.starts_with('#') => {
                heading = line.trim_start_matches('#').trim().to_owned();
            }
            (None, None) => follows &= line.is_empty(),
        }
    }
    blocks
}

/// The blocks of commands under a heading.
pub(super) fn commands_under(heading: &str) -> Vec<Block> {
    let all = blocks().into_iter();
    let under: Vec<Block> =
        all.filter(|block| block.language == "sh" && block.heading == heading).collect();
    assert!(!under.is_empty(), "no commands under {heading:?}");
    under
}

/// The commands within the text, between backticks; a line may end inside.
pub(super) fn commands_in_text() -> Vec<String> {
    let (mut text, mut is_block) = (String::new(), false);
    for line in readme().lines() {
        match line.starts_with("```") {
            true => is_block = !is_block,
            false if is_block => {}
            false => text += &format!("{line} "),
        }
    }
    let code = text.split('`').skip(1).step_by(2);
    let programs = ["chakra-sender ", "make ", "kill ", "export ", "cargo ", "sudo "];
    let is_command = |code: &&str| programs.iter().any(|program| code.starts_with(program));
    code.filter(is_command).map(str::to_owned).collect()
}
