//! Which script comes when, for one client.
//!
//! ```text
//!  handshake   FirstPacket ------> Certificates ---------> Credentials
//!              tls-crypt-v2-verify  tls-verify, root first   auth-user-pass-verify
//!                                   ^                            |
//!                                   '------- renegotiation ------'
//!                                                                | first time
//!  admission                                                     v
//!              Connect -------> Addresses
//!              client-connect   learn-address for each
//!                 |
//!                 '--> once passed: client-disconnect when the client is gone
//! ```
//!
//! A renegotiation may come while a client is still being admitted, so both lines go on beside each
//! other. A deferred script is one that runs: its [`ClientHooks::passed`] or [`ClientHooks::failed`]
//! comes later. What fails ends everything, but for an address that is not learned.

/// Which scripts there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// `tls-crypt-v2-verify`
    pub tls_crypt_v2_verify: bool,
    /// `tls-verify`
    pub tls_verify: bool,
    /// `auth-user-pass-verify`
    pub auth_user_pass_verify: bool,
    /// `client-connect`
    pub client_connect: bool,
    /// `learn-address`
    pub learn_address: bool,
    /// `client-disconnect`
    pub client_disconnect: bool,
}

/// What the driver has come to with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its key (tls-crypt-v2) is known. Left out for a client without one.
    FirstPacket,
    /// Its certificates are verified, so many of them; none when it has none.
    Certificates(usize),
    /// It has sent its user name and password, or none.
    Credentials {
        /// The script has to decide: not when a token is enough, or there is no user name and need
        /// not be one.
        ask: bool,
    },
    /// It gets its options.
    Connect,
    /// It gets its addresses and routes, so many.
    Addresses(usize),
}

/// A call of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookCall {
    /// `tls-crypt-v2-verify`
    TlsCryptV2Verify,
    /// `tls-verify` for the certificate of this depth.
    TlsVerify(usize),
    /// `auth-user-pass-verify`
    AuthUserPassVerify,
    /// `client-connect`
    ClientConnect,
    /// `learn-address add` for the address of this index, of so many.
    LearnAddress(usize, usize),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Call a script; go on when it has passed or failed.
    Run(HookCall),
    /// The stage is passed.
    Passed,
    /// The client is to be refused.
    Refused,
    /// This must not come now. Nothing has changed; a client that brings it about is to be refused.
    OutOfOrder,
}

/// A client's way through the scripts.
#[derive(Clone, Debug)]
pub struct ClientHooks {
    configured: Configured,
    handshake: Handshake,
    admission: Admission,
    refused: bool,
    gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    New,
    KeyAccepted,
    Verified,
    Authenticated,
    Running(HookCall),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    /// Not before the first handshake is done.
    Closed,
    Open,
    Running(HookCall),
    Connected,
    Learning(HookCall),
    Complete,
}

impl ClientHooks {
    /// A client of which nothing is known.
    pub fn new(configured: Configured) -> Self {
        ClientHooks {
            configured,
            handshake: Handshake::New,
            admission: Admission::Closed,
            refused: false,
            gone: false,
        }
    }

    /// A stage begins.
    pub fn begin(&mut self, stage: Stage) -> Next {
        if self.refused || self.gone {
            return Next::OutOfOrder;
        }
        use Handshake as H;
        match (stage, self.handshake, self.admission) {
            // Again, when a connected client begins a session of its own.
            (Stage::FirstPacket, H::New | H::KeyAccepted | H::Verified | H::Authenticated, _) => {
                let call = HookCall::TlsCryptV2Verify;
                self.run_or(self.configured.tls_crypt_v2_verify, call)
            }
            // Also when a handshake was given up between both steps.
            (
                Stage::Certificates(count),
                H::New | H::KeyAccepted | H::Verified | H::Authenticated,
                _,
            ) => {
                let call = HookCall::TlsVerify(count.saturating_sub(1));
                self.run_or(self.configured.tls_verify && count > 0, call)
            }
            (Stage::Credentials { ask }, H::Verified, _) => {
                let call = HookCall::AuthUserPassVerify;
                self.run_or(self.configured.auth_user_pass_verify && ask, call)
            }
            (Stage::Connect, _, Admission::Open) => {
                self.run_or(self.configured.client_connect, HookCall::ClientConnect)
            }
            (Stage::Addresses(count), _, Admission::Connected) => {
                let call = HookCall::LearnAddress(0, count);
                self.run_or(self.configured.learn_address && count > 0, call)
            }
            _ => Next::OutOfOrder,
        }
    }

    /// A call has succeeded.
    pub fn passed(&mut self, call: HookCall) -> Next {
        if !self.is_running(call) {
            return Next::OutOfOrder;
        }
        match call {
            HookCall::TlsVerify(depth) if depth > 0 => self.run(HookCall::TlsVerify(depth - 1)),
            HookCall::LearnAddress(index, count) if index + 1 < count => {
                self.run(HookCall::LearnAddress(index + 1, count))
            }
            call => self.complete(call),
        }
    }

    /// A call has failed, or has not come to an end in time. The client is to be refused, but for
    /// an address it only does without.
    pub fn failed(&mut self, call: HookCall) -> Next {
        if matches!(call, HookCall::LearnAddress(..)) {
            return self.passed(call);
        }
        if !self.is_running(call) {
            return Next::OutOfOrder;
        }
        self.refused = true;
        Next::Refused
    }

    /// The handshake is given up, and another one may begin: where it had a script running, this is
    /// the call to cancel.
    pub fn abandon_handshake(&mut self) -> Option<HookCall> {
        let Handshake::Running(call) = self.handshake else {
            return None;
        };
        self.handshake = if self.admission == Admission::Closed {
            Handshake::New
        } else {
            Handshake::Authenticated
        };
        Some(call)
    }

    /// The client is gone, for whatever reason. True if `client-disconnect` has to be called, which
    /// is said at most once.
    pub fn gone(&mut self) -> bool {
        let was_gone = std::mem::replace(&mut self.gone, true);
        let connected = matches!(
            self.admission,
            Admission::Connected | Admission::Learning(_) | Admission::Complete
        );
        !was_gone && connected && self.configured.client_disconnect
    }

    /// Whether all scripts before the client's first packet of data are done.
    pub fn is_admitted(&self) -> bool {
        self.admission == Admission::Complete && !self.refused && !self.gone
    }

    fn is_running(&self, call: HookCall) -> bool {
        !self.refused
            && !self.gone
            && (self.handshake == Handshake::Running(call)
                || self.admission == Admission::Running(call)
                || self.admission == Admission::Learning(call))
    }

    fn run_or(&mut self, run: bool, call: HookCall) -> Next {
        if run {
            self.run(call)
        } else {
            self.complete(call)
        }
    }

    fn run(&mut self, call: HookCall) -> Next {
        match call {
            HookCall::TlsCryptV2Verify | HookCall::TlsVerify(_) | HookCall::AuthUserPassVerify => {
                self.handshake = Handshake::Running(call);
            }
            HookCall::ClientConnect => self.admission = Admission::Running(call),
            HookCall::LearnAddress(..) => self.admission = Admission::Learning(call),
        }
        Next::Run(call)
    }

    /// The last call of a stage is done, or not needed.
    fn complete(&mut self, call: HookCall) -> Next {
        match call {
            HookCall::TlsCryptV2Verify => self.handshake = Handshake::KeyAccepted,
            HookCall::TlsVerify(_) => self.handshake = Handshake::Verified,
            HookCall::AuthUserPassVerify => {
                self.handshake = Handshake::Authenticated;
                if self.admission == Admission::Closed {
                    self.admission = Admission::Open;
                }
            }
            HookCall::ClientConnect => self.admission = Admission::Connected,
            HookCall::LearnAddress(..) => self.admission = Admission::Complete,
        }
        Next::Passed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::HookCall::{
        AuthUserPassVerify, ClientConnect, LearnAddress, TlsCryptV2Verify, TlsVerify,
    };
    use super::*;

    const ALL: Configured = Configured {
        tls_crypt_v2_verify: true,
        tls_verify: true,
        auth_user_pass_verify: true,
        client_connect: true,
        learn_address: true,
        client_disconnect: true,
    };
    const ASK: Stage = Stage::Credentials { ask: true };

    #[test]
    fn everything_in_order() {
        let mut hooks = ClientHooks::new(ALL);
        assert_eq!(hooks.begin(Stage::FirstPacket), Next::Run(TlsCryptV2Verify));
        assert_eq!(hooks.begin(Stage::Certificates(2)), Next::OutOfOrder);
        assert_eq!(hooks.passed(TlsCryptV2Verify), Next::Passed);
        assert_eq!(hooks.begin(ASK), Next::OutOfOrder);
        assert_eq!(hooks.begin(Stage::Certificates(2)), Next::Run(TlsVerify(1)));
        assert_eq!(hooks.passed(TlsVerify(1)), Next::Run(TlsVerify(0)));
        assert_eq!(hooks.passed(TlsVerify(1)), Next::OutOfOrder);
        assert_eq!(hooks.passed(TlsVerify(0)), Next::Passed);
        assert_eq!(hooks.begin(Stage::Connect), Next::OutOfOrder);
        assert_eq!(hooks.begin(ASK), Next::Run(AuthUserPassVerify));
        assert_eq!(hooks.passed(AuthUserPassVerify), Next::Passed);
        assert_eq!(hooks.begin(Stage::Connect), Next::Run(ClientConnect));
        assert!(!hooks.clone().gone(), "not yet connected");
        assert_eq!(hooks.passed(ClientConnect), Next::Passed);
        assert!(hooks.clone().gone());
        assert_eq!(
            hooks.begin(Stage::Addresses(2)),
            Next::Run(LearnAddress(0, 2))
        );
        assert_eq!(
            hooks.failed(LearnAddress(0, 2)),
            Next::Run(LearnAddress(1, 2)),
            "the client does without the address"
        );
        assert!(!hooks.is_admitted());
        assert_eq!(hooks.passed(LearnAddress(1, 2)), Next::Passed);
        assert!(hooks.is_admitted());

        // Renegotiation: certificates and credentials, nothing else.
        assert_eq!(hooks.begin(Stage::Certificates(1)), Next::Run(TlsVerify(0)));
        assert_eq!(hooks.passed(TlsVerify(0)), Next::Passed);
        assert_eq!(hooks.begin(ASK), Next::Run(AuthUserPassVerify));
        assert_eq!(hooks.passed(AuthUserPassVerify), Next::Passed);
        assert_eq!(hooks.begin(Stage::Connect), Next::OutOfOrder);

        assert_eq!(hooks.begin(Stage::Certificates(0)), Next::Passed);
        assert_eq!(hooks.begin(Stage::Credentials { ask: false }), Next::Passed);
        assert!(hooks.gone());
        assert!(!hooks.gone());
    }

    #[test]
    fn without_scripts_all_stages_pass() {
        let mut hooks = ClientHooks::new(Configured::default());
        for stage in [
            Stage::Certificates(3),
            ASK,
            Stage::Connect,
            Stage::Addresses(5),
        ] {
            assert_eq!(hooks.begin(stage), Next::Passed);
        }
        assert!(hooks.is_admitted());
        assert!(!hooks.gone(), "there is no client-disconnect");
        assert_eq!(hooks.begin(Stage::Certificates(1)), Next::OutOfOrder);
    }

    #[test]
    fn a_renegotiation_does_not_wait_for_the_admission() {
        let mut hooks = ClientHooks::new(ALL);
        assert_eq!(hooks.begin(Stage::Certificates(0)), Next::Passed);
        assert_eq!(hooks.begin(Stage::Credentials { ask: false }), Next::Passed);
        assert_eq!(hooks.begin(Stage::Connect), Next::Run(ClientConnect));
        assert_eq!(hooks.begin(Stage::Certificates(1)), Next::Run(TlsVerify(0)));
        assert_eq!(hooks.passed(ClientConnect), Next::Passed);
        assert_eq!(hooks.failed(TlsVerify(0)), Next::Refused);
        assert_eq!(hooks.begin(Stage::Addresses(1)), Next::OutOfOrder);
        assert!(hooks.gone(), "it was connected");
    }

    #[test]
    fn a_handshake_can_begin_again() {
        let mut hooks = ClientHooks::new(ALL);
        assert_eq!(hooks.abandon_handshake(), None);
        assert_eq!(hooks.begin(Stage::Certificates(1)), Next::Run(TlsVerify(0)));
        assert_eq!(hooks.abandon_handshake(), Some(TlsVerify(0)));
        assert_eq!(hooks.passed(TlsVerify(0)), Next::OutOfOrder, "too late");
        assert_eq!(hooks.begin(ASK), Next::OutOfOrder);
        assert_eq!(hooks.begin(Stage::Certificates(0)), Next::Passed);
        assert_eq!(hooks.begin(Stage::Certificates(0)), Next::Passed);
        assert_eq!(hooks.begin(ASK), Next::Run(AuthUserPassVerify));
        assert_eq!(hooks.passed(AuthUserPassVerify), Next::Passed);
        assert_eq!(hooks.begin(Stage::Certificates(1)), Next::Run(TlsVerify(0)));
        assert_eq!(hooks.abandon_handshake(), Some(TlsVerify(0)));
        assert_eq!(hooks.begin(ASK), Next::OutOfOrder, "certificates first");
        assert_eq!(hooks.begin(Stage::Connect), Next::Run(ClientConnect));
    }

    #[test]
    fn a_connected_client_may_begin_anew_with_its_key() {
        let mut hooks = ClientHooks::new(ALL);
        for _ in 0..2 {
            let first = hooks.begin(Stage::FirstPacket);
            assert_eq!(first, Next::Run(TlsCryptV2Verify));
            assert_eq!(hooks.begin(Stage::Certificates(1)), Next::OutOfOrder);
            assert_eq!(hooks.passed(TlsCryptV2Verify), Next::Passed);
            assert_eq!(hooks.begin(Stage::Certificates(0)), Next::Passed);
            assert_eq!(hooks.begin(Stage::Credentials { ask: false }), Next::Passed);
        }
        assert_eq!(hooks.begin(Stage::Connect), Next::Run(ClientConnect));
    }

    fn stage() -> impl Strategy<Value = Stage> {
        prop_oneof![
            Just(Stage::FirstPacket),
            (0usize..4).prop_map(Stage::Certificates),
            any::<bool>().prop_map(|ask| Stage::Credentials { ask }),
            Just(Stage::Connect),
            (0usize..4).prop_map(Stage::Addresses),
        ]
    }

    /// What may happen: a stage, an end of one of the running calls, or the client's leaving.
    #[derive(Clone, Debug)]
    enum Happening {
        Begin(Stage),
        End { which: usize, well: bool },
        Gone,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            6 => stage().prop_map(Happening::Begin),
            6 => (0usize..2, prop::bool::weighted(0.9))
                .prop_map(|(which, well)| Happening::End { which, well }),
            1 => Just(Happening::Gone),
        ]
    }

    proptest! {
        #[test]
        fn no_order_of_events_leads_past_a_script(
            happenings in prop::collection::vec(happening(), 0..60),
        ) {
            let mut hooks = ClientHooks::new(ALL);
            let mut running: Vec<HookCall> = Vec::new();
            let (mut authenticated, mut connects, mut connected) = (false, 0, false);
            let (mut over, mut disconnects) = (false, 0);
            for happening in happenings {
                let next = match happening {
                    Happening::Begin(stage) => {
                        let next = hooks.begin(stage);
                        if stage == Stage::Connect && next != Next::OutOfOrder {
                            prop_assert!(authenticated);
                            connects += 1;
                        }
                        if matches!(stage, Stage::Addresses(_)) && next != Next::OutOfOrder {
                            prop_assert!(connected);
                        }
                        authenticated |= next == Next::Passed
                            && stage == Stage::Credentials { ask: false };
                        next
                    }
                    Happening::End { which, well } => {
                        let Some(call) = running.get(which).copied() else { continue };
                        running.remove(which);
                        let next = if well { hooks.passed(call) } else { hooks.failed(call) };
                        authenticated |= well && !over && call == AuthUserPassVerify;
                        connected |= well && !over && call == ClientConnect;
                        next
                    }
                    Happening::Gone => {
                        disconnects += u32::from(hooks.gone());
                        prop_assert!(disconnects == 0 || connected);
                        over = true;
                        continue;
                    }
                };
                prop_assert!(!over || next == Next::OutOfOrder);
                match next {
                    Next::Run(call) => running.push(call),
                    Next::Refused => over = true,
                    Next::Passed | Next::OutOfOrder => {}
                }
                prop_assert!(running.len() <= 2 || over);
            }
            disconnects += u32::from(hooks.gone());
            prop_assert_eq!(disconnects, u32::from(connected));
            prop_assert!(connects <= 1);
        }
    }
}
