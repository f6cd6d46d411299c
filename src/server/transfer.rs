//! Long bodies: sent to a device beside its operations, and offered for devices to fetch.

use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;

use super::operation::segments;
use super::*;

/// The first segment of what is offered.
pub(super) const FILES_PATH: &str = "fw";

/// What is under way.
pub(super) struct Transfers {
    uploads: KeyedMap<ExchangeId, (OperationId, DeviceId)>,
    offers: KeyedMap<Arc<str>, Offer>,
}

impl Transfers {
    pub(super) fn new(rng: &mut impl Rng) -> Self {
        Self {
            uploads: keyed::map(rng),
            offers: keyed::map(rng),
        }
    }
}

/// A file that one device may fetch at `/fw/TOKEN` (LwM2M Core 1.1, appendix E.6: Pull).
#[derive(Clone, Debug)]
pub struct Offer {
    /// For whom it is.
    pub device: DeviceId,
    /// Whether it is served in a secure session of that device alone. Otherwise whoever knows the
    /// token has it.
    pub secure: bool,
    /// The content.
    pub body: Bytes,
    /// What tells this content from any other.
    pub etag: u64,
}

impl Server {
    /// Writes a body to a resource by PUT as opaque bytes, from a position on that an earlier
    /// attempt came to. Operations for the same device go on meanwhile. [`Event::UploadEnded`]
    /// tells the end; a second upload to a device is refused there.
    pub fn upload(
        &mut self,
        now: Now,
        device: DeviceId,
        path: Path,
        body: Bytes,
        from: Position,
    ) -> OperationId {
        self.operations += 1;
        let operation = OperationId(self.operations);
        match self.begin_upload(now, device, path, body, from) {
            Ok(exchange) => {
                let entry = (operation, device);
                self.transfers.uploads.insert(exchange, entry);
                self.pump(now);
            }
            Err(error) => self.emit(Event::UploadEnded {
                operation,
                device,
                result: Err(error),
            }),
        }
        operation
    }

    fn begin_upload(
        &mut self,
        now: Now,
        device: DeviceId,
        path: Path,
        body: Bytes,
        from: Position,
    ) -> Result<ExchangeId, OperationError> {
        let registration = self
            .registration(device)
            .ok_or(OperationError::Unregistered)?;
        if registration.upload.is_some() {
            return Err(OperationError::QueueFull);
        }
        let peer = registration.peer;
        let alternate = registration.objects.alternate.as_deref();
        let request = Request {
            content_format: Some(ContentFormat::OPAQUE.0),
            ..Request::new(Code::PUT, segments(alternate, &path))
        };
        let exchange = self
            .endpoint
            .upload(now.instant, peer, request, body, from)
            .map_err(|_| OperationError::QueueFull)?;
        if let Some(registration) = self.registration_mut(device) {
            registration.upload = Some(exchange);
        }
        Ok(exchange)
    }

    /// Gives up what is being uploaded to a device, if anything is.
    pub fn abandon_upload(&mut self, now: Now, device: DeviceId) {
        let upload = self
            .registration_mut(device)
            .and_then(|registration| registration.upload);
        if let Some(exchange) = upload {
            self.endpoint.abandon(exchange);
            self.pump(now);
        }
    }

    /// Ends the upload of a registration that ended.
    pub(super) fn end_upload(&mut self, device: DeviceId, upload: Option<ExchangeId>) {
        let Some(exchange) = upload else {
            return;
        };
        self.endpoint.abandon(exchange);
        if let Some((operation, _)) = self.transfers.uploads.remove(&exchange) {
            self.emit(Event::UploadEnded {
                operation,
                device,
                result: Err(OperationError::Unregistered),
            });
        }
    }

    pub(super) fn on_upload_progress(&mut self, exchange: ExchangeId, position: Position) {
        if let Some(&(operation, device)) = self.transfers.uploads.get(&exchange) {
            self.emit(Event::UploadProgress {
                operation,
                device,
                position,
            });
        }
    }

    /// The end of an upload; gives back what is the end of something else.
    pub(super) fn on_upload_response(
        &mut self,
        exchange: ExchangeId,
        result: Result<Response, Failure>,
    ) -> Option<Result<Response, Failure>> {
        let Some((operation, device)) = self.transfers.uploads.remove(&exchange) else {
            return Some(result);
        };
        if let Some(registration) = self.registration_mut(device) {
            registration.upload = None;
        }
        if matches!(result, Err(Failure::Timeout)) {
            self.put_to_sleep(device);
        }
        let result = match result {
            Ok(response) if response.code.is_success() => Ok(()),
            Ok(response) => Err(OperationError::from_response(&response)),
            Err(failure) => Err(failure.into()),
        };
        self.emit(Event::UploadEnded {
            operation,
            device,
            result,
        });
        None
    }

    /// Serves a file at `/fw/TOKEN` from now on. The token must not be to be guessed.
    pub fn offer(&mut self, token: Arc<str>, offer: Offer) {
        self.transfers.offers.insert(token, offer);
    }

    /// Serves it no more.
    pub fn withdraw_offer(&mut self, token: &str) {
        self.transfers.offers.remove(token);
    }

    pub(super) fn on_fetch(
        &mut self,
        now: Now,
        peer: Peer,
        incoming: IncomingId,
        method: Code,
        token: &str,
    ) {
        let offer = self.transfers.offers.get(token);
        let Some(offer) = offer.filter(|offer| self.may_fetch(peer, offer)).cloned() else {
            let response = Response::new(Code::NOT_FOUND);
            return self.endpoint.respond(now.instant, incoming, response);
        };
        if method != Code::GET {
            let response = Response::new(Code::METHOD_NOT_ALLOWED);
            return self.endpoint.respond(now.instant, incoming, response);
        }
        let response = Response {
            content_format: Some(ContentFormat::OPAQUE.0),
            ..Response::new(Code::CONTENT)
        };
        let (body, etag) = (&offer.body, offer.etag);
        let sent = self
            .endpoint
            .respond_with(now.instant, incoming, &response, body, etag);
        if let Some(bytes) = sent {
            self.emit(Event::Fetched {
                device: offer.device,
                bytes,
            });
        }
    }

    /// Whether it is the device itself that asks, as far as that can be known.
    fn may_fetch(&self, peer: Peer, offer: &Offer) -> bool {
        let Some(registration) = self.registration(offer.device) else {
            return false;
        };
        match (self.identity(peer), offer.secure) {
            // It may have another session for its downloads.
            (Some(identity), _) => {
                registration.identity.as_ref() == Some(identity) || !offer.secure
            }
            (None, secure) => !secure,
        }
    }
}
