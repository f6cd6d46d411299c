//! The Block1 and Block2 options, and a body put together from blocks (RFC 7959).

use crate::coap::option::uint;

/// The value of a Block1 or Block2 option (RFC 7959 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// NUM, 20 bit.
    pub(super) number: u32,
    /// M: more blocks follow.
    pub(super) more: bool,
    /// SZX.
    pub(super) size: BlockSize,
}

/// SZX, the size of a block as `2^(SZX + 4)`: 0 to 6 for 16 to 1024 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockSize(u8);

/// SZX 7 is reserved over datagrams (RFC 7959 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReservedSize;

/// One more than the largest NUM.
const NUMBERS: usize = 1 << 20;

impl BlockSize {
    /// The largest size that is not above `bytes`, at least 16.
    pub(super) fn at_most(bytes: usize) -> Self {
        let exponent = bytes.clamp(16, 1024).ilog2();
        Self(exponent as u8 - 4)
    }

    /// In bytes.
    pub(super) const fn bytes(self) -> usize {
        1 << (self.0 + 4)
    }
}

impl Block {
    /// The block that begins `offset` bytes into a body. `None` when the offset does not fall on a
    /// block of this size, or its number does not fit 20 bits.
    pub(super) fn at(offset: usize, more: bool, size: BlockSize) -> Option<Self> {
        let number = offset / size.bytes();
        (offset.is_multiple_of(size.bytes()) && number < NUMBERS).then_some(Self {
            number: number as u32,
            more,
            size,
        })
    }

    /// How many bytes of the body come before this block.
    pub(super) const fn offset(self) -> usize {
        self.number as usize * self.size.bytes()
    }

    /// Reads an option value of 0 to 3 bytes; `None` when there are more.
    pub(super) fn parse(value: &[u8]) -> Option<Result<Self, ReservedSize>> {
        if value.len() > 3 {
            return None;
        }
        let value = uint(value)?;
        let szx = (value & 7) as u8;
        Some(if szx == 7 {
            Err(ReservedSize)
        } else {
            Ok(Self {
                number: value >> 4,
                more: value & 8 != 0,
                size: BlockSize(szx),
            })
        })
    }

    /// The value as an unsigned integer of at most 24 bits.
    pub(super) fn value(self) -> u32 {
        self.number << 4 | u32::from(self.more) << 3 | u32::from(self.size.0)
    }

    /// Cuts the block of `size` that begins at `offset` out of a body, as far as there is one.
    pub(super) fn cut(body: &[u8], offset: usize, size: BlockSize) -> Option<(Self, &[u8])> {
        let rest = body.get(offset..)?;
        if rest.is_empty() && offset > 0 {
            return None;
        }
        let more = rest.len() > size.bytes();
        let piece = rest.get(..size.bytes()).unwrap_or(rest);
        Some((Self::at(offset, more, size)?, piece))
    }

    /// Whether a payload of `length` bytes may be this block: exactly full unless it is the last
    /// (RFC 7959 §2.2).
    pub(super) fn fits(self, length: usize) -> bool {
        if self.more {
            length == self.size.bytes()
        } else {
            length <= self.size.bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_values_of_zero_to_three_bytes() {
        let cases: [(&[u8], u32, bool, usize); 6] = [
            (&[], 0, false, 16),
            (&[0x06], 0, false, 1024),
            (&[0x0e], 0, true, 1024),
            (&[0x1a], 1, true, 64),
            (&[0x10, 0x06], 256, false, 1024),
            (&[0xff, 0xff, 0xfe], 0xf_ffff, true, 1024),
        ];
        for (bytes, number, more, size) in cases {
            let block = Block::parse(bytes).unwrap().unwrap();
            assert_eq!(
                (block.number, block.more, block.size.bytes()),
                (number, more, size)
            );
            assert_eq!(uint(bytes), Some(block.value()));
        }
    }

    #[test]
    fn block_number_4096_is_not_block_0() {
        let block = Block::at(4096 * 1024, true, BlockSize::at_most(1024)).unwrap();
        assert_eq!(block.number, 4096);
        assert_eq!(block.value(), 0x1_000e);
    }

    #[test]
    fn the_reserved_size_and_four_bytes_are_refused() {
        assert_eq!(Block::parse(&[0x07]), Some(Err(ReservedSize)));
        assert_eq!(Block::parse(&[0, 0, 0, 0]), None);
    }

    #[test]
    fn an_offset_beyond_20_bits_or_between_blocks_has_no_number() {
        assert_eq!(Block::at(NUMBERS * 16, false, BlockSize::at_most(16)), None);
        assert_eq!(Block::at(24, false, BlockSize::at_most(16)), None);
    }

    #[test]
    fn a_body_is_cut_into_full_blocks_and_a_rest() {
        let body = [7; 40];
        let size = BlockSize::at_most(31);
        let pieces: Vec<_> = (0..4)
            .map(|number| Block::cut(&body, number * 16, size).map(|(b, p)| (b.more, p.len())))
            .collect();
        assert_eq!(
            pieces,
            [Some((true, 16)), Some((true, 16)), Some((false, 8)), None]
        );
    }
}
