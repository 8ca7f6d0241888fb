//! `PUSH_UPDATE`: what a server changes while the tunnel is up (protocol §8.3, OpenVPN 2.7).
//!
//! ```text
//!   [-][?]name values      -  the option goes      ?  skip it if it cannot be taken
//! ```
//! The first mention of an option takes its earlier pushed values away, further ones of the same
//! update add to it. What the own configuration says always stays.

use super::{PulledOptions, PushOutcome, apply, is_route_or_dns, shown};
use crate::config::lexer;
use crate::config::options::{PullFilter, PullFilterAction};

/// Options that can change while the tunnel is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    BlockIpv6,
    BlockOutsideDns,
    DhcpOption,
    Dns,
    Ifconfig,
    IfconfigIpv6,
    Keepalive,
    RedirectGateway,
    Route,
    RouteGateway,
    RouteIpv6,
    RouteMetric,
    Topology,
    TunMtu,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "block-ipv6" => Kind::BlockIpv6,
            "block-outside-dns" => Kind::BlockOutsideDns,
            "dhcp-option" => Kind::DhcpOption,
            "dns" => Kind::Dns,
            "ifconfig" => Kind::Ifconfig,
            "ifconfig-ipv6" => Kind::IfconfigIpv6,
            "keepalive" => Kind::Keepalive,
            "redirect-gateway" | "redirect-private" => Kind::RedirectGateway,
            "route" => Kind::Route,
            "route-gateway" => Kind::RouteGateway,
            "route-ipv6" => Kind::RouteIpv6,
            "route-metric" => Kind::RouteMetric,
            "topology" => Kind::Topology,
            "tun-mtu" => Kind::TunMtu,
            _ => return None,
        })
    }

    fn clear(self, state: &mut PulledOptions) {
        match self {
            Kind::BlockIpv6 => state.block_ipv6 = false,
            // It does nothing here.
            Kind::BlockOutsideDns => {}
            Kind::DhcpOption => state.dhcp_option.clear(),
            Kind::Dns => state.dns.clear(),
            Kind::Ifconfig => state.ifconfig = None,
            Kind::IfconfigIpv6 => state.ifconfig_ipv6 = None,
            Kind::Keepalive => {
                state.ping = None;
                state.ping_restart = None;
                state.ping_exit = None;
            }
            Kind::RedirectGateway => state.redirect_gateway = None,
            Kind::Route => state.route.clear(),
            Kind::RouteGateway => state.route_gateway = None,
            Kind::RouteIpv6 => state.route_ipv6.clear(),
            Kind::RouteMetric => state.route_metric = None,
            Kind::Topology => state.topology = None,
            Kind::TunMtu => state.tun_mtu = None,
        }
    }
}

/// Applies the options of a whole update, all parts together, to what was pushed before. `filters`
/// are those of the configuration. Returns a line for the log about each option that was skipped.
///
/// The device then differs from what any PUSH_REPLY describes, so that it has to be opened anew
/// after a reconnect ([`PulledOptions::tun_digest`] means nothing any more).
///
/// # Errors
/// One line: an option that cannot change while the tunnel is up, or that `pull-filter` rejects.
/// The client has to reconnect. `state` is as before.
pub fn update(
    lines: &[String],
    filters: &[PullFilter],
    state: &mut PulledOptions,
) -> Result<Vec<String>, String> {
    let mut new = PulledOptions {
        // Their lists begin anew, and a long session may see many updates.
        count: 0,
        tun_lines: Vec::new(),
        ..state.clone()
    };
    let mut seen = Vec::new();
    let mut skipped = Vec::new();
    for line in lines {
        let item = Item::parse(line)?;
        match item.apply(filters, &mut seen, &mut new) {
            Ok(None) => {}
            Ok(Some(reason)) => skipped.push(reason),
            Err(reason) if item.optional => skipped.push(reason),
            Err(reason) => return Err(reason),
        }
    }
    *state = new;
    Ok(skipped)
}

/// One option of an update.
struct Item<'a> {
    remove: bool,
    optional: bool,
    /// The option without its marks.
    option: &'a str,
}

impl<'a> Item<'a> {
    fn parse(line: &'a str) -> Result<Self, String> {
        let text = line.trim_start();
        let (remove, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (optional, option) = match text.strip_prefix('?') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if option.is_empty() || option.starts_with('-') {
            return Err(format!("pushed update \"{}\" is malformed", shown(line)));
        }
        Ok(Item {
            remove,
            optional,
            option,
        })
    }

    /// The reason if the option was skipped.
    ///
    /// # Errors
    /// The reason, if that is not enough.
    fn apply(
        &self,
        filters: &[PullFilter],
        seen: &mut Vec<Kind>,
        state: &mut PulledOptions,
    ) -> Result<Option<String>, String> {
        let option = self.option;
        let skipped = |reason: &str| format!("pushed update \"{}\" {reason}", shown(option));
        let name = option.split(' ').next().unwrap_or_default();
        if name == "push-continuation" {
            return Ok(None);
        }
        let Some(kind) = Kind::of(name) else {
            return Err(skipped("cannot be applied while the tunnel is up"));
        };
        let filter = filters.iter().find(|f| option.starts_with(&f.text));
        match filter.map(|filter| filter.action) {
            Some(PullFilterAction::Ignore) => return Ok(Some(skipped("ignored by pull-filter"))),
            Some(PullFilterAction::Reject) => return Err(skipped("rejected by pull-filter")),
            Some(PullFilterAction::Accept) | None => {}
        }
        if state.route_nopull && is_route_or_dns(name) {
            return Ok(Some(skipped("ignored: route-nopull")));
        }
        if self.remove {
            if option != name {
                return Ok(Some(skipped("skipped: nothing may follow the name")));
            }
            kind.clear(state);
            return Ok(None);
        }
        if seen.contains(&kind) {
            return add(kind, option, state);
        }
        // A bad value takes nothing away.
        let mut changed = state.clone();
        kind.clear(&mut changed);
        let skipped = add(kind, option, &mut changed)?;
        if skipped.is_none() {
            seen.push(kind);
            *state = changed;
        }
        Ok(skipped)
    }
}

/// Adds one option, as those of a PUSH_REPLY are; the reason if it was skipped.
///
/// # Errors
/// As above.
fn add(kind: Kind, option: &str, state: &mut PulledOptions) -> Result<Option<String>, String> {
    for line in spelled_out(kind, option) {
        match apply(&line, &[], state) {
            PushOutcome::Accepted | PushOutcome::Ignored => {}
            PushOutcome::Warning(reason) => return Ok(Some(reason)),
            PushOutcome::Reject(reason) => return Err(reason),
        }
    }
    Ok(None)
}

/// The options of a PUSH_REPLY that an option stands for.
fn spelled_out(kind: Kind, option: &str) -> Vec<String> {
    let words = lexer::words(option.as_bytes()).unwrap_or_default();
    match (kind, &words[..]) {
        (Kind::Keepalive, [_, ping, restart]) => {
            vec![format!("ping {ping}"), format!("ping-restart {restart}")]
        }
        _ => vec![option.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::options::{Options, Topology};

    fn pulled(text: &str) -> PulledOptions {
        let mut state = PulledOptions::default();
        for line in text.split(',') {
            assert_eq!(
                apply(line, &[], &mut state),
                PushOutcome::Accepted,
                "{line}"
            );
        }
        state
    }

    fn lines(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    fn change(state: &mut PulledOptions, text: &str) -> Result<Vec<String>, String> {
        update(&lines(text), &[], state)
    }

    #[test]
    fn first_mention_replaces_and_further_ones_add() {
        let mut state = pulled(
            "route 10.1.0.0 255.255.0.0,route 10.2.0.0 255.255.0.0,dhcp-option DNS 10.8.0.1,\
             ping 10,ping-restart 60,tun-mtu 1400,topology subnet",
        );
        let skipped = change(
            &mut state,
            "route 10.3.0.0 255.255.0.0,route 10.4.0.0 255.255.0.0,tun-mtu 1300,keepalive 3 9",
        );
        assert_eq!(skipped, Ok(Vec::new()));
        let networks: Vec<String> = state
            .route
            .iter()
            .map(|r| format!("{:?}", r.network))
            .collect();
        assert_eq!(networks, ["Addr(10.3.0.0)", "Addr(10.4.0.0)"]);
        assert_eq!(state.dhcp_option, ["DNS 10.8.0.1"], "not mentioned");
        assert_eq!(state.tun_mtu, Some(1300));
        assert_eq!((state.ping, state.ping_restart), (Some(3), Some(9)));
        assert_eq!(state.topology, Some(Topology::Subnet));
        // The next update begins anew.
        change(&mut state, "route 10.5.0.0 255.255.0.0").unwrap();
        assert_eq!(state.route.len(), 1);
    }

    #[test]
    fn names_behind_a_dash_go() {
        let mut state = pulled(
            "ifconfig 10.8.0.2 255.255.255.0,ifconfig-ipv6 fd00::2/64 fd00::1,route 10.1.0.0,\
             route-ipv6 fd01::/64,route-gateway 10.8.0.1,route-metric 7,redirect-gateway def1,\
             dns server 1 address 10.8.0.1,dhcp-option DNS 10.8.0.1,block-ipv6,tun-mtu 1400,\
             topology subnet,ping 3,peer-id 4",
        );
        let all = "-ifconfig,-ifconfig-ipv6,-route,-route-ipv6,-route-gateway,-route-metric,\
                   -redirect-private,-dns,-dhcp-option,-block-ipv6,-tun-mtu,-topology,-?keepalive,\
                   -block-outside-dns";
        assert_eq!(change(&mut state, all), Ok(Vec::new()));
        let left = PulledOptions {
            peer_id: Some(4),
            ..PulledOptions::default()
        };
        // What the digest is made of is of no meaning any more.
        state.count = 0;
        assert_eq!(format!("{state:?}"), format!("{left:?}"));
    }

    #[test]
    fn what_cannot_change_needs_a_reconnect_unless_it_is_optional() {
        for text in [
            "cipher AES-128-GCM",
            "-peer-id",
            "route 10.9.0.0 255.255.0.0,ping 4",
            "-",
            "?",
            "",
            "?-route",
            "route\t10.9.0.0",
        ] {
            let mut state = pulled("route 10.1.0.0 255.255.0.0");
            assert!(change(&mut state, text).is_err(), "{text}");
            assert_eq!(state.route.len(), 1);
            assert!(!format!("{state:?}").contains("10.9."), "{text}");
        }
        let mut state = pulled("route 10.1.0.0 255.255.0.0");
        let skipped = change(
            &mut state,
            "?cipher AES-128-GCM,-?up,block-outside-dns,-route",
        )
        .unwrap();
        assert_eq!(skipped.len(), 2, "{skipped:?}");
        assert!(state.route.is_empty());
    }

    #[test]
    fn a_bad_value_takes_nothing_away() {
        let mut state = pulled("route 10.1.0.0 255.255.0.0,tun-mtu 1400");
        for text in [
            "route x.y",
            "tun-mtu 1",
            "keepalive 3",
            "-route 10.1.0.0",
            "tun-mtu \"1",
        ] {
            assert_eq!(change(&mut state, text).unwrap().len(), 1, "{text}");
            assert_eq!(
                (state.route.len(), state.tun_mtu),
                (1, Some(1400)),
                "{text}"
            );
        }
    }

    #[test]
    fn filters_come_first() {
        let filter = |action, text: &str| PullFilter {
            action,
            text: text.to_owned(),
        };
        let filters = [
            filter(PullFilterAction::Ignore, "route "),
            filter(PullFilterAction::Reject, "dns"),
        ];
        let mut state = pulled("route 10.1.0.0 255.255.0.0");
        let skipped = update(
            &lines("route 10.2.0.0,?dns server 1 address 1.1.1.1"),
            &filters,
            &mut state,
        );
        assert_eq!(skipped.unwrap().len(), 2);
        assert!(update(&lines("-dns"), &filters, &mut state).is_err());
        let own = Options {
            route_nopull: true,
            ..Options::default()
        };
        let mut state = PulledOptions::new(&own);
        assert_eq!(
            change(&mut state, "route 10.2.0.0,ifconfig 10.8.0.3 255.255.255.0")
                .unwrap()
                .len(),
            1
        );
        assert!(state.route.is_empty() && state.ifconfig.is_some());
    }

    #[test]
    fn many_updates_do_not_use_up_what_may_be_pushed() {
        let mut state = pulled("route 10.1.0.0 255.255.0.0");
        for _ in 0..super::super::MAX_OPTIONS + 1 {
            assert_eq!(
                change(&mut state, "route 10.2.0.0 255.255.0.0,tun-mtu 1400"),
                Ok(Vec::new())
            );
        }
        assert_eq!(state.route.len(), 1);
        assert!(state.tun_lines.len() < 8, "{}", state.tun_lines.len());
    }

    proptest! {
        #[test]
        fn any_update_is_survived(
            text in proptest::collection::vec(
                "-?\\??(ifconfig|route|route-ipv6|dns|keepalive|tun-mtu|cipher)?[ -~]{0,40}", 0..8),
        ) {
            let mut state = pulled("route 10.1.0.0 255.255.0.0,ping 3");
            let before = format!("{state:?}");
            if update(&text, &[], &mut state).is_err() {
                prop_assert_eq!(format!("{state:?}"), before);
            }
        }
    }
}
