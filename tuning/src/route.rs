//! Which interface leads to the peer, and how fast it is.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use nix::ifaddrs::getifaddrs;

/// The interface whose address the kernel would send from to reach `remote`. No packet is sent.
pub fn interface_towards(remote: IpAddr) -> Option<String> {
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    // Port 9 is "discard"; connecting a UDP socket only looks the route up.
    socket.connect(SocketAddr::new(remote, 9)).ok()?;
    let local = socket.local_addr().ok()?.ip();
    getifaddrs().ok()?.find_map(|interface| {
        let address = interface.address?;
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (None, Some(v6)) => IpAddr::V6(v6.ip()),
            (None, None) => return None,
        };
        (ip == local).then_some(interface.interface_name)
    })
}

/// The interfaces with a default route, IPv4 first, each once.
pub fn default_interfaces() -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut names = default_v4(&read("/proc/net/route"));
    for name in default_v6(&read("/proc/net/ipv6_route")) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Rate of a link in Mbit/s as its driver tells. Links without hardware below them (veth, TUN) tell
/// a figure that means nothing, and are of unknown rate.
pub fn rate(interface: &str) -> Option<u64> {
    rate_in(&Path::new("/sys/class/net").join(interface))
}

fn rate_in(folder: &Path) -> Option<u64> {
    let text = fs::read_to_string(folder.join("speed")).ok()?;
    // -1 stands for "unknown".
    let rate = text.trim().parse().ok().filter(|rate| *rate > 0);
    rate.filter(|_| has_hardware(folder, 4))
}

/// A device of its own, or one below: a bond, a bridge, a VLAN.
fn has_hardware(folder: &Path, depth: u32) -> bool {
    if folder.join("device").exists() {
        return true;
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    depth > 0
        && entries
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"lower_"))
            .any(|entry| has_hardware(&entry.path(), depth - 1))
}

/// `Iface Destination Gateway Flags ... Mask`, numbers in hexadecimal.
fn default_v4(table: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [name, "00000000", _, _, _, _, _, "00000000", ..] = fields[..]
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_owned());
        }
    }
    names
}

/// Destination, its prefix length, source, its length, gateway, ..., interface. The kernel keeps a
/// refusing default route on `lo`.
fn default_v6(table: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default = fields.len() >= 10
            && fields[0].bytes().all(|digit| digit == b'0')
            && fields[1] == "00"
            && fields.last() != Some(&"lo");
        if let (true, Some(name)) = (is_default, fields.last())
            && !names.iter().any(|known| known == name)
        {
            names.push((*name).to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                  tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n";
        assert_eq!(default_v4(v4), ["eth0"]);
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 2 0 00000003 wan0\n\
             fe80{} 40 {zero} 00 {zero} 00000100 1 0 00000001 eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo\n",
            "0".repeat(28)
        );
        assert_eq!(default_v6(&v6), ["wan0"]);
        assert!(default_v4("").is_empty() && default_v6("x\n").is_empty());
    }

    #[test]
    fn only_hardware_has_a_rate() {
        let name = format!("ringway-rate-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let link = |name: &str, speed: &str| {
            let link = folder.join(name);
            fs::create_dir_all(&link).unwrap();
            fs::write(link.join("speed"), speed).unwrap();
            link
        };
        let (card, veth, bond) = (
            link("card", "1000\n"),
            link("veth", "10000"),
            link("bond", "2000"),
        );
        let unknown = link("unknown", "-1");
        for path in [card.join("device"), unknown.join("device")] {
            fs::create_dir_all(path).unwrap();
        }
        std::os::unix::fs::symlink(&card, bond.join("lower_card")).unwrap();
        // A loop ends.
        std::os::unix::fs::symlink(&veth, veth.join("lower_veth")).unwrap();
        let rates = [&card, &veth, &bond, &unknown].map(|link| rate_in(link));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(rates, [Some(1000), None, Some(2000), None]);
    }

    #[test]
    fn loopback_leads_to_itself() {
        assert_eq!(
            interface_towards(Ipv4Addr::LOCALHOST.into()).as_deref(),
            Some("lo")
        );
        assert_eq!(rate("no-such-interface"), None);
    }
}
