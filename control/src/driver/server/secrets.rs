//! Key files of a server, read once: after a change of user or root they may be out of reach, and
//! tokens are to hold over a soft restart.

use std::sync::Arc;

use super::settings;
use crate::config::options::Options;
use crate::config::server::ServerOptions;
use crate::proto::wrap::ClientWraps;
use crate::server::token::TokenKey;

/// What a server keeps to itself.
#[derive(Clone)]
pub(in crate::driver) struct Secrets {
    /// The keys of control packets.
    pub(super) wraps: Arc<ClientWraps>,
    /// The key that signs tokens, with `auth-gen-token`.
    pub(super) token_key: Option<TokenKey>,
}

impl Secrets {
    /// # Errors
    /// One line: which file, and what is wrong with it.
    pub(in crate::driver) fn read(
        options: &Options,
        settings: &ServerOptions,
    ) -> Result<Self, String> {
        let wraps = settings::client_wraps(options, settings, &options.connections[0])?;
        Ok(Secrets {
            wraps: Arc::new(wraps),
            token_key: token_key(settings)?,
        })
    }
}

fn token_key(settings: &ServerOptions) -> Result<Option<TokenKey>, String> {
    if settings.auth_gen_token.is_none() {
        return Ok(None);
    }
    let Some(source) = &settings.auth_gen_token_secret else {
        return Ok(Some(TokenKey::generate(&mut rand::rng())));
    };
    let fail = |what: String| {
        format!(
            "{}: {}: {}: {what}",
            source.position,
            source.option,
            source.name()
        )
    };
    let text = source.read().map_err(|error| fail(error.to_string()))?;
    let text = String::from_utf8_lossy(&text);
    let key = TokenKey::parse(&text).map_err(|error| fail(error.to_string()))?;
    Ok(Some(key))
}
