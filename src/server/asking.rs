//! Operations under way and observations: requests to the devices, and what comes back.

use super::operation::{decode_values, read_response};
use super::*;

impl Server {
    /// Sends the first operation that waits for a device, unless one is under way.
    pub(super) fn start_next(&mut self, now: Now, device: DeviceId) {
        while let Some(registration) = self.registration_mut(device) {
            if registration.running.is_some() {
                return;
            }
            let Some(Queued { id, operation }) = registration.queue.pop_front() else {
                return;
            };
            self.emit(Event::Started(id));
            self.send(
                now,
                Running {
                    id,
                    device,
                    operation,
                    attempt: 0,
                    format: None,
                },
            );
        }
    }

    /// Sends one attempt of an operation, or ends it when it cannot be sent.
    fn send(&mut self, now: Now, mut running: Running) {
        let sent = match &running.operation {
            Operation::CancelObserve(path) => self.send_cancel(now, running.device, *path),
            _ => self.send_request(now, &mut running),
        };
        match sent {
            Ok(exchange) => {
                if let Some(registration) = self.registration_mut(running.device) {
                    registration.running = Some(exchange);
                }
                self.running.insert(exchange, running);
            }
            Err(error) => self.complete(running.id, running.device, running.operation, Err(error)),
        }
    }

    fn send_request(
        &mut self,
        now: Now,
        running: &mut Running,
    ) -> Result<ExchangeId, OperationError> {
        let registration = self
            .registration(running.device)
            .ok_or(OperationError::Unregistered)?;
        let peer = registration.peer;
        let types = registration.types(&self.models);
        if running.operation.has_format() {
            running.format = registration
                .formats
                .attempt(running.attempt, running.operation.is_single(&types));
        }
        let context = Context {
            base: *running.operation.path(),
            alternate: registration.objects.alternate.as_deref(),
            now: now.unix,
            types: &types,
        };
        let request = running
            .operation
            .to_request(running.format, &context)
            .map_err(|error| OperationError::Unencodable(error.to_string()))?;
        self.endpoint
            .request(now.instant, peer, request)
            .map_err(|_| OperationError::QueueFull)
    }

    /// The cancelling request repeats the observation's token, so the message layer builds it.
    fn send_cancel(
        &mut self,
        now: Now,
        device: DeviceId,
        path: Path,
    ) -> Result<ExchangeId, OperationError> {
        let observation = self
            .forget_observation(device, path)
            .ok_or(OperationError::NotObserved(path))?;
        self.endpoint
            .cancel(now.instant, observation, Cancel::Request)
            .ok_or(OperationError::NotObserved(path))
    }

    /// Takes an observation out of the books.
    fn forget_observation(&mut self, device: DeviceId, path: Path) -> Option<ObservationId> {
        let observations = &mut self.registration_mut(device)?.observations;
        let index = observations
            .iter()
            .position(|(observed, _)| *observed == path)?;
        let (_, observation) = observations.swap_remove(index);
        self.observations.remove(&observation);
        Some(observation)
    }

    pub(super) fn on_response(
        &mut self,
        now: Now,
        exchange: ExchangeId,
        result: Result<Response, Failure>,
    ) {
        let Some(result) = self.on_bootstrap_response(now, exchange, result) else {
            return;
        };
        // Exchanges of a registration that ended are not in the books any more.
        let Some(mut running) = self.running.remove(&exchange) else {
            return;
        };
        let device = running.device;
        if let Some(registration) = self.registration_mut(device) {
            registration.running = None;
        }
        if let Ok(response) = &result
            && self.next_format(&mut running, response)
        {
            self.send(now, running);
        } else {
            let result = result
                .map_err(OperationError::from)
                .and_then(|response| self.read(now, exchange, &running, &response));
            self.complete(running.id, device, running.operation, result);
        }
        self.start_next(now, device);
    }

    /// Whether the device declined the format and another one is left to try.
    fn next_format(&self, running: &mut Running, response: &Response) -> bool {
        let declined = matches!(
            response.code,
            Code::NOT_ACCEPTABLE | Code::UNSUPPORTED_CONTENT_FORMAT
        );
        let next = running.attempt + 1;
        let left = self.registration(running.device).and_then(|registration| {
            let single = running
                .operation
                .is_single(&registration.types(&self.models));
            registration.formats.attempt(next, single)
        });
        running.attempt = next;
        declined && running.operation.has_format() && left.is_some()
    }

    fn read(
        &mut self,
        now: Now,
        exchange: ExchangeId,
        running: &Running,
        response: &Response,
    ) -> Result<Answer, OperationError> {
        let registration = self
            .registration(running.device)
            .ok_or(OperationError::Unregistered)?;
        let types = registration.types(&self.models);
        let context = Context {
            base: *running.operation.path(),
            alternate: registration.objects.alternate.as_deref(),
            now: now.unix,
            types: &types,
        };
        let answer = read_response(&running.operation, response, &context);
        let single = running.operation.is_single(&types);
        if let (true, Some(format)) = (response.code.is_success(), running.format)
            && let Some(registration) = self.registration_mut(running.device)
        {
            registration.formats.worked(format, single);
        }
        if matches!(running.operation, Operation::Observe(_))
            && response.code.is_success()
            && response.observe.is_some()
        {
            self.begin_observation(now, running.device, *running.operation.path(), exchange);
        }
        answer
    }

    /// Enters an observation in the books. One of the same node that stood before is forgotten:
    /// its next notification is reset, and the device drops it.
    fn begin_observation(
        &mut self,
        now: Now,
        device: DeviceId,
        path: Path,
        observation: ObservationId,
    ) {
        if let Some(previous) = self.forget_observation(device, path) {
            self.endpoint.cancel(now.instant, previous, Cancel::Forget);
        }
        self.observations.insert(observation, (device, path));
        if let Some(registration) = self.registration_mut(device) {
            registration.observations.push((path, observation));
        }
    }

    pub(super) fn on_notification(
        &mut self,
        now: Now,
        observation: ObservationId,
        response: &Response,
        Order { ended, overtaken }: Order,
        receipt: Option<Receipt>,
    ) {
        let Some((device, path)) = self.observations.get(&observation).copied() else {
            return;
        };
        if response.code.is_success() {
            match self.decode(now, device, path, response) {
                Ok((records, problems)) => self.emit(Event::Notified {
                    device,
                    path,
                    records,
                    problems,
                    overtaken,
                    receipt,
                }),
                Err(error) => {
                    self.emit(Event::Undecodable {
                        device,
                        path,
                        error,
                    });
                    self.acknowledge_now(receipt);
                }
            }
        } else {
            self.acknowledge_now(receipt);
        }
        if ended {
            self.forget_observation(device, path);
            self.emit(Event::ObservationEnded {
                device,
                path,
                code: response.code,
            });
        }
    }

    fn acknowledge_now(&mut self, receipt: Option<Receipt>) {
        if let Some(receipt) = receipt {
            self.endpoint.acknowledge(receipt);
        }
    }

    fn decode(
        &self,
        now: Now,
        device: DeviceId,
        path: Path,
        response: &Response,
    ) -> Result<(Vec<Record>, Vec<Problem>), OperationError> {
        let registration = self
            .registration(device)
            .ok_or(OperationError::Unregistered)?;
        let types = registration.types(&self.models);
        let context = Context {
            base: path,
            alternate: registration.objects.alternate.as_deref(),
            now: now.unix,
            types: &types,
        };
        let mut records = Vec::new();
        let problems = decode_values(response, &context, &mut records)?;
        Ok((records, problems))
    }
}
