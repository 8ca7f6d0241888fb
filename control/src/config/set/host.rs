//! Options of the device, addresses, routes and liveness.

use crate::config::dns::Dns;
use crate::config::draft::{Draft, Given};
use crate::config::lexer::quote;
use crate::config::options::{PullFilter, PullFilterAction};
use crate::config::values::{
    choice, device_kind, hardware_address, ifconfig, ifconfig_ipv6, inactive, interface_name, ipv6,
    metric, number, number_u32, redirect_gateway, route, route_gateway, route_ipv6, seconds,
    topology,
};

/// Takes over an option of this group.
pub(super) fn set(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    Ok(set_device(draft, given)? || set_routes(draft, given)? || set_liveness(draft, given)?)
}

fn set_device(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "dev" => {
            if given.arg(0) == "null" {
                return Err("\"null\" is not supported yet; use tun or tap".to_owned());
            }
            options.dev = interface_name(given.arg(0))?;
        }
        "dev-type" => draft.dev_type = Some(device_kind(given.arg(0))?),
        "dev-node" => options.dev_node = Some(given.path(given.arg(0))?),
        "persist-tun" => options.persist_tun = true,
        "txqueuelen" => options.txqueuelen = Some(number_u32(given.arg(0), 0..=i32::MAX as u32)?),
        "lladdr" => options.lladdr = Some(hardware_address(given.arg(0))?),
        "topology" => options.topology = topology(given.arg(0))?,
        "ifconfig" => options.ifconfig = Some(ifconfig(given.args)?),
        "ifconfig-ipv6" => options.ifconfig_ipv6 = Some(ifconfig_ipv6(given.args)?),
        "ifconfig-noexec" => options.ifconfig_noexec = true,
        "ifconfig-nowarn" => options.ifconfig_nowarn = true,
        "block-ipv6" => options.block_ipv6 = true,
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_routes(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "route" => options.route.push(route(given.args)?),
        "route-ipv6" => options.route_ipv6.push(route_ipv6(given.args)?),
        "route-gateway" => options.route_gateway = Some(route_gateway(given.arg(0))?),
        "route-ipv6-gateway" => options.route_ipv6_gateway = Some(ipv6(given.arg(0))?),
        "route-metric" => options.route_metric = Some(metric(given.arg(0))?),
        "route-delay" => {
            options.route_delay = Some(match given.args.first() {
                Some(text) => seconds(text)?,
                None => 0,
            });
        }
        "route-nopull" => options.route_nopull = true,
        "route-noexec" => options.route_noexec = true,
        "allow-pull-fqdn" => options.allow_pull_fqdn = true,
        "pull-filter" => options.pull_filter.push(PullFilter {
            action: choice(
                given.arg(0),
                &[
                    ("accept", PullFilterAction::Accept),
                    ("ignore", PullFilterAction::Ignore),
                    ("reject", PullFilterAction::Reject),
                ],
            )?,
            text: given.arg(1).to_owned(),
        }),
        "redirect-gateway" | "redirect-private" => {
            let reroute = given.name == "redirect-gateway";
            let before = options.redirect_gateway;
            options.redirect_gateway = Some(redirect_gateway(reroute, given.args, before)?);
        }
        "dhcp-option" => options.dhcp_option.push(joined(given)),
        "dns" => {
            Dns::default().add(given.args)?;
            options.dns.push(joined(given));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_liveness(draft: &mut Draft, given: &mut Given<'_>) -> Result<bool, String> {
    let options = &mut draft.options;
    match given.name {
        "ping" => options.ping = seconds(given.arg(0))?,
        "ping-restart" => {
            options.ping_restart = seconds(given.arg(0))?;
            options.ping_exit = 0;
        }
        "ping-exit" => {
            options.ping_exit = seconds(given.arg(0))?;
            options.ping_restart = 0;
        }
        "ping-timer-rem" => options.ping_timer_rem = true,
        "keepalive" => {
            let interval = number(given.arg(0), 1..=86400)?;
            let timeout = number(given.arg(1), 1..=86400)?;
            if timeout < interval * 2 {
                return Err(format!(
                    "the second time must be at least twice the first: {}",
                    interval * 2
                ));
            }
            draft.keepalive = Some((interval, timeout));
        }
        "inactive" => options.inactive = inactive(given.args)?,
        "session-timeout" => options.session_timeout = seconds(given.arg(0))?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// The parameters as one text, quoted where needed.
fn joined(given: &Given<'_>) -> String {
    let words: Vec<_> = given.args.iter().map(|word| quote(word)).collect();
    words.join(" ")
}
