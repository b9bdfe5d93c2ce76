//! Checksums of frames. The CRCs are those of the catalogue of parametrised CRC algorithms, by the name they have there.

use crc::{
    CRC_16_IBM_3740, CRC_16_KERMIT, CRC_16_MODBUS, CRC_16_XMODEM, CRC_32_ISO_HDLC, Crc, Table,
};

const MODBUS: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_MODBUS);
const CCITT: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_IBM_3740);
const XMODEM: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_XMODEM);
const KERMIT: Crc<u16, Table<1>> = Crc::<u16, Table<1>>::new(&CRC_16_KERMIT);
const ISO_HDLC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISO_HDLC);

/// What is computed over a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing.
    None,
    /// The sum of the bytes, modulo 256.
    Sum,
    /// The bytes combined by XOR (BCC, LRC of ISO 1155).
    Xor,
    /// CRC-16/MODBUS.
    Crc16Modbus,
    /// CRC-16/IBM-3740, which most documents call CCITT: polynomial 0x1021, begun with 0xFFFF.
    Crc16Ccitt,
    /// CRC-16/XMODEM: the same, begun with 0.
    Crc16Xmodem,
    /// CRC-16/KERMIT, which V.41 means: the same as XMODEM with the bits reflected.
    Crc16Kermit,
    /// CRC-32/ISO-HDLC, that of Ethernet and zip.
    Crc32,
}

impl Checksum {
    /// Bytes of it.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::None => 0,
            Self::Sum | Self::Xor => 1,
            Self::Crc16Modbus | Self::Crc16Ccitt | Self::Crc16Xmodem | Self::Crc16Kermit => 2,
            Self::Crc32 => 4,
        }
    }

    /// The checksum over bytes.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> u32 {
        match self {
            Self::None => 0,
            Self::Sum => u32::from(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte))),
            Self::Xor => u32::from(bytes.iter().fold(0, |sum, byte| sum ^ byte)),
            Self::Crc16Modbus => u32::from(MODBUS.checksum(bytes)),
            Self::Crc16Ccitt => u32::from(CCITT.checksum(bytes)),
            Self::Crc16Xmodem => u32::from(XMODEM.checksum(bytes)),
            Self::Crc16Kermit => u32::from(KERMIT.checksum(bytes)),
            Self::Crc32 => ISO_HDLC.checksum(bytes),
        }
    }
}
