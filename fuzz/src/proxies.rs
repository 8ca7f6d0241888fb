//! Conversations with proxies.

use ringway::proto::proxy::{Handshake, Login, ProxyError, Step};

/// A login, for those that ask.
pub fn login() -> Login {
    Login {
        username: "jo".to_owned(),
        password: "secret".to_owned().into(),
    }
}

/// Everything that is sent, and how it ended, when the proxy says these bytes in portions of this
/// length. After a reconnection the rest of the bytes is what the next connection says.
pub fn converse(
    handshake: &mut dyn Handshake,
    mut answer: &[u8],
    portion: usize,
) -> (Vec<Vec<u8>>, Result<Option<usize>, ProxyError>) {
    let mut sent = vec![handshake.start()];
    let mut connections = 1;
    while !answer.is_empty() {
        let part = &answer[..answer.len().min(portion)];
        let received = match handshake.receive(part) {
            Ok(received) => received,
            Err(error) => return (sent, Err(error)),
        };
        assert!(received.consumed <= part.len(), "more than there was");
        answer = &answer[received.consumed..];
        match received.step {
            Step::More => assert_eq!(received.consumed, part.len(), "bytes left behind"),
            Step::Send(bytes) => sent.push(bytes),
            Step::Done => return (sent, Ok(Some(answer.len()))),
            Step::Reconnect => {
                connections += 1;
                assert!(connections < 4, "a proxy can keep us busy");
                sent.push(handshake.start());
            }
        }
    }
    (sent, Ok(None))
}
