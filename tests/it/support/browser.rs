//! Chromium without a window: loads a page, runs its script, and tells what stands there then.

use super::process::Program;
use std::path::Path;

/// The page's own time until it is told: its first answers are there, and its timer has run once.
const PAGE_TIME: &str = "--virtual-time-budget=3000";

/// What came of loading a page.
pub(crate) struct Loaded {
    /// As HTML, after its script has run.
    pub(crate) page: String,
    /// What the browser logged; a refusal by the page's policy among it.
    pub(crate) log: String,
}

/// What stands on the page.
pub(crate) async fn load(url: &str) -> Loaded {
    let (page, log) = chromium(&["--dump-dom", "--window-size=1200,800", url]).await;
    Loaded { page, log }
}

/// Puts a picture of it into a file.
pub(crate) async fn picture(url: &str, size: (u32, u32), file: &Path) {
    let size = format!("--window-size={},{}", size.0, size.1);
    let file = format!("--screenshot={}", file.display());
    chromium(&[&file, &size, "--hide-scrollbars", url]).await;
}

/// What it says on stdout and on stderr.
async fn chromium(arguments: &[&str]) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let data = format!("--user-data-dir={}", profile.path().display());
    // CI runs as root in a container, where its sandbox and /dev/shm cannot be used.
    let fixed = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        "--enable-logging=stderr",
        PAGE_TIME,
        &data,
    ];
    let home = profile.path().display().to_string();
    let arguments = [&fixed[..], arguments].concat();
    let ended = Program::other("chromium").with(&arguments).env("HOME", &home).run().await;
    let log = ended.err.join("\n");
    assert_eq!(ended.code, Some(0), "{log}");
    (ended.out.join("\n"), log)
}
