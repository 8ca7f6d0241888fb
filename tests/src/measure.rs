//! Medians and the description of the machine a figure was taken on.

use std::fs;

use serde::{Deserialize, Serialize};

/// Several values of one measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Series {
    values: Vec<f64>,
}

impl Series {
    /// Adds a value.
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// The middle value (of an even number, the mean of the two in the middle); NaN when empty.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// The smallest value; infinite when empty.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest value; minus infinite when empty.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.values
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max)
    }

    /// All values in the order they were taken.
    #[must_use]
    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

/// The machine in one line: processor, cores, memory, kernel.
#[must_use]
pub fn machine() -> String {
    let cpu = first_value("/proc/cpuinfo", "model name").unwrap_or_else(|| "processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory_gib = first_value("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok())
        .unwrap_or(0.0)
        / (1024.0 * 1024.0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cpu}, {cores} cores, {memory_gib:.0} GiB, Linux {}",
        kernel.trim()
    )
}

fn first_value(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_outliers() {
        let mut series = Series::default();
        for value in [5.0, 1.0, 100.0] {
            series.push(value);
        }
        assert_eq!(
            (series.min(), series.median(), series.max()),
            (1.0, 5.0, 100.0)
        );
        series.push(7.0);
        assert_eq!(series.median(), 6.0);
    }
}
