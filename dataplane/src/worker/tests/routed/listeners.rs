//! Several listeners of one server.

use super::*;

#[test]
fn clients_of_all_listeners_share_the_device_and_reach_each_other() {
    for io in engines() {
        let mut server = Server::with_listeners(io, false, &[1, 2], true);
        assert_eq!(server.tuns.len(), 3);
        let clients: Vec<_> = (0..4)
            .map(|id| server.client_with(id, u16::from(id >= 2), |_| ()))
            .collect();
        // Listener 0 has worker 0, listener 1 workers 1 and 2.
        let queues = [0, 0, 1, 2];
        for (from, queue) in clients.iter().zip(queues) {
            let up = udp(v4(from.id), address(SERVER), b"up");
            from.node.tun.inject(&up);
            assert_eq!(server.tuns[queue].next(PATIENCE), Some(up));
            for tun in &server.tuns {
                let down = udp(address(SERVER), v4(from.id), b"down");
                tun.inject(&down);
                from.gets(&down);
            }
            for to in clients.iter().filter(|to| to.id != from.id) {
                let across = udp(v4(from.id), v4(to.id), b"across");
                from.node.tun.inject(&across);
                to.gets(&across);
            }
        }
    }
}

#[test]
fn a_client_is_heard_at_its_own_listener_only() {
    for io in engines() {
        let mut server = Server::with_listeners(io, false, &[1, 1], true);
        let a = server.client_with(0, 0, |_| ());
        let packet = udp(v4(0), address(SERVER), b"x");
        let datagram = |number| {
            let mut key = SendKey::new(&keys(0).1, 0, Some(0), Framing::None).unwrap();
            (0..number).for_each(|_| drop(sealed(&mut key, &packet)));
            sealed(&mut key, &packet)
        };
        let socket = loopback_socket();
        let other = Endpoint::new(server.addresses[1]);
        socket.send_to(&other, &datagram(0)).unwrap();
        server.dropped(DropReason::WrongSource, 1);
        let own = Endpoint::new(server.addresses[0]);
        socket.send_to(&own, &datagram(1)).unwrap();
        assert_eq!(server.tun_of(&a).next(PATIENCE), Some(packet.clone()));
    }
}

#[test]
fn one_address_may_be_two_clients_of_two_listeners() {
    for io in engines() {
        let mut server = Server::with_listeners(io, false, &[1, 1], true);
        let socket = loopback_socket();
        let at = Endpoint::new(socket.local_addr().unwrap());
        let _clients = [
            server.client_with(0, 0, |config| config.endpoint = at),
            server.client_with(1, 1, |config| config.endpoint = at),
        ];
        // By address, as packets without a peer-id are.
        for id in 0..2u32 {
            let packet = udp(v4(id), address(SERVER), b"x");
            let mut key = SendKey::new(&keys(id).1, 0, None, Framing::None).unwrap();
            let to = Endpoint::new(server.addresses[id as usize]);
            socket.send_to(&to, &sealed(&mut key, &packet)).unwrap();
            assert_eq!(server.tuns[id as usize].next(PATIENCE), Some(packet));
        }
    }
}

#[test]
fn listeners_need_workers() {
    for range in [0..0, 0..2] {
        let options = WorkerOptions {
            io: IoChoice::Syscalls,
            listeners: std::iter::once(range).collect(),
            ..WorkerOptions::default()
        };
        assert!(Workers::start(vec![loopback_socket()], &options).is_err());
    }
}
