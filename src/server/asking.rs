//! Operations under way and observations: requests to the devices, and what comes back.

use super::answer::{decode_values, read_response};
use super::single::After;
use super::*;
use crate::kept::Urgency;

impl Server {
    /// Sends the first operation that waits for a device, unless one is under way.
    pub(super) fn start_next(&mut self, now: Now, device: DeviceId) {
        while let Some(registration) = self.registration_mut(device) {
            if registration.running.is_some() || !registration.listens(now) {
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
                    asked: operation,
                    single: None,
                    attempt: 0,
                    formats: None,
                    chosen: None,
                },
            );
        }
    }

    /// Sends one attempt of an operation, or ends it when it cannot be sent.
    fn send(&mut self, now: Now, mut running: Running) {
        if running.single.is_none() && self.is_done_singly(&running) {
            running.single = Single::of(&running.asked);
        }
        let sent = match running.step() {
            Operation::CancelObserve(target) => self.send_cancel(now, running.device, target),
            _ => self.send_request(now, &mut running),
        };
        match sent {
            Ok(exchange) => {
                if let Some(registration) = self.registration_mut(running.device) {
                    registration.running = Some(exchange);
                }
                self.running.insert(exchange, running);
            }
            Err(error) => self.proceed(now, running, Err(error)),
        }
    }

    /// Whether a composite operation is to be done one node at a time.
    fn is_done_singly(&self, running: &Running) -> bool {
        let registration = self.registration(running.device);
        registration.is_some_and(|registration| match &running.asked {
            // One that was begun before the device turned out to lack it stands as it is.
            Operation::CancelObserve(target)
                if registration.observed().any(|known| known == target) =>
            {
                false
            }
            asked => registration.abilities.lacks(asked),
        })
    }

    /// Goes on after the result of what is under way: with the next node, or to the end.
    fn proceed(&mut self, now: Now, mut running: Running, result: Result<Answer, OperationError>) {
        let result = match running.single.take() {
            None => result,
            Some(single) => match single.after(result) {
                After::Done(result) => result,
                After::Next(single) => {
                    running.single = Some(single);
                    running.attempt = 0;
                    return self.send(now, running);
                }
            },
        };
        self.complete(running.id, running.device, running.asked, result);
    }

    fn send_request(
        &mut self,
        now: Now,
        running: &mut Running,
    ) -> Result<ExchangeId, OperationError> {
        let registration = self
            .registration(running.device)
            .ok_or(OperationError::Unregistered)?;
        let (peer, version) = (registration.peer, registration.version);
        let step = running.step();
        step.offered(version)?;
        let types = registration.types(&self.models);
        let formats = match step.shape(&types) {
            None => None,
            Some(shape) => Some(
                registration
                    .formats
                    .choose(running.attempt, shape)
                    .ok_or_else(|| {
                        OperationError::NotOffered(
                            "no content format of the device carries this".to_owned(),
                        )
                    })?,
            ),
        };
        let chosen = match step {
            Operation::Create {
                object,
                instance: None,
                ..
            } if formats.is_some_and(|formats| names_instances(formats.body)) => {
                registration.free_instance(*object)
            }
            _ => None,
        };
        let operation = step.with_instance(chosen);
        let context = Context {
            base: operation.base(),
            alternate: registration.objects.alternate.as_deref(),
            now: now.unix,
            types: &types,
        };
        let request = operation
            .to_request(formats, version, &context)
            .map_err(|error| OperationError::Unencodable(error.to_string()))?;
        (running.formats, running.chosen) = (formats, chosen);
        self.endpoint
            .request(now.instant, peer, request)
            .map_err(|_| OperationError::QueueFull)
    }

    /// The cancelling request repeats the token of the observation, and its body, so the message
    /// layer builds it.
    fn send_cancel(
        &mut self,
        now: Now,
        device: DeviceId,
        target: &Target,
    ) -> Result<ExchangeId, OperationError> {
        let not_observed = || OperationError::NotObserved(target.clone());
        let observation = self
            .forget_observation(device, target)
            .ok_or_else(not_observed)?;
        self.endpoint
            .cancel(now.instant, observation, Cancel::Request)
            .ok_or_else(not_observed)
    }

    /// Drops an observation without a word to the device. If it goes on notifying, that is reset.
    pub fn forget(&mut self, now: Now, device: DeviceId, target: &Target) {
        if let Some(observation) = self.forget_observation(device, target) {
            self.endpoint
                .cancel(now.instant, observation, Cancel::Forget);
            self.pump(now);
        }
    }

    /// Takes an observation out of the books, and out of the store.
    fn forget_observation(&mut self, device: DeviceId, target: &Target) -> Option<ObservationId> {
        let observation = self.take_observation(device, target)?;
        self.keep_unobserved(device, target.clone());
        Some(observation)
    }

    fn take_observation(&mut self, device: DeviceId, target: &Target) -> Option<ObservationId> {
        let observations = &mut self.registration_mut(device)?.observations;
        let index = observations
            .iter()
            .position(|(observed, _)| observed == target)?;
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
        let Some(result) = self.on_upload_response(exchange, result) else {
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
        if matches!(result, Err(Failure::Timeout)) {
            self.put_to_sleep(device);
        }
        if let Ok(response) = &result
            && self.next_format(&mut running, response)
        {
            self.send(now, running);
        } else if self.lacks(&running, &result) {
            running.attempt = 0;
            self.send(now, running);
        } else {
            let result = result
                .map_err(OperationError::from)
                .and_then(|response| self.read(now, exchange, &running, &response));
            self.proceed(now, running, result);
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
            let shape = running.step().shape(&registration.types(&self.models))?;
            registration.formats.choose(next, shape)
        });
        running.attempt = next;
        declined && left.is_some()
    }

    /// Whether this tells that the device has no composite operations, so that another way is
    /// tried.
    fn lacks(&mut self, running: &Running, result: &Result<Response, Failure>) -> bool {
        let Some(registration) = self.registration(running.device) else {
            return false;
        };
        // A node that cannot be written refuses all of a Write-Composite.
        let is_fixed = |path: &Path| {
            let (object, resource) = (path.object_id()?, path.resource_id()?);
            let model = self
                .models
                .object(object, registration.version_of(object))?;
            Some(!model.resource(resource)?.operations.write)
        };
        let refusable = match &running.asked {
            Operation::WriteComposite(changes) => changes
                .iter()
                .any(|change| is_fixed(&change.path) == Some(true)),
            _ => false,
        };
        let method = running.step().method();
        let registration = self.registration_mut(running.device);
        registration
            .is_some_and(|registration| registration.abilities.learn(method, result, refusable))
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
        let operation = running.step().with_instance(running.chosen);
        let types = registration.types(&self.models);
        let context = Context {
            base: operation.base(),
            alternate: registration.objects.alternate.as_deref(),
            now: now.unix,
            types: &types,
        };
        let answer = read_response(&operation, response, &context);
        let shape = running.step().shape(&types);
        if let (true, Some(formats), Some(shape)) =
            (response.code.is_success(), running.formats, shape)
            && let Some(registration) = self.registration_mut(running.device)
        {
            registration.formats.taken(formats, shape);
        }
        if let Operation::Observe(target, _) = &*operation
            && response.code.is_success()
            && response.observe.is_some()
        {
            self.begin_observation(now, running.device, target.clone(), exchange);
        }
        if let Ok(answer) = &answer {
            self.amend(now, running.device, &operation, answer);
        }
        answer
    }

    /// Takes over what an operation that did well has changed of the registration. The device may
    /// say so itself with an Update, but not every one does.
    fn amend(&mut self, now: Now, device: DeviceId, operation: &Operation, answer: &Answer) {
        let Some(registration) = self.registration_mut(device) else {
            return;
        };
        let amended = match (operation, answer.created.as_ref().map(Path::ids)) {
            (Operation::Create { .. }, Some(&[object, instance])) => {
                registration.objects.insert(object, instance)
            }
            (Operation::Delete(path), _) => match *path.ids() {
                [object, instance] => registration.objects.remove(object, instance),
                _ => false,
            },
            (Operation::Write { records, .. }, _) => {
                let written = records.iter().map(|record| (record.path, &record.value));
                registration.take_lifetime(now, written)
            }
            (Operation::WriteComposite(changes), _) => {
                let written = changes
                    .iter()
                    .filter_map(|change| Some((change.path, change.value.as_ref()?)));
                registration.take_lifetime(now, written)
            }
            _ => false,
        };
        if amended {
            self.watch(device);
            self.keep_session(now, device);
            self.keep_registration(device, Urgency::Soon);
            self.emit(Event::Amended(device));
        }
    }

    /// Enters an observation in the books. One of the same node that stood before is forgotten:
    /// its next notification is reset, and the device drops it.
    fn begin_observation(
        &mut self,
        now: Now,
        device: DeviceId,
        target: Target,
        observation: ObservationId,
    ) {
        if let Some(previous) = self.take_observation(device, &target) {
            self.endpoint.cancel(now.instant, previous, Cancel::Forget);
        }
        self.observations
            .insert(observation, (device, target.clone()));
        if let Some(registration) = self.registration_mut(device) {
            registration
                .observations
                .push((target.clone(), observation));
        }
        self.keep_observation(device, target, observation);
    }

    pub(super) fn on_notification(
        &mut self,
        now: Now,
        observation: ObservationId,
        response: &Response,
        Order { ended, overtaken }: Order,
        receipt: Option<coap::Receipt>,
    ) {
        let Some((device, target)) = self.observations.get(&observation).cloned() else {
            return;
        };
        if response.code.is_success() {
            let token = self.endpoint.token(observation);
            let mark = token.zip(response.observe);
            match self.decode(now, device, &target, response) {
                Ok((records, problems)) => self.emit(Event::Notified {
                    device,
                    mark: mark.map(|(token, number)| Mark::Notification(token, number)),
                    target: target.clone(),
                    records,
                    problems,
                    overtaken,
                    receipt: receipt.map(Receipt::Notification),
                }),
                Err(error) => {
                    self.emit(Event::Undecodable {
                        device,
                        target: target.clone(),
                        error,
                    });
                    self.acknowledge_now(receipt);
                }
            }
        } else {
            self.acknowledge_now(receipt);
        }
        if ended {
            self.forget_observation(device, &target);
            self.emit(Event::ObservationEnded {
                device,
                target,
                code: response.code,
            });
        }
    }

    fn acknowledge_now(&mut self, receipt: Option<coap::Receipt>) {
        if let Some(receipt) = receipt {
            self.endpoint.acknowledge(receipt);
        }
    }

    fn decode(
        &self,
        now: Now,
        device: DeviceId,
        target: &Target,
        response: &Response,
    ) -> Result<(Vec<Record>, Vec<Problem>), OperationError> {
        let registration = self
            .registration(device)
            .ok_or(OperationError::Unregistered)?;
        let types = registration.types(&self.models);
        let context = Context {
            base: target.base(),
            alternate: registration.objects.alternate.as_deref(),
            now: now.unix,
            types: &types,
        };
        let mut records = Vec::new();
        let problems = decode_values(response, target, &context, &mut records)?;
        Ok((records, problems))
    }
}

/// Whether a format has an id of the instance in everything that it says of its resources.
fn names_instances(format: ContentFormat) -> bool {
    matches!(
        format,
        ContentFormat::SENML_CBOR | ContentFormat::SENML_JSON
    )
}
