//! Bodies that peers send us in blocks, and bodies that they fetch from us in blocks.
//!
//! A transfer is known by the peer and what the request is about, never by its token, which may
//! change from block to block.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::time::Duration;

use crate::coap::block::{Block, BlockSize};
use crate::coap::endpoint::Limits;
use crate::coap::option::{Options, Tag};
use crate::coap::types::{Code, Peer, Response};
use crate::keyed::HashKey;
use crate::time::Instant;

/// A transfer that is not touched for this long is dropped: MAX_TRANSMIT_WAIT, after which no
/// repetition of a block can follow.
pub(super) const IDLE: Duration = Duration::from_secs(93);

/// Request bodies of one peer that may arrive at a time: one stranger shall not take all the room.
const UPLOADS_PER_PEER: usize = 8;

/// What a request is about: a digest of its method, path, query and Accept, keyed so that peers
/// cannot prepare two of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject(u64);

impl Subject {
    const FIRST: Self = Self(0);

    pub(super) fn of(key: HashKey, method: Code, options: &Options) -> Self {
        let mut hasher = key.build_hasher();
        method.hash(&mut hasher);
        options.uri_path.hash(&mut hasher);
        options.uri_query.hash(&mut hasher);
        options.accept.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// How much room block-wise transfers may take, all together.
pub(super) struct Budget {
    transfers: usize,
    bytes: usize,
    most_transfers: usize,
    most_bytes: usize,
    /// The largest body.
    pub(super) body: usize,
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            transfers: 0,
            bytes: 0,
            most_transfers: limits.transfers,
            most_bytes: limits.transfer_bytes,
            body: limits.body,
        }
    }

    /// Takes room for one more transfer that begins with so many bytes; says whether there was.
    pub(super) fn begin(&mut self, bytes: usize) -> bool {
        let room = self.transfers < self.most_transfers && self.bytes + bytes <= self.most_bytes;
        if room {
            self.transfers += 1;
            self.bytes += bytes;
        }
        room
    }

    /// Takes room for more bytes of a transfer; says whether there was.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let room = self.bytes + bytes <= self.most_bytes;
        if room {
            self.bytes += bytes;
        }
        room
    }

    /// Gives back the bytes of a transfer that starts again.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// Gives back the room of one transfer.
    pub(super) fn end(&mut self, bytes: usize) {
        self.transfers -= 1;
        self.bytes -= bytes;
    }

    /// Transfers and bytes in use.
    #[cfg(test)]
    pub(super) fn used(&self) -> (usize, usize) {
        (self.transfers, self.bytes)
    }
}

/// The transfers of all peers in which we answer.
pub(super) struct Transfers {
    uploads: BTreeMap<UploadKey, Upload>,
    representations: BTreeMap<(Peer, Subject), Representation>,
    etag_key: HashKey,
}

/// The last part is the Request-Tag (RFC 9175 §3.3).
type UploadKey = (Peer, Subject, Vec<Tag>);

/// A request body that arrives by Block1.
struct Upload {
    options: Options,
    body: Vec<u8>,
    /// The room it takes: body, and the text of the options.
    held: usize,
    /// Where the last block began, to know its repetition.
    last: usize,
    touched: Instant,
}

/// What becomes of one block of a request body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Ask for the next: 2.31.
    Next,
    /// The request is whole: the options of its first block, and its body.
    Whole(Options, Vec<u8>),
    /// A block before it is missing: 4.08.
    Gap,
    /// Not as long as it has to be: 4.00.
    WrongLength,
    /// The body is larger than we take: 4.13.
    TooLarge,
    /// No room for another transfer now: 5.03.
    NoRoom,
}

/// A response body that is fetched by Block2.
struct Representation {
    response: Response,
    etag: Tag,
    touched: Instant,
}

/// What one message says in answer: a response, or one block of it.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: Code,
    pub(super) options: Options,
    pub(super) payload: Vec<u8>,
}

impl Reply {
    /// A reply with nothing but a code.
    pub(super) fn new(code: Code) -> Self {
        Self {
            code,
            options: Options::default(),
            payload: Vec::new(),
        }
    }
}

impl Transfers {
    pub(super) fn new(etag_key: HashKey) -> Self {
        Self {
            uploads: BTreeMap::new(),
            representations: BTreeMap::new(),
            etag_key,
        }
    }

    /// Takes in one block of a request body (RFC 7959 §2.5).
    pub(super) fn take(
        &mut self,
        now: Instant,
        (peer, subject): (Peer, Subject),
        block: Block,
        options: Options,
        payload: Vec<u8>,
        budget: &mut Budget,
    ) -> Taken {
        let key = (peer, subject, options.request_tag.clone());
        if !block.fits(payload.len()) {
            return Taken::WrongLength;
        }
        if block.number == 0 {
            return self.begin(now, key, block, options, payload, budget);
        }
        let Some(upload) = self.uploads.get_mut(&key) else {
            return Taken::Gap;
        };
        upload.touched = now;
        if block.offset() == upload.last && block.more {
            // The same block once more, under another Message ID.
            return Taken::Next;
        }
        let taken = if block.offset() != upload.body.len() {
            Taken::Gap
        } else if upload.body.len() + payload.len() > budget.body {
            Taken::TooLarge
        } else if !budget.grow(payload.len()) {
            Taken::NoRoom
        } else {
            upload.last = upload.body.len();
            upload.held += payload.len();
            upload.body.extend_from_slice(&payload);
            if block.more {
                return Taken::Next;
            }
            let options = std::mem::take(&mut upload.options);
            Taken::Whole(options, std::mem::take(&mut upload.body))
        };
        self.drop_upload(&key, budget);
        taken
    }

    /// The first block begins anew, whatever there was.
    fn begin(
        &mut self,
        now: Instant,
        key: UploadKey,
        block: Block,
        options: Options,
        payload: Vec<u8>,
        budget: &mut Budget,
    ) -> Taken {
        self.drop_upload(&key, budget);
        let announced = options.size1.unwrap_or(0) as usize;
        if announced.max(payload.len()) > budget.body {
            return Taken::TooLarge;
        }
        if !block.more {
            return Taken::Whole(options, payload);
        }
        let of_peer = self
            .uploads
            .range((key.0, Subject::FIRST, Vec::new())..)
            .take_while(|((peer, ..), _)| *peer == key.0)
            .count();
        let held = payload.len() + options.weight();
        if of_peer >= UPLOADS_PER_PEER || !budget.begin(held) {
            return Taken::NoRoom;
        }
        self.uploads.insert(
            key,
            Upload {
                options,
                body: payload,
                held,
                last: 0,
                touched: now,
            },
        );
        Taken::Next
    }

    fn drop_upload(&mut self, key: &UploadKey, budget: &mut Budget) {
        if let Some(upload) = self.uploads.remove(key) {
            budget.end(upload.held);
        }
    }

    /// Cuts one block out of a response that is too large for a message, and keeps the response for
    /// the requests for the others, if there is room (RFC 7959 §2.4). `None` when the response has
    /// no such block.
    pub(super) fn keep(
        &mut self,
        now: Instant,
        key: (Peer, Subject),
        response: Response,
        offset: usize,
        size: BlockSize,
        budget: &mut Budget,
    ) -> Option<Reply> {
        self.drop_representation(key, budget);
        let etag = self.etag_key.hash_one(&response.payload);
        let representation = Representation {
            etag: Tag::new(&etag.to_be_bytes())?,
            response,
            touched: now,
        };
        let piece = representation.cut(offset, size)?;
        if budget.begin(representation.response.payload.len()) {
            self.representations.insert(key, representation);
        }
        Some(piece)
    }

    /// A further block of a response that was kept. `None` when none is kept; `Some(None)` when it
    /// has no such block.
    pub(super) fn further(
        &mut self,
        now: Instant,
        key: (Peer, Subject),
        offset: usize,
        size: BlockSize,
    ) -> Option<Option<Reply>> {
        let representation = self.representations.get_mut(&key)?;
        representation.touched = now;
        Some(representation.cut(offset, size))
    }

    /// Drops the response kept under `key`: a newer one took its place.
    pub(super) fn drop_representation(&mut self, key: (Peer, Subject), budget: &mut Budget) {
        if let Some(stale) = self.representations.remove(&key) {
            budget.end(stale.response.payload.len());
        }
    }

    /// Drops all transfers of a peer.
    pub(super) fn forget_peer(&mut self, peer: Peer, budget: &mut Budget) {
        let uploads = self.uploads.range((peer, Subject::FIRST, Vec::new())..);
        let uploads: Vec<_> = uploads
            .map(|(key, _)| key.clone())
            .take_while(|key| key.0 == peer)
            .collect();
        for key in uploads {
            self.drop_upload(&key, budget);
        }
        let kept = self.representations.range((peer, Subject::FIRST)..);
        let kept: Vec<_> = kept
            .map(|(key, _)| *key)
            .take_while(|key| key.0 == peer)
            .collect();
        for key in kept {
            self.drop_representation(key, budget);
        }
    }

    /// Drops what was idle too long, and says how many uploads were.
    pub(super) fn expire(&mut self, now: Instant, budget: &mut Budget) -> u64 {
        let mut expired = 0;
        self.uploads.retain(|_, upload| {
            let keep = upload.touched + IDLE > now;
            if !keep {
                budget.end(upload.held);
                expired += 1;
            }
            keep
        });
        self.representations.retain(|_, representation| {
            let keep = representation.touched + IDLE > now;
            if !keep {
                budget.end(representation.response.payload.len());
            }
            keep
        });
        expired
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.uploads.is_empty() && self.representations.is_empty()
    }
}

impl Representation {
    fn cut(&self, offset: usize, size: BlockSize) -> Option<Reply> {
        let (block, payload) = Block::cut(&self.response.payload, offset, size)?;
        let mut options = Options::of_response(&self.response);
        options.block2 = Some(block);
        options.etag = Some(self.etag);
        if block.number == 0 {
            options.size2 = u32::try_from(self.response.payload.len()).ok();
        }
        Some(Reply {
            code: self.response.code,
            options,
            payload: payload.to_vec(),
        })
    }
}
