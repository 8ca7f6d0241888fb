//! Rates as people write them: `500M`, `1.2G` (bits of payload per second), `20kpps` (datagrams).

use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

/// A rate to send at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Payload bits per second.
    Bits(f64),
    /// Datagrams (or writes) per second.
    Packets(f64),
}

impl Rate {
    /// Datagrams of `size` payload bytes per second.
    #[must_use]
    pub fn per_second(self, size: u32) -> f64 {
        match self {
            Self::Bits(bits) => bits / (8.0 * f64::from(size.max(1))),
            Self::Packets(packets) => packets,
        }
    }
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, packets) = match text.strip_suffix("pps") {
            Some(number) => (number, true),
            None => (text, false),
        };
        let (number, factor) = match number.as_bytes().last() {
            Some(b'k' | b'K') => (&number[..number.len() - 1], 1e3),
            Some(b'm' | b'M') => (&number[..number.len() - 1], 1e6),
            Some(b'g' | b'G') => (&number[..number.len() - 1], 1e9),
            _ => (number, 1.0),
        };
        let value: f64 = number
            .parse()
            .ok()
            .with_context(|| format!("{text:?} is no rate: write 500M, 1.2G or 20kpps"))?;
        if !(value.is_finite() && value > 0.0) {
            bail!("the rate must be above zero");
        }
        Ok(if packets {
            Self::Packets(value * factor)
        } else {
            Self::Bits(value * factor)
        })
    }
}

/// Bits per second with a unit: "1.23 Gbit/s".
#[must_use]
pub fn bits(bits_per_second: f64) -> String {
    let (value, unit) = scale(bits_per_second);
    format!("{value:.2} {unit}bit/s")
}

/// A count per second with a unit: "12.30 k/s".
#[must_use]
pub fn count(per_second: f64) -> String {
    let (value, unit) = scale(per_second);
    format!("{value:.2} {unit}/s")
}

fn scale(value: f64) -> (f64, &'static str) {
    match value {
        v if v >= 1e9 => (v / 1e9, "G"),
        v if v >= 1e6 => (v / 1e6, "M"),
        v if v >= 1e3 => (v / 1e3, "k"),
        v => (v, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        let read = |text: &str| text.parse::<Rate>().unwrap();
        assert_eq!(read("500M"), Rate::Bits(5e8));
        assert_eq!(read("1.2G"), Rate::Bits(1.2e9));
        assert_eq!(read("64000"), Rate::Bits(64e3));
        assert_eq!(read("20kpps"), Rate::Packets(2e4));
        assert_eq!(read("1Mpps"), Rate::Packets(1e6));
        for text in ["", "M", "fast", "-1M", "0", "infpps", "1Q", "é"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn bits_become_datagrams() {
        assert_eq!(Rate::Bits(8e6).per_second(1000), 1000.0);
        assert_eq!(Rate::Packets(5.0).per_second(1000), 5.0);
    }

    #[test]
    fn rates_are_shown_with_a_unit() {
        assert_eq!(bits(1.234e9), "1.23 Gbit/s");
        assert_eq!(count(950.0), "950.00 /s");
    }
}
