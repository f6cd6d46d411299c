//! What an endpoint does, by subject.

mod blocks_answering;
mod blocks_asking;
mod blocks_notified;
mod hostile;
mod lossy;
mod notifying;
mod observing;
mod requests;
mod responses;
mod standing;

use crate::coap::block::{Block, BlockSize};

/// A block option; `size` in bytes.
fn block(number: u32, more: bool, size: usize) -> Option<Block> {
    Some(Block {
        number,
        more,
        size: BlockSize::at_most(size),
    })
}

/// A body of which no two blocks are equal.
fn body(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at * 7 + at / 16 * 5 + at / 1024) as u8)
        .collect()
}
