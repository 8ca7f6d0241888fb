//! `tls-crypt-v2-verify` and `tls-verify`: a client's key and its certificates.

use std::io;
use std::path::Path;

use pkcs8::der::pem::{LineEnding, encode_string};

use super::files::ScriptFiles;
use super::{ClientCall, HookFailure, Prepared, plain_verdict};
use crate::host::env::ScriptEnv;
use crate::host::script::{Hook, ScriptCommand, ScriptError};

/// A call of `tls-crypt-v2-verify`.
#[derive(Debug)]
pub struct TlsCryptV2Verify {
    client: String,
    _files: ScriptFiles,
}

/// A call of `tls-verify`, for one certificate.
#[derive(Debug)]
pub struct TlsVerify {
    client: String,
    depth: usize,
    subject: String,
    _export: Option<ScriptFiles>,
}

impl TlsCryptV2Verify {
    /// Gives the metadata of a client's key to a script: `kind` is its first byte (0 text of the
    /// administrator, 1 time of creation), `metadata` the rest. The script sees these two variables
    /// and none of the client's.
    ///
    /// # Errors
    ///
    /// A file cannot be written; the client is to be refused.
    pub fn prepare(
        call: &ClientCall<'_>,
        command: &ScriptCommand,
        kind: u8,
        metadata: &[u8],
    ) -> Result<Prepared<Self>, HookFailure> {
        const HOOK: Hook = Hook::TlsCryptV2Verify;
        let files = call.files(HOOK)?;
        let path = files
            .create("tls_crypt_v2_metadata", metadata)
            .map_err(|error| call.file_failure(HOOK, &error))?;
        let mut job = call.job(HOOK, command);
        job.env = ScriptEnv::new();
        job.env.set("metadata_type", kind);
        job.env.set("metadata_file", path);
        let hook = TlsCryptV2Verify {
            client: call.client.to_owned(),
            _files: files,
        };
        Ok(Prepared { job, hook })
    }

    /// Whether the key may be used.
    ///
    /// # Errors
    ///
    /// It may not; the client is to be refused.
    pub fn finish(self, result: Result<(), ScriptError>) -> Result<(), HookFailure> {
        plain_verdict(&self.client, Hook::TlsCryptV2Verify, result)
    }
}

impl TlsVerify {
    /// Asks a script about one certificate: `depth` 0 is the client's own, the greatest the root.
    /// The client's variables should have the whole chain
    /// ([`cert_env`](crate::tls::certs::cert_env)). With `export` (a folder, and the certificate as
    /// DER) the script finds it as PEM in a file named by `peer_cert` (`tls-export-cert`).
    ///
    /// # Errors
    ///
    /// A file cannot be written; the client is to be refused.
    pub fn prepare(
        call: &ClientCall<'_>,
        command: &ScriptCommand,
        depth: usize,
        subject: &str,
        export: Option<(&Path, &[u8])>,
    ) -> Result<Prepared<Self>, HookFailure> {
        const HOOK: Hook = Hook::TlsVerify;
        let mut job = call.job(HOOK, command);
        job.arguments = vec![depth.to_string(), subject.to_owned()];
        let export = match export {
            None => None,
            Some((dir, der)) => {
                let (files, path) = write_pem(dir, der)
                    .map_err(|error| HookFailure::file(call.client, HOOK, dir, &error))?;
                job.env.set("peer_cert", path);
                Some(files)
            }
        };
        let hook = TlsVerify {
            client: call.client.to_owned(),
            depth,
            subject: subject.to_owned(),
            _export: export,
        };
        Ok(Prepared { job, hook })
    }

    /// Whether the certificate is accepted.
    ///
    /// # Errors
    ///
    /// It is not; the client is to be refused.
    pub fn finish(self, result: Result<(), ScriptError>) -> Result<(), HookFailure> {
        plain_verdict(&self.client, Hook::TlsVerify, result).map_err(|failure| HookFailure {
            what: format!("depth={}, {}: {}", self.depth, self.subject, failure.what),
            ..failure
        })
    }
}

fn write_pem(dir: &Path, der: &[u8]) -> io::Result<(ScriptFiles, String)> {
    let pem = encode_string("CERTIFICATE", LineEnding::LF, der).map_err(io::Error::other)?;
    let files = ScriptFiles::new(dir)?;
    let path = files.create("pef", pem.as_bytes())?;
    Ok((files, path))
}
