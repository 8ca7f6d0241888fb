//! User name and password over the life of a run: read or asked for once, replaced by pushed tokens,
//! forgotten where `auth-nocache` wants it (protocol §8.3, §8.4).

use zeroize::Zeroizing;

use super::Ending;
use crate::config::options::{AuthRetry, Credentials, Options};
use crate::config::position::FileOrInline;
use crate::host::password::{self, CredentialSource};
use crate::proto::push::AuthFailed;

/// Longest user name or password a stock peer takes without PKCS#11, without the NUL (protocol §5).
const MAX_LEN: usize = 127;

/// What is sent as user name and password now.
pub(super) struct CredentialStore {
    username: Option<String>,
    password: Option<Zeroizing<String>>,
    /// A pushed token stands for the password until it is refused.
    token: Option<Zeroizing<String>>,
    token_username: Option<String>,
    nocache: bool,
}

impl CredentialStore {
    /// Reads or asks for the login, if one is configured.
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let mut store = CredentialStore {
            username: None,
            password: None,
            token: None,
            token_username: None,
            nocache: options.auth_nocache,
        };
        store.prepare(options)?;
        Ok(store)
    }

    /// Makes sure that there is something to send; asks again after `auth-nocache` forgot it.
    pub(super) fn prepare(&mut self, options: &Options) -> Result<(), String> {
        let Some(source) = &options.auth_user_pass else {
            return Ok(());
        };
        if self.token.is_some() || self.password.is_some() {
            return Ok(());
        }
        let from = match source {
            Credentials::Ask => CredentialSource::Ask,
            Credentials::From(source) => match &source.data {
                FileOrInline::Path(path) => CredentialSource::File(path),
                FileOrInline::Inline(text) => CredentialSource::Inline(text),
            },
        };
        let login = password::auth_user_pass(from)?;
        if login.username.len() > MAX_LEN || login.password.len() > MAX_LEN {
            return Err(format!(
                "auth-user-pass: user name and password may have at most {MAX_LEN} bytes"
            ));
        }
        self.username = Some(login.username);
        self.password = Some(match &options.static_challenge {
            None => login.password,
            Some(challenge) => answered(&login.password, challenge)?,
        });
        Ok(())
    }

    /// What goes into the key message.
    pub(super) fn current(&self) -> (Option<String>, Option<String>) {
        let username = self.token_username.clone().filter(|_| self.token.is_some());
        let secret = self.token.as_ref().or(self.password.as_ref());
        (
            username.or_else(|| self.username.clone()),
            secret.map(|s| s.to_string()),
        )
    }

    /// The server pushed a token.
    pub(super) fn use_token(&mut self, username: Option<String>, token: String) {
        self.token = Some(Zeroizing::new(token));
        self.token_username = username;
    }

    /// The server refused the token: back to the password. False when none was in use.
    fn forget_token(&mut self) -> bool {
        self.token_username = None;
        self.token.take().is_some()
    }

    fn forget_password(&mut self) {
        self.password = None;
    }

    /// The server restarts us without asking to keep the login: what can be had again is forgotten.
    pub(super) fn purge(&mut self) {
        self.forget_token();
    }

    /// An attempt is over.
    pub(super) fn used(&mut self) {
        if self.nocache {
            self.forget_password();
        }
    }
}

/// What an AUTH_FAILED means: another try, or the end.
pub(super) fn after_auth_failed(
    store: &mut CredentialStore,
    options: &Options,
    failed: &AuthFailed,
) -> Ending {
    if let AuthFailed::Temporary {
        backoff, advance, ..
    } = failed
    {
        return Ending::Restart {
            backoff: backoff.map(u64::from),
            advance: *advance,
        };
    }
    if store.forget_token() {
        return Ending::RESTART;
    }
    match options.auth_retry {
        // As OpenVPN: a service manager that restarts failed programs would lock the account out.
        AuthRetry::None => Ending::Exit(0),
        AuthRetry::NoInteract => Ending::RESTART,
        AuthRetry::Interact => {
            store.forget_password();
            Ending::RESTART
        }
    }
}

fn answered(
    password: &str,
    challenge: &crate::config::options::StaticChallenge,
) -> Result<Zeroizing<String>, String> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let answer = password::ask(&challenge.text, challenge.echo).map_err(|e| e.to_string())?;
    Ok(Zeroizing::new(if challenge.concat {
        format!("{password}{}", *answer)
    } else {
        format!(
            "SCRV1:{}:{}",
            STANDARD.encode(password),
            STANDARD.encode(answer.as_bytes())
        )
    }))
}
