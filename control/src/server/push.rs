//! What a client is pushed (protocol §8.3), apart from what the protocol core negotiates itself.
//!
//! ```text
//!  PUSH_REPLY, <push lines, route-gateway, topology, ping, ...>, ifconfig-ipv6, ifconfig,
//!              '---------------------- push_list -----------------------------------------'
//!              peer-id, auth-token, auth-token-user, cipher, protocol-flags, tun-mtu
//!                       '------ token_lines -------'
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::tun::DeviceKind;

use super::addresses::Addresses;
use super::routes::Address;
use crate::config::lexer;
use crate::config::server::ClientConfig;
use crate::host::link::netmask_of;
use crate::proto::peer_info::PeerInfo;

/// Longest user name that is pushed back, in base64, in bytes: older clients take no more.
const MAX_TOKEN_USER: usize = 127;

/// What decides on a client's push list.
#[derive(Clone, Copy, Debug)]
pub struct PushInput<'a> {
    /// The lines for all clients (`push`), in the order they are sent in.
    pub for_all: &'a [String],
    /// The client's own.
    pub client: &'a ClientConfig,
    /// Its addresses.
    pub addresses: &'a Addresses,
    /// Kind of the device.
    pub device: DeviceKind,
}

/// The options a client is pushed, without those the protocol core adds.
///
/// `push-reset` leaves out all lines for everybody, `topology` and `route-gateway` included.
/// `push-remove` leaves out those for everybody that begin with its text, and with exactly
/// `ifconfig` or `ifconfig-ipv6` the address. The client's own lines are not touched by either.
/// A route that is one of the client's own networks (`iroute`) is left out: it would send the
/// client's neighbours through the tunnel.
pub fn push_list(input: &PushInput<'_>) -> Vec<String> {
    let client = input.client;
    let removed = |line: &&String| {
        let begins = |text: &String| line.starts_with(text.as_str());
        client
            .push_remove
            .iter()
            .filter(|t| !is_address(t))
            .any(begins)
    };
    let for_all = input.for_all.iter().filter(|_| !client.push_reset);
    let lines = for_all.filter(|line| !removed(line)).chain(&client.push);
    let networks = match input.device {
        DeviceKind::Tun => own_networks(client),
        DeviceKind::Tap => Vec::new(),
    };
    let own = |line: &&String| routed_network(line).is_some_and(|net| networks.contains(&net));
    let mut list: Vec<String> = lines.filter(|line| !own(line)).cloned().collect();
    let blocked = |name: &str| client.push_remove.iter().any(|text| text == name);
    if let Some(v6) = input.addresses.v6.filter(|_| !blocked("ifconfig-ipv6")) {
        let line = format!("ifconfig-ipv6 {}/{} {}", v6.local, v6.bits, v6.remote);
        list.push(line);
    }
    if let Some(v4) = input.addresses.v4.filter(|_| !blocked("ifconfig")) {
        let local = v4.alias.unwrap_or(v4.local);
        list.push(format!("ifconfig {local} {}", v4.remote_netmask));
    }
    list
}

/// The lines that give a client a token; also for a renewed one on its own.
pub fn token_lines(token: &str, user: &str) -> Vec<String> {
    let mut lines = vec![format!("auth-token {token}")];
    let user = STANDARD.encode(user);
    if !user.is_empty() && user.len() <= MAX_TOKEN_USER {
        lines.push(format!("auth-token-user {user}"));
    }
    lines
}

/// `compress migrate`, for a client whose options string speaks of compression: the line that makes it
/// stop, and how to speak to it then. A client that does not know the framing that leaves packets as
/// they are gets the one it has always had.
pub fn migration(peer: &PeerInfo) -> (&'static str, Framing) {
    match peer.value("IV_COMP_STUBv2") {
        Some("1") => ("compress stub-v2", Framing::StubV2),
        _ => ("comp-lzo no", Framing::Lzo),
    }
}

fn is_address(text: &str) -> bool {
    matches!(text, "ifconfig" | "ifconfig-ipv6")
}

fn own_networks(client: &ClientConfig) -> Vec<Address> {
    let v4 = client
        .iroute
        .iter()
        .map(|(net, bits)| ((*net).into(), *bits));
    let v6 = client
        .iroute_ipv6
        .iter()
        .map(|(net, bits)| ((*net).into(), *bits));
    v4.chain(v6)
        .map(|(net, bits)| Address::network(net, bits))
        .collect()
}

/// The network of a `route` or `route-ipv6` line through the server. One with a gateway of its own
/// means something else.
fn routed_network(line: &str) -> Option<Address> {
    let words = lexer::words(line.as_bytes()).ok()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["route", net] => Some(Address::host(net.parse::<Ipv4Addr>().ok()?.into())),
        ["route", net, mask] => {
            let net: Ipv4Addr = net.parse().ok()?;
            let mask: Ipv4Addr = mask.parse().ok()?;
            let bits = u32::from(mask).leading_ones() as u8;
            (netmask_of(bits) == mask).then(|| Address::network(net.into(), bits))
        }
        ["route-ipv6", net] => {
            let (net, bits) = net.split_once('/')?;
            let net: Ipv6Addr = net.parse().ok()?;
            let bits = bits.parse().ok().filter(|bits| *bits <= 128)?;
            Some(Address::network(net.into(), bits))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::addresses::{AssignedV4, AssignedV6};
    use super::*;

    #[test]
    fn clients_that_compress_are_told_to_stop() {
        let new = PeerInfo::parse("IV_VER=2.6.14\nIV_COMP_STUBv2=1\n");
        assert_eq!(migration(&new), ("compress stub-v2", Framing::StubV2));
        let old = PeerInfo::parse("IV_VER=2.3.10\n");
        assert_eq!(migration(&old), ("comp-lzo no", Framing::Lzo));
    }

    fn for_all() -> Vec<String> {
        let push = [
            "route-gateway 10.8.0.1",
            "topology subnet",
            "ping 10",
            "ping-restart 60",
            "route 10.1.0.0 255.255.0.0",
            "route 10.2.0.0 255.255.0.0",
            "route 10.3.0.7",
            "route 10.4.0.0 255.255.0.0 net_gateway",
            "route-ipv6 fd01::/48",
            "dhcp-option DNS 10.8.0.1",
        ];
        push.map(str::to_owned).to_vec()
    }

    fn addresses() -> Addresses {
        Addresses {
            v4: Some(AssignedV4 {
                local: "10.8.0.2".parse().unwrap(),
                remote_netmask: "255.255.255.0".parse().unwrap(),
                alias: None,
            }),
            v6: Some(AssignedV6 {
                local: "fd00::1000".parse().unwrap(),
                bits: 64,
                remote: "fd00::1".parse().unwrap(),
            }),
            ..Addresses::default()
        }
    }

    fn list(client: &ClientConfig, addresses: &Addresses) -> Vec<String> {
        push_list(&PushInput {
            for_all: &for_all(),
            client,
            addresses,
            device: DeviceKind::Tun,
        })
    }

    #[test]
    fn stock_order() {
        let client = ClientConfig {
            push: vec!["route 10.9.0.0 255.255.0.0".to_owned()],
            ..ClientConfig::default()
        };
        let got = list(&client, &addresses());
        let mut expected = for_all();
        expected.extend(
            [
                "route 10.9.0.0 255.255.0.0",
                "ifconfig-ipv6 fd00::1000/64 fd00::1",
                "ifconfig 10.8.0.2 255.255.255.0",
            ]
            .map(str::to_owned),
        );
        assert_eq!(got, expected);
    }

    #[test]
    fn own_networks_are_left_out() {
        let client = ClientConfig {
            iroute: vec![
                ("10.1.0.0".parse().unwrap(), 16),
                ("10.2.0.0".parse().unwrap(), 24),
                ("10.3.0.7".parse().unwrap(), 32),
                ("10.4.0.0".parse().unwrap(), 16),
            ],
            iroute_ipv6: vec![("fd01::".parse().unwrap(), 48)],
            push: vec!["route 10.2.0.0 255.255.255.0".to_owned()],
            ..ClientConfig::default()
        };
        let got = list(&client, &Addresses::default());
        assert_eq!(
            got[4..],
            [
                "route 10.2.0.0 255.255.0.0",
                "route 10.4.0.0 255.255.0.0 net_gateway",
                "dhcp-option DNS 10.8.0.1",
            ]
        );
    }

    #[test]
    fn reset_and_remove() {
        let own = "route 10.9.0.0 255.255.0.0".to_owned();
        let client = ClientConfig {
            push_reset: true,
            push: vec![own.clone()],
            ..ClientConfig::default()
        };
        let got = list(&client, &addresses());
        assert_eq!(got[0], own);
        assert!(got[1].starts_with("ifconfig-ipv6 "));
        assert_eq!(got.len(), 3);

        let remove = |texts: &[&str]| {
            let client = ClientConfig {
                push_remove: texts.iter().map(|text| (*text).to_owned()).collect(),
                push: vec![own.clone()],
                ..ClientConfig::default()
            };
            list(&client, &addresses())
        };
        assert_eq!(
            remove(&["route ", "route-ipv6", "dhcp-option DNS", "ifconfig"]),
            [
                "route-gateway 10.8.0.1",
                "topology subnet",
                "ping 10",
                "ping-restart 60",
                own.as_str(),
                "ifconfig-ipv6 fd00::1000/64 fd00::1",
            ]
        );
        let without_v6 = remove(&["ifconfig-ipv6"]);
        assert_eq!(
            without_v6.last().unwrap(),
            "ifconfig 10.8.0.2 255.255.255.0"
        );
        assert_eq!(without_v6.len(), for_all().len() + 2);
    }

    #[test]
    fn the_alias_is_what_the_client_is_told() {
        let mut addresses = addresses();
        addresses.v4.as_mut().unwrap().alias = Some("10.9.0.2".parse().unwrap());
        let got = list(&ClientConfig::default(), &addresses);
        assert_eq!(got.last().unwrap(), "ifconfig 10.9.0.2 255.255.255.0");
    }

    #[test]
    fn user_names_that_are_too_long_are_not_pushed_back() {
        assert_eq!(
            token_lines("SESS_ID_AT_x", "user"),
            ["auth-token SESS_ID_AT_x", "auth-token-user dXNlcg=="]
        );
        assert_eq!(token_lines("t", &"x".repeat(95)).len(), 1);
        assert_eq!(token_lines("t", &"x".repeat(93)).len(), 2);
        assert_eq!(token_lines("t", "").len(), 1);
    }
}
