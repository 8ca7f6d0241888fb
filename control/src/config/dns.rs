//! The `dns` option: name servers and search domains, kept for scripts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::lexer;

/// Most addresses and domains of one server, as in OpenVPN.
const MAX_ADDRESSES: usize = 8;

/// What all `dns` lines say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Servers by priority, the lowest number first.
    pub servers: BTreeMap<i8, DnsServer>,
    /// Domains to complete names with.
    pub search_domains: Vec<String>,
}

/// One server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsServer {
    /// Addresses with ports, where they are not the usual ones.
    pub addresses: Vec<(IpAddr, Option<u16>)>,
    /// Only names in these domains are asked for. Empty: all.
    pub resolve_domains: Vec<String>,
    /// `yes`, `optional` or `no`.
    pub dnssec: Option<String>,
    /// `DoH`, `DoT` or `plain`.
    pub transport: Option<String>,
    /// Name for TLS.
    pub sni: Option<String>,
}

impl Dns {
    /// Reads lines without their first word, as [`super::options::Options::dns`] holds them; a
    /// line that is not right is left out.
    pub fn from_lines(lines: &[String]) -> Self {
        let mut dns = Dns::default();
        for line in lines {
            if let Ok(words) = lexer::words(line.as_bytes()) {
                let _ = dns.add(&words);
            }
        }
        dns
    }

    /// Takes one line over.
    ///
    /// # Errors
    /// What is wrong with it; nothing has changed then.
    pub fn add(&mut self, args: &[String]) -> Result<(), String> {
        let words: Vec<&str> = args.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["search-domains", domains @ ..] if !domains.is_empty() => {
                self.search_domains = domains.iter().map(|d| (*d).to_owned()).collect();
            }
            ["server", priority, rest @ ..] => {
                let priority: i8 = priority
                    .parse()
                    .map_err(|_| format!("\"{priority}\" is not a priority from -128 to 127"))?;
                let mut server = self.servers.get(&priority).cloned().unwrap_or_default();
                server.set(rest)?;
                self.servers.insert(priority, server);
            }
            _ => return Err("wanted: search-domains DOMAIN..., or server N ...".to_owned()),
        }
        Ok(())
    }
}

impl DnsServer {
    fn set(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            ["address", addresses @ ..] if !addresses.is_empty() => {
                if addresses.len() > MAX_ADDRESSES {
                    return Err(format!("at most {MAX_ADDRESSES} addresses are possible"));
                }
                self.addresses = addresses
                    .iter()
                    .map(|a| address(a))
                    .collect::<Result<_, _>>()?;
            }
            ["resolve-domains", domains @ ..] if !domains.is_empty() => {
                self.resolve_domains = domains.iter().map(|d| (*d).to_owned()).collect();
            }
            ["dnssec", word @ ("yes" | "optional" | "no")] => {
                self.dnssec = Some((*word).to_owned());
            }
            ["transport", word @ ("DoH" | "DoT" | "plain")] => {
                self.transport = Some((*word).to_owned());
            }
            ["sni", name] => self.sni = Some((*name).to_owned()),
            _ => {
                return Err("wanted after the priority: address, resolve-domains, \
                            dnssec yes|optional|no, transport DoH|DoT|plain, or sni"
                    .to_owned());
            }
        }
        Ok(())
    }
}

/// `10.8.0.1`, `10.8.0.1:53`, `fd00::1` or `[fd00::1]:53`.
fn address(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Some(ip) = super::options::parse_ip(text) {
        return Ok((ip, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) => Ok((address.ip(), Some(address.port()))),
        Err(_) => Err(format!("\"{text}\" is not the address of a server")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_make_servers() {
        let lines = [
            "server 1 address 10.8.0.1 [fd00::53]:5353",
            "server 1 dnssec optional",
            "server -2 address 10.8.0.9",
            "search-domains a.example b.example",
            "server 300 address 10.8.0.2",
        ];
        let dns = Dns::from_lines(&lines.map(str::to_owned));
        assert_eq!(dns.search_domains, ["a.example", "b.example"]);
        let keys: Vec<_> = dns.servers.keys().copied().collect();
        assert_eq!(keys, [-2, 1]);
        let first = &dns.servers[&1];
        assert_eq!(first.addresses[0], ("10.8.0.1".parse().unwrap(), None));
        assert_eq!(
            first.addresses[1],
            ("fd00::53".parse().unwrap(), Some(5353))
        );
        assert_eq!(first.dnssec.as_deref(), Some("optional"));
    }

    #[test]
    fn mistakes_are_named() {
        for bad in [
            "",
            "servers 1",
            "server x address 10.0.0.1",
            "server 1",
            "server 1 address",
            "server 1 address nine",
            "server 1 dnssec maybe",
            "search-domains",
        ] {
            let words: Vec<String> = bad.split_whitespace().map(str::to_owned).collect();
            let mut dns = Dns::default();
            assert!(dns.add(&words).is_err(), "{bad}");
            assert_eq!(dns, Dns::default(), "{bad}");
        }
    }
}
