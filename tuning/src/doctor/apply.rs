//! Makes changes to the running kernel, checks them, and writes down how to take them back.
//!
//! ```text
//!  #!/bin/sh
//!  # ringway doctor: takes back what --apply changed, the newest change first.
//!  failed=0
//!  ethtool -K eth0 tx-udp-segmentation off || failed=1
//!  [ $failed = 0 ] && rm -- "$0"
//! ```
//! The script is written before the first change, so that an interrupted run can be taken back too,
//! and once more with what really changed. Lines of an earlier run stay, behind the new ones: the
//! value before the first run is the last one set. It removes itself when all went well, so that a
//! later run starts anew.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use serde::Serialize;

use super::finding::{Change, Target};
use crate::netlink::{self, Ethtool};

/// Where the undo script goes unless told otherwise.
pub const UNDO_FILE: &str = "/run/ringway/doctor-undo.sh";

const HEAD: &str = "#!/bin/sh\n\
    # ringway doctor: takes back what --apply changed, the newest change first.\n\
    failed=0\n";
const TAIL: &str = "[ $failed = 0 ] && rm -- \"$0\"\n";
const EACH: &str = " || failed=1";

/// How a change went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The command that does the same.
    pub command: String,
    /// The command that takes it back.
    pub undo: String,
    /// Why it failed; `None` when it was read back as wanted.
    pub error: Option<String>,
}

/// Reads and writes settings; the kernel's, or a made-up one's.
pub trait Settings {
    /// The value now.
    ///
    /// # Errors
    /// In words for a person.
    fn read(&mut self, target: &Target) -> Result<String, String>;

    /// Sets a value.
    ///
    /// # Errors
    /// In words for a person.
    fn write(&mut self, target: &Target, value: &str) -> Result<(), String>;
}

/// Makes the changes. Returns how each went, and whether there is now something to take back with
/// the script at `undo`.
///
/// # Errors
/// When the script cannot be written: then nothing has been changed.
pub fn apply(
    changes: &[Change],
    settings: &mut dyn Settings,
    undo: &Path,
) -> Result<(Vec<Outcome>, bool), String> {
    let fail = |error: io::Error| format!("cannot write {}: {error}", undo.display());
    if changes.is_empty() {
        return Ok((Vec::new(), false));
    }
    let earlier = earlier_lines(undo).map_err(fail)?;
    write_script(undo, changes.iter(), &earlier).map_err(fail)?;
    let outcomes: Vec<Outcome> = changes
        .iter()
        .map(|change| Outcome {
            command: change.command(),
            undo: change.undo(),
            error: make(change, settings).err(),
        })
        .collect();
    // A change that was made but reads back otherwise is taken back as well: it did something.
    let touched = |target: &Target, from: &str, settings: &mut dyn Settings| {
        settings.read(target).is_ok_and(|now| now != from)
    };
    let done: Vec<&Change> = changes
        .iter()
        .filter(|change| touched(&change.target, &change.from, settings))
        .collect();
    if done.is_empty() && earlier.is_empty() {
        // It names only what did not happen.
        fs::remove_file(undo).map_err(fail)?;
    } else {
        write_script(undo, done.iter().copied(), &earlier).map_err(fail)?;
    }
    Ok((outcomes, !done.is_empty()))
}

fn make(change: &Change, settings: &mut dyn Settings) -> Result<(), String> {
    let before = settings.read(&change.target)?;
    if before != change.from {
        return Err(format!(
            "it is {before} meanwhile, not {}: left alone",
            change.from
        ));
    }
    settings.write(&change.target, &change.to)?;
    let after = settings.read(&change.target)?;
    match after == change.to {
        true => Ok(()),
        false => Err(format!("the kernel accepted it, but it is still {after}")),
    }
}

/// The commands of an undo script that is already there.
fn earlier_lines(path: &Path) -> io::Result<Vec<String>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
        .open(path);
    let mut file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let metadata = file.metadata()?;
    let mut text = String::new();
    if metadata.is_file() && metadata.uid() == geteuid().as_raw() {
        file.read_to_string(&mut text)?;
    }
    let Some(body) = text.strip_prefix(HEAD) else {
        let message = "there is another file of that name";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    };
    let commands = body.lines().filter_map(|line| line.strip_suffix(EACH));
    Ok(commands.map(str::to_owned).collect())
}

/// Writes the script beside its place and moves it there.
fn write_script<'a>(
    path: &Path,
    changes: impl DoubleEndedIterator<Item = &'a Change>,
    earlier: &[String],
) -> io::Result<()> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::create_dir_all(folder)?;
    }
    let mut text = HEAD.to_owned();
    for command in changes
        .rev()
        .map(Change::undo)
        .chain(earlier.iter().cloned())
    {
        text += &format!("{command}{EACH}\n");
    }
    text += TAIL;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&beside)?;
        file.set_permissions(fs::Permissions::from_mode(0o700))?;
        file.write_all(text.as_bytes())?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// The settings of the running kernel.
#[derive(Debug, Default)]
pub struct Host;

impl Settings for Host {
    fn read(&mut self, target: &Target) -> Result<String, String> {
        match target {
            Target::Sysctl(name) => read_file(&sysctl(name)),
            Target::File(path) => read_file(path),
            Target::Feature { link, name } => {
                let features = Ethtool::open()
                    .and_then(|mut ethtool| ethtool.features(link))
                    .map_err(|error| format!("{link}: {error}"))?;
                match features.get(*name) {
                    Some(feature) => Ok(if feature.on { "on" } else { "off" }.to_owned()),
                    None => Err(format!("{link} has no {name}")),
                }
            }
            Target::TxQueueLen { link } => {
                let links = netlink::links().map_err(|error| error.to_string())?;
                let state = links.iter().find(|state| state.name == *link);
                let state = state.ok_or_else(|| format!("there is no {link}"))?;
                Ok(state.txqueuelen.to_string())
            }
        }
    }

    fn write(&mut self, target: &Target, value: &str) -> Result<(), String> {
        let told = |error: io::Error| error.to_string();
        match target {
            Target::Sysctl(name) => write_file(&sysctl(name), value),
            Target::File(path) => write_file(path, value),
            Target::Feature { link, name } => {
                undo_needs("ethtool")?;
                Ethtool::open()
                    .and_then(|mut ethtool| ethtool.set_feature(link, name, value == "on"))
                    .map_err(told)
            }
            Target::TxQueueLen { link } => {
                undo_needs("ip")?;
                let packets = value
                    .parse()
                    .map_err(|_| format!("{value} is not a number"))?;
                netlink::set_txqueuelen(link, packets).map_err(told)
            }
        }
    }
}

fn sysctl(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

fn read_file(path: &Path) -> Result<String, String> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn write_file(path: &Path, value: &str) -> Result<(), String> {
    let file = OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// What the undo script could not do is not done in the first place.
fn undo_needs(program: &str) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        true => Ok(()),
        false => Err(format!(
            "{program} is not installed, so it could not be taken back: left alone"
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A host whose files are a map; a value that begins with `stuck` stays.
    #[derive(Default)]
    struct MadeUp(BTreeMap<Target, String>);

    impl Settings for MadeUp {
        fn read(&mut self, target: &Target) -> Result<String, String> {
            self.0.get(target).cloned().ok_or("gone".to_owned())
        }

        fn write(&mut self, target: &Target, value: &str) -> Result<(), String> {
            let now = self.0.get_mut(target).ok_or("gone")?;
            if !now.starts_with("stuck") {
                *now = value.to_owned();
            }
            Ok(())
        }
    }

    fn file(name: &str) -> Target {
        Target::File(name.into())
    }

    fn script(name: &str) -> PathBuf {
        let name = format!("ringway-undo-{name}-{}.sh", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn changes_are_made_checked_and_written_down() {
        let path = script("made");
        let mut host = MadeUp(
            [("a", "1"), ("b", "stuck"), ("c", "7")]
                .map(|(name, value)| (file(name), value.to_owned()))
                .into(),
        );
        let changes = [
            Change::new(file("a"), "1", "2"),
            Change::new(file("b"), "stuck", "2"),
            Change::new(file("c"), "6", "2"),
            Change::new(file("d"), "1", "2"),
        ];
        let (outcomes, undo) = apply(&changes, &mut host, &path).unwrap();
        assert!(undo);
        let errors: Vec<_> = outcomes.iter().map(|o| o.error.as_deref()).collect();
        assert_eq!(
            errors,
            [
                None,
                Some("the kernel accepted it, but it is still stuck"),
                Some("it is 7 meanwhile, not 6: left alone"),
                Some("gone"),
            ]
        );
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("echo 1 > a || failed=1\n"), "{text}");
        assert!(!text.contains("> b") && !text.contains("> d"), "{text}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_first_value_is_the_last_one_restored() {
        let path = script("twice");
        let mut host = MadeUp([(file("a"), "1".to_owned())].into());
        for (from, to) in [("1", "2"), ("2", "3")] {
            apply(&[Change::new(file("a"), from, to)], &mut host, &path).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        let newer = text.find("echo 2 > a").unwrap();
        let older = text.find("echo 1 > a").unwrap();
        assert!(newer < older, "{text}");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_script_runs_and_removes_itself() {
        let (path, setting) = (script("run"), script("setting"));
        fs::write(&setting, "old\n").unwrap();
        let target = Target::File(setting.clone());
        let change = Change::new(target, "old", "new");
        let (outcomes, _) = apply(&[change], &mut Host, &path).unwrap();
        assert_eq!(outcomes[0].error, None);
        let run = || {
            std::process::Command::new("sh")
                .arg(&path)
                .status()
                .unwrap()
        };
        assert!(run().success());
        assert_eq!(fs::read_to_string(&setting).unwrap(), "old\n");
        assert!(!path.exists());
        fs::remove_file(&setting).unwrap();
    }

    #[test]
    fn nothing_is_changed_when_it_could_not_be_undone() {
        let path = script("foreign");
        fs::write(&path, "#!/bin/sh\nsomething else\n").unwrap();
        let mut host = MadeUp([(file("a"), "1".to_owned())].into());
        let change = [Change::new(file("a"), "1", "2")];
        assert!(apply(&change, &mut host, &path).is_err());
        assert_eq!(host.0[&file("a")], "1");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/nonexistent", &path).unwrap();
        assert!(apply(&change, &mut host, &path).is_err());
        fs::remove_file(&path).unwrap();
        assert_eq!(apply(&[], &mut host, &path), Ok((Vec::new(), false)));
        assert!(!path.exists());
    }

    #[test]
    fn a_script_of_nothing_is_not_left_behind() {
        let path = script("nothing");
        let change = [Change::new(file("a"), "1", "2")];
        let (outcomes, undo) = apply(&change, &mut MadeUp::default(), &path).unwrap();
        assert!(!undo && outcomes[0].error.is_some() && !path.exists());
    }
}
