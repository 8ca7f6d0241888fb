//! A pulling client and a server that says what the test wants.

use super::pair::{BAD, CLEAN, Link, MS, Pair, S, wraps};
use ringway::proto::TlsRole;
use ringway::proto::negotiate::Pushed;
use ringway::proto::peer_info::iv_proto;
use ringway::proto::push::{AuthFailed, ControlMessage, push_replies};
use ringway::proto::tunnel::{Command, Mode};
use ringway_dataplane::key_slot::Cipher;

/// The client is end 1. The server has no `remote`, as in server mode.
fn pulling(seed: u64, link: Link) -> Pair {
    let mut pair = Pair::new(seed, link, wraps()[2].clone(), |role, c| match role {
        TlsRole::Server => {
            c.remote = None;
            c.float = true;
        }
        TlsRole::Client => {
            c.mode = Mode::Pull;
            c.peer_info = super::pair::peer_info(iv_proto::PULL & !iv_proto::DATA_EPOCH);
        }
    });
    pair.run_while(100 * S, |p| p.ends[0].sending.is_none());
    pair
}

fn say(pair: &mut Pair, text: &str) {
    pair.command(0, Command::SendMessage(text.to_owned()));
}

fn asked(pair: &Pair) -> usize {
    let asked = |(_, text): &&(u8, String)| text.contains("PushRequest");
    pair.ends[0].log.iter().filter(asked).count()
}

fn pulled() -> Command {
    Command::Pulled(Pushed {
        cipher: Some(Cipher::Aes256Gcm),
        ..Pushed::default()
    })
}

#[test]
fn asks_until_answered_and_then_has_keys() {
    for seed in 0..8 {
        let mut pair = pulling(seed, if seed == 0 { CLEAN } else { BAD });
        pair.run(pair.time + 20 * S);
        assert!(asked(&pair) >= 3, "{}", asked(&pair));
        assert!(pair.ends[1].installed.is_empty(), "no keys before options");
        say(&mut pair, "PUSH_REPLY,ifconfig 10.8.0.2 255.255.255.0");
        pair.run_while(pair.time + 60 * S, |p| p.ends[1].pushed.is_empty());
        assert_eq!(
            pair.ends[1].pushed,
            [["ifconfig 10.8.0.2 255.255.255.0".to_owned()]]
        );
        pair.run(pair.time + 10 * S);
        let before = asked(&pair);
        pair.command(1, pulled());
        pair.run(pair.time + 30 * S);
        pair.expect_up("pulled");
        assert_eq!(asked(&pair), before, "no request after the answer");
        pair.command(1, Command::Renegotiate);
        pair.run(pair.time + 100 * S);
        pair.expect_up("renegotiated");
        assert_eq!(pair.ends[1].generations, 2);
    }
}

#[test]
fn an_answer_in_parts_is_taken_whole_and_once() {
    let mut pair = pulling(1, BAD);
    let options: Vec<String> = (0..200)
        .map(|n| format!("route 10.{n}.0.0 255.255.0.0"))
        .collect();
    let parts = push_replies(&options).unwrap();
    assert!(parts.len() > 3);
    for part in &parts[..parts.len() - 1] {
        say(&mut pair, &part.to_string());
    }
    pair.run(pair.time + 10 * S);
    assert!(pair.ends[1].pushed.is_empty());
    say(&mut pair, &parts[parts.len() - 1].to_string());
    pair.run(pair.time + 20 * S);
    assert_eq!(pair.ends[1].pushed, [options]);
}

#[test]
fn a_repeated_answer_and_a_lone_token_change_no_options() {
    let mut pair = pulling(2, CLEAN);
    say(&mut pair, "PUSH_REPLY,peer-id 3");
    pair.run(pair.time + S);
    pair.command(1, pulled());
    pair.run(pair.time + S);
    say(&mut pair, "PUSH_REPLY,peer-id 3");
    say(&mut pair, "PUSH_REPLY,auth-token SECRET");
    pair.run(pair.time + S);
    let end = &pair.ends[1];
    assert_eq!(end.pushed.len(), 1);
    assert_eq!(end.tokens[1], ["auth-token SECRET"]);
    assert_eq!(end.generations, 1);
}

#[test]
fn no_answer_ends_the_attempt_and_auth_pending_extends_it() {
    let mut pair = pulling(3, CLEAN);
    pair.run(58 * S);
    assert!(pair.ends[1].failed.is_none());
    pair.run(62 * S);
    assert!(pair.ends[1].failed.as_ref().unwrap().contains("PUSH_REPLY"));

    let mut pair = pulling(3, CLEAN);
    pair.run(10 * S);
    say(&mut pair, "AUTH_PENDING,timeout 300");
    pair.run(300 * S);
    assert!(pair.ends[1].failed.is_none());
    say(&mut pair, "AUTH_PENDING,timeout 4000000000");
    pair.run(2000 * S);
    assert!(pair.ends[1].failed.is_none());
    // At most half of reneg-sec.
    pair.run(2200 * S);
    assert!(pair.ends[1].failed.is_some());
}

#[test]
fn refusals_and_orders_reach_the_driver() {
    let mut pair = pulling(4, CLEAN);
    for text in [
        "AUTH_FAILED",
        "AUTH_FAILED,TEMP[backoff 7,advance no]:later",
        "AUTH_FAILED,CRV1:R,E:id:dXNlcg==:Code",
        "RESTART,[N]bye",
        "HALT,bye",
        "INFO_PRE,WEB_AUTH::https://example.org/",
        "SOMETHING,else",
    ] {
        say(&mut pair, text);
    }
    pair.run(pair.time + 2 * S);
    let messages = &pair.ends[1].messages;
    assert_eq!(messages.len(), 7, "{messages:?}");
    assert_eq!(
        messages[0],
        ControlMessage::AuthFailed(AuthFailed::Plain {
            reason: String::new()
        })
    );
    assert!(matches!(
        &messages[3],
        ControlMessage::Restart {
            next_remote: true,
            ..
        }
    ));
    // A peer that does not pull takes no orders.
    pair.command(1, Command::SendMessage("HALT,bye".into()));
    pair.run(pair.time + 2 * S);
    assert!(pair.ends[0].messages.is_empty());
}

#[test]
fn endless_parts_end_the_attempt() {
    let mut pair = pulling(5, CLEAN);
    for n in 0..400 {
        say(&mut pair, "PUSH_REPLY,push-continuation 2");
        pair.run(pair.time + 20 * MS);
        if pair.ends[1].failed.is_some() {
            assert!(n > 200);
            return;
        }
    }
    panic!("still collecting");
}
