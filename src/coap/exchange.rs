//! One of our requests, from its first message to the end of its response (RFC 7252 §5.3.2, and
//! RFC 7959 §2 as the asking side).

use std::time::Duration;

use bytes::Bytes;

use crate::coap::block::{Block, BlockSize};
use crate::coap::endpoint::{ExchangeId, Failure, ObservationId, Position, Receipt};
use crate::coap::message::{Kind, Message};
use crate::coap::option::{Options, Tag};
use crate::coap::transfer::Budget;
use crate::coap::types::{Code, Observe, Request, Response, Token};

/// How often the blocks of a response are fetched from the start again because its ETag changed.
const RESTARTS: u8 = 3;

/// A request of ours that is not finished.
pub(super) struct Exchange {
    pub(super) id: ExchangeId,
    pub(super) token: Token,
    /// Its payload is in `body`.
    pub(super) request: Request,
    pub(super) body: Bytes,
    pub(super) purpose: Purpose,
    pub(super) phase: Phase,
    upload: Option<Upload>,
    download: Option<Download>,
}

/// What an exchange is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The layer above asked.
    Request,
    /// The layer above asked, and wants to know of each block: see [`Endpoint::upload`].
    ///
    /// [`Endpoint::upload`]: crate::coap::Endpoint::upload
    Upload,
    /// It asks to end an observation, under the token of that observation.
    Cancel,
    /// An Empty message, in the hope of a Reset.
    Ping,
    /// It fetches the blocks of a notification from the second on (RFC 7959 §2.6).
    Rest {
        observation: ObservationId,
        receipt: Option<Receipt>,
        /// The notification was the last.
        ended: bool,
    },
}

/// Where the message under way is.
pub(super) enum Phase {
    /// Behind NSTART.
    Queued,
    /// Sent, not acknowledged.
    Sent(Transmission),
    /// Acknowledged by an empty ACK: the response will be a separate one.
    Acknowledged,
}

/// A confirmable message that waits for its ACK (RFC 7252 §4.2).
pub(super) struct Transmission {
    pub(super) message_id: u16,
    pub(super) datagram: Vec<u8>,
    pub(super) retransmissions: u8,
    /// A retransmission was due while the peer did not listen.
    pub(super) withheld: bool,
    /// How long to wait from the last transmission on.
    pub(super) timeout: Duration,
}

impl Transmission {
    /// Counts one more retransmission and returns the wait after it, twice the one before (RFC 7252
    /// §4.2). `None` when there have been enough.
    pub(super) fn repeat(&mut self, most: u8) -> Option<Duration> {
        if self.retransmissions >= most {
            return None;
        }
        self.retransmissions += 1;
        self.timeout *= 2;
        Some(self.timeout)
    }
}

/// A request body that goes out by Block1.
struct Upload {
    offset: usize,
    size: BlockSize,
    /// The whole was begun anew after 4.08.
    restarted: bool,
}

/// A response body that comes in by Block2.
struct Download {
    /// The first block's response, its payload growing.
    response: Response,
    etag: Option<Tag>,
    size: BlockSize,
    restarts: u8,
}

/// What follows from a response.
pub(super) enum Step {
    /// Send [`Exchange::message`] next.
    Next,
    /// Nothing: it repeats what was there.
    Repetition,
    /// The exchange is over.
    Done(Result<Response, Failure>),
}

impl Exchange {
    /// An exchange that has sent nothing yet. A body larger than `block` will go out in blocks.
    pub(super) fn new(
        id: ExchangeId,
        token: Token,
        mut request: Request,
        purpose: Purpose,
        block: BlockSize,
    ) -> Self {
        let body = Bytes::from(std::mem::take(&mut request.payload));
        let upload = (body.len() > block.bytes()).then_some(Upload {
            offset: 0,
            size: block,
            restarted: false,
        });
        Self {
            id,
            token,
            request,
            body,
            purpose,
            phase: Phase::Queued,
            upload,
            download: None,
        }
    }

    /// The same with a body that others hold, too, sent from a block on that is not the first.
    pub(super) fn with_body(mut self, body: Bytes, from: Position) -> Self {
        let size = BlockSize::at_most(from.block_size.into());
        let goes_on = from.offset > 0 && from.offset < body.len();
        let offset = if goes_on && Block::at(from.offset, true, size).is_some() {
            from.offset
        } else {
            0
        };
        self.upload = (offset > 0 || body.len() > size.bytes()).then_some(Upload {
            offset,
            size,
            restarted: false,
        });
        self.body = body;
        self
    }

    /// How far the body has come; `None` when it goes in one message.
    pub(super) fn position(&self) -> Option<Position> {
        let upload = self.upload.as_ref()?;
        Some(Position {
            offset: upload.offset,
            block_size: upload.size.bytes() as u16,
        })
    }

    /// Whether nothing was sent yet.
    pub(super) fn is_queued(&self) -> bool {
        matches!(self.phase, Phase::Queued)
    }

    /// Whether this exchange, if it is answered so, begins an observation.
    pub(super) fn asks_to_observe(&self) -> bool {
        self.request.observe == Some(Observe::Register) && self.download.is_none()
    }

    /// The message to send now.
    pub(super) fn message(&self, id: u16) -> Message {
        let mut message = Message {
            kind: Kind::Confirmable,
            code: self.request.method,
            id,
            token: self.token,
            options: Options::of_request(&self.request),
            payload: Vec::new(),
        };
        let body = &self.body;
        if let Some(download) = &self.download {
            let offset = download.response.payload.len();
            message.options.block2 = Block::at(offset, false, download.size);
            // Only the first block speaks of observing (RFC 7959 §2.6).
            message.options.observe = None;
            // A FETCH of one message repeats its body, for peers that keep nothing between blocks.
            if self.request.method == Code::FETCH && self.upload.is_none() {
                message.payload = body.to_vec();
            } else {
                message.options.content_format = None;
            }
        } else if let Some(upload) = &self.upload {
            let cut = Block::cut(body, upload.offset, upload.size);
            if let Some((block, payload)) = cut {
                message.options.block1 = Some(block);
                message.payload = payload.to_vec();
                if block.number == 0 {
                    message.options.size1 = u32::try_from(body.len()).ok();
                }
            }
        } else {
            message.payload = body.to_vec();
        }
        message
    }

    /// Takes in a response to [`message`](Self::message).
    pub(super) fn advance(&mut self, response: Message, budget: &mut Budget) -> Step {
        if self.download.is_none()
            && let Some(step) = self.advance_upload(&response)
        {
            return step;
        }
        self.advance_download(response, budget)
    }

    /// What a response means for the request body; `None` when the body is through.
    fn advance_upload(&mut self, response: &Message) -> Option<Step> {
        const FAILED: Step = Step::Done(Err(Failure::Blockwise));
        let echoed = response.options.block1;
        let body = self.body.len();
        if response.code == Code::REQUEST_ENTITY_TOO_LARGE {
            // A hint to try again with smaller blocks (RFC 7959 §2.9.3).
            let size = echoed?.size;
            let before = match &self.upload {
                Some(upload) => upload.size.bytes(),
                None => body,
            };
            if size.bytes() >= before {
                return None;
            }
            self.upload = Some(Upload {
                offset: 0,
                size,
                restarted: false,
            });
            return Some(Step::Next);
        }
        let upload = self.upload.as_mut()?;
        let sent = upload.size.bytes().min(body - upload.offset);
        let is_last = upload.offset + sent >= body;
        let goes_on = response.code == Code::CONTINUE
            // A server that takes each block for itself answers each (RFC 7959 §2.3).
            || response.code.is_success() && !is_last && echoed.is_some();
        if goes_on {
            let Some(echoed) = echoed else {
                return Some(FAILED);
            };
            let sent_number = upload.offset / upload.size.bytes();
            let number = echoed.number as usize;
            if number != sent_number && echoed.offset() != upload.offset {
                return Some(if number < sent_number {
                    Step::Repetition
                } else {
                    FAILED
                });
            }
            if is_last {
                return Some(FAILED);
            }
            upload.offset += sent;
            // The number follows from the offset, so a smaller size goes on where this one was
            // (RFC 7959 §2.3).
            upload.size = upload.size.min(echoed.size);
            if Block::at(upload.offset, true, upload.size).is_none() {
                return Some(FAILED);
            }
            return Some(Step::Next);
        }
        if response.code == Code::REQUEST_ENTITY_INCOMPLETE && !upload.restarted {
            upload.offset = 0;
            upload.restarted = true;
            return Some(Step::Next);
        }
        None
    }

    fn advance_download(&mut self, message: Message, budget: &mut Budget) -> Step {
        const FAILED: Step = Step::Done(Err(Failure::Blockwise));
        let block = message.options.block2.filter(|_| message.code.is_success());
        let Some(block) = block else {
            // Whole, or an error.
            return Step::Done(Ok(message
                .options
                .into_response(message.code, message.payload)));
        };
        let etag = message.options.etag;
        let announced = message.options.size2.unwrap_or(0) as usize;
        if !block.fits(message.payload.len()) || announced > budget.body {
            return FAILED;
        }
        let Some(mut download) = self.download.take() else {
            let response = message.options.into_response(message.code, message.payload);
            return match (block.number, block.more) {
                (0, false) => Step::Done(Ok(response)),
                (0, true) => self.begin_download(response, etag, block.size, budget),
                _ => FAILED,
            };
        };
        let progress = download.take(block, etag, &message.payload, budget);
        let held = download.response.payload.len();
        match progress {
            Progress::More => {
                self.download = Some(download);
                Step::Next
            }
            Progress::Repetition => {
                self.download = Some(download);
                Step::Repetition
            }
            Progress::Failed => {
                budget.end(held);
                FAILED
            }
            Progress::Whole => {
                budget.end(held);
                Step::Done(Ok(download.response))
            }
        }
    }

    /// Takes a notification for the first block of the response, whatever there was.
    pub(super) fn begin_again(&mut self, notification: Message, budget: &mut Budget) -> Step {
        self.release(budget);
        self.advance_download(notification, budget)
    }

    fn begin_download(
        &mut self,
        first: Response,
        etag: Option<Tag>,
        size: BlockSize,
        budget: &mut Budget,
    ) -> Step {
        if first.payload.len() > budget.body || !budget.begin(first.payload.len()) {
            return Step::Done(Err(Failure::Blockwise));
        }
        self.download = Some(Download {
            response: first,
            etag,
            size,
            restarts: 0,
        });
        Step::Next
    }

    /// Gives back the room that the exchange holds.
    pub(super) fn release(&mut self, budget: &mut Budget) {
        if let Some(download) = self.download.take() {
            budget.end(download.response.payload.len());
        }
    }
}

/// What a further block makes of a download.
enum Progress {
    More,
    Repetition,
    Failed,
    Whole,
}

impl Download {
    fn take(
        &mut self,
        block: Block,
        etag: Option<Tag>,
        payload: &[u8],
        budget: &mut Budget,
    ) -> Progress {
        let body = &mut self.response.payload;
        if etag != self.etag && !body.is_empty() {
            // The representation changed under our hands (RFC 7959 §2.4).
            if self.restarts == RESTARTS {
                return Progress::Failed;
            }
            self.restarts += 1;
            budget.shrink(body.len());
            body.clear();
            if block.number != 0 {
                return Progress::More;
            }
        }
        if block.offset() < body.len() {
            return Progress::Repetition;
        }
        let whole = body.len() + payload.len();
        if block.offset() > body.len() || whole > budget.body || !budget.grow(payload.len()) {
            return Progress::Failed;
        }
        if body.is_empty() {
            self.etag = etag;
        }
        body.extend_from_slice(payload);
        self.size = block.size;
        if !block.more {
            Progress::Whole
        } else if Block::at(whole, false, block.size).is_some() {
            Progress::More
        } else {
            Progress::Failed
        }
    }
}
