//! What a broker's bytes are turned over with: one function for the fuzz target in `tests/fuzz` and for the corpus that it
//! left, which is replayed here.

use bytes::{BufMut, BytesMut};

use super::config::{Property, Version};
use super::packet::{Decoder, Packet, PacketError};

/// A piece that makes an ordinary PUBLISH an oversize one: see [`tidegate_domain::limits::PACKET_BYTES`].
const FILLER: usize = 17 * 1024 * 1024;

/// A stream of bytes from a broker. The first byte chooses version, pieces and whether the stream has a long run of equal
/// bytes in it; true where a packet came out.
///
/// # Panics
/// Where packets depend on the pieces that they come in, or a message is not what its lengths say.
pub fn packets(input: &[u8]) -> bool {
    let Some((&choice, stream)) = input.split_first() else {
        return false;
    };
    let version = if choice & 1 == 0 {
        Version::V311
    } else {
        Version::V5
    };
    let mut stream = stream.to_vec();
    if choice >> 1 == 0x78 {
        stream.resize(stream.len() + FILLER, 0);
    }
    let whole = decode(version, stream.chunks(stream.len().max(1)));
    let size = match choice >> 1 & 7 {
        _ if choice >> 1 == 0x78 => 100_000,
        0 => 4096,
        size => usize::from(size),
    };
    let pieces = decode(version, stream.chunks(size));
    assert_eq!(whole, pieces, "the pieces matter");
    let (packets, _) = whole;
    let some = !packets.is_empty();
    for packet in packets {
        if let Packet::Publish(publish) = packet {
            let topic = publish.topic().to_vec();
            let here = publish.payload_len();
            assert!(here <= publish.length, "{publish:?}");
            for wanted in [Property::CorrelationData, Property::User("id".to_owned())] {
                if let Some(value) = publish.property(&wanted) {
                    assert!(version == Version::V5 && value.len() <= stream.len());
                }
            }
            let payload = publish.into_payload();
            assert_eq!(payload.len(), here);
            assert!(topic.len() + payload.len() <= stream.len());
        }
    }
    some
}

/// What comes out of pieces until they end or are no MQTT.
fn decode<'a>(
    version: Version,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Packet>, Option<PacketError>) {
    let mut decoder = Decoder::new(version);
    let mut buffer = BytesMut::new();
    let mut packets = Vec::new();
    for piece in pieces {
        buffer.put_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => return (packets, Some(error)),
            }
        }
    }
    (packets, None)
}

#[cfg(test)]
#[test]
fn packets_of_the_corpus() {
    crate::replay::replay("packets", packets);
}
