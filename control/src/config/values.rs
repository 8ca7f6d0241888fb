//! Readers for the values of options, shared by files, the command line and pushed options.
//!
//! Each answers with a message that says what was found and what is wanted.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ringway_dataplane::frame::Mac;
use ringway_dataplane::framing::Framing;
use ringway_dataplane::key_slot::Cipher;
use ringway_dataplane::tun::DeviceKind;

use super::lexer;
use super::options::{
    DEFAULT_DATA_CIPHERS, Ifconfig, IfconfigIpv6, Inactive, RedirectGateway, Route, RouteAddr,
    RouteGateway, RouteIpv6, Topology,
};

/// A value or what is wrong with it.
pub(super) type Value<T> = Result<T, String>;

/// Longest time that is accepted, about 68 years.
const MAX_SECONDS: u64 = i32::MAX as u64;
/// Longest `data-ciphers`.
const MAX_DATA_CIPHERS: usize = 127;

/// A decimal number within a range.
pub(super) fn number(text: &str, range: RangeInclusive<u64>) -> Value<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if plain && range.contains(&number) => Ok(number),
        _ => Err(format!(
            "\"{text}\" is not a number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// A number that fits 32 bits.
pub(super) fn number_u32(text: &str, range: RangeInclusive<u32>) -> Value<u32> {
    let wide = number(text, u64::from(*range.start())..=u64::from(*range.end()))?;
    u32::try_from(wide).map_err(|error| error.to_string())
}

/// A number that fits 16 bits.
pub(super) fn number_u16(text: &str, range: RangeInclusive<u16>) -> Value<u16> {
    let wide = number(text, u64::from(*range.start())..=u64::from(*range.end()))?;
    u16::try_from(wide).map_err(|error| error.to_string())
}

/// A number that fits 8 bits.
pub(super) fn number_u8(text: &str, range: RangeInclusive<u8>) -> Value<u8> {
    let wide = number(text, u64::from(*range.start())..=u64::from(*range.end()))?;
    u8::try_from(wide).map_err(|error| error.to_string())
}

/// A time in seconds.
pub(super) fn seconds(text: &str) -> Value<u64> {
    number(text, 0..=MAX_SECONDS)
}

/// A time in seconds, not 0.
pub(super) fn some_seconds(text: &str) -> Value<u64> {
    number(text, 1..=MAX_SECONDS)
}

/// A port number.
pub(super) fn port(text: &str) -> Value<u16> {
    number_u16(text, 1..=u16::MAX)
}

/// One of several words.
pub(super) fn choice<T: Copy>(text: &str, words: &[(&str, T)]) -> Value<T> {
    if let Some(&(_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(value);
    }
    let list: Vec<_> = words.iter().map(|&(word, _)| word).collect();
    Err(format!("\"{text}\" is not one of: {}", list.join(", ")))
}

/// An IPv4 address.
pub(super) fn ipv4(text: &str) -> Value<Ipv4Addr> {
    text.parse()
        .map_err(|_| format!("\"{text}\" is not an IPv4 address"))
}

/// An IPv6 address.
pub(super) fn ipv6(text: &str) -> Value<Ipv6Addr> {
    text.parse()
        .map_err(|_| format!("\"{text}\" is not an IPv6 address"))
}

/// An IPv6 address with a prefix length.
pub(super) fn ipv6_prefix(text: &str, default: u8) -> Value<(Ipv6Addr, u8)> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, bits)) => (address, number_u8(bits, 0..=128)?),
        None => (text, default),
    };
    Ok((ipv6(address)?, prefix))
}

/// A netmask without holes.
pub(super) fn netmask(text: &str) -> Value<Ipv4Addr> {
    let mask = ipv4(text)?;
    let bits = u32::from(mask);
    if bits.leading_ones() + bits.trailing_zeros() < 32 {
        return Err(format!("\"{text}\" is not a netmask"));
    }
    Ok(mask)
}

/// `ifconfig local remote-or-netmask`.
pub(super) fn ifconfig(args: &[String]) -> Value<Ifconfig> {
    Ok(Ifconfig {
        local: ipv4(arg(args, 0))?,
        remote_netmask: ipv4(arg(args, 1))?,
    })
}

/// `ifconfig-ipv6 local/bits remote`.
pub(super) fn ifconfig_ipv6(args: &[String]) -> Value<IfconfigIpv6> {
    let (local, prefix) = ipv6_prefix(arg(args, 0), 64)?;
    let (remote, _) = ipv6_prefix(arg(args, 1), 64)?;
    Ok(IfconfigIpv6 {
        local,
        prefix,
        remote,
    })
}

/// `topology`.
pub(super) fn topology(text: &str) -> Value<Topology> {
    choice(
        text,
        &[
            ("net30", Topology::Net30),
            ("p2p", Topology::P2p),
            ("subnet", Topology::Subnet),
        ],
    )
}

/// `route network [netmask [gateway [metric]]]`; `default` stands for a value left out. Bits of
/// the network outside the netmask are cleared.
pub(super) fn route(args: &[String]) -> Value<Route> {
    let netmask = match given(args, 1) {
        Some(text) => netmask(text)?,
        None => Ipv4Addr::BROADCAST,
    };
    let network = match route_addr(arg(args, 0))? {
        RouteAddr::Addr(address) => RouteAddr::Addr(address & netmask),
        name => name,
    };
    Ok(Route {
        network,
        netmask,
        gateway: given(args, 2).map(route_addr).transpose()?,
        metric: given(args, 3).map(metric).transpose()?,
    })
}

/// `route-ipv6 network/bits [gateway [metric]]`.
pub(super) fn route_ipv6(args: &[String]) -> Value<RouteIpv6> {
    let (network, prefix) = ipv6_prefix(arg(args, 0), 128)?;
    let mask = u128::MAX
        .checked_shl(128 - u32::from(prefix))
        .unwrap_or_default();
    Ok(RouteIpv6 {
        network: Ipv6Addr::from(u128::from(network) & mask),
        prefix,
        gateway: given(args, 1).map(ipv6).transpose()?,
        metric: given(args, 2).map(metric).transpose()?,
    })
}

/// `route-gateway`.
pub(super) fn route_gateway(text: &str) -> Value<RouteGateway> {
    if text == "dhcp" {
        return Ok(RouteGateway::Dhcp);
    }
    match text.parse() {
        Ok(address) => Ok(RouteGateway::Addr(address)),
        Err(_) => Ok(RouteGateway::Name(host_name(text)?)),
    }
}

/// `dev-type`.
pub(super) fn device_kind(text: &str) -> Value<DeviceKind> {
    choice(text, &[("tun", DeviceKind::Tun), ("tap", DeviceKind::Tap)])
}

/// `lladdr`: the address of one host.
pub(super) fn hardware_address(text: &str) -> Value<Mac> {
    let address: Mac = text
        .parse()
        .map_err(|error| format!("\"{text}\" is {error}"))?;
    match address.is_group() || address == Mac::default() {
        true => Err(format!("\"{text}\" is not the address of one host")),
        false => Ok(address),
    }
}

/// A route metric.
pub(super) fn metric(text: &str) -> Value<u32> {
    number_u32(text, 0..=i32::MAX as u32)
}

/// `redirect-gateway` and `redirect-private` on top of what was given before.
pub(super) fn redirect_gateway(
    reroute: bool,
    flags: &[String],
    before: Option<RedirectGateway>,
) -> Value<RedirectGateway> {
    let mut result = before.unwrap_or(RedirectGateway {
        reroute: false,
        ..RedirectGateway::default()
    });
    result.reroute |= reroute;
    for flag in flags {
        match flag.as_str() {
            "local" => result.local = true,
            "autolocal" => result.autolocal = true,
            "def1" => result.def1 = true,
            "bypass-dhcp" => result.bypass_dhcp = true,
            "bypass-dns" => result.bypass_dns = true,
            "block-local" => result.block_local = true,
            "ipv6" => result.ipv6 = true,
            "!ipv4" => result.ipv4 = false,
            other => return Err(format!("\"{other}\" is not a flag of it")),
        }
    }
    Ok(result)
}

/// `inactive seconds [bytes]`.
pub(super) fn inactive(args: &[String]) -> Value<Option<Inactive>> {
    let seconds = seconds(arg(args, 0))?;
    let bytes = match args.get(1) {
        Some(text) => number(text, 0..=i64::MAX as u64)?,
        None => 0,
    };
    Ok((seconds > 0).then_some(Inactive { seconds, bytes }))
}

/// The name of a data cipher.
pub(super) fn cipher(text: &str) -> Value<Cipher> {
    Cipher::from_name(text).ok_or_else(|| {
        format!("\"{text}\" is not supported; use AES-256-GCM, or see ringway --show-ciphers")
    })
}

/// `data-ciphers`: names joined by colons, `?` before those that may be unknown, `DEFAULT` for the
/// default.
pub(super) fn cipher_list(list: &str) -> Value<Vec<Cipher>> {
    if list.len() > MAX_DATA_CIPHERS {
        return Err(format!("longer than {MAX_DATA_CIPHERS} characters"));
    }
    let mut ciphers = Vec::new();
    let mut add = |cipher| {
        if !ciphers.contains(&cipher) {
            ciphers.push(cipher);
        }
    };
    for word in list.split(':') {
        let (optional, word) = match word.strip_prefix('?') {
            Some(word) => (true, word),
            None => (false, word),
        };
        match Cipher::from_name(word) {
            Some(cipher) => add(cipher),
            None if word == "DEFAULT" => DEFAULT_DATA_CIPHERS.into_iter().for_each(&mut add),
            None if optional => {}
            None => {
                return Err(format!(
                    "\"{word}\" is not supported; remove it, or see ringway --show-ciphers"
                ));
            }
        }
    }
    match ciphers.is_empty() {
        true => Err("no cipher of the list is supported".to_owned()),
        false => Ok(ciphers),
    }
}

/// The parameter of `push`: one option that fits a PUSH_REPLY, whose options are split at commas
/// (protocol §8.3).
pub(super) fn push_line(text: &str) -> Value<String> {
    if text.contains(',') {
        return Err("a comma cannot be pushed, options are split at commas".to_owned());
    }
    if text.chars().any(char::is_control) {
        return Err("a pushed option must be printable".to_owned());
    }
    match lexer::words(text.as_bytes()) {
        Ok(words) if words.is_empty() => Err("an option to push is needed".to_owned()),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("the option to push is malformed: {error}")),
    }
}

/// `compress` and `comp-lzo`: the framing, and whether the peer may send compressed packets.
pub(super) fn framing(option: &str, argument: Option<&String>) -> Value<(Framing, bool)> {
    let argument = argument.map(String::as_str);
    match (option, argument) {
        ("comp-lzo", Some("no")) => Ok((Framing::Lzo, false)),
        ("comp-lzo", None | Some("yes" | "adaptive")) => Ok((Framing::Lzo, true)),
        ("compress", None | Some("stub")) => Ok((Framing::Stub, false)),
        ("compress", Some("stub-v2")) => Ok((Framing::StubV2, false)),
        ("compress", Some("lzo")) => Ok((Framing::Lzo, true)),
        ("compress", Some("lz4")) => Ok((Framing::Stub, true)),
        ("compress", Some("lz4-v2")) => Ok((Framing::StubV2, true)),
        ("compress", Some("migrate")) => Err("\"migrate\" is for servers".to_owned()),
        (_, other) => Err(format!(
            "\"{}\" is not a known algorithm",
            other.unwrap_or_default()
        )),
    }
}

/// A host name or address: printable, without blanks.
pub(super) fn host_name(text: &str) -> Value<String> {
    let good = !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '%'));
    match good {
        true => Ok(text.to_owned()),
        false => Err(format!("\"{text}\" is not a host name or address")),
    }
}

/// The name of a network interface.
pub(super) fn interface_name(text: &str) -> Value<String> {
    let good = (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'%');
    match good {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "\"{text}\" is not an interface name of 1 to 15 characters"
        )),
    }
}

/// The name of an environment variable.
pub(super) fn variable_name(text: &str) -> Value<String> {
    let good = !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match good {
        true => Ok(text.to_owned()),
        false => Err(format!("\"{text}\" is not the name of a variable")),
    }
}

/// An argument that the table of options guarantees; empty if it is absent all the same.
pub(super) fn arg(args: &[String], index: usize) -> &str {
    args.get(index).map_or("", String::as_str)
}

/// An optional argument, `default` meaning absent.
fn given(args: &[String], index: usize) -> Option<&str> {
    args.get(index)
        .map(String::as_str)
        .filter(|&text| text != "default" && !text.is_empty())
}

fn route_addr(text: &str) -> Value<RouteAddr> {
    match text {
        "vpn_gateway" => Ok(RouteAddr::VpnGateway),
        "net_gateway" => Ok(RouteAddr::NetGateway),
        "remote_host" => Ok(RouteAddr::RemoteHost),
        _ => match text.parse() {
            Ok(address) => Ok(RouteAddr::Addr(address)),
            // A malformed address must not go to the resolver as a name.
            Err(_)
                if text
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte == b'.') =>
            {
                Err(format!("\"{text}\" is not an IPv4 address"))
            }
            Err(_) => Ok(RouteAddr::Name(host_name(text)?)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn numbers_are_strict() {
        assert_eq!(number("007", 0..=11), Ok(7));
        for bad in ["", "+1", "-1", "1s", "12", " 1", "99999999999999999999999"] {
            assert!(number(bad, 0..=11).is_err(), "{bad}");
        }
        assert_eq!(
            number("x", 0..=11).unwrap_err(),
            "\"x\" is not a number from 0 to 11"
        );
    }

    #[test]
    fn routes() {
        let host = route(&list("10.1.2.3")).unwrap();
        assert_eq!(host.netmask, Ipv4Addr::BROADCAST);
        let net = route(&list("10.1.2.3 255.255.0.0 default 5")).unwrap();
        assert_eq!(net.network, RouteAddr::Addr(Ipv4Addr::new(10, 1, 0, 0)));
        assert_eq!((net.gateway, net.metric), (None, Some(5)));
        let name = route(&list("vpn.example.org 255.255.255.255 net_gateway")).unwrap();
        assert_eq!(name.network, RouteAddr::Name("vpn.example.org".into()));
        assert_eq!(name.gateway, Some(RouteAddr::NetGateway));
        assert!(route(&list("10.1.2.300")).is_err());
        assert!(route(&list("10.0.0.0 255.0.255.0")).is_err());
        let six = route_ipv6(&list("2001:db8::1/32 fe80::1 3")).unwrap();
        assert_eq!(six.network, "2001:db8::".parse::<Ipv6Addr>().unwrap());
        let all = route_ipv6(&list("2001:db8::/0")).unwrap();
        assert_eq!((all.network, all.prefix), (Ipv6Addr::UNSPECIFIED, 0));
        assert!(route_ipv6(&list("2001:db8::/129")).is_err());
    }

    #[test]
    fn hardware_addresses_are_of_one_host() {
        let good = hardware_address("02:00:5E:10:00:01");
        assert_eq!(good, Ok(Mac([2, 0, 0x5e, 0x10, 0, 1])));
        for bad in ["01:00:5e:00:00:01", "00:00:00:00:00:00", "02:00:5e:10:00"] {
            assert!(hardware_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn redirect_flags_add_up() {
        let first = redirect_gateway(false, &list("bypass-dns"), None).unwrap();
        assert!(!first.reroute && first.bypass_dns);
        let both = redirect_gateway(true, &list("def1 ipv6 !ipv4"), Some(first)).unwrap();
        assert!(both.reroute && both.def1 && both.ipv6 && !both.ipv4 && both.bypass_dns);
        assert!(redirect_gateway(true, &list("def2"), None).is_err());
    }
}
