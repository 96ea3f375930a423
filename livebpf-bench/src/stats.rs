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
}
