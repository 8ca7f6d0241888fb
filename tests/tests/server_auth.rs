//! Who may come in: user names and passwords, tokens, answers that come later, answers to questions,
//! keys that say something of themselves, revoked certificates.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringway_lab::command::POLL;
use ringway_lab::link::Wrap;
use ringway_lab::peer::{Peer, UP};
use ringway_lab::site::{ClientSpec, SOON, Site, SiteSpec, answers, each_server, programs};

/// Notes every question; knows everybody whose password is the name backwards.
const VERIFY: &str = "#!/bin/sh
if [ \"$1\" ]; then { read -r username; read -r password; } < \"$1\"; fi
echo \"$username $common_name $untrusted_ip ${session_state:-none}\" >> %F/asked
[ \"$(echo \"$username\" | rev)\" = \"$password\" ]
";

fn login(site: &Site, name: &str, password: &str) -> Result<String> {
    let path = site.file(
        &format!("login-{name}-{password}"),
        &format!("{name}\n{password}\n"),
    )?;
    Ok(format!("auth-user-pass {}", path.display()))
}

#[test]
fn passwords_in_the_environment() -> Result<()> {
    passwords("passwords_in_the_environment", "via-env", "3")
}

#[test]
fn passwords_in_a_file() -> Result<()> {
    passwords("passwords_in_a_file", "via-file", "2")
}

fn passwords(test: &str, way: &str, security: &str) -> Result<()> {
    each_server(test, |server| {
        let spec = SiteSpec::new(server)
            .line(&format!("script-security {security}"))
            .line(&format!("auth-user-pass-verify %F/verify.sh {way}"))
            .line("username-as-common-name")
            .line("verify-client-cert optional")
            .line("client-config-dir %F/ccd")
            .line("hand-window 10")
            .line("auth-gen-token 0 20")
            .line("reneg-sec 3")
            .line("tran-window 20")
            .line("keepalive 1 10");
        let mut site = spec.prepare()?;
        site.script("verify.sh", VERIFY)?;
        site.file(
            "ccd/lager",
            "ifconfig-push 10.9.0.99 255.255.255.0\nifconfig-ipv6-push fd00:9::99/64 fd00:9::1\n",
        )?;
        site.start_server()?;
        site.check(|site| names_and_tokens(site, programs(server)))
    })
}

fn names_and_tokens(site: &mut Site, programs: [Peer; 3]) -> Result<()> {
    let (good, bare, bad) = (
        login(site, "lager", "regal")?,
        login(site, "nebel", "leben")?,
        login(site, "anna", "wrong")?,
    );
    // The server asks for new keys; clients alone would wait an hour.
    let first = ClientSpec::new(programs[0], 0, "anna")
        .line(&good)
        .line("reneg-sec 0");
    let second = ClientSpec::new(programs[1], 1, "berta")
        .without_certificate()
        .line(&bare)
        .line("reneg-sec 0");
    site.join_all(&[first, second])?;
    ensure!(
        site.inside(0)?[0].to_string() == "10.9.0.99",
        "not the file of the user name"
    );
    site.carries(0)?;
    site.carries(1)?;
    let wrong = site.launch(&ClientSpec::new(programs[2], 2, "clara").line(&bad))?;
    site.clients[wrong].wait_for("AUTH_FAILED", SOON)?;
    // Keys change twice; the token stands for the password, so nobody is asked again.
    for client in [0, 1] {
        site.clients[client].mark();
    }
    for client in [0, 1] {
        while site.clients[client].count("VERIFY OK: depth=0") < 2 {
            site.clients[client].wait_for("VERIFY OK: depth=0", SOON)?;
            std::thread::sleep(POLL);
        }
        site.carries(client)?;
        ensure!(
            site.clients[client].count("AUTH_FAILED") == 0,
            "the token is refused"
        );
    }
    let asked = site.text("asked");
    let count = |name: &str| asked.lines().filter(|line| line.starts_with(name)).count();
    ensure!(
        count("lager anna 192.0.2.10") == 1 && count("nebel ") == 1 && count("anna ") == 1,
        "asked\n{asked}"
    );
    Ok(())
}

#[test]
fn answers_that_come_later() -> Result<()> {
    each_server("answers_that_come_later", |server| {
        let spec = SiteSpec::new(server)
            .line("script-security 3")
            .line("auth-user-pass-verify %F/verify.sh via-env")
            .line("keepalive 1 10");
        let mut site = spec.prepare()?;
        // A word to the client first when it understands one; the answer when somebody says so.
        site.script(
            "verify.sh",
            "#!/bin/sh
[ \"$username\" != clara ] || printf '30\\ncrtext\\nR,E::Who are you?\\n' > \"$auth_pending_file\"
file=$auth_control_file
(
    until [ -e %F/answer-$username ]; do sleep 0.05; done
    cat %F/answer-$username > \"$file\"
) > /dev/null 2>&1 &
exit 2
",
        )?;
        site.start_server()?;
        site.check(|site| later(site, programs(server)))
    })
}

fn later(site: &mut Site, programs: [Peer; 3]) -> Result<()> {
    for (host, name) in ["anna", "berta", "clara"].into_iter().enumerate() {
        let login = login(site, name, "any")?;
        let client = ClientSpec::new(programs[host], host, name)
            .line(&login)
            .line("push-peer-info")
            .line("setenv IV_SSO crtext");
        site.launch(&client)?;
    }
    site.clients[2].wait_for("AUTH_PENDING", SOON)?;
    // The first one gets in while the others wait.
    site.file("answer-anna", "1")?;
    site.clients[0].wait_up(SOON)?;
    site.carries(0)?;
    site.file("answer-berta", "0")?;
    site.clients[1].wait_for("AUTH_FAILED", SOON)?;
    site.file("answer-clara", "1")?;
    site.clients[2].wait_up(SOON)?;
    site.carries(2)?;
    site.carries(0)
}

#[test]
fn answers_to_questions() -> Result<()> {
    each_server("answers_to_questions", |server| {
        let spec = SiteSpec::new(server)
            .line("script-security 3")
            .line("auth-user-pass-verify %F/verify.sh via-env")
            .line("client-crresponse %F/response.sh")
            .line("keepalive 1 10");
        let mut site = spec.prepare()?;
        site.script(
            "verify.sh",
            "#!/bin/sh
printf '300\\ncrtext\\nCR_TEXT:R,E:Which river?\\n' > \"$auth_pending_file\"
exit 2
",
        )?;
        // The decision is where that of the first script would be; without one there is none.
        site.script(
            "response.sh",
            "#!/bin/sh
answer=$(base64 -d < \"$1\")
echo \"$script_type $common_name $username $answer\" >> %F/answers
case $answer in
Main) echo 1 > \"$auth_control_file\" ;;
Rhein) echo 0 > \"$auth_control_file\" ;;
*) exit 1 ;;
esac
",
        )?;
        site.start_server()?;
        site.check(answered)
    })
}

/// Clients of the stock program: their answers come through its management interface.
fn answered(site: &mut Site) -> Result<()> {
    let clients = [("anna", "Main"), ("berta", "Rhein"), ("clara", "Elbe")];
    for (host, (name, _)) in clients.into_iter().enumerate() {
        let client = ClientSpec::new(Peer::OpenVpn, host, name)
            .line(&login(site, name, "any")?)
            .line("push-peer-info")
            .line("setenv IV_SSO crtext")
            .line(&format!("management %F/{name}.sock unix"));
        site.launch(&client)?;
    }
    for (client, (name, answer)) in clients.into_iter().enumerate() {
        site.clients[client].wait_for("AUTH_PENDING", SOON)?;
        let socket = site.lab.folder().join(format!("{name}.sock"));
        let mut management = UnixStream::connect(socket)?;
        writeln!(management, "cr-response {}", STANDARD.encode(answer))?;
        let outcome = if client == 0 { UP } else { "AUTH_FAILED" };
        site.clients[client].wait_for(outcome, SOON)?;
        let line = format!("client-crresponse {name} {name} {answer}\n");
        site.wait_text("answers", |text| text.contains(&line))?;
    }
    site.carries(0)
}

#[test]
fn keys_are_judged_by_what_they_say() -> Result<()> {
    each_server("keys_are_judged_by_what_they_say", |server| {
        let spec = SiteSpec {
            wrap: Wrap::TlsCryptV2,
            ..SiteSpec::new(server)
        };
        let mut site = spec
            .line("script-security 2")
            .line("tls-crypt-v2-verify %F/verify.sh")
            .prepare()?;
        site.script(
            "verify.sh",
            "#!/bin/sh
text=$(tr -d '\\000' < \"$metadata_file\")
[ \"$metadata_type\" = 0 ] || text=
echo \"$script_type $metadata_type $text\" >> %F/keys
[ \"$text\" = 'store 7' ]
",
        )?;
        for (name, text) in [("anna", "store 7"), ("berta", "store 8")] {
            site.authority.pki().add_client_key(name, text)?;
        }
        site.start_server()?;
        site.check(|site| judged(site, programs(server)))
    })
}

fn judged(site: &mut Site, programs: [Peer; 3]) -> Result<()> {
    for (host, name) in [(1, "berta"), (0, "anna")] {
        let key = format!("tls-crypt-v2 %F/pki/v2-{name}.key");
        site.launch(&ClientSpec::new(programs[host], host, name).line(&key))?;
    }
    // Its key says when it was made and no more.
    site.launch(&ClientSpec::new(programs[2], 2, "clara"))?;
    for text in ["0 store 7", "0 store 8", "1 "] {
        let line = format!("tls-crypt-v2-verify {text}\n");
        site.wait_text("keys", |text| text.contains(&line))?;
    }
    site.clients[1].wait_up(SOON)?;
    site.carries(1)?;
    site.server_says("TLS CRYPT V2 VERIFY SCRIPT ERROR", "tls-crypt-v2-verify: ")?;
    let refused = [0, 2].map(|client| site.clients[client].count(UP));
    ensure!(refused == [0, 0], "came in with a refused key: {refused:?}");
    Ok(())
}

#[test]
fn a_revoked_client_is_gone_with_its_keys() -> Result<()> {
    each_server("a_revoked_client_is_gone_with_its_keys", |server| {
        let mut site = SiteSpec::new(server)
            .line("crl-verify %F/pki/crl.pem")
            .line("reneg-sec 4")
            .line("hand-window 4")
            // How long the keys of before a failed renegotiation last.
            .line("tran-window 4")
            .line("keepalive 1 6")
            .prepare()?;
        site.authority.revoke(&["clara"])?;
        site.start_server()?;
        site.check(|site| revoked(site, programs(server)))
    })
}

fn revoked(site: &mut Site, programs: [Peer; 3]) -> Result<()> {
    let clients = [(0, "anna"), (1, "berta")]
        .map(|(n, name)| ClientSpec::new(programs[n], n, name).line("reneg-sec 0"));
    site.join_all(&clients)?;
    site.launch(&ClientSpec::new(programs[2], 2, "clara"))?;
    site.server()?.wait_for("revoked", SOON)?;
    ensure!(
        site.server()?.count("[clara]") == 0,
        "a revoked client got in"
    );
    site.carries(0)?;
    site.carries(1)?;
    site.clients[2].kill();
    let anna = site.inside(0)?[0];
    site.authority.revoke(&["clara", "anna"])?;
    site.server()?.mark();
    site.server()?.wait_for("revoked", SOON)?;
    let start = std::time::Instant::now();
    while answers(&site.server_namespace, anna)? {
        ensure!(start.elapsed() < SOON, "the revoked client still answers");
    }
    site.carries(1)
}
