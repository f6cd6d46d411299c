//! The CoAP message layer: exchanges, retransmission, deduplication, observe and block-wise
//! transfer (RFC 7252, RFC 7641, RFC 7959), both roles on one socket, without IO.
//!
//! [`endpoint::Endpoint`] is all there is to use. Bytes go in by
//! [`receive`](endpoint::Endpoint::receive), time by [`timeout`](endpoint::Endpoint::timeout);
//! datagrams and events come out of [`poll`](endpoint::Endpoint::poll). Requests and responses
//! cross its border whole: blocks, repetitions and message types stay inside.

mod answering;
mod asking;
mod block;
mod dedup;
pub mod endpoint;
mod exchange;
mod link;
mod message;
mod notifying;
mod observe;
mod observing;
mod option;
#[cfg(test)]
mod rig;
mod standing;
#[cfg(test)]
mod tests;
mod transfer;
pub mod types;

pub use endpoint::{
    Cancel, Counters, Endpoint, Event, ExchangeId, Failure, IncomingId, Limits, ObservationId,
    Output, Overload, Parameters, Position, Receipt,
};
pub use standing::Standing;
pub use types::{Code, Observe, Peer, Request, Response, Token};
