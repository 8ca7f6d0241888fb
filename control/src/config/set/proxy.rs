//! Proxies of a connection.

use super::control::credentials;
use crate::config::draft::{ConnectionDraft, Given};
use crate::config::proxy::{HttpProxyAuth, SocksProxy};
use crate::config::values::{host_name, port};

/// Port of SOCKS proxies (RFC 1928).
const SOCKS_PORT: u16 = 1080;
/// Most headers that can be added.
const MAX_HEADERS: usize = 10;

/// Takes over an option of this group.
pub(super) fn set(connection: &mut ConnectionDraft, given: &mut Given<'_>) -> Result<bool, String> {
    match given.name {
        "http-proxy" | "http-proxy-option" | "http-proxy-user-pass" => {
            connection
                .http_proxy
                .position
                .get_or_insert_with(|| given.position.clone());
            set_http(connection, given)?;
        }
        "socks-proxy" => {
            connection.socks_proxy = Some(SocksProxy {
                host: host_name(given.arg(0))?,
                port: match given.args.get(1) {
                    Some(text) => port(text)?,
                    None => SOCKS_PORT,
                },
                credentials: match given.args.get(2) {
                    Some(_) => Some(credentials(given, 2)?),
                    None => None,
                },
                position: given.position.clone(),
            });
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_http(connection: &mut ConnectionDraft, given: &mut Given<'_>) -> Result<(), String> {
    let draft = &mut connection.http_proxy;
    match given.name {
        "http-proxy" => {
            let (host, port) = (host_name(given.arg(0))?, port(given.arg(1))?);
            let auth = match (given.args.get(2).map(String::as_str), given.args.get(3)) {
                (None, _) => HttpProxyAuth::None,
                (Some("auto"), _) => HttpProxyAuth::Auto,
                (Some("auto-nct"), _) => HttpProxyAuth::AutoNoClear,
                (Some(_), method) => {
                    draft.credentials = Some(credentials(given, 2)?);
                    method.map_or(Ok(HttpProxyAuth::Basic), |word| method_of(word))?
                }
            };
            draft.proxy = Some((host, port, auth));
            draft.position = Some(given.position.clone());
        }
        "http-proxy-user-pass" => draft.credentials = Some(credentials(given, 0)?),
        "http-proxy-option" => match (given.arg(0), &given.args[1..]) {
            ("VERSION", [version]) if matches!(version.as_str(), "1.0" | "1.1") => {
                draft.version = Some(version.clone());
            }
            ("VERSION", [other]) => return Err(format!("\"{other}\" is not one of: 1.0, 1.1")),
            ("AGENT", [agent]) => draft.agent = Some(header_text(agent)?),
            ("EXT1" | "EXT2" | "CUSTOM-HEADER", [header, value @ ..]) if value.len() < 2 => {
                if draft.headers.len() == MAX_HEADERS {
                    return Err(format!("at most {MAX_HEADERS} headers can be added"));
                }
                let value = value.first().map(|value| header_text(value)).transpose()?;
                draft.headers.push((header_text(header)?, value));
            }
            (word, _) => {
                return Err(format!(
                    "\"{word}\" with these parameters is not one of: VERSION v, AGENT text, \
                     CUSTOM-HEADER name [value]"
                ));
            }
        },
        _ => {}
    }
    Ok(())
}

fn method_of(word: &str) -> Result<HttpProxyAuth, String> {
    match word {
        "none" => Ok(HttpProxyAuth::None),
        "basic" => Ok(HttpProxyAuth::Basic),
        "digest" => Ok(HttpProxyAuth::Digest),
        "ntlm" | "ntlm2" => Err(
            "NTLM is not supported, its digests are broken; use auto, digest or basic".to_owned(),
        ),
        other => Err(format!("\"{other}\" is not one of: none, basic, digest")),
    }
}

/// Text that stays on its line of a request.
fn header_text(text: &str) -> Result<String, String> {
    match text.chars().any(char::is_control) || text.is_empty() {
        true => Err("a header must be printable".to_owned()),
        false => Ok(text.to_owned()),
    }
}
