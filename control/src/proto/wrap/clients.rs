//! The wrappings a server takes clients in (protocol document §4.4).
//!
//! A client of tls-crypt-v2 brings its own key with its first packets. Beside such clients a server may
//! take those of one tls-auth or tls-crypt key, but none without any wrapping.

use super::WrapConfig;
use super::tls_crypt_v2::{Metadata, ServerKey};
use crate::proto::error::WrapError;
use crate::proto::packet::Opcode;

/// Seconds in a day, the unit of `tls-crypt-v2-max-age`.
const DAY: u64 = 86_400;

/// What clients may come in.
#[derive(Clone, Debug)]
pub struct ClientWraps {
    /// `tls-auth`, `tls-crypt`, or none. Beside [`ClientWraps::v2`] none means tls-crypt-v2 alone.
    pub fixed: WrapConfig,
    /// `tls-crypt-v2`
    pub v2: Option<V2Server>,
}

/// `tls-crypt-v2` of a server.
#[derive(Clone, Debug)]
pub struct V2Server {
    /// What the clients' keys are wrapped with.
    pub key: ServerKey,
    /// `force-cookie`: no clients that cannot send their key a second time, for whom state would have
    /// to be made before they have proved where they are.
    pub force_cookie: bool,
    /// `tls-crypt-v2-max-age`: oldest key taken, in days. With it a key must say how old it is.
    pub max_age: Option<u64>,
}

/// The wrapping one client has come in.
#[derive(Clone, Debug)]
pub struct ClientWrap {
    /// For all of this client's sessions but those it begins with another key.
    pub config: WrapConfig,
    /// What its key says about itself, for `tls-crypt-v2-verify`.
    pub metadata: Option<Metadata>,
}

/// Why a packet can come from no client of this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientWrapError {
    /// It is in no wrapping that is taken here.
    #[error("the client uses a control-channel wrapping that this server does not")]
    NotTaken,
    /// The key it brings is not ours.
    #[error(transparent)]
    Key(#[from] WrapError),
    /// Its key is older than `tls-crypt-v2-max-age` allows, or does not say how old it is.
    #[error("the client's tls-crypt-v2 key is too old or of unknown age")]
    TooOld,
}

impl ClientWraps {
    /// A server with one wrapping for all.
    pub fn fixed(config: WrapConfig) -> Self {
        ClientWraps {
            fixed: config,
            v2: None,
        }
    }

    /// The wrapping that a client's packet is to be unwrapped with. Nothing of the packet but a client
    /// key in it has been authenticated then. `unix` is the time in seconds.
    ///
    /// # Errors
    /// [`ClientWrapError`]: drop the packet.
    pub fn recognize(
        &self,
        opcode: Opcode,
        datagram: &[u8],
        unix: u64,
    ) -> Result<ClientWrap, ClientWrapError> {
        if !opcode.carries_wkc() {
            return match (&self.fixed, &self.v2) {
                (WrapConfig::None, Some(_)) => Err(ClientWrapError::NotTaken),
                (config, _) => Ok(ClientWrap {
                    config: config.clone(),
                    metadata: None,
                }),
            };
        }
        let v2 = self.v2.as_ref().ok_or(ClientWrapError::NotTaken)?;
        let (key, metadata) = v2.key.unwrap_packet(datagram)?;
        let young = |days: u64| match metadata {
            Metadata::Created(at) => unix.saturating_sub(at) <= days.saturating_mul(DAY),
            Metadata::User(_) | Metadata::Other(..) => false,
        };
        if !v2.max_age.is_none_or(young) {
            return Err(ClientWrapError::TooOld);
        }
        Ok(ClientWrap {
            config: WrapConfig::TlsCryptV2Server { key },
            metadata: Some(metadata),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::TlsRole;
    use crate::proto::packet::{AckList, ControlPacket, SessionId};
    use crate::proto::wrap::tls_crypt_v2::ClientKey;
    use crate::proto::wrap::{StaticKey, Wrap};

    fn server(max_age: Option<u64>) -> ClientWraps {
        ClientWraps {
            fixed: WrapConfig::None,
            v2: Some(V2Server {
                key: ServerKey::new([7; 128]),
                force_cookie: false,
                max_age,
            }),
        }
    }

    fn reset(metadata: &Metadata) -> Vec<u8> {
        let key = StaticKey::new([3; 256]);
        let wkc = ServerKey::new([7; 128]).wrap_client_key(&key, metadata);
        let client = ClientKey {
            key,
            wkc: wkc.expect("short metadata"),
        };
        let config = WrapConfig::TlsCryptV2Client {
            key: client.key,
            wkc: client.wkc,
        };
        let packet = ControlPacket {
            opcode: Opcode::HardResetClientV3,
            key_id: 0,
            session_id: SessionId([1; 8]),
            acks: AckList::new(),
            remote_session_id: None,
            packet_id: Some(0),
            payload: &[],
        };
        let mut datagram = Vec::new();
        Wrap::new(&config, TlsRole::Client, 1).wrap(&packet, &mut datagram);
        datagram
    }

    #[test]
    fn a_clients_key_is_found_and_fits() {
        let mut datagram = reset(&Metadata::User(b"branch 1".to_vec()));
        let found = server(None).recognize(Opcode::HardResetClientV3, &datagram, 0);
        let found = found.expect("our client");
        assert_eq!(found.metadata, Some(Metadata::User(b"branch 1".to_vec())));
        let mut wrap = Wrap::new(&found.config, TlsRole::Server, 1);
        assert!(wrap.unwrap(&mut datagram).is_ok());
    }

    #[test]
    fn age_counts_from_the_keys_creation() {
        let young = reset(&Metadata::Created(1_000_000));
        let judge = |server: &ClientWraps, datagram: &[u8], unix| {
            let found = server.recognize(Opcode::HardResetClientV3, datagram, unix);
            found.map(|_| ()).err()
        };
        let limited = server(Some(2));
        assert_eq!(judge(&limited, &young, 1_000_000 + 2 * DAY), None);
        let late = 1_000_001 + 2 * DAY;
        let too_old = Some(ClientWrapError::TooOld);
        assert_eq!(judge(&limited, &young, late), too_old);
        assert_eq!(judge(&server(None), &young, late), None);
        let ageless = reset(&Metadata::User(vec![1; 8]));
        assert_eq!(judge(&limited, &ageless, 0), too_old);
    }

    #[test]
    fn other_wrappings_only_where_configured() {
        let plain = |wraps: &ClientWraps| wraps.recognize(Opcode::HardResetClientV2, &[], 0);
        let refused = plain(&server(None)).map(|_| ());
        assert_eq!(refused.unwrap_err(), ClientWrapError::NotTaken);
        let beside = ClientWraps {
            fixed: WrapConfig::TlsCrypt {
                key: StaticKey::new([5; 256]),
            },
            ..server(None)
        };
        assert!(plain(&beside).is_ok());
        let bare = ClientWraps::fixed(WrapConfig::None);
        assert!(plain(&bare).is_ok());
        let datagram = reset(&Metadata::Created(1));
        let v2 = bare.recognize(Opcode::HardResetClientV3, &datagram, 0);
        assert_eq!(v2.map(|_| ()).unwrap_err(), ClientWrapError::NotTaken);
    }
}
