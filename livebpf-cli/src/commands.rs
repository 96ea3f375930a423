//! What must hold for any text of commands. Fuzzing calls this.
//!
//! Commands that read or write files are left out: a fuzzer would find names of files that matter.

use std::path::Path;

use clap::Parser as _;

use crate::args::Args;
use crate::batch;
use crate::session::Session;

/// Words that files stand behind, or that run a program for as long as one likes.
const FILES: [&str; 10] =
    ["load", "loadall", "cbpf", "run", "verify", "data_in", "data_out", "ctx_in", "ctx_out", "file"];
/// Commands of a text that are carried out.
const MOST: usize = 64;

/// A text is refused with its line, or each of its commands is carried out or refused with a reason; one that is refused has
/// changed nothing. `object` is loaded first.
///
/// # Panics
/// Where that does not hold.
pub fn check(object: &Path, text: &str) {
    let lines = match batch::split(text) {
        Ok(lines) => lines,
        Err(message) => {
            assert!(message.starts_with("line "), "{message}");
            return;
        }
    };
    let args = Args::parse_from(["livebpf", "--engine", "interp"]);
    let mut session = Session::new(&args).expect("a runtime");
    session.load(object, |_| Ok(Default::default())).expect("the object is sound");
    for line in lines.iter().take(MOST) {
        assert!(line.number >= 1 && line.number <= text.lines().count(), "line {}", line.number);
        if line.words.iter().any(|word| FILES.contains(&word.as_str())) {
            continue;
        }
        let before = contents(&session);
        match batch::execute(&mut session, &line.words) {
            Ok(answer) => assert!(answer.status <= 2, "{:?}", line.words),
            Err(error) => {
                assert!(!error.to_string().is_empty(), "{:?}", line.words);
                assert_eq!(contents(&session), before, "refused, and yet: {:?}", line.words);
            }
        }
    }
    session.close().expect("nothing runs");
}

/// What all maps hold.
fn contents(session: &Session) -> Vec<(u32, Vec<u8>, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    for map in session.maps() {
        for key in map.keys().unwrap_or_default() {
            let value = map.read(&key).ok();
            all.push((map.id(), key, value));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../livebpf/tests/data/scenarios/tailcall_2.o")
    }

    #[test]
    fn commands_are_carried_out_or_refused() {
        check(&object(), "prog show\nmap show\nmap dump name jmp_table\nmap delete name jmp_table key 0 0 0 0");
        check(&object(), "map update name jmp_table key 0 0 0 0 value name nobody\nmap lookup id 1 key hex zz");
        check(&object(), "map 'show");
        check(&object(), "prog run name classifier_0 data_in /dev/zero\n\\\n#\n\u{0}");
    }

    #[test]
    fn the_seeds_of_the_fuzz_target_hold() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/commands");
        let mut seeds = 0;
        for file in std::fs::read_dir(folder).expect("the folder is there") {
            check(&object(), &std::fs::read_to_string(file.expect("an entry").path()).expect("text"));
            seeds += 1;
        }
        assert!(seeds >= 3);
    }

    #[test]
    fn what_changes_is_seen() {
        let args = Args::parse_from(["livebpf", "--engine", "interp"]);
        let mut session = Session::new(&args).expect("a runtime");
        session.load(&object(), |_| Ok(Default::default())).expect("the object is sound");
        let before = contents(&session);
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let update = "map update name jmp_table key 0 0 0 0 value name classifier_0";
        batch::execute(&mut session, &words(update)).expect("a slot and a program");
        assert_ne!(contents(&session), before);
    }
}
