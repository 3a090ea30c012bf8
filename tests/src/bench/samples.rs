//! What repetitions of a measurement gave.

use serde::Serialize;

/// One value for each repetition.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a repetition.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }
}

/// Median and extremes.
#[derive(Debug, Clone, Serialize)]
pub struct Spread {
    /// The value in the middle, or between the two there.
    pub median: f64,
    /// The lowest.
    pub least: f64,
    /// The highest.
    pub most: f64,
    /// All, in the order of the repetitions.
    pub samples: Vec<f64>,
}

impl From<&Samples> for Spread {
    fn from(samples: &Samples) -> Self {
        let mut sorted = samples.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (below, above) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        let at = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
        Self {
            median: f64::midpoint(at(below), at(above)),
            least: at(0),
            most: at(sorted.len().saturating_sub(1)),
            samples: samples.0.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_several() {
        let mut samples = Samples::default();
        assert!(Spread::from(&samples).median.is_nan());
        for (value, median) in [(3.0, 3.0), (1.0, 2.0), (2.0, 2.0), (9.0, 2.5)] {
            samples.add(value);
            assert_eq!(Spread::from(&samples).median, median);
        }
        let Spread { least, most, samples, .. } = Spread::from(&samples);
        assert_eq!((least, most), (1.0, 9.0));
        assert_eq!(samples, [3.0, 1.0, 2.0, 9.0]);
    }
}
