//! What a server is told of one client.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::*;
use crate::config::client_config::{Kind, file_name, for_client, load, parse};
use crate::config::options::Inactive;
use crate::config::server::ClientConfig;

fn read(text: &str) -> ClientConfig {
    let (config, warnings) = parse("c", text.as_bytes(), Kind::Text).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    config
}

fn error(text: &str, kind: Kind) -> String {
    parse("c", text.as_bytes(), kind).unwrap_err().to_string()
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A directory of its own, gone in the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ringway-ccd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_option_has_its_effect() {
    let config = read(
        "# branch office\nifconfig-push 10.8.0.20 255.255.255.0 10.9.0.20\n\
         ifconfig-ipv6-push fd00::20/64 fd00::1\niroute 192.168.4.7 255.255.255.0\n\
         iroute 192.168.9.9\niroute-ipv6 fd00:4::1/48\npush \"route 10.1.0.0 255.255.0.0\"\n\
         disable\ndata-ciphers AES-128-GCM:?X\ndata-ciphers-fallback AES-256-CBC\nping 5\n\
         ping-restart 30\ninactive 60 1000\nsession-timeout 3600\nmax-routes-per-client 9\n\
         comp-lzo no\nvlan-pvid 12\noverride-username \"j doe\"\nsocket-flags TCP_NODELAY\n\
         echo a b\nping-timer-rem\nignore-unknown-option later\nlater 1 2\n",
    );
    assert_eq!(
        config,
        ClientConfig {
            push: vec!["route 10.1.0.0 255.255.0.0".into()],
            push_reset: false,
            push_remove: vec![],
            iroute: vec![(v4("192.168.4.0"), 24), (v4("192.168.9.9"), 32)],
            iroute_ipv6: vec![(v6("fd00:4::"), 48)],
            ifconfig_push: Some((v4("10.8.0.20"), v4("255.255.255.0"))),
            ifconfig_push_alias: Some(v4("10.9.0.20")),
            ifconfig_ipv6_push: Some((v6("fd00::20"), 64, Some(v6("fd00::1")))),
            disable: true,
            data_ciphers: Some(vec![Cipher::Aes128Gcm]),
            data_ciphers_fallback: Some(Cipher::Aes256Cbc),
            ping: Some(5),
            ping_restart: Some(30),
            ping_exit: None,
            inactive: Some(Inactive {
                seconds: 60,
                bytes: 1000
            }),
            session_timeout: Some(3600),
            max_routes_per_client: Some(9),
            compress: Some(Framing::Lzo),
            vlan_pvid: Some(12),
            override_username: Some("j doe".into()),
        }
    );
    assert_eq!(read(""), ClientConfig::default());
    assert_eq!(read("inactive 0\n").inactive.unwrap().seconds, 0);
    let exit = read("ping-restart 5\nping-exit 9\n");
    assert_eq!((exit.ping_restart, exit.ping_exit), (None, Some(9)));
    assert_eq!(
        read("iroute 0.0.0.0 0.0.0.0\n").iroute,
        [(v4("0.0.0.0"), 0)]
    );
    assert_eq!(read("iroute-ipv6 fd00::1/0\n").iroute_ipv6, [(v6("::"), 0)]);
    assert_eq!(
        read("iroute-ipv6 fd00::1\n").iroute_ipv6,
        [(v6("fd00::1"), 128)]
    );
}

#[test]
fn pushes_are_removed_up_to_that_point() {
    let config = read(
        "push \"route 10.0.0.0\"\npush \"echo a\"\npush-remove route\npush \"route 10.1.0.0\"\n",
    );
    assert_eq!(config.push, ["echo a", "route 10.1.0.0"]);
    assert_eq!(config.push_remove, ["route"]);
    let config = read("push \"echo a\"\npush-reset\npush \"echo b\"\n");
    assert!(config.push_reset && config.push == ["echo b"]);
}

#[test]
fn later_settings_override_or_add() {
    let mut config = read(
        "push \"route 10.0.0.0\"\npush \"echo a\"\niroute 10.1.0.1\n\
         ifconfig-push 10.8.0.5 255.255.255.0 10.9.0.5\nping 5\nping-restart 20\nvlan-pvid 3\n",
    );
    config.apply(read(
        "push-remove route\npush \"route 10.3.0.0\"\niroute 10.2.0.1\n\
         ifconfig-push 10.8.0.6 255.255.255.0\nping-exit 9\n",
    ));
    assert_eq!(config.push, ["echo a", "route 10.3.0.0"]);
    assert_eq!(config.iroute.len(), 2);
    assert_eq!(config.ifconfig_push.unwrap().0, v4("10.8.0.6"));
    assert_eq!(config.ifconfig_push_alias, None);
    assert_eq!(
        (config.ping, config.ping_restart, config.ping_exit),
        (Some(5), None, Some(9))
    );
    assert_eq!(config.vlan_pvid, Some(3));
    config.apply(read("push-reset\npush \"echo z\"\ndisable\n"));
    assert!(config.push_reset && config.disable && config.push == ["echo z"]);
    let before = config.clone();
    config.apply(ClientConfig::default());
    assert_eq!(config, before);
}

#[test]
fn faults_name_file_line_and_option() {
    for (text, expected) in [
        ("\nport 1194\n", "c:2: port: cannot be set for one client"),
        ("up /bin/sh\n", "c:1: up: cannot be set for one client"),
        (
            "keepalive 10 60\n",
            "c:1: keepalive: cannot be set for one client; use ping and ping-restart",
        ),
        (
            "irout 10.0.0.0\n",
            "c:1: irout: unknown option; did you mean iroute?",
        ),
        (
            "iroute 10.0.0.0 255.0.255.0\n",
            "c:1: iroute: \"255.0.255.0\" is not a netmask",
        ),
        (
            "ifconfig-push 10.0.0.1\n",
            "c:1: ifconfig-push: 2 to 3 parameter(s) are possible, 1 given",
        ),
        (
            "push \"a,b\"\n",
            "c:1: push: a comma cannot be pushed, options are split at commas",
        ),
        (
            "push-remove \"\"\n",
            "c:1: push-remove: the beginning of an option is needed",
        ),
        (
            "vlan-pvid 0\n",
            "c:1: vlan-pvid: \"0\" is not a number from 1 to 4094",
        ),
        (
            "override-username \"\"\n",
            "c:1: override-username: a name of 1 to 128 printable bytes is needed",
        ),
        (
            "max-routes-per-client 0\n",
            "c:1: max-routes-per-client: \"0\" is not a number from 1 to 2147483647",
        ),
        (
            "compress migrate\n",
            "c:1: compress: \"migrate\" is for servers",
        ),
        (
            "config other\n",
            "c:1: config: files are nested more than 10 deep",
        ),
        ("<ca>\nx\n</ca>\n", "c:1: ca: cannot be set for one client"),
        ("push \"echo\n", "c:1: the quotation has no end"),
    ] {
        assert_eq!(error(text, Kind::Text), expected);
    }
    assert_eq!(
        error("verb 3\n", Kind::Connect),
        "c:1: verb: client-connect cannot set it"
    );
    let huge = "#".repeat(200).as_str().to_owned() + "\n";
    assert!(error(&huge.repeat(6000), Kind::File).contains("more than 1048576 bytes"));
    let (_, warnings) = parse("c", b"push \"rout x\"\n", Kind::File).unwrap();
    assert_eq!(
        warnings[0].to_string(),
        "c:1: push: \"rout x\": unknown option"
    );
}

#[test]
fn names_of_files() {
    for (name, expected) in [
        ("branch1", Some("branch1")),
        ("Jörg W. <j@example.org>", Some("Jörg W. <j@example.org>")),
        ("../../etc/passwd", Some(".._.._etc_passwd")),
        ("a\nb\x7f\0", Some("a_b__")),
        ("", None),
        (".", None),
        ("..", None),
        ("/", Some("_")),
    ] {
        assert_eq!(file_name(name).as_deref(), expected, "{name:?}");
    }
}

#[test]
fn files_of_clients() {
    let dir = Directory::new("files");
    dir.file("a", "vlan-pvid 5\n");
    let vlan = |name: &str, exclusive| {
        for_client(&dir.0, name, exclusive)
            .unwrap()
            .map(|(config, _)| config.vlan_pvid)
    };
    assert_eq!(vlan("a", true), Some(Some(5)));
    assert_eq!(vlan("b", false), None);
    dir.file("DEFAULT", "vlan-pvid 9\n");
    assert_eq!(vlan("a", false), Some(Some(5)));
    assert_eq!(vlan("b", false), Some(Some(9)));
    assert_eq!(vlan("..", false), Some(Some(9)));
    assert_eq!(vlan("b", true), None);
    dir.file("bad", "\nnonsense\n");
    let fault = for_client(&dir.0, "bad", false).unwrap_err();
    assert!(fault.file.ends_with("/bad") && fault.line == 2, "{fault}");
}

#[test]
fn files_in_files() {
    let dir = Directory::new("nested");
    let inner = dir.file("inner", "vlan-pvid 7\niroute x\n");
    let outer = dir.file("outer", &format!("ping 3\nconfig {}\n", inner.display()));
    let fault = load(&outer).unwrap_err();
    assert!(fault.file.ends_with("/inner") && fault.line == 2, "{fault}");
    dir.file("inner", "vlan-pvid 7\n");
    let (config, _) = load(&outer).unwrap();
    assert_eq!((config.ping, config.vlan_pvid), (Some(3), Some(7)));
    let own = dir.0.join("loop");
    dir.file("loop", &format!("config {}\n", own.display()).repeat(2000));
    assert!(
        load(&own)
            .unwrap_err()
            .message
            .contains("more than 10 deep")
    );
    // A tree whose leaves are deep enough, and far too many.
    for level in 0..9 {
        let next = dir.0.join(format!("t{}", level + 1));
        dir.file(
            &format!("t{level}"),
            &format!("config {}\n", next.display()).repeat(20),
        );
    }
    dir.file("t9", "ping 1\n");
    let fault = load(&dir.0.join("t0")).unwrap_err();
    assert!(fault.message.contains("for one client"), "{fault}");
    let fault = load(&dir.0).unwrap_err();
    assert!(fault.message.contains("not a regular file"), "{fault}");
    assert!(
        load(&dir.0.join("none"))
            .unwrap_err()
            .message
            .starts_with("cannot read ")
    );
}

proptest! {
    #[test]
    fn any_text_is_survived(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse("x", &text, Kind::Text);
    }

    #[test]
    fn any_values_are_survived(
        index in 0..DIRECTIVES.len(),
        words in proptest::collection::vec("[ -~]{0,12}|[0-9]{1,20}|::/[0-9]{1,3}|10\\.0\\.0\\.1", 0..4),
    ) {
        let words: Vec<_> = words.iter().map(|word| lexer::quote(word)).collect();
        let text = format!("{} {}\n", DIRECTIVES[index].name, words.join(" "));
        if let Err(error) = parse("x", text.as_bytes(), Kind::Text) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    /// Two texts in a row mean the same as one after the other, as long as every option of the
    /// second is one that adds or replaces.
    #[test]
    fn applying_is_like_reading_on(
        first in proptest::collection::vec(client_line(), 0..8),
        second in proptest::collection::vec(client_line(), 0..8),
    ) {
        let mut joined = read(&first.concat());
        joined.apply(read(&second.concat()));
        let whole = read(&(first.concat() + &second.concat()));
        prop_assert_eq!(joined, whole);
    }

    /// No name leaves the directory.
    #[test]
    fn file_names_stay_in_the_directory(name: String) {
        if let Some(file) = file_name(&name) {
            let path = std::path::Path::new("/d").join(&file);
            prop_assert_eq!(path.parent(), Some(std::path::Path::new("/d")));
            prop_assert!(!file.contains(['/', '\0', '\n']));
        }
    }
}

fn client_line() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..4u8).prop_map(|n| format!("push \"echo {n}\"\n")),
        Just("push-reset\n".to_owned()),
        (0..4u8).prop_map(|n| format!("push-remove \"echo {n}\"\n")),
        (0..4u8).prop_map(|n| format!("iroute 10.{n}.0.0 255.255.0.0\n")),
        (0..4u8).prop_map(|n| format!("ifconfig-push 10.8.0.{n} 255.255.255.0 10.9.0.{n}\n")),
        (0..4u8).prop_map(|n| format!("ifconfig-push 10.8.0.{n} 255.255.255.0\n")),
        (0..4u8).prop_map(|n| format!("ping-restart {n}\n")),
        (0..4u8).prop_map(|n| format!("ping-exit {n}\n")),
        (1..4u8).prop_map(|n| format!("vlan-pvid {n}\n")),
        Just("disable\n".to_owned()),
    ]
}
