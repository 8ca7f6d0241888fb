//! Batches against single packets, every back end of this CPU against aws-lc-rs.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const HEADER: usize = 4;
const CIPHERS: [Cipher; 3] = [Cipher::Aes128Cbc, Cipher::Aes192Cbc, Cipher::Aes256Cbc];

#[test]
fn padding_is_checked_byte_by_byte() {
    let mut text = [7u8; 32];
    text[16..].fill(16);
    assert_eq!(unpadded_len(&text), Some(16));
    text[31] = 1;
    assert_eq!(unpadded_len(&text), Some(31));
    text[31] = 2;
    assert_eq!(unpadded_len(&text), None);
    text[31] = 0;
    assert_eq!(unpadded_len(&text), None);
    text[31] = 17;
    assert_eq!(unpadded_len(&text), None);
    assert_eq!(unpadded_len(&[]), None);
}

#[test]
fn ciphertext_is_whole_blocks_with_at_least_a_byte_of_padding() {
    assert_eq!(ciphertext_len(0), 16);
    assert_eq!(ciphertext_len(11), 16);
    assert_eq!(ciphertext_len(12), 32);
    assert_eq!(ciphertext_len(16), 32);
    assert_eq!(ciphertext_len(1400), 1408);
}

/// Every back end, and none.
fn tiers() -> impl Iterator<Item = Option<Tier>> {
    Tier::all().map(Some).chain([None])
}

fn slots(seed: u8) -> DirectionKey {
    DirectionKey {
        cipher: std::array::from_fn(|i| (i as u8).wrapping_mul(7) ^ seed),
        hmac: std::array::from_fn(|i| (i as u8).wrapping_mul(5) ^ seed),
    }
}

/// Seals payloads of these lengths; returns the buffer and where the datagrams are in it.
fn sealed(
    tier: Option<Tier>,
    (cipher, digest, seed): (Cipher, Digest, u8),
    lengths: &[usize],
) -> (Vec<u8>, Vec<Segment>) {
    let mut sealer = Sealer::with_tier(cipher, digest, &slots(seed), tier).unwrap();
    sealer.fixed_iv = Some([seed; BLOCK]);
    let front = HEADER + front(digest);
    let mut end = 0;
    let segments: Vec<Segment> = lengths
        .iter()
        .map(|&len| {
            let start = end;
            end += front - ID_LEN + ciphertext_len(len);
            Segment { start, len }
        })
        .collect();
    let mut buf: Vec<u8> = (0..end).map(|i| ((i * i) >> 5) as u8 ^ seed).collect();
    let header = DataHeader::new(0, Some(0));
    assert_eq!(sealer.seal(header, 0, &mut buf, &segments), lengths.len());
    let datagrams = segments.iter().map(|segment| Segment {
        start: segment.start,
        len: front - ID_LEN + ciphertext_len(segment.len),
    });
    (buf, datagrams.collect())
}

/// What a peer, or somebody else, may do to a datagram.
#[derive(Clone, Copy, Debug)]
enum Change {
    Nothing,
    Flip(usize),
    FlipLast(u8),
    Cut(usize),
    CopyOf(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => Just(Change::Nothing),
        1 => any::<usize>().prop_map(Change::Flip),
        1 => (1..=255u8).prop_map(Change::FlipLast),
        1 => any::<usize>().prop_map(Change::Cut),
        1 => any::<usize>().prop_map(Change::CopyOf),
    ]
}

/// The datagrams as they arrive, one behind the other.
fn changed(buf: &[u8], datagrams: &[Segment], changes: &[Change]) -> (Vec<u8>, Vec<Segment>) {
    let mut arrived = Vec::new();
    let mut places = Vec::new();
    for (i, (datagram, change)) in datagrams.iter().zip(changes.iter().cycle()).enumerate() {
        let start = arrived.len();
        let bytes = |segment: &Segment| &buf[segment.start..][..segment.len];
        arrived.extend_from_slice(bytes(datagram));
        match *change {
            Change::Nothing => {}
            // Not the header, of which a format knows only the length.
            Change::Flip(at) => {
                arrived[start + HEADER + at % (datagram.len - HEADER)] ^= 1 << (at % 8)
            }
            Change::FlipLast(with) => arrived[start + datagram.len - 1] ^= with,
            Change::Cut(at) => arrived.truncate(start + HEADER + at % (datagram.len - HEADER)),
            Change::CopyOf(at) => {
                arrived.truncate(start);
                arrived.extend_from_slice(bytes(&datagrams[at % (i + 1)]));
            }
        }
        let len = arrived.len() - start;
        places.push(Segment { start, len });
    }
    (arrived, places)
}

fn opener(tier: Option<Tier>, (cipher, digest, seed): (Cipher, Digest, u8)) -> Opener {
    let window = ReplayWindow::new(64, 15);
    Opener::with_tier(cipher, digest, &slots(seed), window, tier).unwrap()
}

type Opened = Vec<Result<Vec<u8>, DropReason>>;

fn open_all(opener: &mut Opener, buf: &mut [u8], datagrams: &[Segment]) -> Opened {
    let payloads = datagrams.iter().map(|datagram| {
        let datagram = &mut buf[datagram.start..][..datagram.len];
        let payload = opener.open(0, HEADER, datagram)?;
        Ok(datagram[payload].to_vec())
    });
    payloads.collect()
}

fn open_batches(opener: &mut Opener, buf: &mut [u8], datagrams: &[Segment]) -> Opened {
    let mut all = Vec::new();
    for batch in datagrams.chunks(BATCH) {
        let mut results: Vec<_> = batch
            .iter()
            .map(|datagram| opener.signed(HEADER, datagram.len))
            .collect();
        opener.open_batch(0, buf, batch, &mut results);
        all.extend(batch.iter().zip(results).map(|(datagram, payload)| {
            let datagram = &buf[datagram.start..][..datagram.len];
            Ok(datagram[payload?].to_vec())
        }));
    }
    all
}

fn suites() -> impl Strategy<Value = (Cipher, Digest, u8)> {
    (
        select(CIPHERS.to_vec()),
        select(Digest::ALL.to_vec()),
        any::<u8>(),
    )
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        proptest::collection::vec(0..=9000usize, 1..=130),
        proptest::collection::vec(0..=100usize, 1..=130),
        (0..=1500usize, 1..=130usize).prop_map(|(len, count)| vec![len; count]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_back_end_seals_the_same(suite in suites(), lengths in lengths()) {
        let right = sealed(None, suite, &lengths);
        for tier in Tier::all() {
            prop_assert!(sealed(Some(tier), suite, &lengths) == right, "{}", tier.name());
        }
    }

    #[test]
    fn a_batch_is_opened_as_one_by_one(
        suite in suites(),
        lengths in lengths(),
        changes in proptest::collection::vec(change(), 1..=130),
    ) {
        let (buf, datagrams) = sealed(None, suite, &lengths);
        let (arrived, datagrams) = changed(&buf, &datagrams, &changes);
        let mut single = opener(None, suite);
        let right = open_all(&mut single, &mut arrived.clone(), &datagrams);
        for tier in tiers() {
            let mut batched = opener(tier, suite);
            let opened = open_batches(&mut batched, &mut arrived.clone(), &datagrams);
            prop_assert!(opened == right, "{}", tier.map_or("none", Tier::name));
            prop_assert_eq!(batched.packets(), single.packets());
            prop_assert_eq!(batched.failures(), single.failures());
        }
    }
}

/// One wrong byte anywhere, in the midst of a batch, drops that packet and no other.
#[test]
fn every_byte_counts_in_a_batch() {
    for tier in tiers() {
        for digest in [Digest::Sha1, Digest::Sha224, Digest::Sha256] {
            let suite = (Cipher::Aes256Cbc, digest, 3);
            let (buf, datagrams) = sealed(tier, suite, &[100; 20]);
            let len = datagrams[0].len;
            for at in HEADER..len {
                let mut bent = buf.clone();
                bent[13 * len + at] ^= 0x10;
                let mut opener = opener(tier, suite);
                let opened = open_batches(&mut opener, &mut bent, &datagrams);
                for (i, payload) in opened.iter().enumerate() {
                    let dropped = *payload == Err(DropReason::AuthFailed);
                    assert_eq!(dropped, i == 13, "{at}");
                }
                assert_eq!((opener.packets(), opener.failures()), (19, 1));
            }
        }
    }
}
