//! The server's status file in its three versions (protocol §13).
//!
//! ```text
//!  1   sections with titles: OpenVPN CLIENT LIST, ROUTING TABLE, GLOBAL STATS
//!  2   a key in front of each row, comma separated; HEADER rows name the columns
//!  3   version 2 with TAB for the separating commas
//! ```
//! Programs read these files by position and fail on rows they do not know, so rows and columns are
//! exactly those of OpenVPN 2.6 and 2.7. Addresses are written `addr:port` and `[addr]:port`;
//! the `udp4:` that 2.7 puts in front is left out, as it is by 2.4 to 2.6: readers cut the text at
//! its colons, and those made before 2.7 take the transport for the address. Names were sanitised
//! when they came in; a separator that is still in one becomes `_`, so that it cannot move the
//! columns behind it.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::routes::Address;
use crate::log;

/// `status-version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Sections with titles.
    V1,
    /// Keyed rows, comma separated.
    V2,
    /// Keyed rows, TAB separated.
    V3,
}

impl Version {
    /// The version with this number; every other is none.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Version::V1),
            2 => Some(Version::V2),
            3 => Some(Version::V3),
            _ => None,
        }
    }
}

/// What there is to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// First line of `--version`.
    pub title: String,
    /// When it was so, in seconds since 1970.
    pub now: u64,
    /// The clients.
    pub clients: Vec<ClientRow>,
    /// Addresses and networks with their owners.
    pub routes: Vec<RouteRow>,
    /// Most packets that ever waited to go to several clients.
    pub max_queue: u64,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRow {
    /// `None` while it is not known.
    pub common_name: Option<String>,
    /// Where it is.
    pub real_address: SocketAddr,
    /// Its IPv4 address inside the tunnel.
    pub virtual_v4: Option<Ipv4Addr>,
    /// Its IPv6 address inside the tunnel.
    pub virtual_v6: Option<Ipv6Addr>,
    /// Bytes of packets from it, as they came.
    pub bytes_received: u64,
    /// Bytes of packets to it, as they went.
    pub bytes_sent: u64,
    /// Since when it is connected, in seconds since 1970.
    pub since: u64,
    /// `None` if it gave none.
    pub username: Option<String>,
    /// Numbers clients in the order they came; never used again.
    pub client_id: u64,
    /// Its peer-id.
    pub peer_id: u32,
    /// Its data channel cipher, once negotiated.
    pub cipher: Option<&'static str>,
}

/// An address or network and its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// The address or network.
    pub address: Address,
    /// The owner's name.
    pub common_name: Option<String>,
    /// Where the owner is.
    pub real_address: SocketAddr,
    /// When it was last in use, in seconds since 1970.
    pub last_ref: u64,
}

const CLIENT_COLUMNS: [&str; 12] = [
    "Common Name",
    "Real Address",
    "Virtual Address",
    "Virtual IPv6 Address",
    "Bytes Received",
    "Bytes Sent",
    "Connected Since",
    "Connected Since (time_t)",
    "Username",
    "Client ID",
    "Peer ID",
    "Data Channel Cipher",
];
const ROUTE_COLUMNS: [&str; 5] = [
    "Virtual Address",
    "Common Name",
    "Real Address",
    "Last Ref",
    "Last Ref (time_t)",
];

impl Status {
    /// The file's content. Times are in the local zone.
    pub fn to_text(&self, version: Version) -> String {
        self.to_text_in(version, log::timestamp_of)
    }

    fn to_text_in(&self, version: Version, time: fn(u64) -> String) -> String {
        match version {
            Version::V1 => self.sections(time),
            Version::V2 => self.keyed(',', time),
            Version::V3 => self.keyed('\t', time),
        }
    }

    fn sections(&self, time: fn(u64) -> String) -> String {
        let mut rows = Rows::new(',');
        rows.row(&["OpenVPN CLIENT LIST"]);
        rows.row(&["Updated", &time(self.now)]);
        rows.row(&[
            "Common Name",
            "Real Address",
            "Bytes Received",
            "Bytes Sent",
            "Connected Since",
        ]);
        for client in &self.clients {
            rows.row(&[
                name(&client.common_name),
                &endpoint(client.real_address),
                &client.bytes_received.to_string(),
                &client.bytes_sent.to_string(),
                &time(client.since),
            ]);
        }
        rows.row(&["ROUTING TABLE"]);
        rows.row(&["Virtual Address", "Common Name", "Real Address", "Last Ref"]);
        for route in &self.routes {
            rows.row(&[
                &route.address.to_string(),
                name(&route.common_name),
                &endpoint(route.real_address),
                &time(route.last_ref),
            ]);
        }
        rows.row(&["GLOBAL STATS"]);
        rows.row(&["Max bcast/mcast queue length", &self.max_queue.to_string()]);
        rows.row(&["END"]);
        rows.text
    }

    fn keyed(&self, separator: char, time: fn(u64) -> String) -> String {
        let mut rows = Rows::new(separator);
        rows.row(&["TITLE", &self.title]);
        rows.row(&["TIME", &time(self.now), &self.now.to_string()]);
        rows.header("CLIENT_LIST", &CLIENT_COLUMNS);
        for client in &self.clients {
            let address = |address: Option<IpAddr>| address.map(|a| a.to_string());
            rows.row(&[
                "CLIENT_LIST",
                name(&client.common_name),
                &endpoint(client.real_address),
                &address(client.virtual_v4.map(IpAddr::V4)).unwrap_or_default(),
                &address(client.virtual_v6.map(IpAddr::V6)).unwrap_or_default(),
                &client.bytes_received.to_string(),
                &client.bytes_sent.to_string(),
                &time(client.since),
                &client.since.to_string(),
                name(&client.username),
                &client.client_id.to_string(),
                &client.peer_id.to_string(),
                client.cipher.unwrap_or_default(),
            ]);
        }
        rows.header("ROUTING_TABLE", &ROUTE_COLUMNS);
        for route in &self.routes {
            rows.row(&[
                "ROUTING_TABLE",
                &route.address.to_string(),
                name(&route.common_name),
                &endpoint(route.real_address),
                &time(route.last_ref),
                &route.last_ref.to_string(),
            ]);
        }
        let max_queue = self.max_queue.to_string();
        rows.row(&["GLOBAL_STATS", "Max bcast/mcast queue length", &max_queue]);
        rows.row(&["GLOBAL_STATS", "dco_enabled", "0"]);
        rows.row(&["END"]);
        rows.text
    }
}

struct Rows {
    separator: char,
    text: String,
}

impl Rows {
    fn new(separator: char) -> Self {
        Rows {
            separator,
            text: String::new(),
        }
    }

    fn row(&mut self, fields: &[&str]) {
        for (n, field) in fields.iter().enumerate() {
            if n > 0 {
                self.text.push(self.separator);
            }
            let clean = |ch: char| match ch {
                ch if ch == self.separator || ch.is_control() => '_',
                ch => ch,
            };
            self.text.extend(field.chars().map(clean));
        }
        self.text.push('\n');
    }

    fn header(&mut self, key: &str, columns: &[&str]) {
        let fields: Vec<&str> = ["HEADER", key].iter().chain(columns).copied().collect();
        self.row(&fields);
    }
}

fn name(name: &Option<String>) -> &str {
    match name.as_deref() {
        None | Some("") => "UNDEF",
        Some(name) => name,
    }
}

/// `addr:port`, or `[addr]:port` for IPv6; an IPv4 address inside an IPv6 one is written as such.
fn endpoint(address: SocketAddr) -> String {
    let mut text = String::new();
    let _ = match address.ip().to_canonical() {
        IpAddr::V4(ip) => write!(text, "{ip}:{}", address.port()),
        IpAddr::V6(ip) => write!(text, "[{ip}]:{}", address.port()),
    };
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn utc(unix: u64) -> String {
        format!("2026-11-22 19:{:02}:{:02}", unix / 60 % 60, unix % 60)
    }

    fn status() -> Status {
        Status {
            title: "OpenVPN 2.7.6 x86_64-pc-linux-gnu [SSL (OpenSSL)]".to_owned(),
            now: 1795374388,
            clients: vec![ClientRow {
                common_name: Some("branch1".to_owned()),
                real_address: "198.51.100.7:41799".parse().unwrap(),
                virtual_v4: Some("10.8.0.2".parse().unwrap()),
                virtual_v6: Some("fd00:1::1000".parse().unwrap()),
                bytes_received: 2027,
                bytes_sent: 2052,
                since: 1795374376,
                username: None,
                client_id: 0,
                peer_id: 0,
                cipher: Some("AES-256-GCM"),
            }],
            routes: [
                Address::host("10.8.0.2".parse().unwrap()),
                Address::network("172.16.5.0".parse().unwrap(), 24),
            ]
            .map(|address| RouteRow {
                address,
                common_name: Some("branch1".to_owned()),
                real_address: "198.51.100.7:41799".parse().unwrap(),
                last_ref: 1795374376,
            })
            .to_vec(),
            max_queue: 1,
        }
    }

    #[test]
    fn version_1() {
        assert_eq!(
            status().to_text_in(Version::V1, utc),
            "OpenVPN CLIENT LIST\n\
             Updated,2026-11-22 19:06:28\n\
             Common Name,Real Address,Bytes Received,Bytes Sent,Connected Since\n\
             branch1,198.51.100.7:41799,2027,2052,2026-11-22 19:06:16\n\
             ROUTING TABLE\n\
             Virtual Address,Common Name,Real Address,Last Ref\n\
             10.8.0.2,branch1,198.51.100.7:41799,2026-11-22 19:06:16\n\
             172.16.5.0/24,branch1,198.51.100.7:41799,2026-11-22 19:06:16\n\
             GLOBAL STATS\n\
             Max bcast/mcast queue length,1\n\
             END\n"
        );
    }

    const KEYED: &str = "TITLE,OpenVPN 2.7.6 x86_64-pc-linux-gnu [SSL (OpenSSL)]\n\
         TIME,2026-11-22 19:06:28,1795374388\n\
         HEADER,CLIENT_LIST,Common Name,Real Address,Virtual Address,Virtual IPv6 Address,\
         Bytes Received,Bytes Sent,Connected Since,Connected Since (time_t),Username,Client ID,\
         Peer ID,Data Channel Cipher\n\
         CLIENT_LIST,branch1,198.51.100.7:41799,10.8.0.2,fd00:1::1000,2027,2052,\
         2026-11-22 19:06:16,1795374376,UNDEF,0,0,AES-256-GCM\n\
         HEADER,ROUTING_TABLE,Virtual Address,Common Name,Real Address,Last Ref,Last Ref (time_t)\n\
         ROUTING_TABLE,10.8.0.2,branch1,198.51.100.7:41799,2026-11-22 19:06:16,1795374376\n\
         ROUTING_TABLE,172.16.5.0/24,branch1,198.51.100.7:41799,2026-11-22 19:06:16,1795374376\n\
         GLOBAL_STATS,Max bcast/mcast queue length,1\n\
         GLOBAL_STATS,dco_enabled,0\n\
         END\n";

    #[test]
    fn versions_2_and_3() {
        assert_eq!(status().to_text_in(Version::V2, utc), KEYED);
        let tabs = status().to_text_in(Version::V3, utc);
        assert_eq!(tabs, KEYED.replace(',', "\t"));
        assert_eq!(Version::from_number(3), Some(Version::V3));
        assert_eq!(Version::from_number(4), None);
    }

    #[test]
    fn what_is_not_known() {
        let mut status = status();
        status.routes.clear();
        let client = &mut status.clients[0];
        client.common_name = None;
        client.virtual_v4 = None;
        client.virtual_v6 = None;
        client.cipher = None;
        let text = status.to_text_in(Version::V2, utc);
        let row = text
            .lines()
            .find(|row| row.starts_with("CLIENT_LIST"))
            .unwrap();
        assert_eq!(
            row,
            "CLIENT_LIST,UNDEF,198.51.100.7:41799,,,2027,2052,2026-11-22 19:06:16,1795374376,UNDEF,0,0,"
        );
    }

    #[test]
    fn addresses_of_clients() {
        for (address, text) in [
            ("192.0.2.1:1194", "192.0.2.1:1194"),
            ("[2001:db8::1]:1194", "[2001:db8::1]:1194"),
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:5"),
        ] {
            assert_eq!(endpoint(address.parse().unwrap()), text);
        }
    }

    #[test]
    fn times_are_local_and_well_formed() {
        let text = status().to_text(Version::V2);
        let time = text.lines().nth(1).unwrap();
        let zone_free = time.strip_prefix("TIME,2026-11-2").unwrap();
        assert!(zone_free.ends_with(",1795374388") && zone_free.len() == 1 + 9 + 11);
    }

    /// Reads versions 2 and 3 as a metrics exporter does: every key must be known, every row as
    /// wide as its header says, numbers must be numbers. Gives the rows of each key.
    fn exporter(text: &str) -> Result<HashMap<String, Vec<Vec<String>>>, String> {
        let separator = match text {
            text if text.starts_with("TITLE,") => ',',
            text if text.starts_with("TITLE\t") => '\t',
            _ => return Err("unexpected file contents".to_owned()),
        };
        let mut headers = HashMap::new();
        let mut rows: HashMap<String, Vec<Vec<String>>> = HashMap::new();
        for line in text.lines() {
            let fields: Vec<String> = line.split(separator).map(str::to_owned).collect();
            match (fields[0].as_str(), fields.len()) {
                ("END", 1) | ("TITLE", 2) | ("GLOBAL_STATS", _) => {}
                ("TIME", 3) => {
                    fields[2].parse::<f64>().map_err(|e| e.to_string())?;
                }
                ("HEADER", 3..) => {
                    headers.insert(fields[1].clone(), fields[2..].to_vec());
                }
                (key @ ("CLIENT_LIST" | "ROUTING_TABLE"), width) => {
                    let header = headers.get(key).ok_or("no HEADER before")?;
                    if width != header.len() + 1 {
                        return Err(format!("{line}: not as wide as its header"));
                    }
                    for (column, value) in header.iter().zip(&fields[1..]) {
                        if column.starts_with("Bytes") || column.ends_with("(time_t)") {
                            value.parse::<f64>().map_err(|e| e.to_string())?;
                        }
                    }
                    rows.entry(key.to_owned()).or_default().push(fields);
                }
                (key, _) => return Err(format!("unsupported key: {key}")),
            }
        }
        Ok(rows)
    }

    /// Reads version 1 as a router's command line does: by the number of the line, cut at commas,
    /// the port behind the last colon; the client's address inside the tunnel is that of the first
    /// route of the same endpoint without a slash. Gives name, host, port and that address.
    fn router(text: &str) -> Option<Vec<[String; 4]>> {
        let lines: Vec<&str> = text.lines().collect();
        if lines[0] != "OpenVPN CLIENT LIST" || !lines[1].starts_with("Updated,") {
            return None;
        }
        let end = lines.iter().position(|line| *line == "ROUTING TABLE")?;
        let mut clients = Vec::new();
        for line in &lines[3..end] {
            let fields: Vec<&str> = line.split(',').collect();
            let (host, port) = fields[1].rsplit_once(':')?;
            fields[2].parse::<u64>().ok()?;
            fields[3].parse::<u64>().ok()?;
            fields.get(4)?;
            let of_peer = lines.iter().filter(|line| line.contains(fields[1])).skip(1);
            let mut addresses = of_peer.map(|line| line.split(',').next().unwrap_or_default());
            let inside = addresses.find(|address| !address.contains('/'))?;
            clients.push([fields[0], host, port, inside].map(str::to_owned));
        }
        Some(clients)
    }

    #[test]
    fn readers_understand_it() {
        for version in [Version::V2, Version::V3] {
            let rows = exporter(&status().to_text(version)).unwrap();
            assert_eq!(rows["CLIENT_LIST"][0][1], "branch1");
            assert_eq!(rows["ROUTING_TABLE"].len(), 2);
        }
        assert_eq!(
            router(&status().to_text(Version::V1)).unwrap(),
            [["branch1", "198.51.100.7", "41799", "10.8.0.2"].map(str::to_owned)]
        );
        assert!(exporter(&KEYED.replace("dco_enabled,0\n", "0\nEXTRA,1\n")).is_err());
    }

    proptest! {
        #[test]
        fn no_name_breaks_a_row(
            names in proptest::collection::vec((any::<String>(), any::<String>()), 1..5),
            title: String,
        ) {
            let mut status = status();
            let (client, route) = (status.clients[0].clone(), status.routes[0].clone());
            status.title = title;
            status.clients.clear();
            status.routes.clear();
            for (name, user) in &names {
                let common_name = Some(name.clone());
                status.clients.push(ClientRow {
                    common_name: common_name.clone(),
                    username: Some(user.clone()),
                    ..client.clone()
                });
                status.routes.push(RouteRow { common_name, ..route.clone() });
            }
            for version in [Version::V2, Version::V3] {
                let rows = exporter(&status.to_text(version)).unwrap();
                prop_assert_eq!(rows["CLIENT_LIST"].len(), names.len());
                prop_assert_eq!(rows["ROUTING_TABLE"].len(), names.len());
            }
            prop_assert_eq!(router(&status.to_text(Version::V1)).unwrap().len(), names.len());
        }
    }
}
