//! Who a client is, and who says so (protocol §8.4, §11).
//!
//! ```text
//!  key of its own -> certificates -> user name and password -> Authenticated
//!  tls-crypt-v2-    tls-verify       token, or
//!  verify                            auth-user-pass-verify, perhaps later
//! ```
//! The same with each renegotiation, but for the first step.

use std::time::Instant;

use zeroize::Zeroizing;

use super::client::Client;
use super::scripts::{Deferred, Waiting, command, log_failure};
use super::{Server, now};
use crate::config::server::ServerOptions;
use crate::host::script::Hook;
use crate::host::server_scripts::{
    AuthPending, AuthState, AuthUserPassVerify, AuthVerdict, ClientCrresponse, DeferredAuth,
    HookCall, HookFailure, Next, Stage, TlsCryptV2Verify, TlsVerify,
};
use crate::log;
use crate::proto::occ;
use crate::proto::tunnel::{AuthRequest, Command};
use crate::proto::wrap::tls_crypt_v2::Metadata;
use crate::server::env::peer_variables;
use crate::server::push::token_lines;
use crate::server::token::{Decision, Session, TokenKey, Tokens};
use crate::tls::cert_env;

/// What the server knows for judging clients.
pub(super) struct State {
    tokens: Option<Tokens>,
}

/// A part of a handshake's way through the scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key,
    Certificates,
    Login,
}

/// A client's claim that is being judged.
pub(super) struct Login {
    request: AuthRequest,
    /// What a client is told if whoever is asked refuses without a reason.
    reason: Option<&'static str>,
}

/// What is known of an authenticated client's token.
#[derive(Clone, Copy)]
pub(super) struct TokenState {
    session: Session,
    issued: u64,
}

impl State {
    /// Tokens are signed with `key`, if there is one.
    pub(super) fn new(settings: &ServerOptions, key: Option<TokenKey>) -> Self {
        let tokens = settings.auth_gen_token.zip(key);
        State {
            tokens: tokens.map(|(options, key)| Tokens::new(key, options)),
        }
    }
}

impl Server<'_> {
    /// The client's own key says this of itself.
    pub(super) fn check_client_key(&mut self, client: &mut Client, metadata: Metadata) {
        self.abandon_handshake(client);
        client.metadata = Some(metadata);
        let next = client.hooks.begin(Stage::FirstPacket);
        self.go_on(client, Step::Key, next);
    }

    /// TLS has verified the client's certificates.
    pub(super) fn identified(&mut self, client: &mut Client, common_name: String, tls: &str) {
        log::notice!("{} Control Channel: {tls}", client.label());
        log::notice!(
            "{} [{common_name}] Peer Connection Initiated",
            client.label()
        );
        client.env.set_trusted(client.endpoint.remote);
        client.env.set("common_name", &common_name);
        if !client.env.is_unused()
            && let Some(peer) = client.tunnel.tls().and_then(|tls| tls.peer())
        {
            for (name, value) in cert_env(&peer.chain) {
                client.env.set(&name, value);
            }
        }
        client.common_name = common_name;
    }

    /// A client's key message is here.
    pub(super) fn authenticate(&mut self, client: &mut Client, mut request: AuthRequest) {
        if !client.waits_for_key() {
            self.abandon_handshake(client);
        }
        if client.calls_itself.is_some() && request.username == client.calls_itself {
            request.username.clone_from(&client.username);
        }
        client.compresses = occ::extract(&request.options).comp_lzo;
        if !client.env.is_unused() {
            for (name, value) in peer_variables(&request.peer_info) {
                client.env.set(name, value);
            }
        }
        let differ = match self.settings.opt_verify {
            true => occ::compare(&self.tunnel_config.options, &request.options),
            false => Vec::new(),
        };
        client.peer_info = request.peer_info.clone();
        client.login = Some(Login {
            request,
            reason: None,
        });
        for line in &differ {
            log::warn!("{} WARNING: {line}", client.label());
        }
        if !differ.is_empty() {
            log::warn!(
                "{} Option inconsistency warnings triggering disconnect due to --opt-verify",
                client.label()
            );
            self.deny(client, None);
        } else if !client.waits_for_key() {
            self.check_certificates(client);
        }
    }

    /// The client has begun anew while it was being judged: nobody waits for that any more.
    fn abandon_handshake(&mut self, client: &mut Client) {
        if client.hooks.abandon_handshake().is_some() {
            client.login = None;
            let of_login = |deferred: &Deferred| matches!(deferred, Deferred::Login(..));
            client.deferred.retain(|deferred| !of_login(deferred));
            self.forget_scripts_if(client, Waiting::is_of_handshake);
        }
    }

    fn check_certificates(&mut self, client: &mut Client) {
        let next = client
            .hooks
            .begin(Stage::Certificates(client.certificates()));
        self.go_on(client, Step::Certificates, next);
    }

    /// A script's verdict on the client.
    pub(super) fn passed(
        &mut self,
        client: &mut Client,
        step: Step,
        call: HookCall,
        verdict: Result<(), HookFailure>,
    ) {
        let next = match verdict {
            Ok(()) => client.hooks.passed(call),
            Err(failure) => {
                log_failure(&failure);
                client.hooks.failed(call)
            }
        };
        self.go_on(client, step, next);
    }

    fn go_on(&mut self, client: &mut Client, step: Step, next: Next) {
        match (next, step) {
            (Next::Run(call), _) => {
                if let Err(failure) = self.call_handshake_hook(client, call) {
                    self.passed(client, step, call, Err(failure));
                }
            }
            (Next::Passed, Step::Key) if client.login.is_some() => self.check_certificates(client),
            // Its key message will come.
            (Next::Passed, Step::Key) => {}
            (Next::Passed, Step::Certificates) => self.judge_login(client),
            (Next::Passed, Step::Login) => self.admit(client),
            (Next::Refused | Next::OutOfOrder, _) => {
                let reason = client.login.as_ref().and_then(|login| login.reason);
                self.deny(client, reason.map(str::to_owned));
            }
        }
    }

    fn call_handshake_hook(
        &mut self,
        client: &mut Client,
        call: HookCall,
    ) -> Result<(), HookFailure> {
        let settings = self.settings.clone();
        let label = client.label();
        match call {
            HookCall::TlsCryptV2Verify => {
                let (Some(script), Some(metadata)) =
                    (&settings.tls_crypt_v2_verify, &client.metadata)
                else {
                    return Ok(());
                };
                let shared = self.client_call(client, &label, None);
                let prepared = TlsCryptV2Verify::prepare(
                    &shared,
                    &command(script),
                    metadata.kind(),
                    &metadata.data(),
                )?;
                let hook = prepared.hook;
                self.run_script(client, Hook::TlsCryptV2Verify, prepared.job, |job| {
                    Waiting::ClientKey(job, hook)
                })
            }
            HookCall::TlsVerify(depth) => {
                let peer = client.tunnel.tls().and_then(|tls| tls.peer());
                let certificate = peer.and_then(|peer| peer.chain.get(depth));
                let (Some(script), Some(certificate)) = (&settings.tls_verify, certificate) else {
                    return Ok(());
                };
                let shared = self.client_call(client, &label, None);
                let subject = &certificate.subject;
                let export = settings.tls_export_cert.as_ref();
                let export = export.map(|folder| (&*folder.path, &*certificate.der));
                let prepared =
                    TlsVerify::prepare(&shared, &command(script), depth, subject, export)?;
                let hook = prepared.hook;
                self.run_script(client, Hook::TlsVerify, prepared.job, |job| {
                    Waiting::Certificate(job, depth, hook)
                })
            }
            HookCall::AuthUserPassVerify => {
                let (Some((script, via)), Some(login)) =
                    (&settings.auth_user_pass_verify, &client.login)
                else {
                    return Ok(());
                };
                let shared = self.client_call(client, &label, None);
                let prepared = AuthUserPassVerify::prepare(
                    &shared,
                    &command(script),
                    *via,
                    self.options.script_security,
                    login.request.username.as_deref().unwrap_or_default(),
                    login.request.password.as_deref().map_or("", String::as_str),
                )?;
                let hook = prepared.hook;
                self.run_script(client, Hook::AuthUserPassVerify, prepared.job, |job| {
                    Waiting::Login(job, hook)
                })
            }
            // Not of the handshake.
            HookCall::ClientConnect | HookCall::LearnAddress(..) => Ok(()),
        }
    }

    // ---- user name and password ----------------------------------------------------------------

    fn judge_login(&mut self, client: &mut Client) {
        let Some(login) = &mut client.login else {
            return;
        };
        let scripted = self.settings.auth_user_pass_verify.is_some();
        let Some(username) = &login.request.username else {
            if scripted && !self.settings.auth_user_pass_optional {
                log::warn!(
                    "{} Auth Username/Password was not provided by peer",
                    client.label()
                );
                self.deny(client, None);
                return;
            }
            let next = client.hooks.begin(Stage::Credentials { ask: false });
            self.go_on(client, Step::Login, next);
            return;
        };
        client.env.set("username", username);
        let mut ask = scripted;
        if let Some(tokens) = &self.auth.tokens {
            let password = login.request.password.as_deref().map_or("", String::as_str);
            let held = client.token.map(|token| token.session);
            let judgement = tokens.judge(held, username, password, now().unix);
            let asks = matches!(judgement.decision, Decision::Ask(_));
            let session = judgement.session.or_else(|| {
                // Scripts are told of the session before it has a token.
                asks.then(|| Session::start(&mut rand::rng(), now().unix))
            });
            if let Some(session) = &session {
                client
                    .env
                    .set_auth_session(&session.name(), judgement.state.name());
            }
            let drops_username = judgement.drops_username();
            let issued = client.token.map_or(0, |token| token.issued);
            client.token = session.map(|session| TokenState { session, issued });
            match judgement.decision {
                Decision::Accept => ask = false,
                Decision::Ask(reason) => login.reason = reason,
                Decision::Refuse(reason) => {
                    log::warn!(
                        "{} TLS Auth Error: auth-token is not valid ({})",
                        client.label(),
                        judgement.state.name()
                    );
                    self.deny(client, reason.map(str::to_owned));
                    return;
                }
            }
            if drops_username {
                log::warn!(
                    "{} the auth-token holds for an empty user name only",
                    client.label()
                );
            }
        }
        let next = client.hooks.begin(Stage::Credentials { ask });
        self.go_on(client, Step::Login, next);
    }

    /// The script's word on a login.
    pub(super) fn login_judged(&mut self, client: &mut Client, verdict: AuthVerdict) {
        match verdict {
            AuthVerdict::Accepted => {
                self.passed(client, Step::Login, HookCall::AuthUserPassVerify, Ok(()));
            }
            AuthVerdict::Refused { failure, reason } => self.refuse_login(client, failure, reason),
            AuthVerdict::Deferred(login) => self.look_for_login(client, login),
        }
    }

    pub(super) fn look_for_login(&mut self, client: &mut Client, mut login: DeferredAuth) {
        loop {
            match login.check() {
                AuthState::Pending => {
                    let at = Instant::now() + login.pause();
                    client.deferred.push(Deferred::Login(at, login));
                    return;
                }
                AuthState::Message(pending) => {
                    let sso = client.peer_info.value("IV_SSO");
                    if let Err(reason) = pending.check_method(sso) {
                        log::warn!("{} {reason}", client.label());
                        self.refuse_call(client, Some(reason));
                        return;
                    }
                    let AuthPending {
                        timeout, message, ..
                    } = pending;
                    let command = Command::AuthPending {
                        timeout,
                        messages: vec![message],
                    };
                    client.tunnel.handle_command(now(), command);
                }
                AuthState::Accepted => {
                    self.passed(client, Step::Login, HookCall::AuthUserPassVerify, Ok(()));
                    return;
                }
                AuthState::Refused { failure, reason } => {
                    self.refuse_login(client, failure, reason);
                    return;
                }
            }
        }
    }

    fn refuse_login(&mut self, client: &mut Client, failure: HookFailure, reason: Option<String>) {
        log_failure(&failure);
        self.refuse_call(client, reason);
    }

    fn refuse_call(&mut self, client: &mut Client, reason: Option<String>) {
        let standing = client.login.as_ref().and_then(|login| login.reason);
        let _ = client.hooks.failed(HookCall::AuthUserPassVerify);
        self.deny(client, reason.or(standing.map(str::to_owned)));
    }

    /// The client is who it says.
    fn admit(&mut self, client: &mut Client) {
        let Some(Login { request, .. }) = client.login.take() else {
            return;
        };
        let now = now();
        if let Some(username) = &request.username {
            log::notice!(
                "{} TLS: Username/Password authentication succeeded for username '{username}'",
                client.label()
            );
            if self.settings.username_as_common_name {
                client.common_name.clone_from(username);
                client.env.set("common_name", username);
            }
            client.username = Some(username.clone());
            if self.auth.tokens.is_some() {
                let session = match client.token {
                    Some(token) => token.session,
                    None => Session::start(&mut rand::rng(), now.unix),
                };
                client.token = Some(TokenState {
                    session,
                    issued: now.unix,
                });
                if request.renegotiation {
                    self.renew_token(client, now.unix);
                }
            }
        }
        let answer = Command::Authenticated {
            request: request.request,
        };
        client.tunnel.handle_command(now, answer);
    }

    /// `override-username`: what the client is known by from now on. False if it has no user name.
    pub(super) fn rename(&mut self, client: &mut Client, name: String) -> bool {
        let Some(before) = client.username.clone() else {
            log::warn!(
                "{} override-username needs a client with a user name",
                client.label()
            );
            return false;
        };
        if before == name {
            return true;
        }
        log::notice!(
            "{} MULTI: override-username changes username from '{before}' to '{name}'",
            client.label()
        );
        if self.settings.username_as_common_name {
            self.state.names.leave(&client.common_name, client.handle);
            for other in self.state.names.enter(&name, client.handle) {
                self.close(other, "duplicate-cn");
            }
            client.env.set("common_name", &name);
            client.common_name.clone_from(&name);
        }
        client.env.set("username", &name);
        client.username = Some(name);
        client.calls_itself.get_or_insert(before);
        true
    }

    /// The client is not who it says.
    fn deny(&mut self, client: &mut Client, reason: Option<String>) {
        match client.login.take() {
            Some(login) => {
                log::warn!("{} TLS Auth Error: the client is refused", client.label());
                let answer = Command::AuthFailed {
                    request: login.request.request,
                    reason,
                };
                client.tunnel.handle_command(now(), answer);
            }
            // It has not said anything yet that could be answered.
            None => client.end = Some("auth-failure"),
        }
    }

    // ---- tokens --------------------------------------------------------------------------------

    /// The lines that give the client its token.
    pub(super) fn token_lines(&self, client: &Client) -> Vec<String> {
        let (Some(tokens), Some(token), Some(username)) =
            (&self.auth.tokens, client.token, &client.username)
        else {
            return Vec::new();
        };
        let text: Zeroizing<String> = tokens.issue(&token.session, username, token.issued);
        token_lines(&text, username)
    }

    /// Gives a client a new token when the time of its last one is over.
    pub(super) fn renew_token_if_due(&mut self, client: &mut Client, unix: u64) {
        let renewal = self.auth.tokens.as_ref().map(Tokens::renewal);
        let (Some(renewal), Some(token)) = (renewal, client.token) else {
            return;
        };
        // Whoever is being judged gets nothing before the answer.
        if client.login.is_none() && unix >= token.issued.saturating_add(renewal) {
            self.renew_token(client, unix);
        }
    }

    fn renew_token(&mut self, client: &mut Client, unix: u64) {
        if let Some(token) = &mut client.token {
            token.issued = unix;
        }
        let lines = self.token_lines(client);
        client
            .tunnel
            .handle_command(now(), Command::PushToken(lines));
    }

    // ---- answers to questions ------------------------------------------------------------------

    /// A client's answer to a question its login put.
    pub(super) fn take_response(&mut self, client: &mut Client, response: &str) {
        let settings = self.settings.clone();
        let Some(script) = &settings.client_crresponse else {
            log::warn!(
                "{} CR_RESPONSE without --client-crresponse is ignored",
                client.label()
            );
            return;
        };
        if (client.waiting.iter()).any(|waiting| matches!(waiting, Waiting::Response(..))) {
            // Else one client could fill the queue of everybody's scripts.
            log::warn!(
                "{} CR_RESPONSE is ignored: client-crresponse still runs for the last one",
                client.label()
            );
            return;
        }
        let waits = client.deferred.iter().find_map(|deferred| match deferred {
            Deferred::Login(_, login) => Some(login),
            Deferred::Connect(..) => None,
        });
        let label = client.label();
        let shared = self.client_call(client, &label, None);
        let prepared = ClientCrresponse::prepare(&shared, &command(script), waits, response);
        let ran = prepared.and_then(|prepared| {
            let hook = prepared.hook;
            self.run_script(client, Hook::ClientCrresponse, prepared.job, |job| {
                Waiting::Response(job, hook)
            })
        });
        if let Err(failure) = ran {
            self.response_taken(client, Err(failure));
        }
    }

    /// The script has taken the answer, or not.
    pub(super) fn response_taken(&mut self, client: &mut Client, verdict: Result<(), HookFailure>) {
        match verdict {
            Ok(()) => {
                // The decision may be there already.
                for deferred in &mut client.deferred {
                    if let Deferred::Login(at, _) = deferred {
                        *at = Instant::now();
                    }
                }
            }
            Err(failure) => self.refuse_login(client, failure, None),
        }
    }
}
