//! From client to client.

use super::*;
use crate::offload::sample::transport_valid;

#[test]
fn without_client_to_client_everything_goes_to_the_device() {
    for io in engines() {
        let mut server = Server::new(io, false, 2, false);
        let (a, b) = (server.client(0), server.client(1));
        for to in [v4(1), address("224.0.0.5"), address("192.0.2.1")] {
            let packet = udp(v4(0), to, b"x");
            a.node.tun.inject(&packet);
            assert_eq!(server.tun_of(&a).next(PATIENCE), Some(packet));
        }
        silent([&b.node.tun, &a.node.tun]);
    }
}

#[test]
fn with_it_clients_reach_each_other_without_the_device() {
    for io in engines() {
        for workers in 1..=3 {
            let mut server = Server::new(io, false, workers, true);
            let clients: Vec<_> = (0..4).map(|id| server.client(id)).collect();
            for from in &clients {
                for to in clients.iter().filter(|to| to.id != from.id) {
                    for packet in [
                        udp(v4(from.id), v4(to.id), b"four"),
                        udp(v6(from.id), v6(to.id), b"six"),
                        udp(v4(from.id), address(&format!("172.16.{}.5", to.id)), b"net"),
                    ] {
                        from.node.tun.inject(&packet);
                        to.gets(&packet);
                    }
                }
                // What is nobody's, or the sender's own, is the kernel's business.
                for to in ["192.0.2.1", &format!("172.16.{}.5", from.id)] {
                    let packet = udp(v4(from.id), address(to), b"x");
                    from.node.tun.inject(&packet);
                    assert_eq!(server.tun_of(from).next(PATIENCE), Some(packet));
                }
            }
            let tuns = clients.iter().map(|client| &client.node.tun);
            silent(tuns.chain(&server.tuns));
        }
    }
}

#[test]
fn clients_reach_each_other_without_a_device() {
    for io in engines() {
        let mut server = Server::new(io, false, 2, true);
        let (a, b) = (server.client(0), server.client(1));
        server.workers.send(Command::DetachTun).unwrap();
        server.barrier();
        let packet = udp(v4(0), v4(1), b"x");
        a.node.tun.inject(&packet);
        b.gets(&packet);
    }
}

#[test]
fn multicast_from_a_client_reaches_the_device_and_all_others() {
    for io in engines() {
        for workers in 1..=3 {
            let mut server = Server::new(io, true, workers, true);
            let clients: Vec<_> = (0..4).map(|id| server.client(id)).collect();
            let plain = |packet: &[u8]| with_header(&VnetHdr::default(), packet);
            for from in &clients {
                let group = address("239.1.2.3");
                // Several in one batch, which the device may get joined.
                let packets: Vec<_> = (0..5)
                    .map(|i| {
                        let mut sample = Sample::udp(false).between(v4(from.id), group);
                        sample.id = i;
                        sample.build(&payload(100))
                    })
                    .collect();
                for packet in &packets {
                    from.node.tun.inject(&plain(packet));
                }
                for to in clients.iter().filter(|to| to.id != from.id) {
                    assert!(
                        written(&to.node.tun, true, 5) == packets,
                        "{io:?} {workers}"
                    );
                }
                assert!(written(server.tun_of(from), true, 5) == packets);
            }
            let tuns = clients.iter().map(|client| &client.node.tun);
            silent(tuns.chain(&server.tuns));
        }
    }
}

#[test]
fn super_packets_cross_as_such() {
    for io in engines() {
        for workers in [1, 2] {
            let mut server = Server::new(io, true, workers, true);
            let (a, b) = (server.client(0), server.client(1));
            let mut count = 0;
            for (from, to) in [(&a, &b), (&b, &a)] {
                for six in [false, true] {
                    let ends = match six {
                        false => (v4(from.id), v4(to.id)),
                        true => (v6(from.id), v6(to.id)),
                    };
                    let sample = Sample::tcp(six).between(ends.0, ends.1);
                    let data = payload(60_000);
                    let (header, packet) = sample.build_super(&data, 1300);
                    from.node.tun.inject(&with_header(&header, &packet));
                    let expected = sample.segments(&data, 1300);
                    count += expected.len() as u64;
                    let got = written(&to.node.tun, true, expected.len());
                    assert!(got == expected, "{io:?} {workers}");
                }
            }
            std::thread::sleep(QUIET);
            let calls = server.sum(|stats| &stats.udp_tx_calls);
            assert!(calls <= count / 4, "{calls} sends for {count} datagrams");
            assert_eq!(server.sum(|stats| &stats.tun_tx_calls), 0);
            assert_eq!(b.stats.wire_tx_packets.load(Relaxed), count / 2);
        }
    }
}

#[test]
fn the_mss_fits_both_ways() {
    for io in engines() {
        for (from_mss, to_mss) in [(1300, 1200), (1100, 1250)] {
            let mut server = Server::new(io, false, 2, true);
            let a = server.client_with(0, 0, |config| config.mss_v4 = from_mss);
            let b = server.client_with(1, 0, |config| config.mss_v4 = to_mss);
            let mut sample = Sample::tcp(false).between(v4(0), v4(1));
            sample.flags = 2;
            sample.options = vec![2, 4, 0x05, 0xb4];
            a.node.tun.inject(&sample.build(&[]));
            let got = b.node.tun.next(PATIENCE).unwrap();
            let mss = u16::from_be_bytes([got[42], got[43]]);
            assert_eq!(mss, from_mss.min(to_mss));
            assert!(transport_valid(&got));
        }
    }
}

#[test]
fn a_client_is_told_that_its_packet_is_too_big_for_another() {
    in_network_namespace(|| {
        for io in engines() {
            for workers in [1, 2] {
                ip("link set lo mtu 65536");
                let config = UdpConfig {
                    mtu_disc: Some(crate::udp::MtuDiscovery::Yes),
                    ..loopback_config()
                };
                let mut server = Server::new(io, false, workers, true);
                // The same server, but with sockets that refuse fragments.
                let sockets = UdpSocket::open_group(&config, workers).unwrap();
                server.addresses = vec![sockets[0].local_addr().unwrap()];
                let options = WorkerOptions {
                    io,
                    ..WorkerOptions::default()
                };
                let forwarding = Forwarding::Routed {
                    client_to_client: true,
                };
                server.workers = Workers::start(sockets, &options).unwrap();
                let command = Command::SetForwarding(forwarding);
                server.workers.send(command).unwrap();
                let (a, b) = (server.client(0), server.client(1));
                let small = Sample::udp(false).between(v4(0), v4(1)).build(&[1; 1000]);
                let large = Sample::udp(false).between(v4(0), v4(1)).build(&[1; 1400]);
                a.node.tun.inject(&small);
                b.gets(&small);
                ip("link set lo mtu 1300");
                // The client itself may fragment. The first one is refused by the kernel.
                a.node.tun.inject(&large);
                server.dropped(DropReason::TooBig, 1);
                a.node.tun.inject(&large);
                let answer = a.node.tun.next(PATIENCE).unwrap();
                // ICMP, destination unreachable, fragmentation needed, to the sender
                assert_eq!((answer[9], answer[20], answer[21]), (1, 3, 4));
                assert_eq!(address("10.8.0.10"), IpAddr::from([10, 8, 0, answer[19]]));
                let mtu = u16::from_be_bytes([answer[26], answer[27]]);
                assert_eq!(mtu, 1300 - 28 - 24, "{io:?} {workers}");
            }
        }
    });
}

#[test]
fn a_datagram_at_the_wrong_socket_still_crosses() {
    for io in engines() {
        let mut server = Server::new(io, false, 3, true);
        let clients: Vec<_> = (0..3).map(|id| server.client(id)).collect();
        // Without a peer-id in its packets they all arrive at the first worker.
        let a = &clients[1];
        let config = PeerConfig {
            tx_peer_id: None,
            ..a.node.config(server.addresses[0])
        };
        a.node.send(Command::SetPeer(PEER, Box::new(config)));
        a.node.barrier();
        for number in 0..20 {
            for to in [&clients[0], &clients[2]] {
                let packet = numbered(v4(1), v4(to.id), 1, number);
                a.node.tun.inject(&packet);
                to.gets(&packet);
            }
            let packet = numbered(v4(1), address(SERVER), 1, number);
            a.node.tun.inject(&packet);
            assert_eq!(server.tun_of(a).next(PATIENCE), Some(packet));
            let packet = numbered(v4(1), address("224.0.0.9"), 1, number);
            a.node.tun.inject(&packet);
            clients[0].gets(&packet);
            clients[2].gets(&packet);
            assert_eq!(server.tun_of(a).next(PATIENCE), Some(packet));
        }
        silent(clients.iter().map(|client| &client.node.tun));
    }
}
