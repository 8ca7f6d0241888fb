//! A TAP server: a switch between clients and the device.

use super::*;
use crate::command::Port;
use crate::forward::mac_table::Station;
use crate::forward::vlan::{Accept, DevicePort, NONE};
use crate::fragment::Fragment;
use crate::frame::{self, Mac};
use crate::offload::sample::ethernet;
use crate::tun::DeviceKind::Tap;

/// A host of the LAN that the device is in.
const LAN: Mac = Mac([2, 0, 0, 0, 9, 9]);

/// A host behind a client.
fn mac(client: u32, number: u8) -> Mac {
    Mac([2, 0, 0, 0, client as u8, number])
}

fn frame(from: Mac, to: Mac, content: &[u8]) -> Vec<u8> {
    tagged(from, to, None, content)
}

fn tagged(from: Mac, to: Mac, tag: Option<u16>, content: &[u8]) -> Vec<u8> {
    let packet = udp(address("10.8.0.8"), address("10.8.0.9"), content);
    let mut frame = ethernet(tag, &packet);
    frame[..6].copy_from_slice(&to.0);
    frame[6..12].copy_from_slice(&from.0);
    frame
}

struct Switch {
    server: Server,
    clients: Vec<Client>,
}

impl Switch {
    /// A server with this many workers, and clients 0, 1, ... that may have two addresses each.
    fn new(io: IoChoice, workers: usize, forwarding: Forwarding, vlans: &[u16]) -> Switch {
        let mut server = Server::forwarding(io, Tap, false, &[workers], forwarding);
        let clients = vlans.iter().enumerate().map(|(id, &vlan)| {
            let client = server.client(id as u32);
            let port = Port { vlan, stations: 2 };
            let command = Command::SetPort(handle(id as u32), port);
            server.workers.send(command).unwrap();
            client
        });
        let clients = clients.collect();
        server.barrier();
        Switch { server, clients }
    }

    /// A client sends a frame.
    fn send(&self, client: usize, frame: &[u8]) {
        self.clients[client].node.tun.inject(frame);
    }

    /// The server's device writes this next, by the worker of this client.
    fn device_gets(&self, client: usize, frame: &[u8]) {
        let tun = self.server.tun_of(&self.clients[client]);
        assert_eq!(tun.next(PATIENCE).as_deref(), Some(frame));
    }

    /// Nobody has got anything more.
    fn all_is_quiet(&self) {
        for tun in &self.server.tuns {
            assert_eq!(tun.next(Duration::ZERO), None);
        }
        for client in &self.clients {
            assert_eq!(client.node.tun.next(Duration::ZERO), None);
        }
    }

    /// What a worker has told another by now is known there.
    fn settle(&mut self) {
        self.server.barrier();
    }

    fn learned(&self) -> (u32, Station, Option<Station>) {
        self.server.event(|event| match event {
            Event::Learned {
                peer,
                station,
                replaced,
            } => Some((peer.0 - handle(0).0, station, replaced)),
            _ => None,
        })
    }
}

fn switched(client_to_client: bool) -> Forwarding {
    Forwarding::Switched {
        client_to_client,
        ask_first: false,
        vlan: None,
    }
}

fn station(mac: Mac) -> Station {
    Station { vlan: NONE, mac }
}

#[test]
fn frames_go_where_their_address_was_heard() {
    for (io, workers) in engines().into_iter().flat_map(|io| [(io, 1), (io, 2)]) {
        let mut net = Switch::new(io, workers, switched(true), &[NONE; 3]);
        // Unknown: to the device; and what is learned is told.
        for client in 0..3u32 {
            let hello = frame(mac(client, 1), LAN, b"hello");
            net.send(client as usize, &hello);
            net.device_gets(client as usize, &hello);
            assert_eq!(net.learned(), (client, station(mac(client, 1)), None));
        }
        net.settle();
        // From the device, whichever worker reads it.
        for tun in &net.server.tuns {
            for client in 0..3u32 {
                let back = frame(LAN, mac(client, 1), b"back");
                tun.inject(&back);
                net.clients[client as usize].gets(&back);
            }
            let to_all = frame(LAN, Mac::BROADCAST, b"to all");
            tun.inject(&to_all);
            for client in &net.clients {
                client.gets(&to_all);
            }
            tun.inject(&frame(LAN, mac(0, 7), b"nobody's"));
        }
        net.server.dropped(DropReason::NoRoute, workers as u64);
        // From client to client, past the device.
        let across = frame(mac(0, 1), mac(1, 1), b"across");
        net.send(0, &across);
        net.clients[1].gets(&across);
        let to_all = frame(mac(2, 1), Mac([0x33, 0x33, 0, 0, 0, 1]), b"to all");
        net.send(2, &to_all);
        net.clients[0].gets(&to_all);
        net.clients[1].gets(&to_all);
        net.device_gets(2, &to_all);
        // A host moves.
        let moved = frame(mac(0, 1), LAN, b"moved");
        net.send(1, &moved);
        net.device_gets(1, &moved);
        assert_eq!(net.learned(), (1, station(mac(0, 1)), None));
        net.settle();
        for tun in &net.server.tuns {
            let back = frame(LAN, mac(0, 1), b"back");
            tun.inject(&back);
            net.clients[1].gets(&back);
        }
        // Two addresses are the most.
        let third = frame(mac(1, 3), LAN, b"a third");
        net.send(1, &third);
        net.server.dropped(DropReason::InnerSource, 1);
        // What nobody sends from.
        net.send(2, &frame(Mac::BROADCAST, LAN, b"from all"));
        net.server.dropped(DropReason::InnerSource, 2);
        net.all_is_quiet();
    }
}

#[test]
fn without_client_to_client_everything_goes_to_the_device() {
    for io in engines() {
        let net = Switch::new(io, 2, switched(false), &[NONE; 2]);
        for to in [mac(1, 1), Mac::BROADCAST, LAN] {
            let packet = frame(mac(0, 1), to, b"x");
            net.send(0, &packet);
            net.device_gets(0, &packet);
        }
        net.all_is_quiet();
    }
}

#[test]
fn an_address_is_used_once_admitted() {
    let forwarding = Forwarding::Switched {
        client_to_client: true,
        ask_first: true,
        vlan: None,
    };
    for (io, workers) in engines().into_iter().flat_map(|io| [(io, 1), (io, 2)]) {
        let mut net = Switch::new(io, workers, forwarding, &[NONE; 2]);
        let hello = frame(mac(0, 1), LAN, b"hello");
        net.send(0, &hello);
        assert_eq!(net.learned(), (0, station(mac(0, 1)), None));
        net.send(0, &hello);
        net.server.dropped(DropReason::InnerSource, 2);
        for tun in &net.server.tuns {
            tun.inject(&frame(LAN, mac(0, 1), b"too early"));
        }
        net.server.dropped(DropReason::NoRoute, workers as u64);
        let admit = Command::AdmitStation(handle(0), station(mac(0, 1)));
        net.server.workers.send(admit).unwrap();
        net.server.barrier();
        net.send(0, &hello);
        net.device_gets(0, &hello);
        for tun in &net.server.tuns {
            let back = frame(LAN, mac(0, 1), b"back");
            tun.inject(&back);
            net.clients[0].gets(&back);
        }
        // Another one asks for it, and it stays where it is.
        net.send(1, &hello);
        assert_eq!(net.learned(), (1, station(mac(0, 1)), None));
        net.send(0, &hello);
        net.device_gets(0, &hello);
        net.all_is_quiet();
    }
}

#[test]
fn silent_addresses_are_forgotten_and_told_once() {
    for io in engines() {
        let mut net = Switch::new(io, 2, switched(true), &[NONE; 2]);
        let hello = frame(mac(1, 1), LAN, b"hello");
        net.send(1, &hello);
        net.device_gets(1, &hello);
        net.server.workers.send(Command::ForgetStations(0)).unwrap();
        net.server.barrier();
        let gone = net.server.event(|event| match event {
            Event::Forgotten(peer, station) => Some((peer, station)),
            _ => None,
        });
        assert_eq!(gone, (handle(1), station(mac(1, 1))));
        assert!(net.server.workers.events().try_recv().is_err());
        for tun in &net.server.tuns {
            tun.inject(&frame(LAN, mac(1, 1), b"x"));
        }
        net.server.dropped(DropReason::NoRoute, 2);
    }
}

#[test]
fn vlans_are_kept_apart() {
    let forwarding = Forwarding::Switched {
        client_to_client: true,
        ask_first: false,
        vlan: Some(DevicePort {
            accept: Accept::All,
            pvid: 1,
        }),
    };
    for (io, workers) in engines().into_iter().flat_map(|io| [(io, 1), (io, 2)]) {
        // The last one is in the device's own.
        let mut net = Switch::new(io, workers, forwarding, &[7, 8, 7, 1]);
        let vlans = [Some(7), Some(8), Some(7), None];
        // The same address in two of them is two hosts.
        let host = |client: usize| mac([5, 5, 6, 7][client], 1);
        for (client, vlan) in vlans.into_iter().enumerate() {
            net.send(client, &frame(host(client), LAN, b"hello"));
            net.device_gets(client, &tagged(host(client), LAN, vlan, b"hello"));
        }
        net.settle();
        for tun in &net.server.tuns {
            for (client, vlan) in vlans.into_iter().enumerate() {
                tun.inject(&tagged(LAN, host(client), vlan, b"back"));
                net.clients[client].gets(&frame(LAN, host(client), b"back"));
            }
            tun.inject(&tagged(LAN, Mac::BROADCAST, Some(7), b"to seven"));
            for client in [0, 2] {
                net.clients[client].gets(&frame(LAN, Mac::BROADCAST, b"to seven"));
            }
        }
        // To its own, and to the device with a tag; both from one frame.
        net.send(0, &frame(host(0), Mac::BROADCAST, b"all of seven"));
        net.clients[2].gets(&frame(host(0), Mac::BROADCAST, b"all of seven"));
        net.device_gets(
            0,
            &tagged(host(0), Mac::BROADCAST, Some(7), b"all of seven"),
        );
        // Nobody else is in VLAN 8, but the device, and nobody at all in 9.
        net.send(1, &frame(host(1), Mac::BROADCAST, b"all of eight"));
        net.device_gets(
            1,
            &tagged(host(1), Mac::BROADCAST, Some(8), b"all of eight"),
        );
        assert_eq!(net.server.workers.stats().drops(DropReason::NoRoute), 0);
        let nine = tagged(LAN, Mac::BROADCAST, Some(9), b"all of nine");
        net.server.tuns[0].inject(&nine);
        net.server.dropped(DropReason::NoRoute, 1);
        // A tag of its own choice.
        net.send(0, &tagged(host(0), LAN, Some(8), b"x"));
        net.server.dropped(DropReason::Vlan, 1);
        // The other one's host is unknown here, and the device gets it.
        net.send(1, &frame(host(1), host(2), b"not there"));
        net.device_gets(1, &tagged(host(1), host(2), Some(8), b"not there"));
        net.all_is_quiet();
    }
}

#[test]
fn a_broadcast_in_a_vlan_that_the_device_does_not_take_is_counted_when_nobody_gets_it() {
    let forwarding = Forwarding::Switched {
        client_to_client: true,
        ask_first: false,
        vlan: Some(DevicePort {
            accept: Accept::Untagged,
            pvid: 1,
        }),
    };
    for (io, workers) in engines().into_iter().flat_map(|io| [(io, 1), (io, 2)]) {
        let net = Switch::new(io, workers, forwarding, &[7, 8, 7]);
        let to_all = |client| frame(mac(client, 1), Mac::BROADCAST, b"to all");
        net.send(0, &to_all(0));
        net.clients[2].gets(&to_all(0));
        net.send(1, &to_all(1));
        net.server.dropped(DropReason::NoRoute, 1);
        net.all_is_quiet();
    }
}

#[test]
fn a_client_is_told_that_its_frame_is_too_big_for_another() {
    for (io, workers) in engines().into_iter().flat_map(|io| [(io, 1), (io, 2)]) {
        let mut net = Switch::new(io, workers, switched(true), &[NONE; 2]);
        for client in 0..2 {
            let hello = frame(mac(client, 1), LAN, b"hello");
            net.send(client as usize, &hello);
            net.device_gets(client as usize, &hello);
        }
        // No more than 32 of the smallest parts go to the second one.
        let config = PeerConfig {
            fragment: Some(Fragment {
                payload: 1,
                largest: 1600,
            }),
            ..net.server.config(&net.clients[1], 0)
        };
        let most = 32 * usize::from(Fragment::MIN_PAYLOAD / 8 * 8);
        let command = Command::SetPeer(handle(1), Box::new(config));
        net.server.workers.send(command).unwrap();
        net.settle();
        let large = frame(mac(0, 1), mac(1, 1), &payload(most));
        for count in 1..3 {
            net.send(0, &large);
            net.server.dropped(DropReason::TooBig, count);
            let answer = net.clients[0].node.tun.next(PATIENCE).unwrap();
            assert_eq!((&answer[..6], &answer[6..12]), (&large[6..12], &large[..6]));
            let answer = &answer[frame::HEADER..];
            // ICMP, destination unreachable, fragmentation needed
            assert_eq!((answer[9], answer[20], answer[21]), (1, 3, 4));
            let mtu = u16::from_be_bytes([answer[26], answer[27]]);
            assert_eq!(usize::from(mtu), most - frame::HEADER);
        }
        net.all_is_quiet();
    }
}
