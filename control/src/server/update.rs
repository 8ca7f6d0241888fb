//! What changes for a connected client when its options do: the difference of two push lists as a
//! `PUSH_UPDATE` (protocol §8.3, OpenVPN 2.7), and what only a new connection brings.
//!
//! ```text
//!   old list --.                      .--> lines: at once    "route 10.1.0.0 255.255.0.0", "-dns"
//!              +--> one kind after    |
//!   new list --'    the other --------'--> later: names      "sndbuf", "ifconfig-push"
//! ```
//! A client forgets all values of a kind when the first new one of it comes, so a kind of which one
//! line is new is sent whole, and one of which no line is left as `-name`.

use crate::config::server::ClientConfig;

/// Kinds a connected client can change, in the order they are sent in.
///
/// Clients of 2.7 take some others too, which are left out: addresses and topology, which the server
/// itself would have to change; `tun-mtu`, which is the server's own; and `keepalive`, which stands in
/// their list but has no effect. Routes come before the gateway because those clients lose the
/// redirection with the old routes.
const AT_ONCE: &[&str] = &[
    "block-ipv6",
    "block-outside-dns",
    "dhcp-option",
    "dns",
    "route-gateway",
    "route-metric",
    "route",
    "route-ipv6",
    REDIRECT,
];

/// Stands for `redirect-private` too: both set the same.
const REDIRECT: &str = "redirect-gateway";

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Options of the `PUSH_UPDATE`; none, and nothing is to be sent.
    pub lines: Vec<String>,
    /// Names of options that change with the next connection, each once.
    pub later: Vec<String>,
}

/// What turns one push list into another. `takes_updates`: the client understands `PUSH_UPDATE`.
pub fn difference(old: &[String], new: &[String], takes_updates: bool) -> Update {
    let at_once = if takes_updates { AT_ONCE } else { &[] };
    let mut update = Update::default();
    let mut routes_change = false;
    for &kind in at_once {
        let (before, after) = (of_kind(old, kind), of_kind(new, kind));
        if before == after && !(kind == REDIRECT && routes_change) {
            continue;
        }
        routes_change |= matches!(kind, "route" | "route-ipv6");
        match after.is_empty() {
            true if before.is_empty() => {}
            true => update.lines.push(format!("-{kind}")),
            false => update.lines.extend(after.into_iter().map(str::to_owned)),
        }
    }
    for kind in old.iter().chain(new).map(|line| kind(line)) {
        let known = at_once.contains(&kind) || update.later.iter().any(|name| name == kind);
        if !known && of_kind(old, kind) != of_kind(new, kind) {
            update.later.push(kind.to_owned());
        }
    }
    update
}

/// Names of the options in which two configurations of a client differ, besides what is pushed: they
/// hold for a whole connection.
pub fn changed_settings(old: &ClientConfig, new: &ClientConfig) -> Vec<&'static str> {
    // All fields by name: a new one must not be forgotten.
    let ClientConfig {
        push: _,
        push_reset: _,
        push_remove: _,
        iroute,
        iroute_ipv6,
        ifconfig_push,
        ifconfig_push_alias,
        ifconfig_ipv6_push,
        disable,
        data_ciphers,
        data_ciphers_fallback,
        ping,
        ping_restart,
        ping_exit,
        inactive,
        session_timeout,
        max_routes_per_client,
        compress,
        vlan_pvid,
        override_username,
    } = new;
    let address = (ifconfig_push, ifconfig_push_alias);
    let fields = [
        ("iroute", *iroute != old.iroute),
        ("iroute-ipv6", *iroute_ipv6 != old.iroute_ipv6),
        (
            "ifconfig-push",
            address != (&old.ifconfig_push, &old.ifconfig_push_alias),
        ),
        (
            "ifconfig-ipv6-push",
            *ifconfig_ipv6_push != old.ifconfig_ipv6_push,
        ),
        ("disable", *disable != old.disable),
        ("data-ciphers", *data_ciphers != old.data_ciphers),
        (
            "data-ciphers-fallback",
            *data_ciphers_fallback != old.data_ciphers_fallback,
        ),
        ("ping", *ping != old.ping),
        ("ping-restart", *ping_restart != old.ping_restart),
        ("ping-exit", *ping_exit != old.ping_exit),
        ("inactive", *inactive != old.inactive),
        ("session-timeout", *session_timeout != old.session_timeout),
        (
            "max-routes-per-client",
            *max_routes_per_client != old.max_routes_per_client,
        ),
        ("compress", *compress != old.compress),
        ("vlan-pvid", *vlan_pvid != old.vlan_pvid),
        (
            "override-username",
            *override_username != old.override_username,
        ),
    ];
    let changed = fields.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(name, _)| name).collect()
}

/// Lines of one kind, in order.
fn of_kind<'a>(list: &'a [String], wanted: &str) -> Vec<&'a str> {
    let lines = list.iter().map(String::as_str);
    lines.filter(|line| kind(line) == wanted).collect()
}

fn kind(line: &str) -> &str {
    // As clients find it.
    let words = line.trim_start_matches(' ');
    match words.split(' ').next().unwrap_or_default() {
        "redirect-private" => REDIRECT,
        name => name,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::options::{Connection, Options};
    use crate::config::pushed::{self, PulledOptions};

    fn list(text: &str) -> Vec<String> {
        text.split(',')
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn between(old: &str, new: &str) -> (String, String) {
        let update = difference(&list(old), &list(new), true);
        (update.lines.join(","), update.later.join(","))
    }

    #[test]
    fn a_kind_is_sent_whole_or_taken_away() {
        for (old, new, lines) in [
            ("", "", ""),
            ("route 10.1.0.0,ping 3", "ping 3,route 10.1.0.0", ""),
            ("", "block-ipv6", "block-ipv6"),
            (
                "route 10.1.0.0,dns server 1 address 10.8.0.1",
                "route 10.1.0.0,route 10.2.0.0,dns server 1 address 10.8.0.1",
                "route 10.1.0.0,route 10.2.0.0",
            ),
            (
                "route 10.1.0.0,route-ipv6 fd01::/64,dhcp-option DNS 10.8.0.1",
                "dhcp-option DNS 10.8.0.1,route-ipv6 fd01::/64",
                "-route",
            ),
            // The last one of a name counts, so their order does.
            (
                "route-gateway 10.8.0.1,route-gateway 10.8.0.2",
                "route-gateway 10.8.0.2,route-gateway 10.8.0.1",
                "route-gateway 10.8.0.2,route-gateway 10.8.0.1",
            ),
        ] {
            assert_eq!(between(old, new), (lines.to_owned(), String::new()));
        }
    }

    #[test]
    fn a_redirection_outlives_the_routes() {
        let old = "redirect-gateway def1,redirect-private ipv6,route 10.1.0.0,dns search-domains x";
        let kept = "redirect-gateway def1,redirect-private ipv6";
        for (new, lines) in [
            (format!("{kept},dns search-domains x"), "-route,"),
            (
                format!("{kept},route 10.1.0.0,route-ipv6 fd01::/64,dns search-domains x"),
                "route-ipv6 fd01::/64,",
            ),
            (format!("{kept},route 10.1.0.0"), "-dns"),
        ] {
            let again = if lines.ends_with(',') { kept } else { "" };
            assert_eq!(between(old, &new).0, format!("{lines}{again}"));
        }
        let without = "route 10.2.0.0,dns search-domains x";
        assert_eq!(between(old, without).0, "route 10.2.0.0,-redirect-gateway");
        assert_eq!(between("route 10.1.0.0", "").0, "-route");
    }

    #[test]
    fn what_waits_for_the_next_connection() {
        let old = "ping 3,topology subnet,ifconfig 10.8.0.2 255.255.255.0,sndbuf 1,sndbuf 2,\
                   -route,persist-tun";
        let new = "ping 4,topology subnet,ifconfig 10.8.0.3 255.255.255.0,sndbuf 1,route 10.1.0.0,\
                   tun-mtu 1400,persist-tun";
        let (lines, later) = between(old, new);
        assert_eq!(lines, "route 10.1.0.0");
        assert_eq!(later, "ping,ifconfig,sndbuf,-route,tun-mtu");
        let update = difference(&list(old), &list(new), false);
        assert!(update.lines.is_empty());
        assert!(
            update.later.contains(&"route".to_owned()),
            "{:?}",
            update.later
        );
    }

    #[test]
    fn settings_by_their_names() {
        let read = |text: &str| {
            let kind = crate::config::client_config::Kind::File;
            crate::config::client_config::parse("t", text.as_bytes(), kind)
                .unwrap()
                .0
        };
        let text = "push-reset\npush \"ping 3\"\npush-remove ping\niroute 10.1.0.0 255.255.0.0\n\
                    iroute-ipv6 fd01::/64\nifconfig-push 10.8.0.9 255.255.255.0\n\
                    ifconfig-ipv6-push fd00::9/64\ndisable\ndata-ciphers AES-256-GCM\n\
                    cipher AES-256-CBC\nping 3\nping-restart 9\ninactive 5\nsession-timeout 9\n\
                    max-routes-per-client 3\ncompress\nvlan-pvid 4\noverride-username x\n";
        let names = changed_settings(&ClientConfig::default(), &read(text));
        assert_eq!(
            names.join(" "),
            "iroute iroute-ipv6 ifconfig-push ifconfig-ipv6-push disable data-ciphers \
             data-ciphers-fallback ping ping-restart inactive session-timeout \
             max-routes-per-client compress vlan-pvid override-username"
        );
        assert!(changed_settings(&read(text), &read(text)).is_empty());
        let exit = changed_settings(&read("ping-restart 9\n"), &read("ping-exit 9\n"));
        assert_eq!(exit, ["ping-restart", "ping-exit"]);
    }

    /// What a client of ours makes of a list.
    fn pulled(lines: &[String]) -> PulledOptions {
        let mut state = PulledOptions::default();
        for line in lines {
            let _ = pushed::apply(line, &[], &mut state);
        }
        state
    }

    fn effect(state: &PulledOptions) -> String {
        let (mut options, mut connection) = (Options::default(), Connection::default());
        state.apply_to(&mut options, &mut connection);
        format!("{options:?} {connection:?}")
    }

    fn line() -> impl Strategy<Value = String> {
        let net = 0u8..4;
        prop_oneof![
            net.clone()
                .prop_map(|n| format!("route 10.{n}.0.0 255.255.0.0")),
            net.clone().prop_map(|n| format!("route-ipv6 fd0{n}::/64")),
            net.clone()
                .prop_map(|n| format!("route-gateway 10.8.0.{n}")),
            net.clone().prop_map(|n| format!("route-metric {n}")),
            net.clone()
                .prop_map(|n| format!("dhcp-option DNS 10.8.0.{n}")),
            net.clone()
                .prop_map(|n| format!("dns server {n} address 10.8.0.1")),
            net.prop_map(|n| format!("sndbuf {n}000")),
            prop_oneof![
                Just("redirect-gateway def1"),
                Just("redirect-gateway ipv6 !ipv4"),
                Just("redirect-private block-local"),
                Just("block-ipv6"),
                Just("block-outside-dns"),
                Just("ping 3"),
                Just("persist-tun"),
            ]
            .prop_map(str::to_owned),
        ]
    }

    fn any_list() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(line(), 0..12)
    }

    proptest! {
        #[test]
        fn a_client_that_applies_the_update_has_the_new_list(old in any_list(), new in any_list()) {
            let Update { lines, later } = difference(&old, &new, true);
            let mut state = pulled(&old);
            let skipped = pushed::update(&lines, &[], &mut state);
            prop_assert_eq!(skipped, Ok(Vec::new()));
            // It has what is new at once, and the old of the rest.
            let waits = |line: &&String| !AT_ONCE.contains(&kind(line));
            let wanted: Vec<String> = old
                .iter()
                .filter(waits)
                .chain(new.iter().filter(|line| !waits(line)))
                .cloned()
                .collect();
            prop_assert_eq!(effect(&state), effect(&pulled(&wanted)));
            for name in &later {
                prop_assert!(!AT_ONCE.contains(&name.as_str()));
            }
            prop_assert_eq!(difference(&new, &new, true), Update::default());
        }

        #[test]
        fn whatever_a_list_holds_the_client_stays(
            old in proptest::collection::vec("[-? \u{a0}]?(route|dns|-dns|\"route\"|ping)[ -+.-~\u{a0}]{0,9}", 0..6),
            new in proptest::collection::vec("[-? \u{a0}]?(route|dns|-dns|\"route\"|ping)[ -+.-~\u{a0}]{0,9}", 0..6),
        ) {
            // An error would make it reconnect.
            let update = difference(&old, &new, true);
            prop_assert!(pushed::update(&update.lines, &[], &mut pulled(&old)).is_ok());
        }
    }
}
