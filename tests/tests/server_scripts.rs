//! A server's scripts: the same ones under both servers, for the same client doing the same, and
//! what each was given compared line by line; scripts that hang or fail.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use ringway_lab::command::POLL;
use ringway_lab::link::Wrap;
use ringway_lab::peer::{Peer, UP};
use ringway_lab::site::{ClientSpec, SOON, Site, SiteSpec, each_server, programs};
use ringway_lab::{note, ready};

/// Writes arguments and environment to a file of its own for each run of each kind. When a gone
/// client's addresses are forgotten is each server's own affair.
const NOTE: &str = "#!/bin/sh
[ \"$1\" != delete ] || exit 0
number=1
until mkdir %F/run-$script_type-$number; do number=$((number + 1)); done
{ echo \"arguments=$*\"; env; } > %F/note-$script_type-$number.new
mv %F/note-$script_type-$number.new %F/note-$script_type-$number
case $script_type in
client-connect) echo 'push \"route 10.55.0.0 255.255.0.0\"' > \"$1\" ;;
user-pass-verify)
    printf '30\\ncrtext\\nCR_TEXT:R,E:Which river?\\n' > \"$auth_pending_file\"
    exit 2 ;;
client-crresponse) echo 1 > \"$auth_control_file\" ;;
esac
exit 0
";

const SCRIPTS: [&str; 6] = [
    "client-crresponse",
    "client-connect",
    "client-disconnect",
    "learn-address",
    "tls-verify",
    "tls-crypt-v2-verify",
];

/// Where Ringway differs: beginning of the script's name, the variable, why.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("", "auth_control_file", "names a file that is gone by then"),
    ("", "auth_pending_file", "names a file that is gone by then"),
    (
        "",
        "auth_failed_reason_file",
        "names a file that is gone by then",
    ),
    ("", "remote_port_1", "a server has no remote"),
    (
        "",
        "route_net_gateway",
        "no gateway is known, or it is of no use",
    ),
    ("", "script_context", "a word for the scripts of the device"),
    (
        "tls-verify",
        "",
        "runs beside everything else, when the client has said all of itself",
    ),
    (
        "user-pass-verify",
        "trusted_",
        "the certificate is verified by then",
    ),
];

fn differs_for_a_reason(name: &str, variable: &str) -> bool {
    DIFFERENCES
        .iter()
        .any(|(script, start, _)| name.starts_with(script) && variable.starts_with(start))
}

/// Every note of the scripts: name of the note, then the variables.
type Notes = BTreeMap<String, BTreeMap<String, String>>;

#[test]
fn environments_are_those_of_openvpn() -> Result<()> {
    if !ready("environments_are_those_of_openvpn") {
        return Ok(());
    }
    let stock = notes_under(Peer::OpenVpn)?;
    let ours = notes_under(Peer::subject())?;
    let mut differences = Vec::new();
    let names: std::collections::BTreeSet<_> = stock.keys().chain(ours.keys()).collect();
    for name in names {
        match (stock.get(name), ours.get(name)) {
            (Some(stock), Some(ours)) => compare(name, stock, ours, &mut differences),
            (Some(_), None) => differences.push(format!("{name}: did not run")),
            (None, Some(_)) if differs_for_a_reason(name, "") => {}
            (None, Some(ours)) => {
                let arguments = ours.get("arguments").cloned().unwrap_or_default();
                differences.push(format!("{name}: runs without need: {arguments}"));
            }
            (None, None) => {}
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    note(&format!("{} calls compared", stock.len()));
    Ok(())
}

fn compare(
    name: &str,
    stock: &BTreeMap<String, String>,
    ours: &BTreeMap<String, String>,
    differences: &mut Vec<String>,
) {
    let judged = |(variable, _): &(&String, &String)| !differs_for_a_reason(name, variable);
    for (variable, value) in stock.iter().filter(judged) {
        match ours.get(variable) {
            None => differences.push(format!("{name}: lacks {variable}={value}")),
            Some(other) if other != value => {
                differences.push(format!("{name}: {variable}={other} is not {value}"));
            }
            Some(_) => {}
        }
    }
    for (variable, value) in ours.iter().filter(judged) {
        if !stock.contains_key(variable) {
            differences.push(format!("{name}: {variable}={value} is too much"));
        }
    }
}

/// One client of the stock program comes, carries something, asks for new keys and leaves.
fn notes_under(server: Peer) -> Result<Notes> {
    let mut spec = SiteSpec {
        wrap: Wrap::TlsCryptV2,
        ..SiteSpec::new(server)
    }
    .line("script-security 3")
    .line("auth-user-pass-verify %F/note.sh via-env")
    .line("setenv SITE north")
    .line("client-config-dir %F/ccd")
    .line("route 10.77.0.0 255.255.0.0")
    .line("keepalive 1 10");
    for script in SCRIPTS {
        spec = spec.line(&format!("{script} %F/note.sh"));
    }
    let mut site = spec.prepare()?;
    site.script("note.sh", NOTE)?;
    site.file("ccd/anna", "iroute 10.77.0.0 255.255.0.0\n")?;
    site.file("login", "alfred\nsecret\n")?;
    site.start_server()?;
    site.check(|site| {
        let client = ClientSpec::new(Peer::OpenVpn, 0, "anna")
            .line("auth-user-pass %F/login")
            .line("lport 7000")
            .line("push-peer-info")
            .line("setenv UV_COLOUR blue")
            .line("setenv IV_SSO crtext")
            .line("management %F/anna.sock unix")
            .line("explicit-exit-notify 1");
        site.launch(&client)?;
        site.clients[0].wait_for("AUTH_PENDING", SOON)?;
        let mut management = UnixStream::connect(site.lab.folder().join("anna.sock"))?;
        writeln!(management, "cr-response TWFpbg==")?;
        site.clients[0].wait_up(SOON)?;
        site.carries(0)?;
        let routes = site.clients[0].namespace().routes()?;
        ensure!(
            routes.contains("10.55.0.0/16"),
            "what client-connect said:\n{routes}"
        );
        site.clients[0].stop()?;
        site.wait_text("note-client-disconnect-1", |text| !text.is_empty())?;
        read_notes(site)
    })
}

fn read_notes(site: &Site) -> Result<Notes> {
    let folder = site.lab.folder().to_owned();
    let mut notes = Notes::new();
    for entry in std::fs::read_dir(&folder)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        let Some(kind) = name.strip_prefix("note-") else {
            continue;
        };
        let text = site
            .text(&name)
            .replace(&folder.display().to_string(), "%F");
        let variables = text.lines().filter_map(|line| line.split_once('='));
        let variables = variables
            .filter(|(name, _)| !of_this_run(name))
            .map(|(name, value)| (name.to_owned(), steady(name, value)));
        notes.insert(kind.to_owned(), variables.collect());
    }
    Ok(notes)
}

/// Variables of the shell, and those that differ between any two runs.
fn of_this_run(name: &str) -> bool {
    let changing = [
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        "daemon_pid",
        "daemon_start_time",
        "time_ascii",
        "time_unix",
    ];
    // Serial numbers and fingerprints are those of another authority.
    changing.contains(&name)
        || name.starts_with("tls_digest")
        || name == "tls_serial_1"
        || name == "tls_serial_hex_1"
}

/// A value without what differs between any two runs.
fn steady(name: &str, value: &str) -> String {
    match name {
        // Names of temporary files end a list of arguments.
        "arguments" => value
            .split(' ')
            .map(|word| {
                if word.contains("/openvpn_") {
                    "FILE"
                } else {
                    word
                }
            })
            .collect::<Vec<_>>()
            .join(" "),
        "auth_control_file"
        | "auth_pending_file"
        | "auth_failed_reason_file"
        | "client_connect_deferred_file"
        | "client_connect_config_file"
        | "metadata_file" => "FILE".to_owned(),
        "bytes_sent" | "bytes_received" | "time_duration" => {
            format!("{}", u8::from(value.parse::<u64>().is_ok()))
        }
        _ => value.to_owned(),
    }
}

/// `tls-export-cert`: a script sees each certificate of a client while it runs, also that of one it
/// refuses, and nothing stays.
#[test]
fn certificates_in_files() -> Result<()> {
    each_server("certificates_in_files", |server| {
        let mut site = SiteSpec::new(server)
            .line("script-security 2")
            .line("tls-export-cert %F/export")
            .line("tls-verify %F/verify.sh")
            .line("keepalive 1 10")
            .prepare()?;
        site.script(
            "verify.sh",
            "#!/bin/sh
openssl verify -CAfile %F/pki/ca.crt \"$peer_cert\" > %F/verified-$1 || exit 2
case \"$peer_cert\" in %F/export/*) ;; *) exit 3 ;; esac
openssl x509 -noout -subject -in \"$peer_cert\" >> %F/subjects
case $2 in *berta) exit 1 ;; esac
",
        )?;
        std::fs::create_dir(site.lab.folder().join("export"))?;
        site.start_server()?;
        site.check(|site| {
            site.join(&ClientSpec::new(Peer::OpenVpn, 0, "anna"))?;
            site.carries(0)?;
            let refused = ClientSpec::new(Peer::OpenVpn, 1, "berta");
            site.launch(&refused)?;
            let subjects = site.wait_text("subjects", |text| text.contains("berta"))?;
            ensure!(subjects.contains("anna"), "{subjects}");
            ensure!(site.clients[1].count(UP) == 0, "a refused client is in");
            for depth in ["0", "1"] {
                let said = site.text(&format!("verified-{depth}"));
                ensure!(said.trim().ends_with(": OK"), "depth {depth}: {said}");
            }
            let export = site.lab.folder().join("export");
            let begun = Instant::now();
            while std::fs::read_dir(&export)?.count() > 0 {
                ensure!(begun.elapsed() < SOON, "a certificate stays");
                std::thread::sleep(POLL);
            }
            Ok(())
        })
    })
}

#[test]
fn scripts_that_hang_or_fail() -> Result<()> {
    // A stock server stands still while a script runs.
    if !ready("scripts_that_hang_or_fail") {
        return Ok(());
    }
    let server = Peer::subject();
    if server == Peer::OpenVpn {
        return Ok(());
    }
    let mut site = SiteSpec::new(server)
        .line("script-security 2")
        .line("client-connect %F/connect.sh")
        .line("hand-window 4")
        .line("keepalive 1 10")
        .prepare()?;
    site.script(
        "connect.sh",
        "#!/bin/sh
case $common_name in
berta) exec sleep 1000 ;;
clara) exit 3 ;;
esac
",
    )?;
    site.start_server()?;
    site.check(|site| {
        let hanging = ClientSpec::new(Peer::OpenVpn, 1, "berta").line("hand-window 8");
        let hanging = site.launch(&hanging)?;
        site.server()?.wait_for("[berta]", SOON)?;
        let failing = site.launch(&ClientSpec::new(Peer::OpenVpn, 2, "clara"))?;
        site.clients[failing].wait_for("AUTH_FAILED", SOON)?;
        site.server()?
            .wait_for("client-connect: failed with exit status 3", SOON)?;
        let anna = site.join(&ClientSpec::new(Peer::OpenVpn, 0, "anna"))?;
        site.carries(anna)?;
        ensure!(
            site.clients[hanging].count(UP) == 0,
            "got in without an answer"
        );
        site.server()?
            .wait_for("client-connect: was killed after 4 seconds", SOON)?;
        site.clients[hanging].wait_for("AUTH_FAILED", SOON)?;
        // One that hangs now does not keep the server.
        let again = ClientSpec::new(Peer::OpenVpn, 1, "berta");
        site.server()?.mark();
        site.launch(&again)?;
        site.server()?.wait_for("[berta]", SOON)?;
        site.server()?.stop()
    })
}

#[test]
fn client_connect_may_take_its_time() -> Result<()> {
    each_server("client_connect_may_take_its_time", |server| {
        let mut site = SiteSpec::new(server)
            .line("script-security 2")
            .line("client-connect %F/connect.sh")
            .line("keepalive 1 10")
            .prepare()?;
        // Deferred: 2 at once, 1 or 0 later.
        site.script(
            "connect.sh",
            "#!/bin/sh
echo 2 > \"$client_connect_deferred_file\"
(
    until [ -e %F/answer-$common_name ]; do sleep 0.05; done
    echo 'push \"route 10.56.0.0 255.255.0.0\"' > \"$client_connect_config_file\"
    cat %F/answer-$common_name > \"$client_connect_deferred_file\"
) > /dev/null 2>&1 &
",
        )?;
        site.start_server()?;
        site.check(|site| {
            let programs = programs(server);
            let names = ["anna", "berta", "clara"];
            for host in 0..3 {
                site.launch(&ClientSpec::new(programs[host], host, names[host]))?;
            }
            site.server()?.wait_for("[clara]", SOON)?;
            site.file("answer-clara", "1")?;
            site.clients[2].wait_up(SOON)?;
            site.carries(2)?;
            let routes = site.clients[2].namespace().routes()?;
            ensure!(
                routes.contains("10.56.0.0/16"),
                "what client-connect said:\n{routes}"
            );
            ensure!(site.clients[0].count(UP) == 0, "got in without an answer");
            site.file("answer-anna", "0")?;
            site.clients[0]
                .wait_for("AUTH_FAILED", SOON)
                .context("anna is refused")?;
            site.file("answer-berta", "1")?;
            site.clients[1].wait_up(SOON)?;
            site.carries(1)
        })
    })
}

#[test]
fn scripts_of_the_end_come_to_their_own() -> Result<()> {
    each_server("scripts_of_the_end_come_to_their_own", |server| {
        let mut site = SiteSpec::new(server)
            .line("script-security 2")
            .line("client-disconnect %F/disconnect.sh")
            .prepare()?;
        site.script(
            "disconnect.sh",
            "#!/bin/sh
sleep 0.5
echo $common_name $bytes_sent >> %F/gone
",
        )?;
        site.start_server()?;
        site.check(|site| {
            let programs = programs(server);
            for (host, name) in ["anna", "berta"].into_iter().enumerate() {
                site.join(&ClientSpec::new(programs[host], host, name))?;
            }
            site.server()?.stop()?;
            let gone = site.text("gone");
            let told = |name: &str| gone.lines().filter(|line| line.starts_with(name)).count();
            ensure!(
                told("anna ") == 1 && told("berta ") == 1,
                "who has gone: {gone:?}"
            );
            Ok(())
        })
    })
}
