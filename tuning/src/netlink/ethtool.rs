//! A link's features and queue counts by ethtool's netlink (linux/ethtool_netlink.h, Linux 5.6).
//!
//! ```text
//!  | command:8 version:8 reserved:16 | attributes: length:16 type:16 value, padded to 4 ... |
//!  header attribute = { device name }
//!  bit set          = { no-mask flag?, size, bits { bit { index, name, value flag } ... } }
//! ```

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::{Netlink, Scope};

const CONTROL_FAMILY: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const CHANNELS_GET: u8 = 17;

/// In every request: whom it is about.
const HEADER: u16 = 1;
const HEADER_NAME: u16 = 2;

const FEATURES_CHANGEABLE: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const FEATURES_NEVER: u16 = 5;

const SET_NO_MASK: u16 = 1;
const SET_BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

const CHANNELS_RX_MAX: u16 = 2;
const CHANNELS_COMBINED_MAX: u16 = 5;
const CHANNELS_RX: u16 = 6;
const CHANNELS_COMBINED: u16 = 9;

/// One feature of a link, as `ethtool -k` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Feature {
    /// In use.
    pub(crate) on: bool,
    /// Can be switched; otherwise `ethtool -k` says `[fixed]`.
    pub(crate) changeable: bool,
}

/// A connection to ethtool's family.
pub(crate) struct Ethtool {
    netlink: Netlink,
    family: u16,
}

impl Ethtool {
    /// # Errors
    /// Kernels before 5.6 have no such family.
    pub(crate) fn open() -> io::Result<Self> {
        let mut netlink = Netlink::open(NETLINK_GENERIC)?;
        let name = DefaultNla::new(FAMILY_NAME, b"ethtool\0".to_vec());
        let answers = netlink.ask(
            Generic::new(CONTROL_FAMILY, GET_FAMILY, &[name]),
            Scope::One,
        )?;
        let family = answers
            .iter()
            .find_map(|answer| find(&answer.attributes, FAMILY_ID)?.try_into().ok())
            .map(u16::from_ne_bytes)
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Ethtool { netlink, family })
    }

    /// All features of a link by the kernel's names (`ethtool -k` shows a few by older ones).
    pub(crate) fn features(&mut self, link: &str) -> io::Result<BTreeMap<String, Feature>> {
        let answers = self.ask(FEATURES_GET, link, None)?;
        Ok(answers
            .first()
            .map(|answer| features(&answer.attributes))
            .unwrap_or_default())
    }

    /// Switches one feature. The kernel may refuse silently: look afterwards.
    pub(crate) fn set_feature(&mut self, link: &str, name: &str, on: bool) -> io::Result<()> {
        let mut bit = vec![text(BIT_NAME, name)];
        if on {
            bit.push(DefaultNla::new(BIT_VALUE, Vec::new()));
        }
        let wanted = nest(FEATURES_WANTED, &[nest(SET_BITS, &[nest(BIT, &bit)])]);
        self.ask(FEATURES_SET, link, Some(wanted)).map(drop)
    }

    /// Receive queues in use, and how many the hardware has.
    pub(crate) fn channels(&mut self, link: &str) -> io::Result<(u32, u32)> {
        let answers = self.ask(CHANNELS_GET, link, None)?;
        let attributes = answers.first().map_or(&[][..], |answer| &answer.attributes);
        let number = |kind| {
            find(attributes, kind)
                .and_then(|value| value.try_into().ok())
                .map_or(0, u32::from_ne_bytes)
        };
        Ok((
            number(CHANNELS_RX) + number(CHANNELS_COMBINED),
            number(CHANNELS_RX_MAX) + number(CHANNELS_COMBINED_MAX),
        ))
    }

    fn ask(
        &mut self,
        command: u8,
        link: &str,
        more: Option<DefaultNla>,
    ) -> io::Result<Vec<Generic>> {
        let mut attributes = vec![nest(HEADER, &[text(HEADER_NAME, link)])];
        attributes.extend(more);
        let request = Generic::new(self.family, command, &attributes);
        self.netlink.ask(request, Scope::One)
    }
}

fn features(attributes: &[u8]) -> BTreeMap<String, Feature> {
    let bits = |kind| find(attributes, kind).map(bit_set).unwrap_or_default();
    let (active, never) = (bits(FEATURES_ACTIVE), bits(FEATURES_NEVER));
    // The set of changeable ones comes with a mask, so it names all there are.
    bits(FEATURES_CHANGEABLE)
        .into_iter()
        .map(|(name, changeable)| {
            let feature = Feature {
                on: active.contains_key(&name),
                changeable: changeable && !never.contains_key(&name),
            };
            (name, feature)
        })
        .collect()
}

/// The bits that a set names, with their values. In a set without a mask, named means set.
fn bit_set(set: &[u8]) -> BTreeMap<String, bool> {
    let list = find(set, SET_NO_MASK).is_some();
    let bits = find(set, SET_BITS).unwrap_or_default();
    nlas(bits)
        .filter_map(|(_, bit)| {
            let name = String::from_utf8_lossy(find(bit, BIT_NAME)?).into_owned();
            let set = list || find(bit, BIT_VALUE).is_some();
            Some((name.trim_end_matches('\0').to_owned(), set))
        })
        .collect()
}

fn find(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    nlas(attributes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// Kinds and values, up to the first attribute that breaks the framing.
fn nlas(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let &[l0, l1, k0, k1] = rest.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & !FLAGS, value))
    })
}

fn text(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn nest(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, emitted(inner))
}

fn emitted(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// A generic netlink message: a command and its attributes as they are on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Generic {
    family: u16,
    command: u8,
    attributes: Vec<u8>,
}

impl Generic {
    fn new(family: u16, command: u8, attributes: &[DefaultNla]) -> Self {
        Generic {
            family,
            command,
            attributes: emitted(attributes),
        }
    }
}

impl NetlinkSerializable for Generic {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        4 + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..4].copy_from_slice(&[self.command, 1, 0, 0]);
        buffer[4..4 + self.attributes.len()].copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Generic {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Generic {
            family: header.message_type,
            command: payload.first().copied().unwrap_or(0),
            attributes: payload.get(4..).unwrap_or_default().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_told_apart() {
        let bit = |name: &str, set: bool| {
            let mut parts = vec![text(BIT_NAME, name)];
            if set {
                parts.push(DefaultNla::new(BIT_VALUE, Vec::new()));
            }
            nest(BIT, &parts)
        };
        let list = |kind, names: &[&str]| {
            let bits: Vec<_> = names.iter().map(|name| bit(name, false)).collect();
            let no_mask = DefaultNla::new(SET_NO_MASK, Vec::new());
            nest(kind, &[no_mask, nest(SET_BITS, &bits)])
        };
        let all = [
            bit("a", true),
            bit("b", true),
            bit("c", false),
            bit("d", true),
        ];
        let bytes = emitted(&[
            nest(FEATURES_CHANGEABLE, &[nest(SET_BITS, &all)]),
            list(FEATURES_ACTIVE, &["a", "c"]),
            list(FEATURES_NEVER, &["d"]),
        ]);
        let found = features(&bytes);
        let shown: Vec<_> = found
            .iter()
            .map(|(name, f)| (name.as_str(), f.on, f.changeable))
            .collect();
        assert_eq!(
            shown,
            [
                ("a", true, true),
                ("b", false, true),
                ("c", true, false),
                ("d", false, false)
            ]
        );
        for cut in 0..bytes.len() {
            let _ = features(&bytes[..cut]);
        }
    }

    #[test]
    fn this_kernel_answers() {
        let Ok(mut ethtool) = Ethtool::open() else {
            eprintln!("skipped: no ethtool netlink family");
            return;
        };
        let features = ethtool.features("lo").unwrap();
        assert!(features["tx-generic-segmentation"].on, "{features:?}");
        assert!(ethtool.features("no-such-link").is_err());
    }
}
