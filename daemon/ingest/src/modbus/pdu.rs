//! Requests and what a slave may answer to them, without the envelope of a line or a connection (Modbus Application Protocol
//! Specification 1.1b3).

use super::map::Table;

/// Bytes of the longest PDU.
pub(super) const PDU_BYTES: usize = 253;

/// What is asked of a slave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Read {
        table: Table,
        address: u16,
        count: u16,
    },
    WriteCoil {
        address: u16,
        on: bool,
    },
    WriteRegisters {
        address: u16,
        values: Vec<u16>,
    },
}

/// What a slave said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The bytes of registers or bits.
    Data(Vec<u8>),
    /// It is written.
    Written,
    /// It refuses, with the code.
    Exception(u8),
}

impl Request {
    pub(super) fn function(&self) -> u8 {
        match self {
            Self::Read { table, .. } => table.read_function(),
            Self::WriteCoil { .. } => 0x05,
            Self::WriteRegisters { values, .. } if values.len() == 1 => 0x06,
            Self::WriteRegisters { .. } => 0x10,
        }
    }

    /// The request's PDU.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut pdu = vec![self.function()];
        match self {
            Self::Read { address, count, .. } => {
                pdu.extend(address.to_be_bytes());
                pdu.extend(count.to_be_bytes());
            }
            Self::WriteCoil { address, on } => {
                pdu.extend(address.to_be_bytes());
                pdu.extend(if *on { [0xFF, 0] } else { [0, 0] });
            }
            Self::WriteRegisters { address, values } => {
                pdu.extend(address.to_be_bytes());
                if values.len() > 1 {
                    // At most 123, so that all of this fits.
                    let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
                    pdu.extend(count.to_be_bytes());
                    pdu.push(u8::try_from(2 * count).unwrap_or(u8::MAX));
                }
                pdu.extend(values.iter().flat_map(|value| value.to_be_bytes()));
            }
        }
        pdu
    }

    /// Bytes of the data that a read brings.
    fn data_bytes(&self) -> usize {
        match self {
            Self::Read { table, count, .. } if table.is_bits() => usize::from(*count).div_ceil(8),
            Self::Read { count, .. } => 2 * usize::from(*count),
            Self::WriteCoil { .. } | Self::WriteRegisters { .. } => 0,
        }
    }

    /// Bytes of the PDU with which the slave does what it was asked.
    pub(super) fn answer_bytes(&self) -> usize {
        match self {
            Self::Read { .. } => 2 + self.data_bytes(),
            Self::WriteCoil { .. } | Self::WriteRegisters { .. } => 5,
        }
    }

    /// What a PDU says to this request; `None` where it cannot be the answer to it.
    pub(super) fn answer(&self, pdu: &[u8]) -> Option<Answer> {
        let function = self.function();
        match pdu {
            [code, exception] if *code == function | 0x80 => Some(Answer::Exception(*exception)),
            [code, count, data @ ..]
                if *code == function
                    && matches!(self, Self::Read { .. })
                    && data.len() == self.data_bytes()
                    && usize::from(*count) == data.len() =>
            {
                Some(Answer::Data(data.to_vec()))
            }
            _ if matches!(self, Self::Read { .. }) => None,
            // What is written comes back: address and value, or address and count.
            _ if pdu.len() == 5 && self.encode().starts_with(pdu) => Some(Answer::Written),
            _ => None,
        }
    }
}

/// The register at `offset` of data that was read.
pub(super) fn registers(data: &[u8], offset: usize, count: usize) -> Vec<u16> {
    let bytes = data
        .get(2 * offset..2 * (offset + count))
        .unwrap_or_default();
    let pairs = bytes.chunks_exact(2);
    pairs
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect()
}

/// The bit at `offset` of data that was read.
pub(super) fn bit(data: &[u8], offset: usize) -> bool {
    data.get(offset / 8)
        .is_some_and(|byte| byte >> (offset % 8) & 1 == 1)
}

/// What an exception code means (Application Protocol 1.1b3, section 7).
pub(super) fn exception(code: u8) -> &'static str {
    match code {
        0x01 => "the slave does not know the function (01)",
        0x02 => "the slave has no such address (02)",
        0x03 => "the slave does not take the value or count (03)",
        0x04 => "the slave failed (04)",
        0x05 => "the slave needs time (05)",
        0x06 => "the slave is busy (06)",
        0x07 => "the slave does not acknowledge (07)",
        0x08 => "the slave has a parity error in its memory (08)",
        0x0A => "the gateway has no path to the slave (0A)",
        0x0B => "the slave behind the gateway does not answer (0B)",
        _ => "the slave refuses with a code that the standard does not know",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(table: Table, address: u16, count: u16) -> Request {
        Request::Read {
            table,
            address,
            count,
        }
    }

    /// The examples of the specification, sections 6.1, 6.3, 6.5, 6.6 and 6.12.
    #[test]
    fn as_the_specification_has_it() {
        let coils = read(Table::Coil, 0x13, 0x13);
        assert_eq!(coils.encode(), [1, 0, 0x13, 0, 0x13]);
        let data = vec![0xCD, 0x6B, 0x05];
        assert_eq!(
            coils.answer(&[1, 3, 0xCD, 0x6B, 0x05]),
            Some(Answer::Data(data.clone()))
        );
        assert!(bit(&data, 0) && !bit(&data, 1) && bit(&data, 18) && !bit(&data, 99));

        let holding = read(Table::Holding, 0x6B, 3);
        assert_eq!(holding.encode(), [3, 0, 0x6B, 0, 3]);
        let pdu = [3, 6, 2, 0x2B, 0, 0, 0, 0x64];
        let Some(Answer::Data(data)) = holding.answer(&pdu) else {
            panic!("no answer")
        };
        assert_eq!(registers(&data, 0, 3), [555, 0, 100]);
        assert_eq!(registers(&data, 2, 1), [100]);
        assert_eq!(holding.answer(&[0x83, 2]), Some(Answer::Exception(2)));

        let coil = Request::WriteCoil {
            address: 0xAC,
            on: true,
        };
        assert_eq!(coil.encode(), [5, 0, 0xAC, 0xFF, 0]);
        assert_eq!(coil.answer(&[5, 0, 0xAC, 0xFF, 0]), Some(Answer::Written));
        assert_eq!(coil.answer(&[5, 0, 0xAC, 0, 0]), None);

        let one = Request::WriteRegisters {
            address: 1,
            values: vec![3],
        };
        assert_eq!(one.encode(), [6, 0, 1, 0, 3]);
        assert_eq!(one.answer(&[6, 0, 1, 0, 3]), Some(Answer::Written));

        let two = Request::WriteRegisters {
            address: 1,
            values: vec![0x0A, 0x0102],
        };
        assert_eq!(two.encode(), [0x10, 0, 1, 0, 2, 4, 0, 0x0A, 1, 2]);
        assert_eq!(two.answer(&[0x10, 0, 1, 0, 2]), Some(Answer::Written));
        assert_eq!(two.answer(&[0x10, 0, 2, 0, 2]), None);
    }

    #[test]
    fn what_is_no_answer_to_this_request() {
        let holding = read(Table::Holding, 0, 2);
        for pdu in [
            &[4, 4, 0, 0, 0, 0][..],
            &[3, 2, 0, 0],
            &[3, 4, 0, 0, 0],
            &[3, 6, 0, 0, 0, 0],
            &[0x84, 2],
            &[0x83],
            &[],
        ] {
            assert_eq!(holding.answer(pdu), None, "{pdu:?}");
        }
    }
}
