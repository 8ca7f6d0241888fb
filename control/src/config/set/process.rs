//! Options of scripts, the process, logs, and Ringway's own.

use std::time::Duration;

use crate::config::draft::{Draft, Given};
use crate::config::lexer;
use crate::config::options::{IoEngine, LogFile, Script, StatusFile};
use crate::config::values::{choice, number_u8, number_u32, some_seconds, variable_name};

/// Takes over an option of this group.
pub(super) fn set(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    Ok(set_scripts(draft, given)?
        || set_process(draft, given)?
        || set_logs(draft, given)?
        || set_ringway(draft, given)?)
}

fn set_scripts(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "script-security" => options.script_security = number_u8(given.arg(0), 0..=3)?,
        "setenv" | "setenv-safe" => {
            let name = variable_name(given.arg(0))?;
            let name = match given.name {
                "setenv-safe" => format!("OPENVPN_{name}"),
                _ => name,
            };
            if given.args.len() > 2 {
                return Err("a name and one value are wanted; quote a value with blanks".to_owned());
            }
            options.setenv.push((name, given.arg(1).to_owned()));
        }
        "up" => options.up = Some(script(given)?),
        "down" => options.down = Some(script(given)?),
        "route-up" => options.route_up = Some(script(given)?),
        "route-pre-down" => options.route_pre_down = Some(script(given)?),
        "ipchange" => options.ipchange = Some(script(given)?),
        "up-delay" => options.up_delay = true,
        "up-restart" => options.up_restart = true,
        "down-pre" => options.down_pre = true,
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_process(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "user" => options.user = Some(given.arg(0).to_owned()),
        "group" => options.group = Some(given.arg(0).to_owned()),
        "chroot" => options.chroot = Some(given.path(given.arg(0))?),
        "daemon" | "syslog" => {
            options.daemon |= given.name == "daemon";
            options.syslog = true;
            if let Some(name) = given.args.first() {
                options.progname = Some(name.clone());
            }
        }
        "writepid" => options.writepid = Some(given.path(given.arg(0))?),
        "mlock" => options.mlock = true,
        "nice" => {
            let text = given.arg(0);
            let steps = text.parse().ok().filter(|steps| (-40..=39).contains(steps));
            options.nice = match steps {
                Some(steps) => Some(steps),
                None => return Err(format!("\"{text}\" is not a number from -40 to 39")),
            };
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_logs(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "verb" => options.verb = number_u8(given.arg(0), 0..=15)?.min(11),
        "mute" => options.mute = number_u32(given.arg(0), 0..=u32::MAX)?,
        "log" | "log-append" => {
            options.log = Some(LogFile {
                path: given.path(given.arg(0))?,
                append: given.name == "log-append",
            });
        }
        "suppress-timestamps" => options.suppress_timestamps = true,
        "machine-readable-output" => options.machine_readable_output = true,
        "errors-to-stderr" => options.errors_to_stderr = true,
        "echo" | "parameter" => options.echo.push(given.args.join(" ")),
        "status" => {
            options.status = Some(StatusFile {
                path: given.path(given.arg(0))?,
                seconds: match given.args.get(1) {
                    Some(text) => some_seconds(text)?,
                    None => 60,
                },
            });
        }
        "status-version" => {
            options.status_version = match given.args.first() {
                Some(text) => number_u8(text, 1..=3)?,
                None => 1,
            };
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// With the control thread and its helpers the stock systemd unit's 20 tasks suffice.
const MAX_WORKERS: u16 = 16;

/// Longest time a worker may look for packets before it sleeps.
const MAX_BUSY_POLL: u64 = 1_000_000;

fn set_ringway(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "ringway-io" => {
            let words = [
                ("auto", IoEngine::Auto),
                ("uring", IoEngine::Uring),
                ("syscalls", IoEngine::Syscalls),
            ];
            options.ringway_io = choice(given.arg(0), &words)?;
        }
        "ringway-workers" => {
            options.ringway_workers = match given.arg(0) {
                "auto" => None,
                other => match other.parse() {
                    Ok(workers @ 1..=MAX_WORKERS) => Some(workers),
                    _ => {
                        return Err(format!(
                            "\"{other}\" is not a number of workers from 1 to {MAX_WORKERS}, or auto"
                        ));
                    }
                },
            };
        }
        "ringway-busy-poll" => {
            options.ringway_busy_poll = match given.arg(0).parse() {
                Ok(micros @ 0..=MAX_BUSY_POLL) => Duration::from_micros(micros),
                _ => {
                    return Err(format!(
                        "\"{}\" is not a number of microseconds from 0 to {MAX_BUSY_POLL}",
                        given.arg(0)
                    ));
                }
            };
        }
        "ringway-cpus" => options.ringway_cpus = cpus(given.arg(0))?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// A command line, split like a line of a file.
pub(super) fn script(given: &Given<'_>) -> Result<Script, String> {
    let argv = lexer::words(given.arg(0).as_bytes()).map_err(|error| error.to_string())?;
    if argv.is_empty() {
        return Err("a program is needed".to_owned());
    }
    Ok(Script {
        argv,
        position: given.position.clone(),
    })
}

/// A list such as `2,4-7`.
fn cpus(text: &str) -> Result<Vec<usize>, String> {
    let error = || format!("\"{text}\" is not a list of CPUs such as 2,4-7");
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| error())?;
        let last: usize = last.parse().map_err(|_| error())?;
        if first > last || last >= 4096 {
            return Err(error());
        }
        list.extend(first..=last);
    }
    match list.len() {
        1..=4096 => Ok(list),
        _ => Err(error()),
    }
}
