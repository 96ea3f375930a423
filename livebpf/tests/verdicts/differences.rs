//! The list of known differences: `NAME: reason`, one a line. Everything else must agree.

use super::{Answer, Verdict, wanted};

const KNOWN: &str = include_str!("../data/verdicts/differences.txt");

fn reason(name: &str) -> Option<&'static str> {
    let entry = |line: &'static str| line.split_once(": ").filter(|(n, why)| *n == name && !why.trim().is_empty());
    KNOWN.lines().filter(|line| !line.starts_with('#')).find_map(|line| entry(line).map(|(_, why)| why))
}

/// The end of the trace, where single rows were asked for.
fn show_log(answer: &Answer) {
    if !wanted("") {
        let lines: Vec<&str> = answer.log.lines().collect();
        lines[lines.len().saturating_sub(60)..].iter().for_each(|line| println!("    {line}"));
    }
}

/// Prints every difference and checks the shares that must agree.
pub fn check(table: &str, answers: &[Answer]) {
    let (mut wrong, mut unknown, mut said, mut compared) = (0usize, Vec::new(), 0usize, 0usize);
    for answer in answers {
        if let Some(found) = answer.phrase_found() {
            compared += 1;
            said += usize::from(found);
            if !found {
                println!("{table} {} PHRASE want one of {:?}\n  got {}", answer.name, answer.phrases, answer.text);
                show_log(answer);
            }
        }
        if answer.agrees() {
            if let Some(why) = reason(&answer.name) {
                unknown.push(format!("{} is listed as a difference ({why}) and agrees", answer.name));
            }
            continue;
        }
        wrong += 1;
        println!(
            "{table} {} kernel {:?}, livebpf {:?} {:?} want {:?}\n  {}",
            answer.name, answer.kernel, answer.ours, answer.wrong_results, answer.phrases, answer.text
        );
        show_log(answer);
        if reason(&answer.name).is_none() {
            unknown.push(format!("{}: kernel {:?}, livebpf {:?}", answer.name, answer.kernel, answer.ours));
        }
    }
    let runs: u32 = answers.iter().map(|a| a.runs).sum();
    let bad_runs = answers.iter().filter(|a| !a.wrong_results.is_empty()).count();
    let unsafe_ones = answers.iter().filter(|a| a.kernel == Verdict::Reject && a.ours == Verdict::Accept).count();
    println!(
        "{table}: {} of {} verdicts agree; {said} of {compared} rejections say an expected phrase; {runs} runs, programs \
         with a wrong result: {bad_runs}; accepted against the kernel: {unsafe_ones}",
        answers.len() - wrong,
        answers.len()
    );
    if !wanted("") {
        return;
    }
    assert!(unknown.is_empty(), "{table}: differences without a reason:\n{}", unknown.join("\n"));
    assert!(wrong * 50 <= answers.len(), "{table}: {wrong} differences in {} rows", answers.len());
    assert!(said * 10 >= compared * 9, "{table}: {said} of {compared} rejections say an expected phrase");
}
