//! Compression framing: what stands between the packet cryptography and the inner packet
//! (protocol §7.9). Ringway never compresses; it speaks the framings of an uncompressed packet.

/// The framing agreed with a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// No framing: the payload is the inner packet.
    #[default]
    None,
    /// `comp-lzo` in any form, `compress lzo`: `FA` in front.
    Lzo,
    /// `compress`, `compress stub`, `compress lz4`: first byte moved to the end, `FB` in front.
    Stub,
    /// `compress stub-v2`, `compress lz4-v2`: as is, an initial `50` escaped.
    StubV2,
}
