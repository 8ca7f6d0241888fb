//! `--genkey`: new key files.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use zeroize::Zeroizing;

use super::options;
use crate::proto::wrap::StaticKey;
use crate::proto::wrap::tls_crypt_v2::{ClientKey, Metadata, ServerKey};

/// A key that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRequest {
    /// What for.
    pub kind: KeyKind,
    /// The file; `None` is the standard output.
    pub file: Option<PathBuf>,
}

/// What a key is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// `secret`, for `tls-auth` and `tls-crypt`.
    Secret,
    /// `tls-crypt-v2-server`
    TlsCryptV2Server,
    /// `tls-crypt-v2-client`
    TlsCryptV2Client {
        /// The server's key file.
        server_key: PathBuf,
        /// What the key says of its owner, decoded; `None` is the time.
        metadata: Option<Vec<u8>>,
    },
    /// `auth-token`
    AuthToken,
}

/// Makes a key and writes it, readable by its owner only. `unix` is the time in seconds since
/// 1970.
///
/// # Errors
/// One line on what could not be done.
pub fn generate_key(request: &KeyRequest, unix: u64) -> Result<(), String> {
    let text = key_text(&request.kind, unix)?;
    match &request.file {
        Some(path) => OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| format!("cannot write {}: {error}", path.display())),
        None => std::io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| format!("cannot write the key: {error}")),
    }
}

/// Reads the options around `--genkey`.
pub(super) fn request(args: &[String]) -> Result<KeyRequest, String> {
    let mut words: &[String] = &[];
    let mut server_key = None;
    let mut secret_file = None;
    for (option, values) in options(args)? {
        match (option, values) {
            ("genkey", values) => words = values,
            ("tls-crypt-v2", [file]) => server_key = Some(PathBuf::from(file)),
            // The older spelling: --genkey --secret FILE.
            ("secret", [file]) => secret_file = Some(PathBuf::from(file)),
            ("verb", _) => {}
            _ => return Err(format!("--{option} cannot be used like this with --genkey")),
        }
    }
    let kind = words.first().map_or("secret", String::as_str);
    let file = words.get(1).map(PathBuf::from).or(secret_file);
    let metadata = words.get(2);
    let kind = match (kind, metadata) {
        ("tls-crypt-v2-client", metadata) => KeyKind::TlsCryptV2Client {
            server_key: server_key.ok_or("the server's key is needed: --tls-crypt-v2 FILE")?,
            metadata: metadata
                .map(|text| {
                    BASE64_STANDARD
                        .decode(text)
                        .map_err(|_| "the metadata is not base64".to_owned())
                })
                .transpose()?,
        },
        (_, Some(_)) => return Err("metadata is only for tls-crypt-v2-client keys".to_owned()),
        ("secret" | "tls-crypt" | "tls-auth", None) => KeyKind::Secret,
        ("tls-crypt-v2-server", None) => KeyKind::TlsCryptV2Server,
        ("auth-token", None) => KeyKind::AuthToken,
        (other, None) => {
            return Err(format!(
                "--genkey: \"{other}\" is not one of: secret, tls-crypt, tls-auth, \
                 tls-crypt-v2-server, tls-crypt-v2-client, auth-token"
            ));
        }
    };
    Ok(KeyRequest { kind, file })
}

fn key_text(kind: &KeyKind, unix: u64) -> Result<Zeroizing<String>, String> {
    let mut rng = rand::rng();
    Ok(match kind {
        KeyKind::Secret => StaticKey::generate(&mut rng).to_text(),
        KeyKind::TlsCryptV2Server => ServerKey::generate(&mut rng).to_text(),
        KeyKind::TlsCryptV2Client {
            server_key,
            metadata,
        } => {
            let failed = |error: &dyn std::fmt::Display| {
                format!("tls-crypt-v2 {}: {error}", server_key.display())
            };
            let text = std::fs::read_to_string(server_key).map_err(|error| failed(&error))?;
            let server = ServerKey::parse(&text).map_err(|error| failed(&error))?;
            let key = StaticKey::generate(&mut rng);
            let metadata = match metadata {
                Some(data) => Metadata::User(data.clone()),
                None => Metadata::Created(unix),
            };
            let wkc = server
                .wrap_client_key(&key, &metadata)
                .map_err(|error| format!("the metadata is too long: {error}"))?;
            ClientKey { key, wkc }.to_text()
        }
        KeyKind::AuthToken => {
            // The same form as a tls-crypt-v2 server key under another label (protocol §8.4).
            let key = ServerKey::generate(&mut rng).to_text();
            Zeroizing::new(key.replace("tls-crypt-v2 server key", "auth-token server key"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::token::TokenKey;

    fn asked(text: &str) -> Result<KeyRequest, String> {
        let args: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        request(&args)
    }

    #[test]
    fn requests() {
        let secret = |file: Option<&str>| {
            Ok(KeyRequest {
                kind: KeyKind::Secret,
                file: file.map(PathBuf::from),
            })
        };
        assert_eq!(asked("--genkey secret ta.key"), secret(Some("ta.key")));
        assert_eq!(asked("--genkey --secret ta.key"), secret(Some("ta.key")));
        assert_eq!(asked("--genkey secret"), secret(None));
        let client = asked("--tls-crypt-v2 s.key --genkey tls-crypt-v2-client c.key QUJD").unwrap();
        assert_eq!(
            client.kind,
            KeyKind::TlsCryptV2Client {
                server_key: "s.key".into(),
                metadata: Some(b"ABC".to_vec()),
            }
        );
        for bad in [
            "--genkey tls-crypt-v2-client c.key",
            "--genkey frob x",
            "--genkey secret a b",
            "--genkey secret a --port 5",
            "--tls-crypt-v2 s --genkey tls-crypt-v2-client c !!",
        ] {
            assert!(asked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_well_formed_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = std::env::temp_dir().join(format!("ringway-genkey-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let make = |kind, name: &str| {
            let path = dir.join(name);
            let request = KeyRequest {
                kind,
                file: Some(path.clone()),
            };
            generate_key(&request, 1_700_000_000).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            std::fs::read_to_string(path).unwrap()
        };
        let first = make(KeyKind::Secret, "a");
        assert_ne!(first, make(KeyKind::Secret, "b"));
        StaticKey::parse(&first).unwrap();
        let server = ServerKey::parse(&make(KeyKind::TlsCryptV2Server, "s")).unwrap();
        let client = make(
            KeyKind::TlsCryptV2Client {
                server_key: dir.join("s"),
                metadata: None,
            },
            "c",
        );
        let client = ClientKey::parse(&client).unwrap();
        let (key, metadata) = server.unwrap_client_key(&client.wkc).unwrap();
        assert!(key == client.key);
        assert_eq!(metadata, Metadata::Created(1_700_000_000));
        let token = make(KeyKind::AuthToken, "t");
        assert!(
            token.starts_with("-----BEGIN OpenVPN auth-token server key-----\n"),
            "{token}"
        );
        TokenKey::parse(&token).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
