//! The gate of `make cost`: what it reads of the counter, when it fails, and what it says then. The counting
//! itself is in `benches/bench/cost.rs`.

use record::{Judgement, Record, Row, a_job, counted};
use std::collections::BTreeMap;

#[path = "../../benches/bench/record.rs"]
mod record;

const ACCEPT: &str = "make cost ACCEPT=1";

fn made_with(rustc: &str) -> BTreeMap<String, String> {
    let pairs = [("rustc", rustc), ("valgrind", "3.19.0")];
    pairs.map(|(what, which)| (what.to_owned(), which.to_owned())).into()
}

fn row(name: &str, rounds: [u64; 3]) -> Row {
    Row::new(name.to_owned(), rounds.into())
}

/// Against a record of 100,000 for a lane and 50,000 for a file, by the same compiler.
fn judged(lane: u64, file: u64) -> Judgement {
    let (made, recorded) =
        (made_with("1.95"), [row("lane", [100_000; 3]), row("file", [50_000; 3])]);
    let rows = [row("lane", [lane - 7, lane, lane + 9]), row("file", [file; 3])];
    Record::of(made.clone(), &recorded).judge(&made, &rows, ACCEPT)
}

#[test]
fn the_total_is_read_out_of_what_cachegrind_writes() {
    let written = "desc: I1 cache: none\ncmd: worker\nevents: Ir\nfl=???\nfn=main\n4 120\nsummary: 61234567\n";
    assert_eq!(counted(written), Some(61_234_567));
    assert_eq!(counted("cmd: worker\nevents: Ir\n"), None);
    assert_eq!(counted("summary: many\n"), None);
}

#[test]
fn neither_start_nor_end_is_part_of_what_a_job_costs() {
    let start_and_end = 900_000_000;
    let lap = |jobs: usize| (jobs, start_and_end + jobs as u64 * 60_000);
    assert_eq!(a_job(lap(500), lap(2_500)), 60_000);
}

#[test]
fn a_tenth_more_passes_and_anything_above_fails() {
    assert_eq!((judged(110_000, 50_000).passes, judged(110_001, 50_000).passes), (true, false));
}

#[test]
fn one_row_that_grew_is_enough() {
    assert!(!judged(70_000, 60_000).passes);
}

#[test]
fn the_failure_tells_what_grew_and_how_to_accept_it() {
    insta::assert_snapshot!(judged(115_250, 49_900).text, @r"
    Instructions of the worker a job: median of the rounds (least to most)
      lane: 115250 (115243 to 115259), recorded 100000, +15.2%: GREW
      file: 49900 (49900 to 49900), recorded 50000, -0.2%

    A job costs over 10% more than recorded, or has no record: the rows in capitals. Counted are instructions, not
    seconds: a busy machine moves them by a few percent at most, as the rounds show.
      where it went: valgrind --tool=callgrind, then callgrind_annotate
      to accept it:  make cost ACCEPT=1, and commit the record with the change and its reason
    ");
}

#[test]
fn what_shrank_passes_and_is_told() {
    let Judgement { passes, text } = judged(80_000, 50_000);
    assert!(passes && text.contains("-20.0%: shrank") && text.contains(ACCEPT), "{text}");
}

#[test]
fn what_is_within_bounds_is_told_without_advice() {
    let Judgement { passes, text } = judged(103_000, 48_000);
    assert!(passes && text.contains("+3.0%") && text.contains("-4.0%"), "{text}");
    assert!(!text.contains(ACCEPT), "{text}");
}

#[test]
fn a_row_that_is_not_recorded_fails() {
    let made = made_with("1.95");
    let record = Record::of(made.clone(), &[row("lane", [100_000; 3])]);
    let Judgement { passes, text } = record.judge(&made, &[row("lanes", [1; 3])], ACCEPT);
    assert!(!passes && text.contains("NOT RECORDED") && text.contains(ACCEPT), "{text}");
}

#[test]
fn a_record_by_another_compiler_is_named_where_it_fails() {
    let record = Record::of(made_with("1.95"), &[row("lane", [100_000; 3])]);
    let judge = |cost| record.judge(&made_with("1.96"), &[row("lane", [cost; 3])], ACCEPT).text;
    assert!(judge(120_000).contains("rustc: recorded 1.95, now 1.96"), "{}", judge(120_000));
    assert!(!judge(120_000).contains("3.19.0"), "{}", judge(120_000));
    assert!(!judge(100_000).contains("1.96"), "{}", judge(100_000));
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let record = Record::of(made_with("rustc \"1.95\""), &[row("1 lane, durable", [3, 1, 2])]);
    let written = record.written().unwrap();
    assert!(written.contains("\"1 lane, durable\" = 2\n"), "{written}");
    assert_eq!(Record::read(&written).unwrap(), record);
}

#[test]
fn the_record_in_the_repository_can_be_read() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/cost.toml");
    assert!(Record::read(&std::fs::read_to_string(file).unwrap()).is_ok());
}
