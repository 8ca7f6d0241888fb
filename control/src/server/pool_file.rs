//! `ifconfig-pool-persist`: who had which address, over restarts.
//!
//! ```text
//!  common name,IPv4 address,IPv6 address        either may be empty, the last one may be missing
//! ```
//! What cannot be read is told and skipped, as in OpenVPN; what was in the file stays there until
//! new content is safely written. A file with `seconds` 0 is only read, and its addresses are kept
//! for the clients it names.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::pool::{AddressPool, MAX_SLOTS, Remembered};
use crate::config::server::PoolPersist;
use crate::host::output_file::OutputFile;

/// Longest line read or written, in bytes.
const MAX_LINE: usize = 255;
/// Longest file read, in bytes: a line for every slot of the largest pool.
const MAX_FILE: u64 = MAX_SLOTS as u64 * (MAX_LINE as u64 + 1);
/// Most lines of a file that are told to be wrong.
const MAX_WARNINGS: usize = 20;

/// The file of a pool.
#[derive(Debug)]
pub struct PoolFile {
    path: PathBuf,
    /// `None` is never written.
    output: Option<OutputFile>,
    seconds: u64,
    /// What is known to be in the file.
    written: String,
}

impl PoolFile {
    /// Opens the file, creating it if it may be written, and lets the pool remember what is in it.
    /// `now` is in seconds since 1970. The texts are warnings, each about one line.
    ///
    /// # Errors
    /// The file cannot be opened or read, or is too long for a pool's. Nothing is written then, so
    /// that nothing stored is lost.
    pub fn open(
        persist: &PoolPersist,
        pool: &mut AddressPool,
        now: u64,
    ) -> io::Result<(Self, Vec<String>)> {
        let output = match persist.seconds {
            0 => None,
            _ => Some(OutputFile::open(&persist.path, true)?),
        };
        let mut warnings = Vec::new();
        let mut bytes = Vec::new();
        match File::open(&persist.path) {
            Ok(file) => {
                file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                warnings.push(format!("{}: {error}", persist.path.display()));
            }
            Err(error) => return Err(error),
        }
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "longer than any pool's file",
            ));
        }
        let text = String::from_utf8_lossy(&bytes);
        let mut problems = 0;
        let mut warn = |line: usize, what: &dyn std::fmt::Display| {
            problems += 1;
            if problems <= MAX_WARNINGS {
                warnings.push(format!("{}:{line}: {what}", persist.path.display()));
            }
        };
        for (line, parsed) in parse(&text) {
            match parsed {
                Ok(stored) => {
                    for what in restore(pool, &stored, now, output.is_none()) {
                        warn(line, &what);
                    }
                }
                Err(what) => warn(line, &what),
            }
        }
        if problems > MAX_WARNINGS {
            warnings.push(format!(
                "{}: {} more lines like these",
                persist.path.display(),
                problems - MAX_WARNINGS
            ));
        }
        let file = PoolFile {
            path: persist.path.clone(),
            output,
            seconds: persist.seconds,
            written: text.into_owned(),
        };
        Ok((file, warnings))
    }

    /// The file's name.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Seconds between calls of [`PoolFile::save`]; `None` for never.
    pub fn interval(&self) -> Option<u64> {
        self.output.as_ref().map(|_| self.seconds)
    }

    /// Writes who has or had which address, if that differs from what is in the file. Whether it
    /// was written.
    ///
    /// # Errors
    /// The file could not be written, and what was in it is still there; the next call tries again.
    pub fn save(&mut self, pool: &AddressPool) -> io::Result<bool> {
        let Some(output) = &mut self.output else {
            return Ok(false);
        };
        let text = to_text(pool);
        if text == self.written {
            return Ok(false);
        }
        output.write(&text)?;
        self.written = text;
        Ok(true)
    }
}

/// The lines of a file that say something, by number from 1: what was stored, or what is wrong.
/// Empty lines and those beginning with `#` or `;` say nothing.
pub fn parse(text: &str) -> impl Iterator<Item = (usize, Result<Remembered, &'static str>)> + '_ {
    (1..).zip(text.lines()).filter_map(|(number, line)| {
        let says_something = !line.is_empty() && !line.starts_with(['#', ';']);
        says_something.then(|| (number, parse_line(line)))
    })
}

/// The content of the file: the slots with a name, in order.
pub fn to_text(pool: &AddressPool) -> String {
    let mut text = String::new();
    for slot in pool.remembered() {
        let v4 = slot.v4.map(|v4| v4.to_string()).unwrap_or_default();
        let v6 = slot.v6.map(|v6| v6.to_string()).unwrap_or_default();
        let line = format!("{},{v4},{v6}", slot.common_name);
        // A name that could not be read again would only be noise.
        if parse_line(&line).as_ref() == Ok(&slot) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

/// Addresses are looked for from the end, so that a name may have commas in it.
fn parse_line(line: &str) -> Result<Remembered, &'static str> {
    if line.len() > MAX_LINE {
        return Err("the line is too long");
    }
    if line.chars().any(char::is_control) {
        return Err("the line has control characters");
    }
    let (rest, last) = line.rsplit_once(',').ok_or("there is no address")?;
    let (common_name, v4, v6) = match last.parse::<Ipv4Addr>() {
        // Without the third field, as written by servers without IPv6.
        Ok(v4) => (rest, Some(v4), None),
        Err(_) => {
            let v6 = address::<Ipv6Addr>(last).ok_or("the last field is no address")?;
            let (name, v4) = rest.rsplit_once(',').ok_or("the IPv4 field is missing")?;
            let v4 = address::<Ipv4Addr>(v4).ok_or("the IPv4 field is no address")?;
            (name, v4, v6)
        }
    };
    if common_name.is_empty() || common_name.starts_with(['#', ';']) {
        return Err("there is no common name");
    }
    if v4.is_none() && v6.is_none() {
        return Err("there is no address");
    }
    Ok(Remembered {
        common_name: common_name.to_owned(),
        v4,
        v6,
    })
}

/// An address or nothing; `None` for something else.
fn address<A: std::str::FromStr>(text: &str) -> Option<Option<A>> {
    match text {
        "" => Some(None),
        text => text.parse().ok().map(Some),
    }
}

/// Lets the pool remember what was stored. `now` is in seconds since 1970; a `fixed` address is for
/// its name only. The texts are warnings.
pub fn restore(pool: &mut AddressPool, stored: &Remembered, now: u64, fixed: bool) -> Vec<String> {
    let name = &stored.common_name;
    let mut warnings = Vec::new();
    let mut inside = |address: Option<IpAddr>| {
        let address = address?;
        let slot = pool.slot_of(address);
        if slot.is_none() {
            warnings.push(format!("{address} of {name} is outside the pool"));
        }
        slot.map(|slot| (address, slot))
    };
    let v4 = inside(stored.v4.map(IpAddr::V4));
    let v6 = inside(stored.v6.map(IpAddr::V6));
    if let (Some((_, v4)), Some((_, v6))) = (v4, v6)
        && v4 != v6
    {
        warnings.push(format!(
            "the addresses of {name} do not belong together, the IPv4 address counts"
        ));
    }
    if let Some((address, _)) = v4.or(v6) {
        pool.remember(address, name, now, fixed);
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::pool::PoolLayout;
    use super::*;

    fn pool() -> AddressPool {
        AddressPool::new(&PoolLayout {
            v4: Some(("10.8.0.2".parse().unwrap(), "10.8.0.254".parse().unwrap())),
            v6: Some(("fd00::1000".parse().unwrap(), 64)),
            ..PoolLayout::default()
        })
        .unwrap()
        .unwrap()
    }

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ringway-pool-{name}-{}", std::process::id()))
    }

    fn persist(path: &Path, seconds: u64) -> PoolPersist {
        PoolPersist {
            path: path.to_owned(),
            seconds,
        }
    }

    #[test]
    fn a_run_and_the_next() {
        let path = path("runs");
        let _ = std::fs::remove_file(&path);
        let mut first = pool();
        let (mut file, warnings) = PoolFile::open(&persist(&path, 600), &mut first, 1).unwrap();
        assert_eq!((warnings.len(), file.interval()), (0, Some(600)));
        assert!(!file.save(&first).unwrap(), "nothing to say yet");
        first.acquire(Some("a")).unwrap();
        let b = first.acquire(Some("b, of C")).unwrap();
        assert!(file.save(&first).unwrap());
        assert!(!file.save(&first).unwrap(), "nothing new");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "a,10.8.0.2,fd00::1000\nb, of C,10.8.0.3,fd00::1001\n"
        );
        let mut second = pool();
        let (_, warnings) = PoolFile::open(&persist(&path, 600), &mut second, 2).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(warnings, [""; 0]);
        assert_eq!(second.acquire(Some("b, of C")), Some(b));
    }

    #[test]
    fn files_of_others() {
        let path = path("others");
        let text = "# comment\r\n\nold,10.8.0.9\nsix,,fd00::1008\nfar,192.0.2.1,\n\
                    odd,10.8.0.11,fd00::1000\nnothing\nx,10.8.0.300,\ny,,\n,10.8.0.12,\n";
        std::fs::write(&path, text).unwrap();
        let mut pool = pool();
        let (mut file, warnings) = PoolFile::open(&persist(&path, 0), &mut pool, 1).unwrap();
        let name = path.display();
        assert_eq!(
            warnings,
            [
                format!("{name}:5: 192.0.2.1 of far is outside the pool"),
                format!(
                    "{name}:6: the addresses of odd do not belong together, the IPv4 address counts"
                ),
                format!("{name}:7: there is no address"),
                format!("{name}:8: the IPv4 field is no address"),
                format!("{name}:9: there is no address"),
                format!("{name}:10: there is no common name"),
            ]
        );
        for (name, slot) in [("old", 7), ("six", 8), ("odd", 9)] {
            assert_eq!(pool.acquire(Some(name)).unwrap().slot, slot);
        }
        pool.acquire(Some("new"));
        assert_eq!(file.interval(), None);
        assert!(!file.save(&pool).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "only read");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn errors_leave_the_file_alone() {
        assert!(
            PoolFile::open(&persist(Path::new("/nonexistent/x"), 600), &mut pool(), 1).is_err()
        );
        let (_, warnings) = PoolFile::open(&persist(&path("none"), 0), &mut pool(), 1).unwrap();
        assert_eq!(warnings.len(), 1, "nothing to read is only worth a warning");
        let path = path("long");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(MAX_FILE + 1)
            .unwrap();
        let error = PoolFile::open(&persist(&path, 600), &mut pool(), 1).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn many_wrong_lines_are_summed_up() {
        let path = path("many");
        std::fs::write(&path, "x\n".repeat(50)).unwrap();
        let (_, warnings) = PoolFile::open(&persist(&path, 600), &mut pool(), 1).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(warnings.len(), MAX_WARNINGS + 1);
        assert!(warnings[20].ends_with("30 more lines like these"));
    }

    #[test]
    fn a_full_disk_costs_nothing_stored() {
        // The device for a full disk stands for the file; what the file had is in `written`.
        let mut pool = pool();
        let (mut file, _) = PoolFile::open(&persist(Path::new("/dev/null"), 600), &mut pool, 1)
            .expect("an empty file");
        file.output = Some(OutputFile::open(Path::new("/dev/full"), true).unwrap());
        pool.acquire(Some("a")).unwrap();
        for _ in 0..2 {
            let error = file.save(&pool).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert_eq!(file.written, "", "the next call tries again");
        }
    }

    #[test]
    fn names_that_cannot_be_read_again_are_left_out() {
        let mut pool = pool();
        for name in ["#a", "", "a\nb", &"x".repeat(300), "ok"] {
            pool.acquire(Some(name)).unwrap();
        }
        assert_eq!(to_text(&pool), "ok,10.8.0.6,fd00::1004\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(names in proptest::collection::btree_set("[ -~]{1,20}", 0..20)) {
            let mut first = pool();
            for name in &names {
                first.acquire(Some(name)).unwrap();
            }
            let mut second = pool();
            for (_, line) in parse(&to_text(&first)) {
                let warnings = restore(&mut second, &line.unwrap(), 1, false);
                prop_assert_eq!(warnings, Vec::<String>::new());
            }
            prop_assert_eq!(to_text(&second), to_text(&first));
        }

        #[test]
        fn arbitrary_text_never_panics(text: String) {
            for (_, line) in parse(&text) {
                if let Ok(stored) = line {
                    restore(&mut pool(), &stored, 1, false);
                }
            }
        }
    }
}
