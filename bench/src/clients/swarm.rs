//! The thread that all clients of a swarm live in, and its handle.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::ClockId;
use nix::unistd::gettid;
use ringway::proto::Now;
use ringway_lab::command;
use ringway_lab::netns::Namespace;

use super::client::{Client, Flow, Scene, Settings, State};
use super::events::Events;
use super::report::Report;

/// Longest wait, after which orders are looked for.
const TURN: Duration = Duration::from_millis(10);
/// A client that has failed tries again after this.
const RETRY: Duration = Duration::from_secs(2);
/// Room for a datagram of any size.
const BUFFER: usize = 65_536;

enum Order {
    Connect { upto: u32, at_once: usize },
    Reconnect { at_once: usize },
    Leave,
    Flows(Vec<Flow>),
    Forget,
    Report(Sender<Report>),
}

/// Many clients of one server. Dropping it ends them without a word to the server.
#[derive(Debug)]
pub struct Swarm {
    orders: Option<Sender<Order>>,
    up: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Swarm {
    /// Starts the thread, in `namespace` if one is given, with no client yet.
    ///
    /// The thread is `nice`r than others by this much (0 to 19): a storm of logins need not take
    /// processor time from what is measured beside it.
    ///
    /// # Errors
    /// When the namespace is gone or the kernel refuses.
    pub fn start(settings: Settings, namespace: Option<&Namespace>, nice: u8) -> Result<Self> {
        let namespace = namespace.map(|ns| PathBuf::from("/run/netns").join(ns.name()));
        let (orders, inbox) = channel();
        let up = Arc::new(AtomicUsize::new(0));
        let (begun, outcome) = channel();
        let published = up.clone();
        let thread = std::thread::Builder::new()
            .name("clients".to_owned())
            .spawn(move || {
                let crowd = enter(namespace, nice).and_then(|()| Crowd::new(settings, published));
                match crowd {
                    Ok(crowd) => {
                        // The other end waits for this.
                        let _ = begun.send(Ok(()));
                        crowd.run(&inbox);
                    }
                    Err(error) => {
                        let _ = begun.send(Err(error));
                    }
                }
            })?;
        outcome.recv().context("the clients' thread ended")??;
        Ok(Self {
            orders: Some(orders),
            up,
            thread: Some(thread),
        })
    }

    /// Lets clients connect until there are `count`, at most `at_once` of them in the middle of it.
    pub fn connect(&self, count: u32, at_once: usize) {
        self.order(Order::Connect {
            upto: count,
            at_once,
        });
    }

    /// Every client begins anew, from a new port, as after a crash of all of them.
    pub fn reconnect(&self, at_once: usize) {
        self.order(Order::Reconnect { at_once });
    }

    /// Every client says good-bye and ends.
    pub fn leave(&self) {
        self.order(Order::Leave);
    }

    /// Replaces all flows.
    pub fn flows(&self, flows: Vec<Flow>) {
        self.order(Order::Flows(flows));
    }

    /// Counts from zero again.
    pub fn forget(&self) {
        self.order(Order::Forget);
    }

    /// Clients that are connected, as of a moment ago.
    #[must_use]
    pub fn up(&self) -> usize {
        self.up.load(Relaxed)
    }

    /// Waits until so many clients are connected; how long that took from now.
    ///
    /// # Errors
    /// When it takes longer than `timeout`; the message says how far they came.
    pub fn wait_up(&self, count: usize, timeout: Duration) -> Result<Duration> {
        let start = Instant::now();
        while self.up() < count {
            if start.elapsed() > timeout {
                let line = self.report()?.line();
                bail!("of {count} clients after {timeout:?}: {line}");
            }
            std::thread::sleep(TURN);
        }
        Ok(start.elapsed())
    }

    /// What they have counted.
    ///
    /// # Errors
    /// When the thread has ended, which is a fault in it.
    pub fn report(&self) -> Result<Report> {
        let (reply, report) = channel();
        self.order(Order::Report(reply));
        report.recv().context("the clients' thread ended")
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // A thread that has ended is told of by `report`.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed.
            let _ = thread.join();
        }
    }
}

/// Moves the calling thread to a network namespace, makes it nicer, and lets it open many sockets.
fn enter(namespace: Option<PathBuf>, nice: u8) -> Result<()> {
    if let Some(path) = namespace {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
    }
    if nice > 0 {
        let (nice, thread) = (nice.to_string(), gettid().to_string());
        command::run("renice", &["-n", &nice, "-p", &thread])?;
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}

struct Crowd {
    settings: Settings,
    clients: Vec<Client>,
    addresses: Vec<Option<Ipv4Addr>>,
    events: Events,
    report: Report,
    /// Clients that are to connect, in this order, from these moments on.
    waiting: VecDeque<(Instant, u32)>,
    at_once: usize,
    connecting: usize,
    published: Arc<AtomicUsize>,
    up: usize,
    buffer: Vec<u8>,
    inner: Vec<u8>,
    epoch: Instant,
}

impl Crowd {
    fn new(settings: Settings, published: Arc<AtomicUsize>) -> Result<Self> {
        Ok(Self {
            settings,
            clients: Vec::new(),
            addresses: Vec::new(),
            events: Events::new()?,
            report: Report::new(),
            waiting: VecDeque::new(),
            at_once: usize::MAX,
            connecting: 0,
            published,
            up: 0,
            buffer: vec![0; BUFFER],
            inner: Vec::with_capacity(BUFFER),
            epoch: Instant::now(),
        })
    }

    /// Until the handle is dropped.
    fn run(mut self, inbox: &Receiver<Order>) {
        let mut readable = Vec::new();
        loop {
            loop {
                match inbox.try_recv() {
                    Ok(order) => self.take(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.launch();
            self.events.wait(TURN, &mut readable);
            for &number in &readable {
                self.turn(number, |client, scene, now| client.readable(scene, now));
            }
            let now = Instant::now();
            while let Some((at, number)) = self.events.passed(now) {
                let client = &mut self.clients[number as usize];
                if client.scheduled == Some(at) {
                    client.scheduled = None;
                    self.turn(number, |client, scene, now| client.due(scene, now));
                }
            }
            self.published.store(self.up, Relaxed);
        }
    }

    fn take(&mut self, order: Order) {
        let now = Instant::now();
        match order {
            Order::Connect { upto, at_once } => {
                self.at_once = at_once;
                for number in self.clients.len() as u32..upto {
                    self.clients.push(Client::new(number));
                    self.addresses.push(None);
                    self.waiting.push_back((now, number));
                }
            }
            Order::Reconnect { at_once } => {
                self.at_once = at_once;
                self.end_all(|client, _, _| client.forget());
                let all = 0..self.clients.len() as u32;
                self.waiting = all.map(|number| (now, number)).collect();
            }
            Order::Leave => {
                self.end_all(Client::leave);
                self.waiting.clear();
            }
            Order::Flows(flows) => {
                for client in &mut self.clients {
                    client.set_flow(None, now);
                }
                let count = flows.len().max(1) as u32;
                for (flow, place) in flows.into_iter().zip(0..) {
                    if let Some(client) = self.clients.get_mut(flow.from as usize) {
                        // Spread over one interval.
                        let start = now + flow.every * place / count;
                        client.set_flow(Some(flow), start);
                        self.schedule(flow.from);
                    }
                }
            }
            Order::Forget => {
                let up = self.report.up;
                self.report = Report::new();
                self.report.up = up;
                self.clients.iter_mut().for_each(Client::expect_anew);
            }
            Order::Report(reply) => {
                let mut report = self.report.clone();
                report.up = self.up;
                report.cpu_seconds = thread_seconds();
                // Whoever waits after this must not see a count from before his last order.
                self.published.store(self.up, Relaxed);
                // Whoever asked may have gone.
                let _ = reply.send(report);
            }
        }
    }

    fn end_all(&mut self, end: impl Fn(&mut Client, &mut Scene<'_>, Now)) {
        for number in 0..self.clients.len() as u32 {
            self.turn(number, &end);
        }
    }

    /// Begins as many logins as may be under way.
    fn launch(&mut self) {
        let now = Instant::now();
        while self.connecting < self.at_once {
            let Some(&(_, number)) = self.waiting.front().filter(|(at, _)| *at <= now) else {
                return;
            };
            self.waiting.pop_front();
            let mut failure = None;
            self.turn_with_events(number, |client, scene, events, now| {
                let begun = client
                    .begin(scene, now)
                    .and_then(|socket| events.watch(socket, number));
                match begun {
                    Ok(()) => client.drain(scene, now),
                    Err(error) => {
                        client.forget();
                        failure = Some(error);
                    }
                }
            });
            if let Some(error) = failure {
                self.report.failed(error.to_string());
                self.waiting.push_back((now + RETRY, number));
                return;
            }
        }
    }

    fn turn(&mut self, number: u32, act: impl FnOnce(&mut Client, &mut Scene<'_>, Now)) {
        self.turn_with_events(number, |client, scene, _, now| act(client, scene, now));
    }

    /// Lets one client do something, and keeps count of what became of it.
    fn turn_with_events(
        &mut self,
        number: u32,
        act: impl FnOnce(&mut Client, &mut Scene<'_>, &Events, Now),
    ) {
        let now = now();
        let client = &mut self.clients[number as usize];
        let before = client.state;
        let mut scene = Scene {
            settings: &self.settings,
            report: &mut self.report,
            addresses: &mut self.addresses,
            buffer: &mut self.buffer,
            inner: &mut self.inner,
            epoch: self.epoch,
        };
        act(client, &mut scene, &self.events, now);
        let after = client.state;
        self.connecting -= usize::from(matches!(before, State::Connecting(_)));
        self.connecting += usize::from(matches!(after, State::Connecting(_)));
        self.up -= usize::from(before == State::Up);
        self.up += usize::from(after == State::Up);
        if after == State::Down && before != State::Down {
            self.addresses[number as usize] = None;
            self.waiting.push_back((now.instant + RETRY, number));
        }
        self.schedule(number);
    }

    /// Puts the client's deadline into the heap, unless an earlier one is there already.
    fn schedule(&mut self, number: u32) {
        let client = &mut self.clients[number as usize];
        let Some(deadline) = client.deadline() else {
            return;
        };
        if client.scheduled.is_none_or(|known| deadline < known) {
            client.scheduled = Some(deadline);
            self.events.schedule(deadline, number);
        }
    }
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    Now {
        instant: Instant::now(),
        unix: unix.map_or(0, |since| since.as_secs()),
    }
}

/// CPU time of the calling thread.
fn thread_seconds() -> f64 {
    let time: io::Result<_> = ClockId::CLOCK_THREAD_CPUTIME_ID.now().map_err(Into::into);
    time.map_or(0.0, |time| Duration::from(time).as_secs_f64())
}
