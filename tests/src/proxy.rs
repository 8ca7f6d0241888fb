//! A small HTTP (CONNECT) and SOCKS5 (CONNECT, UDP ASSOCIATE) proxy for labs, which asks for a login as
//! it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{
    IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket,
};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use md5::{Digest as _, Md5};

use crate::netns::Namespace;
use crate::traffic::Helper;

/// The only user of the proxy.
pub const USER: &str = "jo";
/// Its password.
pub const PASSWORD: &str = "open \"sesame\"";
const REALM: &str = "lab, with a comma";
const NONCE: &str = "bm9uY2U=";

/// What it speaks, and how it wants users to log in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// HTTP without login.
    Http,
    /// HTTP with basic login.
    HttpBasic,
    /// HTTP with digest login.
    HttpDigest,
    /// SOCKS5 without login.
    Socks,
    /// SOCKS5 with user name and password.
    SocksLogin,
}

/// How it is run.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Address and port to listen on.
    pub bind: SocketAddr,
    /// What it is.
    pub kind: Kind,
}

/// A proxy in a namespace. Dropping it ends it.
#[derive(Debug)]
pub struct Proxy(Helper);

impl Proxy {
    /// Starts one.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(namespace: &Namespace, bind: SocketAddr, kind: Kind) -> Result<Self> {
        let value = kind.to_possible_value().context("a hidden kind")?;
        let bind = bind.to_string();
        Helper::start(namespace, &["proxy", &bind, value.get_name()]).map(Self)
    }

    /// Cuts every connection that goes through it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cut(&mut self) -> Result<()> {
        self.0.tell("cut")
    }
}

/// Runs one until standard input closes.
///
/// # Errors
/// When it cannot listen.
pub fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind(options.bind)?;
    println!("READY");
    let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let (shared, kind) = (open.clone(), options.kind);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = shared.clone();
            std::thread::spawn(move || {
                if let Err(error) = serve(stream, kind, &shared) {
                    eprintln!("proxy: {error:#}");
                }
            });
        }
    });
    for line in std::io::stdin().lines() {
        line?;
        let mut open = open
            .lock()
            .map_err(|_| anyhow::anyhow!("a thread failed"))?;
        for stream in open.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

fn serve(mut near: TcpStream, kind: Kind, open: &Mutex<Vec<TcpStream>>) -> Result<()> {
    let far = match kind {
        Kind::Http | Kind::HttpBasic | Kind::HttpDigest => http(&mut near, kind)?,
        Kind::Socks | Kind::SocksLogin => socks(&mut near, kind, open)?,
    };
    let Some(far) = far else { return Ok(()) };
    if let Ok(mut open) = open.lock() {
        open.extend([near.try_clone()?, far.try_clone()?]);
    }
    let (mut up, mut down) = ((near.try_clone()?, far.try_clone()?), (far, near));
    let upward = std::thread::spawn(move || {
        let _ = std::io::copy(&mut up.0, &mut up.1);
        let _ = up.1.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut down.0, &mut down.1);
    let _ = down.1.shutdown(Shutdown::Write);
    let _ = upward.join();
    Ok(())
}

/// One CONNECT; `None` when a login was asked for. The 200 and the first bytes from the far end may
/// leave together, as with real proxies.
fn http(near: &mut TcpStream, kind: Kind) -> Result<Option<TcpStream>> {
    let mut reader = BufReader::new(near.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "no whole request");
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    ensure!(reader.buffer().is_empty(), "bytes before the answer");
    let mut words = lines[0].split(' ');
    ensure!(words.next() == Some("CONNECT"), "not CONNECT: {}", lines[0]);
    let place = words.next().context("no place")?.to_owned();
    let login = lines
        .iter()
        .find_map(|line| line.strip_prefix("Proxy-Authorization: "));
    let allowed = match kind {
        Kind::HttpBasic => {
            let pair = STANDARD.encode(format!("{USER}:{PASSWORD}"));
            login == Some(&format!("Basic {pair}"))
        }
        Kind::HttpDigest => login.is_some_and(|login| digest_fits(login, &place)),
        Kind::Http | Kind::Socks | Kind::SocksLogin => true,
    };
    if !allowed {
        let wanted = match kind {
            Kind::HttpDigest => {
                format!("Digest realm=\"{REALM}\", qop=\"auth\", nonce=\"{NONCE}\"")
            }
            _ => format!("Basic realm=\"{REALM}\""),
        };
        let page = "<html>log in</html>";
        write!(
            near,
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: {wanted}\r\n\
             Content-Length: {}\r\n\r\n{page}",
            page.len()
        )?;
        return Ok(None);
    }
    let far = TcpStream::connect(&*place).with_context(|| format!("connecting to {place}"))?;
    write!(near, "HTTP/1.1 200 Connection established\r\n\r\n")?;
    Ok(Some(far))
}

fn digest_fits(login: &str, place: &str) -> bool {
    let value = |name: &str| {
        let from = login.find(&format!("{name}="))? + name.len() + 1;
        let rest = login[from..].trim_start_matches('"');
        rest.split(['"', ',']).next().map(str::to_owned)
    };
    let md5 = |text: String| -> String {
        let hash = Md5::digest(text.as_bytes());
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let (Some(nc), Some(cnonce), Some(response)) =
        (value(" nc"), value("cnonce"), value("response"))
    else {
        return false;
    };
    let a1 = md5(format!("{USER}:{REALM}:{PASSWORD}"));
    let a2 = md5(format!("CONNECT:{place}"));
    response == md5(format!("{a1}:{NONCE}:{nc}:{cnonce}:auth:{a2}"))
}

fn take(near: &mut impl Read, count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    near.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A connection, or nothing after datagrams have been passed on until the end of this one.
fn socks(
    near: &mut TcpStream,
    kind: Kind,
    open: &Mutex<Vec<TcpStream>>,
) -> Result<Option<TcpStream>> {
    let hello = take(near, 2)?;
    let methods = take(near, usize::from(hello[1]))?;
    let wanted = if kind == Kind::SocksLogin { 2 } else { 0 };
    if hello[0] != 5 || !methods.contains(&wanted) {
        near.write_all(&[5, 0xff])?;
        bail!("no method in common");
    }
    near.write_all(&[5, wanted])?;
    if kind == Kind::SocksLogin {
        let user_length = take(near, 2)?[1];
        let user = take(near, usize::from(user_length))?;
        let password_length = take(near, 1)?[0];
        let password = take(near, usize::from(password_length))?;
        let good = user == USER.as_bytes() && password == PASSWORD.as_bytes();
        near.write_all(&[1, u8::from(!good)])?;
        ensure!(good, "wrong password");
    }
    let request = take(near, 3)?;
    let (host, port) = place(near)?;
    match request[..] {
        [5, 1, 0] => {
            let far = TcpStream::connect((host.as_str(), port));
            let code = if far.is_ok() { 0 } else { 5 };
            near.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0])?;
            far.with_context(|| format!("connecting to {host}:{port}"))
                .map(Some)
        }
        [5, 3, 0] => {
            if let Ok(mut open) = open.lock() {
                open.push(near.try_clone()?);
            }
            associate(near).map(|()| None)
        }
        _ => bail!("neither CONNECT nor UDP ASSOCIATE: {request:?}"),
    }
}

/// Kind, address and port (RFC 1928 §5).
fn place(bytes: &mut impl Read) -> Result<(String, u16)> {
    let host = match take(bytes, 1)?[0] {
        1 => {
            let ip: [u8; 4] = take(bytes, 4)?.try_into().unwrap_or_default();
            IpAddr::from(ip).to_string()
        }
        4 => {
            let ip: [u8; 16] = take(bytes, 16)?.try_into().unwrap_or_default();
            IpAddr::from(ip).to_string()
        }
        3 => {
            let length = take(bytes, 1)?[0];
            String::from_utf8(take(bytes, usize::from(length))?)?
        }
        kind => bail!("an address of kind {kind}"),
    };
    let port = take(bytes, 2)?;
    Ok((host, u16::from_be_bytes([port[0], port[1]])))
}

fn written(place: SocketAddr) -> Vec<u8> {
    let mut bytes = match place.ip().to_canonical() {
        IpAddr::V4(ip) => [&[1][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[4][..], &ip.octets()].concat(),
    };
    bytes.extend(place.port().to_be_bytes());
    bytes
}

/// Passes datagrams of the client's address on as long as the connection is open (RFC 1928 §7).
fn associate(control: &mut TcpStream) -> Result<()> {
    let near = UdpSocket::bind((control.local_addr()?.ip(), 0))?;
    // Both families.
    let far = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    }
    control.write_all(&[&[5, 0, 0][..], &written(near.local_addr()?)].concat())?;
    let who = control.peer_addr()?.ip();
    let (over, client) = (AtomicBool::new(false), Mutex::new(None));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 1 << 16];
            while !over.load(Relaxed) {
                match near.recv_from(&mut buffer) {
                    Ok((len, from)) if from.ip() == who => {
                        if let Ok(mut client) = client.lock() {
                            *client = Some(from);
                        }
                        if let Err(error) = pass_on(&buffer[..len], &far) {
                            eprintln!("proxy: {error:#}");
                        }
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        });
        scope.spawn(|| {
            let mut buffer = vec![0; 1 << 16];
            while !over.load(Relaxed) {
                let Ok((len, from)) = far.recv_from(&mut buffer) else {
                    continue;
                };
                let to = client.lock().ok().and_then(|client| *client);
                if let Some(to) = to {
                    let datagram = [&[0; 3][..], &written(from), &buffer[..len]].concat();
                    let _ = near.send_to(&datagram, to);
                }
            }
        });
        // Until it ends, in whatever way.
        let _ = control.read(&mut [0; 1]);
        over.store(true, Relaxed);
    });
    Ok(())
}

fn pass_on(mut datagram: &[u8], far: &UdpSocket) -> Result<()> {
    let start = take(&mut datagram, 3)?;
    ensure!(start == [0; 3], "a datagram that begins with {start:?}");
    let (host, port) = place(&mut datagram)?;
    let mut places = (host.as_str(), port).to_socket_addrs()?;
    // A name of this machine has addresses of both families; servers of labs have the first one.
    let place = places.find(|place| place.is_ipv4() || host.contains(':'));
    let ip = match place.context("no address")?.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    far.send_to(datagram, (ip, port))?;
    Ok(())
}
