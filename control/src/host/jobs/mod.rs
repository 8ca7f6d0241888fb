//! Scripts that nobody waits for: started, watched and ended beside everything else.
//!
//! ```text
//!  spawn -> queue, in order -> at most 8 at a time -> pidfd readable -> next_finished
//!             |                   |
//!             | deadline          | deadline, cancel: SIGTERM, 2 s later SIGKILL, to the group
//!             v                   v
//!          Expired             TimedOut (cancel: nothing)
//! ```
//!
//! One descriptor ([`Jobs::as_fd`]) becomes readable when any of them ends or prints; there is no
//! thread and no signal handler. Few run at a time, since a service manager counts their processes
//! among this daemon's tasks ([`JobLimits::for_host`]). The rest waits in order, except that jobs of one *lane* never run
//! beside each other: whoever is told about an address or a client is told in the order of events.
//!
//! When too many verdicts wait, another one is refused, which costs the client it is for and nobody
//! else. Notices tell of something that has happened, cannot be refused by anybody, and have room
//! of their own.
//!
//! What a script prints becomes log lines ([`ScriptOutput`]). What a job inherits: its environment
//! as it was at the call, an empty standard input, no other descriptor, no blocked signal.

mod job;
mod output;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::geteuid;

use super::env::ScriptEnv;
use super::script::{Hook, ScriptCommand, ScriptError};
use crate::log;
pub use job::Job;
pub use output::{Flow, ScriptOutput};

/// Scripts at a time where nothing else limits them.
const MAX_RUNNING: usize = 8;
/// Processes of one script, as a rule: a shell and what it calls.
const TASKS_OF_SCRIPT: u64 = 3;

/// How long a script may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
/// Pause after 64 KiB of output, which makes at most 3 MiB/s of it.
const OUTPUT_PAUSE: Duration = Duration::from_millis(20);

/// Names a job from its [`Jobs::spawn`] on; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

/// A script to run.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// The occasion.
    pub hook: Hook,
    /// Whom it is for, as log lines name it.
    pub client: String,
    /// What to run.
    pub command: ScriptCommand,
    /// Arguments after those of the command.
    pub arguments: Vec<String>,
    /// Its variables, as they are now.
    pub env: ScriptEnv,
    /// Jobs of one lane run one after the other, in order.
    pub lane: Option<String>,
    /// When it is no longer of use: it does not start, or is killed.
    pub deadline: Option<Instant>,
    /// Whether somebody needs its result.
    pub kind: JobKind,
}

/// What a job's result means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Somebody acts on it: [`Jobs::next_finished`] tells.
    Verdict,
    /// Nobody does: a failure is logged, and that is all.
    Notice,
}

/// Bounds of a set of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobLimits {
    /// Scripts at a time.
    pub running: usize,
    /// Verdicts that wait.
    pub verdicts: usize,
    /// Notices that wait.
    pub notices: usize,
    /// Outputs of ended scripts that something in the background still holds; beyond that the
    /// oldest is closed.
    pub outputs: usize,
}

impl JobLimits {
    /// Limits that fit what this process may start: a service manager often allows few processes
    /// (`TasksMax`), and few for one user (`LimitNPROC`), which counts only after a change of user
    /// (`drops_user`). `own_threads` are those of this process. To be asked before `chroot`.
    pub fn for_host(own_threads: usize, drops_user: bool) -> Self {
        let of_user = getrlimit(Resource::RLIMIT_NPROC)
            .ok()
            .map(|(soft, _)| soft)
            .filter(|_| drops_user || !geteuid().is_root());
        let tasks = of_user.into_iter().chain(tasks_of_group()).min();
        JobLimits {
            running: tasks.map_or(MAX_RUNNING, |tasks| running_within(tasks, own_threads)),
            ..JobLimits::default()
        }
    }
}

impl Default for JobLimits {
    fn default() -> Self {
        JobLimits {
            running: MAX_RUNNING,
            verdicts: 1024,
            notices: 8192,
            outputs: 256,
        }
    }
}

/// All jobs.
#[derive(Debug)]
pub struct Jobs {
    limits: JobLimits,
    security: u8,
    epoll: Epoll,
    next_id: u64,
    waiting: VecDeque<(JobId, JobSpec)>,
    running: BTreeMap<u64, Running>,
    /// By the number of their job, which may have ended.
    outputs: BTreeMap<u64, Tap>,
    finished: VecDeque<(JobId, Result<(), ScriptError>)>,
}

#[derive(Debug)]
struct Running {
    job: Job,
    hook: Hook,
    client: String,
    lane: Option<String>,
    kind: JobKind,
    started: Instant,
    deadline: Option<Instant>,
    stopping: Option<Stopping>,
    /// Nobody wants to know any more.
    cancelled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stopping {
    /// How long it had run.
    after: Duration,
    /// When to send SIGKILL; `None` when that is done.
    kill_at: Option<Instant>,
}

#[derive(Debug)]
struct Tap {
    output: ScriptOutput,
    paused_until: Option<Instant>,
}

impl Jobs {
    /// An empty set. `security` is `script-security`.
    pub fn new(limits: JobLimits, security: u8) -> io::Result<Self> {
        Ok(Jobs {
            limits,
            security,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            next_id: 0,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            outputs: BTreeMap::new(),
            finished: VecDeque::new(),
        })
    }

    /// `script-security`.
    pub fn security(&self) -> u8 {
        self.security
    }

    /// Runs a script as soon as its turn comes. Look at [`Jobs::next_finished`] afterwards: it may
    /// have failed to start.
    ///
    /// # Errors
    ///
    /// [`ScriptError::Forbidden`] and [`ScriptError::QueueFull`]; it will not run. A notice that is
    /// refused is logged as well.
    pub fn spawn(&mut self, now: Instant, spec: JobSpec) -> Result<JobId, ScriptError> {
        let room = match spec.kind {
            JobKind::Verdict => self.limits.verdicts,
            JobKind::Notice => self.limits.notices,
        };
        let refusal = if self.security < 2 {
            Some(ScriptError::Forbidden)
        } else if self.waiting_of(spec.kind) >= room {
            Some(ScriptError::QueueFull)
        } else {
            None
        };
        if let Some(error) = refusal {
            if spec.kind == JobKind::Notice {
                warn(&spec.client, spec.hook, &error);
            }
            return Err(error);
        }
        let id = JobId(self.next_id);
        self.next_id += 1;
        self.waiting.push_back((id, spec));
        self.start_waiting(now);
        Ok(id)
    }

    /// The client of a job is gone, or its deferred decision has come: a job that waits is
    /// forgotten, one that runs is ended, and what it left in the background may no longer print.
    /// Nobody is told of its end.
    pub fn cancel(&mut self, now: Instant, id: JobId) {
        self.waiting.retain(|(waiting, _)| *waiting != id);
        self.finished.retain(|(finished, _)| *finished != id);
        match self.running.get_mut(&id.0) {
            Some(running) => {
                running.cancelled = true;
                running.stop(now);
            }
            None => self.close_output(id.0),
        }
    }

    /// Does what is due: to be called when the descriptor is readable and at
    /// [`Jobs::next_timeout`].
    pub fn handle_ready(&mut self, now: Instant) {
        let mut events = [EpollEvent::empty(); 64];
        let count = self
            .epoll
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or(0);
        for event in &events[..count] {
            let (number, is_output) = (event.data() >> 1, event.data() & 1 == 1);
            if is_output {
                self.pump(now, number);
            } else {
                self.end(now, number);
            }
        }
        self.handle_deadlines(now);
        self.start_waiting(now);
    }

    /// The next verdict; to be asked until there is none.
    pub fn next_finished(&mut self) -> Option<(JobId, Result<(), ScriptError>)> {
        self.finished.pop_front()
    }

    /// When to call [`Jobs::handle_ready`] even if nothing happens.
    pub fn next_timeout(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().filter_map(|(_, spec)| spec.deadline);
        let running = self.running.values().filter_map(|r| match r.stopping {
            Some(stopping) => stopping.kill_at,
            None => r.deadline,
        });
        let paused = self.outputs.values().filter_map(|tap| tap.paused_until);
        waiting.chain(running).chain(paused).min()
    }

    /// Whether nothing runs or waits.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// How many run now.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many wait for their turn.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn waiting_of(&self, kind: JobKind) -> usize {
        self.waiting.iter().filter(|(_, s)| s.kind == kind).count()
    }

    /// Starts what may start: the first in the queue of each lane that is free.
    fn start_waiting(&mut self, now: Instant) {
        while self.running.len() < self.limits.running {
            let taken: HashSet<&str> = self
                .running
                .values()
                .filter_map(|running| running.lane.as_deref())
                .collect();
            let next = self.waiting.iter().position(|(_, spec)| {
                spec.lane
                    .as_deref()
                    .is_none_or(|lane| !taken.contains(lane))
            });
            let Some((index, (id, spec))) =
                next.and_then(|index| Some((index, self.waiting.remove(index)?)))
            else {
                return;
            };
            if let Some(spec) = self.start(now, id, spec) {
                self.waiting.insert(index, (id, spec));
                return;
            }
        }
    }

    /// Starts a job, or reports why not. Gives it back if there are too many processes for now and
    /// the end of another job may change that.
    fn start(&mut self, now: Instant, id: JobId, spec: JobSpec) -> Option<JobSpec> {
        let label = format!("{}: {}", spec.client, spec.hook.name());
        let started = Job::spawn(
            spec.hook,
            &spec.command,
            &spec.arguments,
            &spec.env,
            self.security,
            label,
        )
        .and_then(|(job, output)| {
            self.watch(&job, id.0 << 1)
                .and_then(|()| self.watch(&output, id.0 << 1 | 1))
                .map_err(ScriptError::Start)?;
            Ok((job, output))
        });
        match started {
            Ok((job, output)) => {
                let running = Running {
                    job,
                    hook: spec.hook,
                    client: spec.client,
                    lane: spec.lane,
                    kind: spec.kind,
                    started: now,
                    deadline: spec.deadline,
                    stopping: None,
                    cancelled: false,
                };
                self.running.insert(id.0, running);
                let tap = Tap {
                    output,
                    paused_until: None,
                };
                self.outputs.insert(id.0, tap);
            }
            Err(ScriptError::Start(error))
                if error.kind() == io::ErrorKind::WouldBlock && !self.running.is_empty() =>
            {
                return Some(spec);
            }
            Err(error) => self.report(id, spec.kind, &spec.client, spec.hook, Err(error)),
        }
        None
    }

    fn watch(&self, descriptor: impl AsFd, data: u64) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, data);
        Ok(self.epoll.add(descriptor, event)?)
    }

    fn end(&mut self, now: Instant, number: u64) {
        let Some(running) = self.running.get_mut(&number) else {
            return;
        };
        let Some(result) = running.job.try_end(running.stopping.is_some()) else {
            return;
        };
        self.pump(now, number);
        let Some(running) = self.running.remove(&number) else {
            return;
        };
        if running.cancelled {
            self.close_output(number);
        } else {
            let result = match running.stopping {
                Some(stopping) => Err(ScriptError::TimedOut(stopping.after)),
                None => result,
            };
            let id = JobId(number);
            self.report(id, running.kind, &running.client, running.hook, result);
        }
        self.close_surplus_outputs();
    }

    fn report(
        &mut self,
        id: JobId,
        kind: JobKind,
        client: &str,
        hook: Hook,
        result: Result<(), ScriptError>,
    ) {
        match (kind, &result) {
            (JobKind::Verdict, _) => self.finished.push_back((id, result)),
            (JobKind::Notice, Err(error)) => warn(client, hook, error),
            (JobKind::Notice, Ok(())) => {}
        }
    }

    fn handle_deadlines(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        for running in self.running.values_mut() {
            match &mut running.stopping {
                None if is_due(running.deadline) => running.stop(now),
                Some(stopping) if is_due(stopping.kill_at) => {
                    stopping.kill_at = None;
                    running.job.kill();
                }
                None | Some(_) => {}
            }
        }
        while let Some(index) = self
            .waiting
            .iter()
            .position(|(_, spec)| is_due(spec.deadline))
        {
            if let Some((id, spec)) = self.waiting.remove(index) {
                let expired = Err(ScriptError::Expired);
                self.report(id, spec.kind, &spec.client, spec.hook, expired);
            }
        }
        let resumed: Vec<u64> = self
            .outputs
            .iter()
            .filter(|(_, tap)| is_due(tap.paused_until))
            .map(|(number, _)| *number)
            .collect();
        for number in resumed {
            self.pump(now, number);
        }
    }

    fn pump(&mut self, now: Instant, number: u64) {
        let Some(tap) = self.outputs.get_mut(&number) else {
            return;
        };
        let was_paused = tap.paused_until.is_some();
        tap.paused_until = None;
        match tap.output.pump(&mut print) {
            Flow::Ended => {
                self.outputs.remove(&number);
                return;
            }
            Flow::Flooding => tap.paused_until = Some(now + OUTPUT_PAUSE),
            Flow::Waiting => {}
        }
        if was_paused != tap.paused_until.is_some() {
            let interest = if was_paused {
                EpollFlags::EPOLLIN
            } else {
                EpollFlags::empty()
            };
            let mut event = EpollEvent::new(interest, number << 1 | 1);
            if self.epoll.modify(&tap.output, &mut event).is_err() {
                self.close_output(number);
            }
        }
    }

    fn close_output(&mut self, number: u64) {
        if let Some(mut tap) = self.outputs.remove(&number) {
            tap.output.pump(&mut print);
            tap.output.finish(&mut print);
        }
    }

    fn close_surplus_outputs(&mut self) {
        let left: Vec<u64> = self
            .outputs
            .keys()
            .filter(|number| !self.running.contains_key(number))
            .copied()
            .collect();
        let surplus = left.len().saturating_sub(self.limits.outputs);
        for number in &left[..surplus] {
            self.close_output(*number);
        }
    }
}

impl AsFd for Jobs {
    /// Readable when there is something for [`Jobs::handle_ready`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Running {
    fn stop(&mut self, now: Instant) {
        if self.stopping.is_none() {
            self.stopping = Some(Stopping {
                after: now.saturating_duration_since(self.started),
                kill_at: Some(now + GRACE),
            });
            self.job.stop();
        }
    }
}

/// How many scripts at a time have room in `tasks` beside `own_threads`.
fn running_within(tasks: u64, own_threads: usize) -> usize {
    let room = tasks.saturating_sub(own_threads as u64) / TASKS_OF_SCRIPT;
    usize::try_from(room)
        .unwrap_or(MAX_RUNNING)
        .clamp(1, MAX_RUNNING)
}

/// The limit of this process's control group, if it has one.
fn tasks_of_group() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = Path::new("/sys/fs/cgroup").join(own).join("pids.max");
    fs::read_to_string(limit).ok()?.trim().parse().ok()
}

fn print(line: &str) {
    log::notice!(in Script, "{line}");
}

fn warn(client: &str, hook: Hook, error: &ScriptError) {
    log::warn!(in Script, "{client}: {}: {error}", hook.name());
}
