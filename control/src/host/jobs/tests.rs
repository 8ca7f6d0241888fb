use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::setrlimit;
use tempfile::TempDir;

use super::*;
use crate::host::privileges;
use crate::host::testing::{alone, run_alone};

const HOUR: Duration = Duration::from_secs(3600);

/// Jobs with a folder their scripts work in, and a clock that only moves when told.
struct Fixture {
    jobs: Jobs,
    dir: TempDir,
    now: Instant,
}

impl Fixture {
    fn new(limits: JobLimits) -> Self {
        Fixture {
            jobs: Jobs::new(limits, 2).unwrap(),
            dir: TempDir::new().unwrap(),
            now: Instant::now(),
        }
    }

    /// A script for `/bin/sh`, in the fixture's folder.
    fn spec(&self, text: &str) -> JobSpec {
        let text = format!("cd {} && {{ {text}\n}}", self.dir.path().display());
        JobSpec {
            hook: Hook::ClientConnect,
            client: "branch1".into(),
            command: ScriptCommand::from_words(vec!["/bin/sh".into(), "-c".into(), text]),
            arguments: vec![],
            env: ScriptEnv::new(),
            lane: None,
            deadline: None,
            kind: JobKind::Verdict,
        }
    }

    fn spawn(&mut self, text: &str) -> JobId {
        let spec = self.spec(text);
        self.jobs.spawn(self.now, spec).unwrap()
    }

    /// Waits for the descriptor as a driver does. A test that hangs here has failed.
    fn turn(&mut self) {
        let mut fds = [PollFd::new(self.jobs.as_fd(), PollFlags::POLLIN)];
        let woken = poll(&mut fds, PollTimeout::from(60_000u16)).unwrap();
        assert_eq!(woken, 1, "nothing happens any more");
        self.jobs.handle_ready(self.now);
    }

    fn next(&mut self) -> (JobId, Result<(), ScriptError>) {
        loop {
            if let Some(finished) = self.jobs.next_finished() {
                return finished;
            }
            self.turn();
        }
    }

    fn until_idle(&mut self) {
        while !self.jobs.is_idle() {
            self.turn();
        }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    /// Waits until a script has made a file.
    fn await_file(&self, name: &str) {
        let path = self.dir.path().join(name);
        for _ in 0..6000 {
            if path.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} does not appear", path.display());
    }
}

fn code(result: Result<(), ScriptError>) -> Option<i32> {
    match result {
        Ok(()) => Some(0),
        Err(ScriptError::Failed(status)) => status.code(),
        Err(_) => None,
    }
}

#[test]
fn results_come_with_their_job() {
    let mut f = Fixture::new(JobLimits::default());
    let mut expected: Vec<(JobId, Option<i32>)> = [0, 1, 2, 3]
        .map(|n| (f.spawn(&format!("exit {n}")), Some(n)))
        .into();
    let missing = JobSpec {
        command: ScriptCommand::from_words(vec!["/nonexistent/script".into()]),
        ..f.spec("")
    };
    expected.push((f.jobs.spawn(f.now, missing).unwrap(), None));
    let mut seen: Vec<_> = (0..5)
        .map(|_| f.next())
        .map(|(id, r)| (id, code(r)))
        .collect();
    seen.sort();
    assert_eq!(seen, expected);
    assert!(f.jobs.is_idle() && f.jobs.next_finished().is_none());
}

#[test]
fn a_job_gets_its_arguments_and_nothing_else() {
    let mut f = Fixture::new(JobLimits::default());
    let mut spec = f.spec(
        "echo \"$1|$2\" > seen; env >> seen; read x || echo no input >> seen; \
         ls -l /proc/self/fd > fds; grep -E 'Sig(Blk|Ign)' /proc/self/status >> seen",
    );
    spec.arguments = vec!["zero".into(), "first".into(), "a b".into()];
    spec.env.set("common_name", "branch1");
    spec.env.set("password", "secret");
    spec.hook = Hook::AuthUserPassVerify;
    let _held = fs::File::create(f.dir.path().join("held")).unwrap();
    f.jobs.spawn(f.now, spec).unwrap();
    assert_eq!(code(f.next().1), Some(0));
    let text = f.read("seen");
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| {
            !["PWD=", "OLDPWD=", "_=", "SHLVL="]
                .iter()
                .any(|n| line.starts_with(n))
        })
        .collect();
    assert_eq!(lines[0], "first|a b");
    assert!(lines.contains(&"common_name=branch1"));
    assert!(lines.contains(&"script_type=user-pass-verify"));
    assert_eq!(lines[3], "no input");
    assert_eq!(lines[4], "SigBlk:\t0000000000000000");
    assert!(lines[5].starts_with("SigIgn:"), "{lines:?}");
    assert_eq!(lines.len(), 6, "{lines:?}");
    // What this process itself has inherited (from a build tool, say) may be there; of what it has
    // opened there is nothing.
    let fds = f.read("fds");
    assert!(fds.contains("pipe:"), "{fds}");
    for ours in ["eventpoll", "pidfd", "held"] {
        assert!(!fds.contains(ours), "{fds}");
    }
}

#[test]
fn few_run_at_a_time_and_the_rest_in_order() {
    let mut f = Fixture::new(JobLimits {
        running: 2,
        ..JobLimits::default()
    });
    let gate = "n=0; while [ ! -e go ] && [ $((n+=1)) -lt 6000 ]; do sleep 0.01; done; ";
    let first = f.spawn(gate);
    let ids: Vec<JobId> = (0..6)
        .map(|n| f.spawn(&format!("echo {n} >> order")))
        .collect();
    // One slot is taken by the first; the others pass through the second one by one.
    for id in ids {
        let (ended, result) = f.next();
        assert_eq!((ended, code(result)), (id, Some(0)));
        assert!(f.jobs.running() <= 2);
    }
    assert_eq!(f.read("order"), "0\n1\n2\n3\n4\n5\n");
    fs::write(f.dir.path().join("go"), "").unwrap();
    assert_eq!(f.next().0, first);
}

#[test]
fn one_lane_is_one_at_a_time() {
    let mut f = Fixture::new(JobLimits::default());
    let on = |f: &mut Fixture, lane: &str, text: &str| {
        let mut spec = f.spec(text);
        spec.lane = Some(lane.into());
        f.jobs.spawn(f.now, spec).unwrap()
    };
    let a = on(
        &mut f,
        "10.8.0.2",
        "n=0; while [ ! -e go ] && [ $((n+=1)) -lt 6000 ]; do sleep 0.01; done; echo a >> order",
    );
    let b = on(&mut f, "10.8.0.2", "echo b >> order");
    let c = on(&mut f, "10.8.0.3", "touch go");
    let order = [f.next().0, f.next().0, f.next().0];
    assert_eq!(order[0], c, "another lane does not wait");
    assert_eq!(order[1..], [a, b]);
    assert_eq!(f.read("order"), "a\nb\n");
}

#[test]
fn a_full_queue_refuses_verdicts_and_still_takes_notices() {
    let mut f = Fixture::new(JobLimits {
        running: 1,
        verdicts: 2,
        notices: 1,
        outputs: 1,
    });
    let gate = "n=0; while [ ! -e go ] && [ $((n+=1)) -lt 6000 ]; do sleep 0.01; done";
    for _ in 0..3 {
        f.spawn(gate);
    }
    let refused = f.jobs.spawn(f.now, f.spec("touch never"));
    assert!(matches!(refused, Err(ScriptError::QueueFull)));
    let notice = JobSpec {
        kind: JobKind::Notice,
        ..f.spec("touch noticed; exit 1")
    };
    f.jobs.spawn(f.now, notice.clone()).unwrap();
    assert!(matches!(
        f.jobs.spawn(f.now, notice),
        Err(ScriptError::QueueFull)
    ));
    fs::write(f.dir.path().join("go"), "").unwrap();
    for _ in 0..3 {
        assert_eq!(code(f.next().1), Some(0));
    }
    f.until_idle();
    assert!(f.jobs.next_finished().is_none(), "a notice has no result");
    f.await_file("noticed");
    assert!(!f.dir.path().join("never").exists());
}

#[test]
fn what_hangs_is_ended_with_its_children() {
    let mut f = Fixture::new(JobLimits::default());
    let mut spec = f.spec(
        "trap 'touch asked' TERM; sh -c 'trap \"\" TERM; touch ready; sleep 1000' & \
         echo $! > child; wait; while :; do sleep 0.05; done",
    );
    spec.deadline = Some(f.now + HOUR);
    let id = f.jobs.spawn(f.now, spec).unwrap();
    f.await_file("ready");
    f.jobs.handle_ready(f.now);
    assert_eq!(f.jobs.next_timeout(), Some(f.now + HOUR));

    f.now += HOUR;
    f.jobs.handle_ready(f.now);
    f.await_file("asked");
    assert_eq!(f.jobs.next_timeout(), Some(f.now + GRACE));
    assert!(f.jobs.next_finished().is_none());

    f.now += GRACE;
    f.jobs.handle_ready(f.now);
    let (ended, result) = f.next();
    assert_eq!(ended, id);
    let error = result.unwrap_err();
    assert_eq!(error.to_string(), "was killed after 3600 seconds");
    let child = f.read("child");
    await_end(child.trim());
    assert_eq!(f.jobs.next_timeout(), None);
}

#[test]
fn what_obeys_takes_its_children_along() {
    let mut f = Fixture::new(JobLimits::default());
    let id = f.spawn(
        "sh -c 'trap \"\" TERM; touch ready; sleep 1000' & echo $! > child; touch started; wait",
    );
    f.await_file("ready");
    f.await_file("started");
    f.jobs.cancel(f.now, id);
    f.until_idle();
    await_end(f.read("child").trim());
    assert!(f.jobs.next_finished().is_none(), "nobody asked");
}

#[test]
fn waiting_jobs_expire_and_are_cancelled() {
    let mut f = Fixture::new(JobLimits {
        running: 1,
        ..JobLimits::default()
    });
    let first = f.spawn("n=0; while [ ! -e go ] && [ $((n+=1)) -lt 6000 ]; do sleep 0.01; done");
    let mut spec = f.spec("touch never");
    spec.deadline = Some(f.now + HOUR);
    let expires = f.jobs.spawn(f.now, spec).unwrap();
    let cancelled = f.spawn("touch never");
    f.jobs.cancel(f.now, cancelled);
    f.now += HOUR;
    f.jobs.handle_ready(f.now);
    let (id, result) = f.jobs.next_finished().unwrap();
    assert_eq!(id, expires);
    assert!(matches!(result, Err(ScriptError::Expired)));
    fs::write(f.dir.path().join("go"), "").unwrap();
    assert_eq!(f.next().0, first);
    assert!(f.jobs.is_idle());
    assert!(!f.dir.path().join("never").exists());
}

#[test]
fn scripts_are_forbidden_below_2() {
    let mut f = Fixture::new(JobLimits::default());
    f.jobs = Jobs::new(JobLimits::default(), 1).unwrap();
    let refused = f.jobs.spawn(f.now, f.spec("touch never"));
    assert!(matches!(refused, Err(ScriptError::Forbidden)));
    assert!(f.jobs.is_idle());
}

#[test]
fn huge_output_does_not_stop_a_script() {
    let mut f = Fixture::new(JobLimits::default());
    let id = f.spawn("head -c 2000000 /dev/zero | tr '\\0' 'x'; exit 5");
    loop {
        if let Some((ended, result)) = f.jobs.next_finished() {
            assert_eq!((ended, code(result)), (id, Some(5)));
            break;
        }
        // Output that pauses comes back by the clock alone.
        f.now += OUTPUT_PAUSE;
        f.jobs.handle_ready(f.now);
        std::thread::yield_now();
    }
}

#[test]
fn the_background_may_go_on_printing() {
    let mut f = Fixture::new(JobLimits {
        outputs: 1,
        ..JobLimits::default()
    });
    let id = f.spawn("{ n=0; while [ ! -e go ] && [ $((n+=1)) -lt 6000 ]; do sleep 0.01; done; echo late && touch printed; } &");
    assert_eq!(f.next().0, id);
    assert_eq!(f.jobs.outputs.len(), 1);
    // One more is over the limit; the oldest is closed and its holder ends when it prints.
    let other =
        f.spawn("{ n=0; while [ ! -e go2 ] && [ $((n+=1)) -lt 6000 ]; do sleep 0.01; done; echo late && touch printed2; } &");
    assert_eq!(f.next().0, other);
    assert_eq!(f.jobs.outputs.keys().collect::<Vec<_>>(), [&other.0]);
    fs::write(f.dir.path().join("go2"), "").unwrap();
    f.await_file("printed2");
    while !f.jobs.outputs.is_empty() {
        f.turn();
    }
    fs::write(f.dir.path().join("go"), "").unwrap();
    let third = f.spawn("{ sleep 1000; } & echo $! > child");
    assert_eq!(f.next().0, third);
    f.jobs.cancel(f.now, third);
    assert!(f.jobs.outputs.is_empty());
    let child = f.read("child").trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::SIGKILL).unwrap();
}

#[test]
fn dropping_ends_everything() {
    let mut f = Fixture::new(JobLimits::default());
    f.spawn("sleep 1000 & echo $! > child; trap '' TERM; touch ready; wait");
    f.await_file("ready");
    let child = f.read("child");
    f.jobs = Jobs::new(JobLimits::default(), 2).unwrap();
    await_end(child.trim());
}

#[test]
fn limits_leave_room_for_the_daemon() {
    // LimitNPROC=10 and TasksMax=20 of common service files.
    assert_eq!(running_within(10, 3), 2);
    assert_eq!(running_within(20, 4), 5);
    assert_eq!(running_within(2, 4), 1);
    assert_eq!(running_within(u64::MAX, 4), MAX_RUNNING);
    let limits = JobLimits::for_host(4, false);
    assert!((1..=MAX_RUNNING).contains(&limits.running));
}

#[test]
fn jobs_run_without_rights_and_in_chroot() {
    run_alone("host::jobs::tests::child_without_rights");
}

#[test]
#[ignore = "started by jobs_run_without_rights_and_in_chroot"]
fn child_without_rights() {
    if !alone() {
        return;
    }
    let root = TempDir::new().unwrap();
    let shell = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let libraries = String::from_utf8(shell.stdout).unwrap();
    let libraries = libraries.split_whitespace().filter(|w| w.starts_with('/'));
    for file in libraries.chain(["/bin/sh"]) {
        let copy = root.path().join(&file[1..]);
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
    fs::create_dir(root.path().join("shared")).unwrap();
    for open in [root.path().to_owned(), root.path().join("shared")] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
    }
    // A user no other process has, with room for two beside the threads of this test.
    let plan = privileges::plan(Some("1912345"), Some("1912345"), Some(root.path())).unwrap();
    privileges::drop(&plan, &[]).unwrap();
    let threads = fs::read_dir("/proc/self/task").map_or(2, |tasks| tasks.count() as u64);
    setrlimit(Resource::RLIMIT_NPROC, threads + 2, threads + 2).unwrap();

    let mut jobs = Jobs::new(JobLimits::default(), 2).unwrap();
    let now = Instant::now();
    let spec = |text: &str| JobSpec {
        hook: Hook::LearnAddress,
        client: "branch1".into(),
        command: ScriptCommand::from_words(["/bin/sh", "-c", text].map(str::to_owned).into()),
        arguments: vec![],
        env: ScriptEnv::new(),
        lane: None,
        deadline: None,
        kind: JobKind::Verdict,
    };
    for _ in 0..5 {
        let wait = "read x; echo x >> /shared/ran; until [ -e /shared/go ]; do :; done";
        jobs.spawn(now, spec(wait)).unwrap();
    }
    assert_eq!((jobs.running(), jobs.waiting()), (2, 3));
    let stuck = jobs
        .spawn(now, spec("until [ -e /never ]; do :; done"))
        .unwrap();
    fs::write("/shared/go", "").unwrap();
    let mut passed = 0;
    while passed < 5 {
        if let Some((_, result)) = jobs.next_finished() {
            assert_eq!(code(result), Some(0));
            passed += 1;
            continue;
        }
        let mut fds = [PollFd::new(jobs.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(60_000u16)), Ok(1));
        jobs.handle_ready(now);
    }
    assert_eq!(fs::read_to_string("/shared/ran").unwrap(), "x\n".repeat(5));
    jobs.cancel(now, stuck);
    while !jobs.is_idle() {
        let mut fds = [PollFd::new(jobs.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(60_000u16)), Ok(1));
        jobs.handle_ready(now);
    }
}

/// Waits until a process is gone or only its exit status is left.
fn await_end(pid: &str) {
    for _ in 0..6000 {
        let stat = Path::new("/proc").join(pid).join("stat");
        let state = fs::read_to_string(stat).unwrap_or_default();
        let state = state.rsplit(") ").next().unwrap_or_default();
        if state.is_empty() || state.starts_with('Z') {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("process {pid} lives on");
}
