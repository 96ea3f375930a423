//! The rows there are: name, unit, and what each should come to.
//!
//! A name is never given to something else later on: figures are compared by it.

use crate::contestant::Contestant;
use crate::error::Error;
use crate::subject::{self, Subject};
use crate::{compile, load, scaling, stall, timed, transaction, update, upgrade};

/// What a figure counts. Less is better in each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Microseconds.
    Us,
    /// Times as long as undisturbed.
    Times,
    /// Packets.
    Packets,
    /// Instructions.
    Insns,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Ns => "ns",
            Unit::Us => "us",
            Unit::Times => "x",
            Unit::Packets => "packets",
            Unit::Insns => "insns",
            Unit::Bytes => "bytes",
        }
    }
}

/// The word for all rows but those of single programs.
const ALL: &str = "all";

/// A bound on livebpf's median.
#[derive(Clone, PartialEq, Debug)]
pub enum Wanted {
    /// At most this many times the median of a contestant.
    Of(Contestant, f64),
    /// At most this many times livebpf's own median of another row.
    OfRow(String, f64),
    /// At most this, in the row's unit.
    AtMost(f64),
}

/// One figure.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What it counts.
    pub unit: Unit,
    /// What it should come to.
    pub wanted: Vec<Wanted>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, unit: Unit, wanted: Vec<Wanted>) -> Row {
        Row { name: name.into(), unit, wanted }
    }

    /// All rows, in the order of reports.
    pub fn all() -> Vec<Row> {
        let mut rows = timed::rows();
        rows.extend(scaling::rows());
        rows.extend(update::rows());
        rows.extend(stall::rows());
        rows.extend(transaction::rows());
        rows.extend(upgrade::rows());
        rows.extend(load::rows());
        rows.extend(compile::rows());
        rows
    }

    /// The rows that `words` select, in the order of reports: a row by its name, several by the beginning of their names, `all` those
    /// that are not of a single program of an object. Saying nothing selects those of `objects`, or all of them where there are no objects.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a word that selects nothing, with the names there are.
    pub fn select(words: &[String], objects: &[Subject]) -> Result<Vec<Row>, Error> {
        let mut all = subject::rows(objects);
        if all.is_empty() || !words.is_empty() {
            all.splice(0..0, Row::all());
        }
        let chosen = |row: &Row, word: &String| {
            let exact = all.iter().any(|row| row.name == *word);
            if word == ALL {
                return !row.name.contains('/');
            }
            if exact { row.name == *word } else { row.name.starts_with(word) }
        };
        for word in words {
            if word.is_empty() || !all.iter().any(|row| chosen(row, word)) {
                return Err(Error::unknown("row", word, all.iter().map(|row| row.name.as_str())));
            }
        }
        let wanted = |row: &&Row| words.is_empty() || words.iter().any(|word| chosen(row, word));
        Ok(all.iter().filter(wanted).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        Row::select(&words, &[]).expect("known rows").into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn rows_are_selected_by_name_or_by_how_it_begins() {
        assert_eq!(names(&["update_replace_10"]), ["update_replace_10"], "not those of 100 and 1000 sites");
        assert_eq!(names(&["update_replace"]).len(), 4);
        assert_eq!(names(&["update"]).len(), 12);
        let two = names(&["stall_replace", "update_insert_1"]);
        assert_eq!(two, ["update_insert_1", "stall_replace"], "in the order of reports, each once");
        assert_eq!(names(&["update_insert_1", "update_insert_1"]), ["update_insert_1"]);
        assert_eq!(names(&[]).len(), Row::all().len());
        assert_eq!(names(&["all"]), names(&[]));
    }

    #[test]
    fn all_rows_are_those_that_are_not_of_one_program() {
        let object = Subject { name: "o/p".to_owned(), program: Err("not linked".to_owned()) };
        let select = |words: &[String]| Row::select(words, std::slice::from_ref(&object)).expect("known");
        let of_object: Vec<String> = select(&[]).into_iter().map(|row| row.name).collect();
        assert_eq!(of_object, ["size_o/p", "size_total", "run_o/p", "run_total"]);
        assert_eq!(select(&["all".to_owned()]).len(), Row::all().len() + 2, "with both totals");
    }

    #[test]
    fn a_word_that_selects_nothing_is_refused_with_the_list() {
        for word in ["", "updat_", "update_replace_1000 "] {
            let message =
                Row::select(&["stall".to_owned(), word.to_owned()], &[]).expect_err("no such row").to_string();
            assert!(message.starts_with(&format!("no row is named {word:?}; there is run_single, ")), "{message}");
            assert!(Row::all().iter().all(|row| message.contains(&row.name)), "{message}");
        }
    }

    #[test]
    fn names_differ_and_what_rows_refer_to_exists() {
        let all = Row::all();
        for (n, row) in all.iter().enumerate() {
            assert!(!all[..n].iter().any(|other| other.name == row.name), "{} is there twice", row.name);
            for wanted in &row.wanted {
                if let Wanted::OfRow(other, _) = wanted {
                    assert!(all.iter().any(|row| row.name == *other), "{other}");
                }
            }
        }
    }
}
