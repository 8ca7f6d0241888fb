//! Whose packet a datagram is, and where clients may move to.

use super::*;

/// A datagram of this client, with an inner packet that it may send.
fn datagram(key: &mut SendKey, id: u32) -> (Vec<u8>, Vec<u8>) {
    let packet = udp(v4(id), address(SERVER), &key.packets().to_be_bytes());
    (sealed(key, &packet), packet)
}

fn key(id: u32, peer_id: Option<u32>) -> SendKey {
    SendKey::new(&keys(id).1, 0, peer_id, Framing::None).unwrap()
}

#[test]
fn data_v2_is_found_by_peer_id_alone() {
    for io in engines() {
        for workers in [1, 2] {
            let mut server = Server::new(io, false, workers, false);
            // The only one: in point to point it would get everything.
            let a = server.client(0);
            let sender = loopback_socket();
            let to = Endpoint::new(server.addresses[0]);
            let mut wrong = key(0, Some(5));
            sender.send_to(&to, &datagram(&mut wrong, 0).0).unwrap();
            server.dropped(DropReason::UnknownPeer, 1);
            // Not by address either.
            let config = PeerConfig {
                endpoint: Endpoint::new(sender.local_addr().unwrap()),
                ..server.config(&a, 0)
            };
            let command = Command::SetPeer(handle(0), Box::new(config));
            server.workers.send(command).unwrap();
            server.barrier();
            sender.send_to(&to, &datagram(&mut wrong, 0).0).unwrap();
            server.dropped(DropReason::UnknownPeer, 2);
            // Without an id, or with the one that is none, the address tells.
            let mut next = 0;
            for peer_id in [None, Some(0xff_ffff)] {
                let mut by_address = key(0, peer_id);
                for _ in 0..next {
                    datagram(&mut by_address, 0);
                }
                let (sealed, packet) = datagram(&mut by_address, 0);
                sender.send_to(&to, &sealed).unwrap();
                assert_eq!(server.tun_of(&a).next(PATIENCE), Some(packet));
                next = 1;
                let stranger = loopback_socket();
                stranger.send_to(&to, &sealed).unwrap();
            }
            server.dropped(DropReason::UnknownPeer, 4);
        }
    }
}

#[test]
fn a_client_floats_with_an_authentic_and_new_packet_only() {
    for io in engines() {
        for workers in [1, 2] {
            let mut server = Server::new(io, false, workers, false);
            let a = server.client(1);
            let mut sealer = key(1, Some(1));
            let (first, packet) = datagram(&mut sealer, 1);
            let to = Endpoint::new(server.addresses[0]);
            let sockets = [loopback_socket(), loopback_socket()];
            sockets[0].send_to(&to, &first).unwrap();
            assert_eq!(server.tun_of(&a).next(PATIENCE), Some(packet));
            let floated = |event| match event {
                Event::Floated(peer, to) => Some((peer, to.remote)),
                _ => None,
            };
            let now = sockets[0].local_addr().unwrap();
            assert_eq!(server.event(floated), (handle(1), now));
            // The same again, and a forged one, from elsewhere.
            sockets[1].send_to(&to, &first).unwrap();
            let (mut forged, _) = datagram(&mut sealer, 1);
            *forged.last_mut().unwrap() ^= 1;
            sockets[1].send_to(&to, &forged).unwrap();
            server.dropped(DropReason::Replay, 1);
            server.dropped(DropReason::AuthFailed, 1);
            assert!(server.workers.events().is_empty());
            // What the device has for it goes to where it was heard last.
            let down = udp(address(SERVER), v4(1), b"down");
            server.tuns[0].inject(&down);
            let deadline = Instant::now() + PATIENCE;
            let mut buf = [0; 2000];
            while !matches!(sockets[0].receive(&mut buf), Ok(Some(_))) {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(2));
            }
            assert!(sockets[1].receive(&mut buf).is_err());
            silent(&server.tuns);
        }
    }
}

#[test]
fn nobody_floats_onto_another_clients_address() {
    for io in engines() {
        // With two workers the other client is another worker's.
        for workers in [1, 2] {
            let mut server = Server::new(io, false, workers, false);
            let (a, b) = (server.client(0), server.client(1));
            // The owner moves first: the other workers must know where it went.
            let shared = loopback_socket();
            let to = Endpoint::new(server.addresses[0]);
            let mut of_b = key(1, Some(1));
            let (sealed, packet) = datagram(&mut of_b, 1);
            shared.send_to(&to, &sealed).unwrap();
            assert_eq!(server.tun_of(&b).next(PATIENCE), Some(packet));
            std::thread::sleep(QUIET);

            let mut of_a = key(0, Some(0));
            for _ in 0..5 {
                let (sealed, _) = datagram(&mut of_a, 0);
                shared.send_to(&to, &sealed).unwrap();
            }
            server.dropped(DropReason::FloatConflict, 5);
            let events: Vec<_> = server.workers.events().try_iter().collect();
            let conflicts = events.iter().filter(|event| match event {
                Event::FloatConflict(peer, at) => {
                    *peer == handle(0) && at.remote == shared.local_addr().unwrap()
                }
                _ => false,
            });
            // Once a second at most.
            assert!((1..=2).contains(&conflicts.count()), "{events:?}");
            let moved =
                |event: &Event| matches!(event, Event::Floated(peer, _) if *peer == handle(0));
            assert!(!events.iter().any(moved));
            assert_eq!(a.stats.wire_rx_packets.load(Relaxed), 0);
            // It is still where it was.
            let down = udp(address(SERVER), v4(0), b"down");
            server.tuns[0].inject(&down);
            a.gets(&down);

            server.workers.send(Command::RemovePeer(handle(1))).unwrap();
            server.barrier();
            let (sealed, packet) = datagram(&mut of_a, 0);
            shared.send_to(&to, &sealed).unwrap();
            assert_eq!(server.tun_of(&a).next(PATIENCE), Some(packet));
            server.event(|event| matches!(event, Event::Floated(..)).then_some(()));
            silent(&server.tuns);
        }
    }
}

#[test]
fn without_float_an_address_is_kept() {
    for io in engines() {
        let mut server = Server::new(io, false, 1, false);
        let a = server.client_with(0, 0, |config| config.float = false);
        let to = Endpoint::new(server.addresses[0]);
        let (sealed, _) = datagram(&mut key(0, Some(0)), 0);
        loopback_socket().send_to(&to, &sealed).unwrap();
        server.dropped(DropReason::WrongSource, 1);
        let packet = udp(v4(0), address(SERVER), b"x");
        a.node.tun.inject(&packet);
        assert_eq!(server.tuns[0].next(PATIENCE), Some(packet));
    }
}

#[test]
fn what_the_control_thread_cannot_be_told_has_not_happened() {
    for io in engines() {
        let mut server = Server::new(io, false, 1, false);
        let a = server.client(1);
        let mut sealer = key(1, Some(1));
        let to = Endpoint::new(server.addresses[0]);
        let sockets = [loopback_socket(), loopback_socket(), loopback_socket()];
        // A client that is heard here and there until nobody has room for its news.
        for turn in 0..crate::worker::EVENT_QUEUE {
            let (sealed, packet) = datagram(&mut sealer, 1);
            sockets[turn % 2].send_to(&to, &sealed).unwrap();
            assert_eq!(server.tun_of(&a).next(PATIENCE), Some(packet));
        }
        for _ in 0..2 {
            let (sealed, packet) = datagram(&mut sealer, 1);
            sockets[2].send_to(&to, &sealed).unwrap();
            assert_eq!(server.tun_of(&a).next(PATIENCE), Some(packet));
            let told: Vec<SocketAddr> = server
                .workers
                .events()
                .try_iter()
                .filter_map(|event| match event {
                    Event::Floated(_, to) => Some(to.remote),
                    _ => None,
                })
                .collect();
            let last = told.last().copied();
            let here = sockets[2].local_addr().unwrap();
            match told.len() {
                // Now there is room, and the next packet tells.
                crate::worker::EVENT_QUEUE => assert_ne!(last, Some(here)),
                _ => assert_eq!(last, Some(here)),
            }
        }
    }
}

#[test]
fn of_occ_messages_a_server_hears_the_last_only() {
    for io in engines() {
        let mut server = Server::new(io, false, 1, false);
        let a = server.client(1);
        let to = Endpoint::new(server.addresses[0]);
        let mut sealer = key(1, Some(1));
        let socket = loopback_socket();
        for op in [0, 1, 6] {
            let message = [&crate::wire::OCC_MAGIC[..], &[op]].concat();
            socket.send_to(&to, &sealed(&mut sealer, &message)).unwrap();
        }
        let op = |event| match event {
            Event::Occ(peer, message) => Some((peer, message)),
            _ => None,
        };
        assert_eq!(server.event(op), (handle(1), Box::from([6])));
        silent([server.tun_of(&a)]);
    }
}
