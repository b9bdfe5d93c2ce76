//! Packets on their way out.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// A payload of so many bytes goes out from where it is. Smaller ones are put together, so that one system call carries
/// many.
const LARGE: usize = 8 * 1024;

/// Bytes to be written, in their order.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Full pieces, none of them empty.
    pieces: VecDeque<Bytes>,
    /// How many bytes they have.
    bytes: usize,
    /// What comes after them.
    last: BytesMut,
}

impl Output {
    /// Where small packets, and the beginnings of large ones, are written.
    pub(super) fn end(&mut self) -> &mut BytesMut {
        &mut self.last
    }

    /// Adds a payload.
    pub(super) fn payload(&mut self, payload: Vec<u8>) {
        if payload.len() < LARGE {
            self.last.extend_from_slice(&payload);
            return;
        }
        let before = self.last.split().freeze();
        for piece in [before, payload.into()] {
            if !piece.is_empty() {
                self.bytes += piece.len();
                self.pieces.push_back(piece);
            }
        }
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.bytes + self.last.len()
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&self.last, |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let last = (!self.last.is_empty()).then_some(&*self.last);
        let waiting = self.pieces.iter().map(|piece| &**piece).chain(last);
        let mut filled = 0;
        for (slice, bytes) in slices.iter_mut().zip(waiting) {
            *slice = IoSlice::new(bytes);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                self.bytes -= written;
                return;
            }
            written -= piece.len();
            self.bytes -= piece.len();
            self.pieces.pop_front();
        }
        self.last.advance(written);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is put in, and however it is taken out, comes out as it went in.
        #[test]
        fn bytes_leave_in_their_order(
            steps in prop::collection::vec((0usize..3 * LARGE, 0usize..40, 0usize..4 * LARGE, 1usize..5), 1..20),
        ) {
            let mut output = Output::default();
            let (mut put, mut taken) = (Vec::new(), Vec::new());
            for (number, (payload, head, leave, slices)) in steps.into_iter().enumerate() {
                let payload: Vec<u8> = (0..=u8::MAX).cycle().skip(7 * number).take(payload).collect();
                let head = vec![u8::try_from(number).unwrap(); head];
                output.end().extend_from_slice(&head);
                put.extend_from_slice(&head);
                put.extend_from_slice(&payload);
                output.payload(payload);
                prop_assert_eq!(output.remaining(), put.len() - taken.len());
                let mut some = [IoSlice::new(&[]); 5];
                let filled = output.chunks_vectored(&mut some[..slices]);
                let seen: Vec<u8> = some[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                prop_assert!(seen.starts_with(output.chunk()));
                let leave = leave.min(seen.len());
                taken.extend_from_slice(&seen[..leave]);
                output.advance(leave);
            }
            while output.has_remaining() {
                prop_assert!(!output.chunk().is_empty());
                taken.extend_from_slice(output.chunk());
                output.advance(output.chunk().len());
            }
            prop_assert!(taken == put);
        }
    }
}
