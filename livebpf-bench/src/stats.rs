//! What many rounds come to.

/// Minimum, median and quartiles of a row's rounds. The median of an even number is the mean of the middle two.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Summary {
    /// The least.
    pub min: f64,
    /// Half of the rounds took at most this.
    pub median: f64,
    /// A quarter of the rounds took at most the first, three quarters at most the second.
    pub quartiles: [f64; 2],
    /// How many there were.
    pub rounds: usize,
}

impl Summary {
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
        let last = sorted.len() - 1;
        let quartiles = [last / 4, last - last / 4].map(|n| sorted[n]);
        Some(Summary { min: sorted[0], median, quartiles, rounds: sorted.len() })
    }

    /// How far the quartiles are apart, as a part of the median: half of the rounds lie that close together.
    pub fn spread(&self) -> f64 {
        let [first, third] = self.quartiles;
        if first == third { 0.0 } else { (third - first) / self.median.abs() }
    }

    /// This without what `base` has of it: minimum without minimum, the others without the median, and the fewer rounds.
    #[must_use]
    pub(crate) fn less(self, base: Summary) -> Summary {
        Summary {
            min: self.min - base.min,
            median: self.median - base.median,
            quartiles: self.quartiles.map(|quartile| quartile - base.median),
            rounds: self.rounds.min(base.rounds),
        }
    }

    /// One of `parts` parts.
    #[must_use]
    pub(crate) fn divided(self, parts: f64) -> Summary {
        let quartiles = self.quartiles.map(|quartile| quartile / parts);
        Summary { min: self.min / parts, median: self.median / parts, quartiles, ..self }
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
        let summary = |min, median, quartiles, rounds| Summary { min, median, quartiles, rounds };
        let found = summary(40.0, 50.0, [44.0, 56.0], 9).less(summary(7.0, 8.0, [7.5, 9.0], 10)).divided(3.0);
        assert_eq!(found, summary(11.0, 14.0, [12.0, 16.0], 9));
    }

    #[test]
    fn spread_is_the_distance_of_the_quartiles_over_the_median() {
        let spread = |samples: &[f64]| Summary::of(samples).map(|summary| summary.spread());
        assert_eq!(spread(&[0.0, 0.0, 0.0]), Some(0.0));
        assert_eq!(spread(&[1.0, 2.0, 4.0, 7.0, 100.0]), Some(1.25));
        assert_eq!(spread(&[3.0, 5.0]), Some(0.5));
    }
}
