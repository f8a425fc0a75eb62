//! A progress bar on a terminal, silence elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Four times a second is enough for a person.
const DRAWS_A_SECOND: u8 = 4;

/// A bar over `total` steps, or a counter where the total is not known. Hidden unless stderr is a
/// terminal.
pub(super) fn bar(total: Option<u64>, what: &'static str) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND),
        false => ProgressDrawTarget::hidden(),
    };
    bar.set_draw_target(target);
    let template = match total {
        Some(_) => "{prefix:>9} {bar:32} {human_pos}/{human_len}  {per_sec}  {msg}",
        None => "{prefix:>9} {human_pos}  {per_sec}  {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_prefix(what)
}
