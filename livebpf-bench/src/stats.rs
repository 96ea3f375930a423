//! What many rounds come to.

/// Minimum and median of a row's rounds. The median of an even number is the mean of the middle two.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Summary {
    /// The least.
    pub min: f64,
    /// Half of the rounds took at most this.
    pub median: f64,
    /// How many there were.
    pub rounds: usize,
}

impl Summary {
    /// This without what `base` has of it: minimum without minimum, median without median, and the fewer rounds.
    #[must_use]
    pub(crate) fn less(self, base: Summary) -> Summary {
        Summary { min: self.min - base.min, median: self.median - base.median, rounds: self.rounds.min(base.rounds) }
    }

    /// One of `parts` parts.
    #[must_use]
    pub(crate) fn divided(self, parts: f64) -> Summary {
        Summary { min: self.min / parts, median: self.median / parts, ..self }
    }

    /// `None` without any sample.
    pub fn of(samples: &[f64]) -> Option<Summary> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => return None,
            odd if odd % 2 == 1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        Some(Summary { min: sorted[0], median, rounds: sorted.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimum_and_median() {
        let of = |samples: &[f64]| Summary::of(samples).map(|s| (s.min, s.median, s.rounds));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0]), Some((3.0, 3.0, 1)));
        assert_eq!(of(&[9.0, 1.0]), Some((1.0, 5.0, 2)));
        assert_eq!(of(&[5.0, 100.0, 2.0]), Some((2.0, 5.0, 3)));
        assert_eq!(of(&[8.0, 2.0, 4.0, 6.0]), Some((2.0, 5.0, 4)));
    }

    #[test]
    fn what_surrounds_a_thing_is_taken_off_and_the_rest_divided() {
        let summary = |min, median, rounds| Summary { min, median, rounds };
        let found = summary(40.0, 50.0, 9).less(summary(7.0, 8.0, 10)).divided(3.0);
        assert_eq!(found, summary(11.0, 14.0, 9));
    }
}
