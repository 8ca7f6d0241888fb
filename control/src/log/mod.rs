//! The log: OpenVPN's line format, verbosity levels and options, with a limit on what the network
//! can make it write.
//!
//! ```text
//!  macro -> verb check (one atomic) -> filter (mute, rate) -> format -> stdout | file | syslog
//! ```
//!
//! Every line belongs to a [`Category`]. `mute n` suppresses more than n lines of one category in a
//! row, and categories that a stranger's packets can trigger have a budget per second besides; what
//! is left out is counted and the count is logged. Text from the network loses its control
//! characters here, so a line is always one line. Key material never comes near this module.
//!
//! Verbosity as in OpenVPN: errors and warnings always, 1 start-up and important events, 3 normal
//! operation, 4 details, 5 to 11 debugging. At 4 and above timestamps carry microseconds.

mod filter;
mod sink;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use time::{OffsetDateTime, UtcOffset};

use filter::Filter;
use sink::Sink;

pub use crate::{
    log_debug as debug, log_detail as detail, log_error as error, log_info as info,
    log_notice as notice, log_warn as warn,
};

/// Default of the `verb` option.
pub const DEFAULT_VERB: u8 = 1;

/// From this verbosity on the rate limit is off: whoever asks for packets gets them.
const VERB_UNLIMITED: u8 = 7;

/// From this verbosity on timestamps carry microseconds.
const VERB_MICROSECONDS: u8 = 4;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Target {
    /// Standard output.
    #[default]
    Stdout,
    /// A file (`log`, `log-append`).
    File {
        /// Where it is.
        path: PathBuf,
        /// Keep what it holds.
        append: bool,
    },
    /// The system logger (`syslog`, `daemon`).
    Syslog {
        /// The program name shown there.
        program: String,
    },
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `verb`, 0 to 11.
    pub verb: u8,
    /// `mute`: lines of one category in a row; 0 is no limit.
    pub mute: u32,
    /// Where lines go.
    pub target: Target,
    /// `suppress-timestamps`
    pub suppress_timestamps: bool,
    /// `machine-readable-output`: seconds with fraction and message flags before each line.
    pub machine_readable: bool,
    /// `errors-to-stderr`, only with [`Target::Stdout`].
    pub errors_to_stderr: bool,
    /// With [`Target::File`]: point standard output and standard error to the file too, so that
    /// it receives what scripts print.
    pub redirect_stdio: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            verb: DEFAULT_VERB,
            mute: 0,
            target: Target::default(),
            suppress_timestamps: false,
            machine_readable: false,
            errors_to_stderr: false,
            redirect_stdio: false,
        }
    }
}

/// How bad a line is. Errors and warnings are shown whatever `verb` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The program cannot go on.
    Fatal,
    /// Something asked for did not happen.
    Error,
    /// Something looks wrong.
    Warning,
    /// Ordinary operation.
    Info,
}

/// What a line is about, for `mute` and the rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Never muted, never limited: start-up, state changes, the end.
    General,
    /// Control packets: framing, authentication, sessions that do not exist.
    Control,
    /// TLS handshakes and certificates.
    Tls,
    /// Key negotiation, options comparison, push messages.
    Negotiation,
    /// Data packets: authentication, framing.
    Data,
    /// Replayed or late data packets.
    Replay,
    /// The outer sockets.
    Link,
    /// The TUN or TAP device.
    Tun,
    /// Routes and addresses.
    Route,
    /// Scripts.
    Script,
    /// Management interface.
    Management,
}

impl Category {
    /// All categories, in the order of their numbers.
    pub(crate) const ALL: [Category; 11] = [
        Category::General,
        Category::Control,
        Category::Tls,
        Category::Negotiation,
        Category::Data,
        Category::Replay,
        Category::Link,
        Category::Tun,
        Category::Route,
        Category::Script,
        Category::Management,
    ];

    /// The word used when lines of this category were left out.
    pub fn name(self) -> &'static str {
        match self {
            Category::General => "general",
            Category::Control => "control packet",
            Category::Tls => "TLS",
            Category::Negotiation => "negotiation",
            Category::Data => "data packet",
            Category::Replay => "replay",
            Category::Link => "link",
            Category::Tun => "TUN/TAP",
            Category::Route => "route",
            Category::Script => "script",
            Category::Management => "management",
        }
    }

    /// Whether packets can trigger such lines, so that their number must be limited.
    pub fn from_network(self) -> bool {
        match self {
            Category::Control
            | Category::Tls
            | Category::Negotiation
            | Category::Data
            | Category::Replay
            | Category::Link
            | Category::Tun => true,
            Category::General | Category::Route | Category::Script | Category::Management => false,
        }
    }
}

/// Starts logging, or changes how (a SIGHUP). On an error the previous way stays in force. A log
/// file that was in use already is opened anew and goes on; it is not truncated a second time.
pub fn init(config: LogConfig) -> io::Result<()> {
    let mut opened = config.clone();
    if let (Target::File { path, append }, Target::File { path: old, .. }) =
        (&mut opened.target, &lock().config.target)
    {
        *append |= path == old;
    }
    let sink = Sink::open(&opened)?;
    // Reads the time zone while /etc is still in reach of a later chroot.
    let _ = OffsetDateTime::now_local();
    let mut logger = lock();
    VERB.store(config.verb, Ordering::Relaxed);
    logger.filter.set_mute(config.mute);
    logger.sink = sink;
    logger.config = config;
    Ok(())
}

/// Changes the verbosity (`verb` from the management interface or pushed).
pub fn set_verb(verb: u8) {
    lock().config.verb = verb;
    VERB.store(verb, Ordering::Relaxed);
}

/// Changes `mute`; 0 is no limit.
pub fn set_mute(mute: u32) {
    let mut logger = lock();
    logger.config.mute = mute;
    logger.filter.set_mute(mute);
}

/// The verbosity in force.
pub fn verb() -> u8 {
    VERB.load(Ordering::Relaxed)
}

/// Whether lines of this level are shown: ask before computing something costly to print.
pub fn enabled(level: u8) -> bool {
    level <= verb()
}

/// Opens the log file anew, appending, after it was renamed away. Does nothing for other targets;
/// on an error the old file stays in use.
pub fn reopen() -> io::Result<()> {
    let mut logger = lock();
    let mut config = logger.config.clone();
    if let Target::File { append, .. } = &mut config.target {
        *append = true;
        logger.sink = Sink::open(&config)?;
    }
    Ok(())
}

/// Logs how many lines were left out since the last time, if any were. Call it now and then (once a
/// second is plenty) and before the end.
pub fn report_suppressed() {
    lock().report_suppressed();
}

/// Writes one line. The macros of this module call it after looking at the level.
pub fn line(severity: Severity, level: u8, category: Category, text: fmt::Arguments<'_>) {
    if severity == Severity::Info && !enabled(level) {
        return;
    }
    lock().line(Instant::now(), severity, level, category, text);
}

static VERB: AtomicU8 = AtomicU8::new(DEFAULT_VERB);
static LOGGER: Mutex<Option<Logger>> = Mutex::new(None);

#[derive(Debug)]
struct Logger {
    config: LogConfig,
    filter: Filter,
    sink: Sink,
}

impl Default for Logger {
    fn default() -> Self {
        Logger {
            config: LogConfig::default(),
            filter: Filter::new(0),
            sink: Sink::Stdout,
        }
    }
}

impl Logger {
    fn line(
        &mut self,
        now: Instant,
        severity: Severity,
        level: u8,
        category: Category,
        text: fmt::Arguments<'_>,
    ) {
        let limited = self.config.verb < VERB_UNLIMITED;
        let urgent = matches!(severity, Severity::Fatal | Severity::Error);
        let verdict = self.filter.admit(now, category, limited, urgent);
        if let Some(note) = verdict.note {
            self.write(Severity::Info, 1, &note);
        }
        if verdict.show {
            self.write(severity, level, &clean(&text.to_string()));
        }
    }

    fn report_suppressed(&mut self) {
        for note in self.filter.take_notes() {
            self.write(Severity::Info, 1, &note);
        }
    }

    fn write(&mut self, severity: Severity, level: u8, text: &str) {
        let now = OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc());
        if let Sink::Syslog(syslog) = &mut self.sink {
            syslog.send(now, severity, text);
            return;
        }
        let mut whole = prefix(&self.config, now, severity, level);
        whole.push_str(text);
        whole.push('\n');
        self.sink
            .write(severity, self.config.errors_to_stderr, &whole);
    }
}

/// The local time as status files and statistics write it: `2026-11-22 20:52:56`.
pub fn timestamp() -> String {
    shown(OffsetDateTime::now_local().unwrap_or_else(|_| OffsetDateTime::now_utc()))
}

/// A time in seconds since 1970, as [`timestamp`] writes it.
pub fn timestamp_of(unix: u64) -> String {
    let time = i64::try_from(unix)
        .ok()
        .and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let zone = UtcOffset::local_offset_at(time).unwrap_or(UtcOffset::UTC);
    shown(time.checked_to_offset(zone).unwrap_or(time))
}

fn shown(time: OffsetDateTime) -> String {
    let (date, time) = (time.date(), time.time());
    format!(
        "{date} {:02}:{:02}:{:02}",
        time.hour(),
        time.minute(),
        time.second()
    )
}

/// What stands before a line's text.
fn prefix(config: &LogConfig, now: OffsetDateTime, severity: Severity, level: u8) -> String {
    if config.machine_readable {
        return format!(
            "{}.{:06} {:x} ",
            now.unix_timestamp(),
            now.microsecond(),
            flags(severity, level)
        );
    }
    if config.suppress_timestamps {
        return String::new();
    }
    let mut stamp = format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} ",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    );
    if config.verb >= VERB_MICROSECONDS {
        stamp.push_str(&format!("us={} ", now.microsecond()));
    }
    stamp
}

/// OpenVPN's message flags: the level in the low four bits, then fatal, non-fatal error, warning.
fn flags(severity: Severity, level: u8) -> u32 {
    match severity {
        Severity::Fatal => 0x10,
        Severity::Error => 0x20,
        Severity::Warning => 0x40,
        Severity::Info => u32::from(level & 0x0f),
    }
}

/// Replaces control characters, which could forge lines or drive a terminal.
fn clean(text: &str) -> String {
    text.trim_end_matches('\n')
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '_' } else { c })
        .collect()
}

fn lock() -> LoggerGuard {
    let mut guard = LOGGER.lock().unwrap_or_else(PoisonError::into_inner);
    guard.get_or_insert_with(Logger::default);
    LoggerGuard(guard)
}

/// The logger, present from the first use on.
struct LoggerGuard(MutexGuard<'static, Option<Logger>>);

impl std::ops::Deref for LoggerGuard {
    type Target = Logger;

    #[expect(clippy::unwrap_used, reason = "lock() puts a logger in")]
    fn deref(&self) -> &Logger {
        self.0.as_ref().unwrap()
    }
}

impl std::ops::DerefMut for LoggerGuard {
    #[expect(clippy::unwrap_used, reason = "lock() puts a logger in")]
    fn deref_mut(&mut self) -> &mut Logger {
        self.0.as_mut().unwrap()
    }
}

/// An error: shown at every verbosity. `error!("..")` or `error!(in Route, "..")`.
#[macro_export]
macro_rules! log_error {
    (in $category:ident, $($text:tt)+) => {
        $crate::log::line($crate::log::Severity::Error, 0, $crate::log::Category::$category, format_args!($($text)+))
    };
    ($($text:tt)+) => { $crate::log_error!(in General, $($text)+) };
}

/// A warning: shown at every verbosity. `warn!("..")` or `warn!(in Data, "..")`.
#[macro_export]
macro_rules! log_warn {
    (in $category:ident, $($text:tt)+) => {
        $crate::log::line($crate::log::Severity::Warning, 0, $crate::log::Category::$category, format_args!($($text)+))
    };
    ($($text:tt)+) => { $crate::log_warn!(in General, $($text)+) };
}

/// An important event, shown from `verb 1`.
#[macro_export]
macro_rules! log_notice {
    (in $category:ident, $($text:tt)+) => { $crate::log_debug!(1, $category, $($text)+) };
    ($($text:tt)+) => { $crate::log_debug!(1, General, $($text)+) };
}

/// Normal operation, shown from `verb 3`.
#[macro_export]
macro_rules! log_info {
    (in $category:ident, $($text:tt)+) => { $crate::log_debug!(3, $category, $($text)+) };
    ($($text:tt)+) => { $crate::log_debug!(3, General, $($text)+) };
}

/// Details, shown from `verb 4`.
#[macro_export]
macro_rules! log_detail {
    (in $category:ident, $($text:tt)+) => { $crate::log_debug!(4, $category, $($text)+) };
    ($($text:tt)+) => { $crate::log_debug!(4, General, $($text)+) };
}

/// A line of a given level and category: `debug!(7, Control, "..")`. Arguments are not evaluated
/// below that verbosity.
#[macro_export]
macro_rules! log_debug {
    ($level:expr, $category:ident, $($text:tt)+) => {
        if $crate::log::enabled($level) {
            $crate::log::line($crate::log::Severity::Info, $level, $crate::log::Category::$category, format_args!($($text)+))
        }
    };
}

#[cfg(test)]
mod tests {
    use std::fs;

    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-22 20:52:56.007_89 +1);

    fn prefix_with(change: impl FnOnce(&mut LogConfig), severity: Severity, level: u8) -> String {
        let mut config = LogConfig::default();
        change(&mut config);
        prefix(&config, NOW, severity, level)
    }

    #[test]
    fn prefixes() {
        let info = Severity::Info;
        assert_eq!(prefix_with(|_| {}, info, 1), "2026-11-22 20:52:56 ");
        assert_eq!(
            prefix_with(|c| c.verb = 4, info, 1),
            "2026-11-22 20:52:56 us=7890 "
        );
        assert_eq!(prefix_with(|c| c.suppress_timestamps = true, info, 1), "");
        let machine = |c: &mut LogConfig| c.machine_readable = true;
        assert_eq!(prefix_with(machine, info, 3), "1795377176.007890 3 ");
        assert_eq!(
            prefix_with(machine, Severity::Warning, 0),
            "1795377176.007890 40 "
        );
        assert_eq!(
            prefix_with(machine, Severity::Fatal, 0),
            "1795377176.007890 10 "
        );
    }

    #[test]
    fn text_stays_on_one_line() {
        assert_eq!(clean("a\nb\x1b[2J\tc\n"), "a_b_[2J\tc");
        assert_eq!(clean("größe"), "größe");
    }

    #[test]
    fn a_file_gets_the_lines_and_survives_rotation() {
        let directory = std::env::temp_dir().join(format!("ringway-log-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("a.log");
        fs::write(&path, "old\n").unwrap();
        let config = LogConfig {
            verb: 3,
            mute: 2,
            suppress_timestamps: true,
            target: Target::File {
                path: path.clone(),
                append: false,
            },
            ..LogConfig::default()
        };
        let mut logger = Logger {
            sink: Sink::open(&config).unwrap(),
            filter: Filter::new(config.mute),
            config: config.clone(),
        };
        let now = Instant::now();
        for n in 0..5 {
            logger.line(
                now,
                Severity::Info,
                3,
                Category::Route,
                format_args!("route {n}"),
            );
        }
        logger.line(now, Severity::Info, 1, Category::General, format_args!("x"));
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "route 0\nroute 1\n3 more route messages suppressed by mute 2\nx\n"
        );

        let moved = directory.join("a.log.1");
        fs::rename(&path, &moved).unwrap();
        logger.sink = Sink::open(&LogConfig {
            target: Target::File {
                path: path.clone(),
                append: true,
            },
            ..config
        })
        .unwrap();
        logger.line(now, Severity::Info, 1, Category::General, format_args!("y"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "y\n");
        fs::remove_dir_all(&directory).unwrap();
    }

    const CHILD: &str = "RINGWAY_TEST_LOG";

    #[test]
    fn a_log_file_also_gets_what_scripts_print() {
        let path = std::env::temp_dir().join(format!("ringway-log-all-{}", std::process::id()));
        fs::write(&path, "old\n").unwrap();
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "log::tests::child_logs",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD, &path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('>')).collect();
        assert_eq!(lines, ["> one", "> script", "> error", "> two", "> three"]);
        assert!(!text.contains("old"));
    }

    #[test]
    #[ignore = "started by a_log_file_also_gets_what_scripts_print"]
    fn child_logs() {
        let Some(path) = std::env::var_os(CHILD) else {
            return;
        };
        let config = LogConfig {
            verb: 3,
            suppress_timestamps: true,
            redirect_stdio: true,
            target: Target::File {
                path: path.into(),
                append: false,
            },
            ..LogConfig::default()
        };
        init(config.clone()).unwrap();
        info!("> one");
        let script = std::process::Command::new("/bin/sh")
            .args(["-c", "echo '> script'; echo '> error' >&2"])
            .status();
        assert!(script.unwrap().success());
        // Reading the configuration anew does not truncate the file again.
        init(config).unwrap();
        warn!(in Route, "> two");
        detail!("> not shown");
        reopen().unwrap();
        set_verb(4);
        detail!("> three");
        report_suppressed();
    }

    #[test]
    fn arguments_below_the_level_are_not_evaluated() {
        let mut evaluated = false;
        let mut touch = || {
            evaluated = true;
            1
        };
        debug!(11, Data, "{}", touch());
        assert!(!evaluated);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let config = LogConfig {
            target: Target::File {
                path: "/nonexistent/x.log".into(),
                append: true,
            },
            ..LogConfig::default()
        };
        assert!(Sink::open(&config).is_err());
    }
}
