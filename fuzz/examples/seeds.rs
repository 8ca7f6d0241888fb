//! Writes the first inputs of each fuzz target into `fuzz/corpus/`, made by Ringway's own writers:
//! `cd fuzz && cargo run --example seeds`.

use std::fs;
use std::path::Path;

use ringway::proto::TlsRole;
use ringway::proto::key_exchange::KeyMessage;
use ringway::proto::packet::{AckList, CLEAR_LEN, ControlPacket, EarlyFlags, Opcode, SessionId};
use ringway_dataplane::cipher::Segment;
use ringway_dataplane::fragment::Cut;
use ringway_dataplane::offload::vnet_hdr::VnetHdr;
use ringway_fuzz::{DATA_KINDS, WRAPS, data_keys, ip_packet, join, wraps};

fn main() -> std::io::Result<()> {
    control_packets()?;
    key_messages()?;
    texts()?;
    data_packets()?;
    glued_datagrams()?;
    super_packets()?;
    frames()?;
    fragments()?;
    streams()?;
    sessions()?;
    servers()
}

fn save(target: &str, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

/// Messages as receive offload makes them, behind the announced size.
fn glued_datagrams() -> std::io::Result<()> {
    let datagram: Vec<u8> = [0x48, 0, 0, 7].into_iter().chain(0..20).collect();
    let control = [0x20; 24];
    for (name, size, message) in [
        ("single", 0, datagram.clone()),
        ("three", 24, datagram.repeat(3)),
        ("shorter_last", 24, [&datagram[..], &datagram[..9]].concat()),
        ("size_beyond", 1280, datagram.clone()),
        ("one_byte", 1, datagram.clone()),
        (
            "with_control",
            24,
            [&datagram[..], &control, &datagram[..5]].concat(),
        ),
        ("empty", 5, Vec::new()),
    ] {
        let bytes = [&u16::to_be_bytes(size)[..], &message].concat();
        save("datagrams", name, &bytes)?;
    }
    Ok(())
}

fn packets() -> Vec<(&'static str, ControlPacket<'static>)> {
    let reset = ControlPacket {
        opcode: Opcode::HardResetClientV2,
        key_id: 0,
        session_id: SessionId([1; 8]),
        acks: AckList::new(),
        remote_session_id: None,
        packet_id: Some(0),
        payload: &[],
    };
    let answer = ControlPacket {
        opcode: Opcode::HardResetServerV2,
        acks: AckList::from_iter([0]),
        remote_session_id: Some(SessionId([2; 8])),
        ..reset.clone()
    };
    let hello = ControlPacket {
        opcode: Opcode::ControlV1,
        packet_id: Some(1),
        payload: &[0x16, 3, 1, 0, 4, 1, 0, 0, 0],
        ..answer.clone()
    };
    let ack = ControlPacket {
        opcode: Opcode::AckV1,
        packet_id: None,
        ..answer.clone()
    };
    let soft = ControlPacket {
        opcode: Opcode::SoftResetV1,
        key_id: 1,
        ..reset.clone()
    };
    vec![
        ("reset", reset),
        ("answer", answer),
        ("hello", hello),
        ("ack", ack),
        ("soft", soft),
    ]
}

fn control_packets() -> std::io::Result<()> {
    for (name, packet) in packets() {
        let mut bytes = packet.clear_header().to_vec();
        packet.encode_rest(&mut bytes);
        debug_assert!(bytes.len() > CLEAR_LEN);
        save("control_packet", name, &bytes)?;
        // A forged packet into an unwrapped session, then the session goes on.
        let mut session = vec![0, 0, 0xe0, bytes.len() as u8];
        session.extend_from_slice(&bytes);
        session.extend_from_slice(&[0; 24]);
        save("session", &format!("forged-{name}"), &session)?;
        for kind in 0..WRAPS {
            let (mut client, _) = wraps(kind);
            let mut wrapped = vec![kind];
            client.wrap(&packet, &mut wrapped);
            save("wrap", &format!("{name}-{kind}"), &wrapped)?;
        }
    }
    let mut early = Vec::new();
    EarlyFlags { resend_wkc: true }.encode(&mut early);
    save("control_packet", "early", &early)
}

fn key_messages() -> std::io::Result<()> {
    let message = KeyMessage {
        pre_master: Some([3; 48]),
        random1: [4; 32],
        random2: [5; 32],
        options: "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4".to_owned(),
        username: Some("user".to_owned()),
        password: Some("secret".to_owned()),
        peer_info: Some("IV_VER=2.6.14\nIV_PROTO=746\n".to_owned()),
    };
    save("key_message", "client", &message.encode(TlsRole::Client))?;
    save("key_message", "server", &message.encode(TlsRole::Server))
}

fn texts() -> std::io::Result<()> {
    save(
        "push",
        "reply",
        b"PUSH_REPLY,route 10.7.0.0 255.255.0.0,route-gateway 10.9.0.1,topology subnet,ping 10,\
          ping-restart 60,ifconfig 10.9.0.2 255.255.255.0,ifconfig-ipv6 fd00:9::1000/64 fd00:9::1,\
          peer-id 0,cipher AES-256-GCM,protocol-flags cc-exit tls-ekm dyn-tls-crypt,tun-mtu 1500\0",
    )?;
    save(
        "push",
        "parts",
        b"PUSH_REPLY,dhcp-option DNS 10.9.0.1,push-continuation 2\0\
          PUSH_REPLY,redirect-gateway def1,push-continuation 1\0",
    )?;
    for (name, text) in [
        (
            "failed",
            "AUTH_FAILED,CRV1:R,E:id:dXNlcg==:Enter the code\0",
        ),
        (
            "pending",
            "AUTH_PENDING,timeout 60\0INFO_PRE,OPEN_URL:https://example.org/\0",
        ),
        ("restart", "RESTART,[P]please\0HALT,bye\0EXIT\0"),
        ("update", "PUSH_UPDATE,-route,route 10.8.0.0 255.255.0.0\0"),
    ] {
        save("push", name, text.as_bytes())?;
    }
    save(
        "peer_info",
        "openvpn",
        b"IV_VER=2.6.14\nIV_PLAT=linux\nIV_TCPNL=1\nIV_MTU=1600\nIV_NCP=2\n\
          IV_CIPHERS=AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305\nIV_PROTO=990\nIV_SSO=openurl,crtext\n\
          UV_SITE=north\n",
    )?;
    save(
        "pool_file",
        "lines",
        b"# comment\na,10.8.0.2,fd00::1000\nb, of C,10.8.0.3,\nold,10.8.0.9\nsix,,fd00::1008\n\
          far,192.0.2.1,\nodd,10.8.0.11,fd00::1000\nnothing\nx,10.8.0.300,\ny,,\n,10.8.0.12,\n",
    )?;
    let occ =
        "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4,auth SHA256,cipher AES-256-CBC";
    save(
        "occ",
        "same",
        format!("{occ}\n{occ},keysize 256,tls-client").as_bytes(),
    )?;
    save(
        "occ",
        "other",
        format!("{occ}\nV4,dev-type tap,link-mtu 1,comp-lzo").as_bytes(),
    )?;
    save(
        "config",
        "point-to-point",
        b"# a comment\ndev tun\nproto udp\nremote vpn.example.org 1194\ntls-client\n\
          ifconfig 10.9.0.2 10.9.0.1\nca \"a b.crt\"\ncert c.crt ; more\nkey 'k.key'\n\
          keepalive 10 60\ncipher AES-256-GCM\nsetenv opt frob 1\nup \"/bin/up with\\ blank\"\n",
    )?;
    save(
        "config",
        "client",
        b"client\ndev tun\n<connection>\nremote a 1194 udp\n</connection>\n<connection>\n\
          remote ::1 443 udp6\nexplicit-exit-notify 2\n</connection>\nremote-cert-tls server\n\
          data-ciphers AES-256-GCM:?CHACHA20-POLY1305\nkey-direction 1\n<ca>\n-----BEGIN X-----\n\
          -----END X-----\n</ca>\nroute 10.0.0.0 255.0.0.0 vpn_gateway 5\npull-filter ignore route\n\
          redirect-gateway def1 bypass-dhcp\nignore-unknown-option x y\nx 1\nauth-user-pass\n",
    )?;
    save(
        "config",
        "server",
        b"local 192.0.2.1 443 tcp\nlocal * 1194 udp6\ndev tun\nca ca.crt\ncert c.crt\nkey c.key\n\
          dh none\ntopology net30\nserver 10.8.0.0 255.255.255.0\nserver-ipv6 fd00::/64\n\
          ifconfig-pool-persist ipp.txt 0\npush \"route 10.1.0.0 255.255.0.0\"\n\
          client-config-dir ccd\nclient-to-client\nkeepalive 10 120\nmax-clients 100\n\
          tls-crypt-v2 v2.key force-cookie\nauth-user-pass-verify \"/bin/v x\" via-file\n\
          auth-gen-token 3600 600 external-auth\nverify-client-cert optional\n\
          port-share localhost 80\ntcp-nodelay\nconnect-freq 5 10\n",
    )?;
    save(
        "client_config",
        "both",
        b"ifconfig-push 10.8.0.9 255.255.255.0 10.9.0.9\nifconfig-ipv6-push fd00::9/64 fd00::1\n\
          iroute 192.168.1.0 255.255.255.0\niroute-ipv6 fd01::/48\npush-reset\n\
          push \"route 10.1.0.0\"\npush-remove route\ndata-ciphers AES-256-GCM:?X\ndisable\n\0\
          push-remove dns\nping 5\nping-exit 20\ninactive 60 100\nvlan-pvid 5\n\
          override-username \"a b\"\nignore-unknown-option x\nx 1\ncompress stub-v2\n",
    )
}

fn data_packets() -> std::io::Result<()> {
    let inner = ip_packet(false, false, 0, b"hello");
    for kind in 0..DATA_KINDS * 4 {
        let (mut send, _) = data_keys(kind);
        let headroom = send.headroom();
        let len = send.sealed_len(inner.len());
        let mut sealed = vec![0u8; len];
        sealed[headroom..headroom + inner.len()].copy_from_slice(&inner);
        send.seal(
            &mut sealed,
            &[Segment {
                start: 0,
                len: inner.len(),
            }],
        );
        let mut input = vec![kind];
        input.extend_from_slice(&sealed);
        save("data_open", &format!("kind-{kind}"), &input)?;
    }
    save("inner_packet", "udp4", &inner)?;
    let mut syn = ip_packet(false, true, 1, &[2, 4, 0x05, 0xb4]);
    // Data offset 24 bytes, SYN: the payload becomes an MSS option.
    (syn[32], syn[33]) = (0x60, 0x02);
    save("inner_packet", "syn4", &syn)?;
    let mut syn = ip_packet(true, true, 1, &[2, 4, 0x05, 0xa0]);
    (syn[52], syn[53]) = (0x60, 0x02);
    save("inner_packet", "syn6", &syn)?;
    save(
        "inner_packet",
        "big6",
        &ip_packet(true, false, 0, &[7; 1460]),
    )
}

fn super_packets() -> std::io::Result<()> {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let name = format!(
            "{}{}",
            if tcp { "tcp" } else { "udp" },
            if v6 { 6 } else { 4 }
        );
        let ip_len = if v6 { 40 } else { 20 };
        let header = VnetHdr {
            flags: VnetHdr::NEEDS_CSUM,
            gso_type: match (tcp, v6) {
                (true, false) => VnetHdr::GSO_TCPV4,
                (true, true) => VnetHdr::GSO_TCPV6,
                (false, _) => VnetHdr::GSO_UDP_L4,
            },
            hdr_len: ip_len + if tcp { 20 } else { 8 },
            gso_size: 100,
            csum_start: ip_len,
            csum_offset: if tcp { 16 } else { 6 },
        };
        let mut input = header.to_bytes().to_vec();
        input.extend_from_slice(&ip_packet(v6, tcp, 1, &[9; 350]));
        save("split", &name, &input)?;
        for tag in [false, true] {
            let link = if tag { 18 } else { 14 };
            let header = VnetHdr {
                csum_start: header.csum_start + link,
                ..header
            };
            let mut input = header.to_bytes().to_vec();
            input.extend_from_slice(&in_frame(tag, &ip_packet(v6, tcp, 1, &[9; 350])));
            save("frame", &format!("{name}-{link}"), &input)?;
        }
        let train: Vec<Vec<u8>> = (0..5)
            .map(|i| ip_packet(v6, tcp, 1 + i * 100, &[i as u8; 100]))
            .collect();
        let train: Vec<&[u8]> = train.iter().map(Vec::as_slice).collect();
        // As they are, and with the checksums set right whatever becomes of them.
        for (choice, suffix) in [(3, ""), (7, "-completed")] {
            let mut input = vec![choice];
            input.extend_from_slice(&join(&train));
            save("coalesce", &format!("{name}{suffix}"), &input)?;
        }
        let frames: Vec<Vec<u8>> = train.iter().map(|packet| in_frame(v6, packet)).collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        for (choice, suffix) in [(11, ""), (15, "-completed")] {
            let mut input = vec![choice];
            input.extend_from_slice(&join(&frames));
            save("coalesce", &format!("{name}-frames{suffix}"), &input)?;
        }
    }
    Ok(())
}

/// Frames without an offload that a switch treats in different ways, by what follows the addresses.
fn frames() -> std::io::Result<()> {
    let packet = ip_packet(false, false, 1, &[9; 40]);
    for (name, start) in [
        ("arp", &[8, 6][..]),
        ("priority", &[0x81, 0, 0x60, 0, 8, 0]),
        ("two-tags", &[0x81, 0, 0, 0, 0x81, 0, 0, 9, 8, 0]),
        ("cut-tag", &[0x81, 0, 0x60]),
    ] {
        let mut input = VnetHdr::default().to_bytes().to_vec();
        input.extend_from_slice(&[0xff; 6]);
        input.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
        input.extend_from_slice(start);
        if name != "cut-tag" {
            input.extend_from_slice(&packet);
        }
        save("frame", name, &input)?;
    }
    Ok(())
}

/// A packet between two hosts, with a tag or without.
fn in_frame(tag: bool, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if tag {
        frame.extend_from_slice(&[0x81, 0, 0x20, 7]);
    }
    frame.extend_from_slice(match packet[0] >> 4 {
        6 => &[0x86, 0xdd],
        _ => &[8, 0],
    });
    frame.extend_from_slice(packet);
    frame
}

fn streams() -> std::io::Result<()> {
    let frames: Vec<u8> = [1usize, 40, 300, 1768, 2]
        .iter()
        .flat_map(|&len| {
            [(len >> 8) as u8, len as u8]
                .into_iter()
                .chain(vec![0x48; len])
        })
        .collect();
    let max = 1768u16.to_be_bytes();
    for (name, step, end) in [
        ("whole", 255, &[][..]),
        ("single-bytes", 0, &[]),
        ("zero", 60, &[0, 0, 1]),
        ("too-long", 7, &[6, 0xe9, 1]),
        ("cut", 100, &[0, 9, 1]),
    ] {
        let input = [&max[..], &[step], &frames, end].concat();
        save("stream", name, &input)?;
    }
    Ok(())
}

fn sessions() -> std::io::Result<()> {
    for kind in 0..3u8 {
        // Enough deliveries for a handshake, then an hour in which keys are renewed, then more.
        let mut good = vec![kind];
        good.extend_from_slice(&[0; 60]);
        for _ in 0..60 {
            good.extend_from_slice(&[0xc0, 240]);
        }
        good.extend_from_slice(&[0; 60]);
        save("session", &format!("good-{kind}"), &good)?;
        let mut lossy = vec![kind];
        for step in 0..60u8 {
            lossy.push(if step % 5 == 0 { 0x60 } else { 0 });
            if step % 7 == 0 {
                lossy.extend_from_slice(&[0xc0, 9]);
            }
        }
        save("session", &format!("lossy-{kind}"), &lossy)?;
        // A handshake, then every command to both ends, with deliveries in between.
        let mut commands = vec![kind + 3];
        commands.extend_from_slice(&[0; 30]);
        for step in [0xd3, 0xd0, 0xd1, 0xd5, 0xd8, 0xda, 0xdd, 0xdf, 0xde] {
            commands.push(step);
            // Arguments where there are any; elsewhere a lost datagram.
            commands.extend_from_slice(match step {
                0xda => &[9],
                0xdd => &[4, 30],
                0xd0 | 0xd1 => &[255],
                _ => &[],
            });
            commands.extend_from_slice(&[0, 0, 0, 0xc0, 8, 0, 0, 0, 0]);
        }
        commands.extend_from_slice(&[0xd6, 4, b'E', b'X', b'I', b'T', 0, 0]);
        save("session", &format!("commands-{kind}"), &commands)?;
        save(
            "session",
            &format!("damaged-{kind}"),
            &[kind, 0, 0xa3, 20, 0x80, 0, 0xc0, 12, 0, 0],
        )?;
    }
    Ok(())
}

/// Packets in parts, in order and the other way round; the layout is in the target.
fn fragments() -> std::io::Result<()> {
    let packet = ip_packet(false, false, 1, &[7; 1000]);
    let cut = Cut::new(packet.len(), 400).expect("few parts");
    let mut inputs = [vec![99u8], vec![15u8]];
    for (input, reverse) in inputs.iter_mut().zip([false, true]) {
        for i in 0..cut.count() {
            let i = if reverse { cut.count() - 1 - i } else { i };
            let mut payload = cut.header(3, i).to_bytes().to_vec();
            payload.extend_from_slice(&packet[cut.part(i)]);
            payload.resize(payload.len().next_multiple_of(4), 0);
            input.extend([1, (payload.len() / 4) as u8]);
            input.extend(payload);
        }
    }
    let [forward, backward] = inputs;
    save("fragment", "forward", &forward)?;
    save("fragment", "backward", &backward)?;
    save(
        "fragment",
        "whole",
        &[200, 0, 3, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
    )
}

fn servers() -> std::io::Result<()> {
    for (name, packet) in packets() {
        let mut bare = packet.clear_header().to_vec();
        packet.encode_rest(&mut bare);
        let mut reset = packets()[0].1.clear_header().to_vec();
        packets()[0].1.encode_rest(&mut reset);
        for kind in 0..WRAPS {
            // A reset, then the packet as it echoes the answer to that.
            let pieces = [&reset, &bare].map(|bytes| [&[1, 0, 1], bytes.as_slice()].concat());
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let mut input = vec![kind];
            input.extend_from_slice(&join(&pieces));
            save("acceptor", &format!("{name}-{kind}"), &input)?;
        }
    }
    for kind in (0..WRAPS).chain(0x10..0x10 + WRAPS) {
        // A handshake, then a message of the client, orders of the driver, an hour, a new key.
        let mut good = vec![kind];
        good.extend_from_slice(&[0; 40]);
        good.extend_from_slice(b"\xf0\x0cPUSH_REQUEST\0\0\xd5\x0cauth-token X\0\0\xd6\x06ping 9");
        good.extend_from_slice(&[0, 0, 0, 0xd9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        good.extend_from_slice(b"\xd7\x03bye\0\0\0");
        save("server", &format!("good-{kind}"), &good)?;
        // A driver that takes its time.
        let mut slow = vec![kind | 8];
        slow.extend_from_slice(&[0; 40]);
        slow.extend_from_slice(b"\xd2\x09\x09CR_TEXT::\0\0\xf0\x0fCR_RESPONSE,eA==\0\0");
        slow.extend_from_slice(&[0xc0, 200, 0xd0, 0, 0xd3, 0, 0, 0, 0, 0, 0, 0, 0xd1, 0, 0, 0]);
        save("server", &format!("slow-{kind}"), &slow)?;
    }
    Ok(())
}
