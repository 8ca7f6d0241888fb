//! Sets of processors as the kernel writes them: `0-3,8` and hexadecimal masks.

use std::collections::BTreeSet;
use std::fmt;

/// The kernel numbers no more processors than this; larger numbers in a file are nonsense.
const MOST: usize = 8192;

/// Processor numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuList(pub BTreeSet<usize>);

impl CpuList {
    /// Reads `0-3,8`; `None` when it is something else. Empty text is the empty set.
    pub fn parse(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= MOST {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(CpuList(cpus))
    }

    /// Reads a mask of 32-bit groups, highest first: `1,00000003`.
    pub fn parse_mask(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for (index, group) in text.trim().rsplit(',').enumerate() {
            let bits = u32::from_str_radix(group, 16).ok()?;
            let first = index * 32;
            cpus.extend(
                (0..32)
                    .filter(|bit| bits >> bit & 1 == 1)
                    .map(|b| first + b),
            );
        }
        Some(CpuList(cpus))
    }

    /// The mask of these processors in the kernel's form.
    pub fn mask(&self) -> String {
        let groups = self.0.last().map_or(1, |last| last / 32 + 1);
        let mut words = vec![0u32; groups];
        for cpu in &self.0 {
            words[cpu / 32] |= 1 << (cpu % 32);
        }
        let highest = words.iter().rev().take(1).map(|word| format!("{word:x}"));
        let rest = words.iter().rev().skip(1).map(|word| format!("{word:08x}"));
        highest.chain(rest).collect::<Vec<_>>().join(",")
    }

    /// No processor at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a processor is in both.
    pub fn overlaps(&self, other: &CpuList) -> bool {
        !self.0.is_disjoint(&other.0)
    }
}

impl FromIterator<usize> for CpuList {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> Self {
        CpuList(cpus.into_iter().collect())
    }
}

/// `0-3,8`, which is also the form of `ringway-cpus`.
impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                1 => write!(f, "{separator}{first},{last}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks() {
        for (list, mask) in [
            ("0", "1"),
            ("0,1", "3"),
            ("0-3,8", "10f"),
            ("1,32,33", "3,00000002"),
        ] {
            let cpus = CpuList::parse(list).unwrap();
            assert_eq!(cpus.to_string(), list);
            assert_eq!(cpus.mask(), mask);
            assert_eq!(CpuList::parse_mask(mask), Some(cpus));
        }
        assert_eq!(CpuList::parse("\n"), Some(CpuList::default()));
        assert!(CpuList::parse_mask("0\n").unwrap().is_empty());
        for bad in ["x", "3-1", "0-99999999999", "1;2"] {
            assert_eq!(CpuList::parse(bad), None, "{bad}");
        }
        assert_eq!(CpuList::parse_mask("zz"), None);
    }
}
