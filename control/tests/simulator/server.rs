//! A server and its clients: first packets, authentication, options, renegotiation, leaving.

use std::time::Duration;

use rand::Rng;
use ringway::config::pushed::{PulledOptions, apply, update};
use ringway::proto::acceptor::Refusal;
use ringway::proto::peer_info::iv_proto;
use ringway::proto::push::{AuthFailed, ControlMessage};
use ringway::proto::rate::RateLimit;
use ringway::proto::tunnel::{Command, Transport};
use ringway::proto::wrap::tls_crypt_v2::Metadata;
use ringway::proto::wrap::{ClientWraps, WrapConfig};
use ringway_dataplane::key_slot::{Cipher, DataFormat};

use super::crowd::{Crowd, address, clean, v2_client, v2_server};
use super::pair::{BAD, CLEAN, Link, MS, S, UNIX, other_client, peer_info, seeds, wraps};

/// One wrapping for all.
fn fixed(wrap: &WrapConfig) -> ClientWraps {
    ClientWraps::fixed(wrap.clone())
}

/// Every second client has a key of its own, the others have the common one.
fn mixed_wrap(n: usize) -> WrapConfig {
    match n % 2 {
        0 => wraps()[2].clone(),
        _ => v2_client(n as u8, &Metadata::Created(UNIX)),
    }
}

fn bare_reset(rng: &mut impl Rng) -> Vec<u8> {
    let mut datagram = vec![7 << 3];
    datagram.extend_from_slice(&rng.random::<[u8; 8]>());
    datagram.extend_from_slice(&[0; 5]);
    datagram
}

fn reasons(crowd: &Crowd) -> Vec<&'static str> {
    crowd.ended.iter().map(|e| e.2).collect()
}

#[test]
fn hundreds_of_clients_connect_over_a_bad_network_amid_noise() {
    // Each is a crowd; more seeds would take minutes.
    for seed in seeds(2).take(4) {
        let mut crowd = Crowd::new(seed, BAD, v2_server(), Transport::Udp);
        for n in 0..250 {
            crowd.add(mixed_wrap(n), |_| {});
            crowd.run(n as u32 * 10 * MS);
            // Noise from addresses of nobody, and from those of clients.
            let noise: Vec<u8> = (0..crowd.rng.random_range(0..80))
                .map(|_| crowd.rng.random())
                .collect();
            let from = crowd.rng.random_range(0..600);
            crowd.give_server(address(from), &mut noise.clone());
            let mut reset = bare_reset(&mut crowd.rng);
            crowd.give_server(address(1000 + n), &mut reset);
        }
        crowd.run_while(300 * S, |c| !c.all_connected());
        crowd.expect_all_connected(&format!("seed {seed}"));
        assert_eq!(crowd.backscatter, 0, "bare resets are not answered here");
        assert!(crowd.refused(Refusal::UnwrapFailed) > 200);
        for n in 0..250 {
            let instance = crowd.instance(n);
            assert_eq!(instance.metadata.len(), n % 2, "client {n}");
            assert_eq!(instance.requests[0].username, Some(format!("user {n}")));
        }
    }
}

#[test]
fn every_wrapping_and_both_transports() {
    for transport in [Transport::Udp, Transport::Tcp] {
        for wrap in wraps() {
            let mut crowd = clean(fixed(&wrap), transport);
            crowd.add(wrap.clone(), |_| {});
            crowd.run(2 * S);
            crowd.expect_all_connected(&format!("{transport:?} {wrap:?}"));
        }
        let mut crowd = clean(v2_server(), transport);
        for n in 0..4 {
            crowd.add(mixed_wrap(n), |c| c.reneg_sec = 30 * S);
        }
        crowd.run(200 * S);
        crowd.expect_all_connected(&format!("{transport:?} tls-crypt-v2"));
        assert!(crowd.ended.is_empty(), "{:?}", crowd.ended);
        assert!(crowd.clients.iter().all(|c| c.keys.generations > 4));
    }
}

#[test]
fn a_flood_of_spoofed_resets_leaves_nothing() {
    let mut crowd = clean(fixed(&wraps()[0]), Transport::Udp);
    let client = crowd.add(wraps()[0].clone(), |_| {});
    for n in 0..5000 {
        let mut reset = bare_reset(&mut crowd.rng);
        crowd.give_server(address(10 + n % 60_000), &mut reset);
        if n % 50 == 0 {
            crowd.run(crowd.time + MS);
        }
    }
    crowd.run(crowd.time + 2 * S);
    crowd.expect_all_connected("amid the flood");
    assert!(crowd.is_connected(client));
    assert_eq!(crowd.backscatter, 5000, "one answer each, no more");
}

#[test]
fn connect_freq_initial_limits_answers_but_not_those_who_come_back() {
    let mut crowd = clean(fixed(&wraps()[0]), Transport::Udp);
    crowd.set_rates(RateLimit::new(10, 10 * S), None);
    for n in 0..100 {
        let mut reset = bare_reset(&mut crowd.rng);
        crowd.give_server(address(1000 + n), &mut reset);
    }
    assert_eq!(crowd.backscatter, 10);
    assert_eq!(crowd.refused(Refusal::AnswerRate), 90);
    crowd.run(11 * S);
    for _ in 0..60 {
        crowd.add(wraps()[0].clone(), |_| {});
        crowd.run(crowd.time + 15 * MS);
    }
    crowd.run(crowd.time + 2 * S);
    crowd.expect_all_connected("a storm of honest clients");
    assert!(crowd.time < 20 * S);
}

#[test]
fn connect_freq_limits_clients() {
    let mut crowd = clean(fixed(&wraps()[2]), Transport::Udp);
    crowd.set_rates(RateLimit::new(100, S), Some(RateLimit::new(3, 10 * S)));
    for _ in 0..6 {
        crowd.add(wraps()[2].clone(), |_| {});
    }
    crowd.run(3 * S);
    assert_eq!(crowd.instances.len(), 3);
    assert!(crowd.refused(Refusal::AcceptRate) > 0);
    crowd.run(40 * S);
    crowd.expect_all_connected("later");
}

#[test]
fn renegotiations_wait_for_their_answer_and_lose_nothing() {
    for seed in seeds(6).take(40) {
        let transport = [Transport::Udp, Transport::Tcp][(seed % 2) as usize];
        let link = if transport == Transport::Tcp {
            CLEAN
        } else {
            BAD
        };
        let mut crowd = Crowd::new(seed, link, v2_server(), transport);
        crowd.habits.script = 3 * S;
        crowd.server.reneg_sec = 45 * S;
        for n in 0..12 {
            crowd.add(mixed_wrap(n), |_| {});
        }
        crowd.run_while(100 * S, |c| !c.all_connected());
        for step in 0..40 {
            crowd.run(100 * S + step * 10 * S);
            crowd.expect_all_connected(&format!("seed {seed} step {step}"));
        }
        for n in 0..12 {
            let instance = crowd.instance(n);
            assert_eq!(instance.readies, 1);
            assert!(instance.requests.len() >= 8, "{}", instance.requests.len());
            let (first, later) = instance.requests.split_first().unwrap();
            assert!(!first.renegotiation && later.iter().all(|r| r.renegotiation));
            // Every key that was made had been granted.
            assert!(instance.keys.generations <= instance.requests.len());
        }
        assert!(crowd.ended.is_empty(), "{:?}", crowd.ended);
    }
}

#[test]
fn a_wrong_password_is_told_and_the_instance_ends() {
    for link in [CLEAN, BAD] {
        let mut crowd = Crowd::new(3, link, fixed(&wraps()[2]), Transport::Udp);
        crowd.habits.password = Some("right");
        let good = crowd.add(wraps()[2].clone(), |_| {});
        let bad = crowd.add(wraps()[2].clone(), |c| c.password = Some("wrong".into()));
        crowd.run(20 * S);
        assert!(crowd.is_connected(good));
        let failed = AuthFailed::Plain {
            reason: "wrong password".into(),
        };
        assert_eq!(
            crowd.clients[bad].messages,
            [ControlMessage::AuthFailed(failed)]
        );
        assert!(crowd.clients[bad].keys.installed.is_empty());
        assert_eq!(reasons(&crowd), ["auth-failure"]);
        assert_eq!(crowd.instances.len(), 1);
    }
}

#[test]
fn a_password_that_is_no_longer_good_ends_the_connection_at_the_next_key() {
    let mut crowd = clean(fixed(&wraps()[2]), Transport::Udp);
    let client = crowd.add(wraps()[2].clone(), |c| c.reneg_sec = 30 * S);
    crowd.run(20 * S);
    assert!(crowd.is_connected(client));
    crowd.habits.password = Some("another");
    crowd.run(32 * S);
    assert!(crowd.clients[client].gone, "it was told");
    assert_eq!(crowd.instance(client).keys.generations, 1, "no key for it");
    crowd.run(40 * S);
    assert_eq!(reasons(&crowd), ["auth-failure"]);
}

#[test]
fn another_name_or_certificate_is_not_taken_in_a_renegotiation() {
    let mut crowd = clean(fixed(&wraps()[0]), Transport::Udp);
    let client = crowd.add(wraps()[0].clone(), |_| {});
    crowd.run(5 * S);
    let command = Command::Credentials {
        username: Some("root".into()),
        password: Some("right".into()),
    };
    crowd.client_command(client, command);
    crowd.client_command(client, Command::Renegotiate);
    crowd.run(20 * S);
    assert!(crowd.clients[client].gone);
    assert_eq!(reasons(&crowd), ["auth-failure"]);
    assert!(crowd.ended[0].3.contains("root"), "{:?}", crowd.ended);

    // A new session from the same address, of somebody else, replaces nothing.
    let mut crowd = clean(fixed(&wraps()[0]), Transport::Udp);
    let client = crowd.add(wraps()[0].clone(), |_| {});
    crowd.run(5 * S);
    let sending = crowd.instance(client).keys.sending;
    crowd.clients[client].config.tls = other_client();
    crowd.restart(client);
    crowd.run(10 * S);
    assert_eq!(crowd.instance(client).keys.sending, sending);
    assert_eq!(crowd.instance(client).keys.generations, 1);
    assert_eq!(crowd.instance(client).requests.len(), 1);
}

#[test]
fn a_restarted_client_is_served_anew_at_once() {
    for transport in [Transport::Udp, Transport::Tcp] {
        for seed in 0..4 {
            let link = if seed > 1 && transport == Transport::Udp {
                BAD
            } else {
                CLEAN
            };
            let mut crowd = Crowd::new(seed, link, v2_server(), transport);
            let client = crowd.add(mixed_wrap(seed as usize), |_| {});
            crowd.run_while(60 * S, |c| !c.all_connected());
            crowd.restart(client);
            let from = crowd.time;
            crowd.run_while(from + 60 * S, |c| !c.all_connected());
            crowd.expect_all_connected("restarted");
            assert!(crowd.time < from + 15 * S, "{:?}", crowd.time - from);
            assert_eq!(crowd.clients[client].starts, 2);
        }
    }
}

#[test]
fn deferred_authentication_keeps_the_client_waiting() {
    let mut crowd = clean(fixed(&wraps()[2]), Transport::Udp);
    crowd.habits.pending = Some(vec!["CR_TEXT:R,E:Enter the code".into()]);
    crowd.habits.silent = true;
    let client = crowd.add(wraps()[2].clone(), |_| {});
    crowd.run(110 * S);
    let info = ControlMessage::InfoPre("CR_TEXT:R,E:Enter the code".into());
    let pending = ControlMessage::AuthPending { timeout: Some(120) };
    assert_eq!(crowd.clients[client].messages, [pending, info]);
    assert_eq!(crowd.clients[client].starts, 1, "longer than hand-window");
    let response = Command::SendMessage("CR_RESPONSE,MTIz".into());
    crowd.client_command(client, response);
    crowd.run(111 * S);
    assert_eq!(crowd.instance(client).responses, ["MTIz"]);
    let request = crowd.instance(client).requests[0].request;
    let address = crowd.clients[client].address;
    let wrong = request.wrapping_add(1);
    crowd.command(address, Command::Authenticated { request: wrong });
    crowd.run(113 * S);
    assert_eq!(crowd.instance(client).readies, 0);
    crowd.command(address, Command::Authenticated { request });
    crowd.run(115 * S);
    crowd.expect_all_connected("at last");
}

#[test]
fn a_driver_that_never_answers_ends_the_attempt() {
    let mut crowd = clean(fixed(&wraps()[2]), Transport::Udp);
    crowd.habits.silent = true;
    let client = crowd.add(wraps()[2].clone(), |c| c.hand_window = 600 * S);
    crowd.run(59 * S);
    assert_eq!(crowd.instances.len(), 1);
    crowd.run(70 * S);
    assert!(crowd.clients[client].gone, "told so");
    assert_eq!(reasons(&crowd), ["auth-failure"]);
}

#[test]
fn refusals_after_authentication_are_told() {
    let mut crowd = clean(fixed(&wraps()[2]), Transport::Udp);
    crowd.habits.refuse = Some("TEMP[backoff 5]:full");
    let new = crowd.add(wraps()[2].clone(), |_| {});
    let old = crowd.add(wraps()[2].clone(), |c| c.peer_info = peer_info(6));
    crowd.run(4 * S);
    let said = |n: usize| crowd.clients[n].messages[0].to_string();
    assert_eq!(said(new), "AUTH_FAILED,TEMP[backoff 5]:full");
    assert_eq!(said(old), "AUTH_FAILED");

    let mut crowd = clean(fixed(&wraps()[2]), Transport::Udp);
    crowd.habits.ciphers = vec![Cipher::Aes128Cbc];
    let client = crowd.add(wraps()[2].clone(), |_| {});
    crowd.run(10 * S);
    assert_eq!(
        crowd.clients[client].messages[0].to_string(),
        "AUTH_FAILED,Data channel cipher negotiation failed (no shared cipher)"
    );
    let text = &crowd.ended[0].3;
    assert!(text.contains("AES-256-GCM"), "{text}");
}

#[test]
fn options_come_in_stock_order_and_as_the_client_asks() {
    let mut crowd = clean(fixed(&wraps()[2]), Transport::Udp);
    crowd.habits.tokens = vec!["auth-token SESS_ID_x".into()];
    crowd.add(wraps()[2].clone(), |c| {
        c.peer_info = Some("IV_MTU=1600\nIV_CIPHERS=AES-256-GCM\nIV_PROTO=8094\n".into());
    });
    // 2.5 and 2.4: asked for, and without what came later.
    crowd.add(wraps()[2].clone(), |c| c.peer_info = peer_info(2));
    crowd.add(wraps()[2].clone(), |c| {
        c.peer_info = None;
        c.options = "V4,dev-type tun,cipher AES-256-GCM".into();
        c.preferences.fallback = Some(Cipher::Aes256Gcm);
    });
    crowd.run(10 * S);
    crowd.expect_all_connected("of each age");
    let pushed = |n: usize| crowd.clients[n].pushed[0].join("|");
    assert_eq!(
        pushed(0),
        "route-gateway 10.8.0.1|ping 10|peer-id 0|auth-token SESS_ID_x|cipher AES-256-GCM|\
         protocol-flags cc-exit tls-ekm dyn-tls-crypt aead-epoch|tun-mtu 1400"
    );
    assert_eq!(
        pushed(1),
        "route-gateway 10.8.0.1|ping 10|peer-id 1|auth-token SESS_ID_x|cipher AES-256-GCM"
    );
    assert_eq!(
        pushed(2),
        "route-gateway 10.8.0.1|ping 10|auth-token SESS_ID_x"
    );
    let formats = [0, 1, 2].map(|n| {
        let agreed = crowd.instance(n).negotiated.as_ref().unwrap();
        (
            agreed.format == DataFormat::Epoch,
            agreed.ekm,
            agreed.peer_id,
        )
    });
    let expected = [
        (true, true, Some(0)),
        (false, false, Some(1)),
        (false, false, None),
    ];
    assert_eq!(formats, expected);
}

#[test]
fn a_repeated_push_request_is_answered_only_after_a_while() {
    let mut crowd = clean(fixed(&wraps()[2]), Transport::Udp);
    let client = crowd.add(wraps()[2].clone(), |_| {});
    crowd.run(5 * S);
    let ask = || Command::SendMessage("PUSH_REQUEST".into());
    crowd.client_command(client, ask());
    crowd.run(6 * S);
    assert!(crowd.clients[client].tokens.is_empty());
    crowd.run(40 * S);
    crowd.client_command(client, ask());
    crowd.run(41 * S);
    // To a client that has its options a second list is a late one.
    assert_eq!(crowd.clients[client].tokens.len(), 1);
}

#[test]
fn a_long_list_is_pushed_in_parts() {
    let mut crowd = Crowd::new(5, BAD, fixed(&wraps()[2]), Transport::Udp);
    crowd.habits.push = (0..600)
        .map(|n| format!("route 10.{}.{}.0", n / 250, n % 250))
        .collect();
    let client = crowd.add(wraps()[2].clone(), |_| {});
    crowd.run(60 * S);
    crowd.expect_all_connected("with many options");
    assert_eq!(crowd.clients[client].pushed.len(), 1);
    assert!(crowd.clients[client].pushed[0].len() > 600);
}

#[test]
fn tokens_updates_and_orders_reach_connected_clients() {
    let mut crowd = Crowd::new(6, BAD, fixed(&wraps()[2]), Transport::Udp);
    let client = crowd.add(wraps()[2].clone(), |_| {});
    let old = crowd.add(wraps()[2].clone(), |c| {
        c.peer_info = peer_info(iv_proto::PULL & !iv_proto::PUSH_UPDATE);
    });
    crowd.run_while(60 * S, |c| !c.all_connected());
    let many: Vec<String> = (0..100)
        .map(|n| format!("route 10.{n}.0.0 255.255.0.0"))
        .collect();
    for n in [client, old] {
        let at = crowd.clients[n].address;
        crowd.command(at, Command::PushToken(vec!["auth-token NEW".into()]));
        crowd.command(at, Command::PushUpdate(many.clone()));
        crowd.run(crowd.time + 20 * S);
        crowd.command(
            at,
            Command::Restart {
                next_remote: true,
                text: "moving".into(),
            },
        );
        crowd.run(crowd.time + 4 * S);
        assert_eq!(crowd.clients[n].tokens, [["auth-token NEW".to_owned()]]);
        let restart = ControlMessage::Restart {
            next_remote: true,
            keep_credentials: false,
            text: "moving".into(),
        };
        assert_eq!(crowd.clients[n].messages, [restart]);
    }
    assert_eq!(crowd.clients[client].updates, [many]);
    assert!(crowd.clients[old].updates.is_empty());
    crowd.run(crowd.time + 10 * S);
    assert_eq!(reasons(&crowd), ["server-pushed-connection-reset"; 2]);
}

#[test]
fn an_update_before_the_options_comes_after_them() {
    let mut crowd = Crowd::new(7, CLEAN, fixed(&wraps()[2]), Transport::Udp);
    let client = crowd.add(wraps()[2].clone(), |c| {
        c.peer_info = peer_info(iv_proto::PULL & !iv_proto::REQUEST_PUSH);
    });
    crowd.run_while(60 * S, |c| {
        c.instances.values().all(|i| i.negotiated.is_none())
    });
    let at = crowd.clients[client].address;
    assert!(crowd.clients[client].pushed.is_empty());
    crowd.command(at, Command::PushUpdate(vec!["-route".into()]));
    crowd.run_while(60 * S, |c| !c.all_connected());
    crowd.command(at, Command::PushUpdate(vec!["-dns".into()]));
    crowd.run(crowd.time + 20 * S);
    assert_eq!(crowd.clients[client].pushed.len(), 1);
    assert_eq!(crowd.clients[client].updates, [["-route"], ["-dns"]]);
}

#[test]
fn updates_replace_what_was_pushed() {
    let mut crowd = Crowd::new(9, BAD, fixed(&wraps()[2]), Transport::Udp);
    crowd.habits.push = vec!["route 10.200.0.0 255.255.0.0".into(), "ping 10".into()];
    let client = crowd.add(wraps()[2].clone(), |_| {});
    crowd.run_while(60 * S, |c| !c.all_connected());
    let at = crowd.clients[client].address;
    // In parts: the second one must not take the routes of the first away again.
    let mut lines: Vec<String> = (0..100)
        .map(|n| format!("route 10.{n}.0.0 255.255.0.0"))
        .collect();
    lines.extend([
        "-topology".into(),
        "?cipher X".into(),
        "keepalive 3 9".into(),
    ]);
    crowd.command(at, Command::PushUpdate(lines));
    crowd.run(crowd.time + 20 * S);

    let mut pulled = PulledOptions::default();
    for line in &crowd.clients[client].pushed[0] {
        apply(line, &[], &mut pulled);
    }
    let [lines] = &crowd.clients[client].updates[..] else {
        panic!("one update, in one piece");
    };
    let skipped = update(lines, &[], &mut pulled).unwrap();
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert_eq!(pulled.route.len(), 100);
    assert!(pulled.topology.is_none() && pulled.cipher.is_some());
    assert_eq!((pulled.ping, pulled.ping_restart), (Some(3), Some(9)));
}

#[test]
fn a_client_that_says_goodbye_is_gone_soon() {
    let mut crowd = clean(fixed(&wraps()[2]), Transport::Udp);
    let client = crowd.add(wraps()[2].clone(), |_| {});
    crowd.run(5 * S);
    crowd.client_command(client, Command::NotifyExit);
    crowd.run(7 * S);
    assert!(crowd.instance(client).exited);
    assert!(crowd.clients[client].tunnel.all_acked());
    crowd.clients[client].gone = true;
    crowd.run(12 * S);
    assert_eq!(reasons(&crowd), ["remote-exit"]);
}

#[test]
fn a_client_that_leaves_when_its_key_is_to_be_renewed_leaves_no_deadline_in_the_past() {
    let mut crowd = clean(fixed(&wraps()[2]), Transport::Udp);
    crowd.server.reneg_sec = 30 * S;
    let client = crowd.add(wraps()[2].clone(), |_| {});
    crowd.run_while(10 * S, |c| !c.all_connected());
    crowd.run(28 * S);
    crowd.client_command(client, Command::NotifyExit);
    crowd.clients[client].gone = true;
    // The key's time is over before the client is.
    for _ in 0..4 {
        crowd.run(crowd.time + S);
        if let Some(instance) = crowd.instances.values().next() {
            assert!(instance.exited);
            assert!(instance.tunnel.poll_timeout() > Some(crowd.now().instant));
        }
    }
    crowd.run(45 * S);
    assert_eq!(reasons(&crowd), ["remote-exit"]);
}

#[test]
fn a_recorded_first_packet_of_a_key_says_nothing_of_a_connected_client() {
    let mut crowd = clean(v2_server(), Transport::Udp);
    let wrap = v2_client(1, &Metadata::Created(UNIX));
    let client = crowd.add(wrap, |_| {});
    crowd.run(5 * S);
    crowd.expect_all_connected("before");
    let other = v2_client(9, &Metadata::User(b"another's".to_vec()));
    let mut reset = crowd.old_v3_reset(&other);
    let at = crowd.clients[client].address;
    crowd.give_server(at, &mut reset);
    crowd.run(10 * S);
    crowd.expect_all_connected("after");
    assert_eq!(crowd.instance(client).metadata, [Metadata::Created(UNIX)]);
    // One that proves itself is judged by its own key.
    crowd.restart(client);
    crowd.run(crowd.time + 10 * S);
    crowd.expect_all_connected("restarted");
    assert_eq!(
        crowd.instance(client).metadata,
        [Metadata::Created(UNIX), Metadata::Created(UNIX)]
    );
}

#[test]
fn old_clients_with_keys_of_their_own_need_no_cookie_unless_forced() {
    for (force_cookie, max_age, taken) in [
        (false, None, true),
        (true, None, false),
        (false, Some(1), true),
        (false, Some(0), false),
    ] {
        let mut wraps = v2_server();
        if let Some(v2) = &mut wraps.v2 {
            (v2.force_cookie, v2.max_age) = (force_cookie, max_age);
        }
        let mut crowd = clean(wraps, Transport::Udp);
        let wrap = v2_client(1, &Metadata::Created(UNIX - 3600));
        let mut reset = crowd.old_v3_reset(&wrap);
        crowd.give_server(address(500), &mut reset);
        assert_eq!(crowd.instances.len(), usize::from(taken));
        let why = if force_cookie {
            Refusal::ForceCookie
        } else {
            Refusal::KeyTooOld
        };
        assert_eq!(crowd.refused(why), u64::from(!taken));
        assert_eq!(
            crowd.backscatter,
            usize::from(taken),
            "its answer is a tunnel's"
        );
        // A client that can send its key again always can come, if the key is young enough.
        let client = crowd.add(wrap, |_| {});
        crowd.run(5 * S);
        assert_eq!(crowd.is_connected(client), max_age != Some(0));
        // Nobody was there.
        crowd.run(100 * S);
        assert!(!crowd.instances.contains_key(&address(500)));
    }
}

#[test]
fn a_stolen_or_late_cookie_is_worth_nothing() {
    let mut crowd = clean(fixed(&wraps()[0]), Transport::Udp);
    crowd.add(wraps()[0].clone(), |_| {});
    crowd.run(5 * MS);
    let second = crowd.second_packet();
    for (from, later) in [(address(900), 0), (crowd.clients[0].address, 200)] {
        let mut other = clean(fixed(&wraps()[0]), Transport::Udp);
        other.run(later * S);
        other.give_server(from, &mut second.clone());
        assert!(other.instances.is_empty());
        assert_eq!(other.refused(Refusal::BadCookie), 1);
    }
    // The same secret, in time, from where it was sent to.
    let mut other = clean(fixed(&wraps()[0]), Transport::Udp);
    other.give_server(crowd.clients[0].address, &mut second.clone());
    assert_eq!(other.instances.len(), 1);
}

#[test]
fn a_cookie_shown_again_and_again_buys_no_answers() {
    let mut crowd = clean(fixed(&wraps()[0]), Transport::Udp);
    crowd.forget_cookies();
    crowd.add(wraps()[0].clone(), |_| {});
    crowd.run(5 * MS);
    let second = crowd.second_packet();
    let mut other = clean(fixed(&wraps()[0]), Transport::Udp);
    other.set_rates(RateLimit::new(10, 10 * S), Some(RateLimit::new(0, 10 * S)));
    for n in 0..100 {
        let mut reset = bare_reset(&mut other.rng);
        other.give_server(address(1000 + n), &mut reset);
        other.give_server(crowd.clients[0].address, &mut second.clone());
    }
    assert_eq!(other.refused(Refusal::AcceptRate), 100);
    assert_eq!(other.backscatter, 10);
}

#[test]
fn over_tcp_whatever_cannot_be_taken_ends_that_connection_only() {
    let mut crowd = clean(v2_server(), Transport::Tcp);
    for n in 0..6 {
        crowd.add(mixed_wrap(n), |_| {});
    }
    crowd.run(5 * S);
    crowd.expect_all_connected("before");
    let generations = crowd.instance(1).keys.generations;
    let at = crowd.clients[0].address;
    crowd.give_server(at, &mut [0x20; 60]);
    assert_eq!(reasons(&crowd), ["tls-error"]);
    assert!(
        crowd.ended[0].3.contains("control-unknown-session"),
        "{:?}",
        crowd.ended
    );
    crowd.run(10 * S);
    crowd.expect_all_connected("after");
    assert_eq!(crowd.clients[0].starts, 2);
    assert_eq!(crowd.instance(1).keys.generations, generations);
}

#[test]
fn a_connection_on_which_nothing_comes_is_closed() {
    let mut crowd = clean(v2_server(), Transport::Tcp);
    crowd.listen_for(address(77));
    crowd.run(59 * S);
    assert_eq!(crowd.instances.len(), 1);
    assert_eq!(crowd.backscatter, 0, "it speaks only when spoken to");
    crowd.run(61 * S);
    assert!(crowd.instances.is_empty());
}

#[test]
fn simultaneous_renegotiations_over_tcp_keep_the_connection() {
    let mut crowd = clean(v2_server(), Transport::Tcp);
    for n in 0..8 {
        crowd.add(mixed_wrap(n), |_| {});
    }
    crowd.run(5 * S);
    for round in 1..8u32 {
        for n in 0..8 {
            let at = crowd.clients[n].address;
            crowd.client_command(n, Command::Renegotiate);
            crowd.run(crowd.time + (n as u32 % 4) * 3 * MS);
            crowd.command(at, Command::Renegotiate);
        }
        crowd.run(5 * S + round * 90 * S);
        crowd.expect_all_connected(&format!("round {round}"));
    }
    assert!(crowd.ended.is_empty(), "{:?}", crowd.ended);
}

#[test]
fn a_server_that_starts_anew_gets_all_its_clients_back() {
    let link = Link {
        loss: 0.02,
        ..CLEAN
    };
    let mut crowd = Crowd::new(8, link, v2_server(), Transport::Udp);
    for n in 0..100 {
        crowd.add(mixed_wrap(n), |_| {});
    }
    crowd.run_while(60 * S, |c| !c.all_connected());
    crowd.instances.clear();
    crowd.forget_cookies();
    let from = crowd.time;
    for n in 0..100 {
        // Their pings find nobody.
        crowd.restart(n);
    }
    crowd.run_while(from + 60 * S, |c| !c.all_connected());
    crowd.expect_all_connected("after the restart");
    assert!(crowd.time - from < Duration::from_secs(30));
}
