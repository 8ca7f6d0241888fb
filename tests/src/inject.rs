//! Somebody in the middle of a TCP connection between a client and a server, who passes everything on
//! and adds bytes of his own to what the client says, between two of its packets.
//!
//! ```text
//!   client --> | length | packet |  + added +  | length | packet | --> server
//!   client <-------------------- unchanged <-------------------------- server
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use anyhow::{Context as _, Result};

use crate::helper::{bytes, ready, stdin_lines};
use crate::netns::Namespace;
use crate::traffic::Helper;

/// One in a namespace, mostly the client's own. Dropping it ends it and the connection.
#[derive(Debug)]
pub struct Injector(Helper);

impl Injector {
    /// Waits for clients at `bind` on behalf of `server`.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(namespace: &Namespace, bind: SocketAddr, server: SocketAddr) -> Result<Self> {
        let (bind, server) = (bind.to_string(), server.to_string());
        Helper::start(namespace, &["inject", &bind, &server]).map(Self)
    }

    /// Adds bytes to the stream as they are.
    ///
    /// # Errors
    /// When it has ended.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.0.tell(&digits)
    }

    /// Adds a packet, with its length in front.
    ///
    /// # Errors
    /// When it has ended, or the packet is longer than a length can say.
    pub fn packet(&mut self, packet: &[u8]) -> Result<()> {
        let length = u16::try_from(packet.len())?.to_be_bytes();
        self.raw(&[&length, packet].concat())
    }

    /// Says the client's last packet again.
    ///
    /// # Errors
    /// When it has ended.
    pub fn repeat(&mut self) -> Result<()> {
        self.0.tell("again")
    }
}

/// The connection to the server, and the client's last packet with its length.
#[derive(Debug, Default)]
struct Upward {
    server: Option<TcpStream>,
    last: Vec<u8>,
}

/// The helper's side.
///
/// # Errors
/// When it cannot listen, or is told what makes no sense.
pub(crate) fn run(bind: SocketAddr, server: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(bind).with_context(|| format!("cannot bind {bind}"))?;
    let upward: Arc<Mutex<Upward>> = Arc::default();
    let lines = stdin_lines();
    ready()?;
    let shared = upward.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Either end has gone: the client comes again.
            let _ = pass_on(client, server, &shared);
        }
    });
    for line in lines {
        let upward = &mut *lock(&upward);
        let bytes = match line.as_str() {
            "again" => upward.last.clone(),
            digits => bytes(digits)?,
        };
        if let Some(server) = &mut upward.server {
            // A server that has closed the connection takes no more.
            let _ = server.write_all(&bytes);
        }
    }
    Ok(())
}

/// One connection to its end.
fn pass_on(mut client: TcpStream, to: SocketAddr, upward: &Mutex<Upward>) -> Result<()> {
    let mut server = TcpStream::connect(to)?;
    lock(upward).server = Some(server.try_clone()?);
    let mut back = client.try_clone()?;
    std::thread::spawn(move || {
        // Whatever ends it, the client shall know.
        let _ = std::io::copy(&mut server, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let outcome = frames(&mut client, upward);
    if let Some(server) = lock(upward).server.take() {
        // It may have ended by itself.
        let _ = server.shutdown(Shutdown::Both);
    }
    outcome
}

fn frames(client: &mut TcpStream, upward: &Mutex<Upward>) -> Result<()> {
    loop {
        let mut frame = vec![0; 2];
        client.read_exact(&mut frame)?;
        let length = usize::from(u16::from_be_bytes([frame[0], frame[1]]));
        frame.resize(2 + length, 0);
        client.read_exact(&mut frame[2..])?;
        let upward = &mut *lock(upward);
        if let Some(server) = &mut upward.server {
            server.write_all(&frame)?;
        }
        upward.last = frame;
    }
}

/// A thread that failed has left nothing half done.
fn lock(upward: &Mutex<Upward>) -> MutexGuard<'_, Upward> {
    upward
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}
