//! The registration interface: Register, Update, De-register, and what ends a registration
//! (LwM2M Core 1.1 §6.2).

use super::credentials::{Lost, Purpose};
use super::wake::Wake;
use super::*;
use crate::kept::Urgency;

impl Server {
    pub(super) fn on_request(
        &mut self,
        now: Now,
        peer: Peer,
        incoming: IncomingId,
        request: &Request,
    ) {
        if self.purpose(peer) == Purpose::Bootstrap {
            return self.on_bootstrap_request(now, peer, incoming, request);
        }
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        if let [transfer::FILES_PATH, token] = path[..] {
            return self.on_fetch(now, peer, incoming, request.method, token);
        }
        let response = match (request.method, path.as_slice()) {
            (Code::POST, [REGISTRATION_PATH]) => self.on_register(now, peer, request),
            (Code::POST, [REGISTRATION_PATH, location]) => {
                self.on_update(now, peer, location, request)
            }
            (Code::DELETE, [REGISTRATION_PATH, location]) => {
                self.on_deregister(now, peer, location)
            }
            (_, [REGISTRATION_PATH] | [REGISTRATION_PATH, _]) => {
                Response::new(Code::METHOD_NOT_ALLOWED)
            }
            (Code::POST, ["dp"]) => match self.on_send(now, peer, incoming, request) {
                Some(refusal) => refusal,
                None => return,
            },
            _ => Response::new(Code::NOT_FOUND),
        };
        // The response leaves before any request to the device: a client ignores what comes
        // before its registration was answered.
        self.endpoint.respond(now.instant, incoming, response);
    }

    fn on_register(&mut self, now: Now, peer: Peer, request: &Request) -> Response {
        let proven = self
            .identity(peer)
            .and_then(|identity| self.book.endpoint_of(self.purpose(peer), identity));
        let register = parse_register(request, proven.as_deref());
        match register.and_then(|register| self.register(now, peer, register)) {
            Ok(location) => Response {
                location: vec![REGISTRATION_PATH.to_owned(), location],
                ..Response::new(Code::CREATED)
            },
            Err(refusal) => {
                let endpoint = request
                    .query
                    .iter()
                    .find_map(|argument| argument.strip_prefix("ep="));
                self.refuse(peer, endpoint.map(str::to_owned), refusal)
            }
        }
    }

    fn refuse(&mut self, peer: Peer, endpoint: Option<String>, refusal: Refusal) -> Response {
        let response = refusal.to_response();
        self.emit(Event::Refused {
            peer,
            endpoint,
            refusal,
        });
        response
    }

    /// Begins a registration, and ends the one that the endpoint had: its location, observations
    /// and operations are void.
    fn register(&mut self, now: Now, peer: Peer, register: Register) -> Result<String, Refusal> {
        self.let_in(now, peer, &register.endpoint)?;
        let profiles = &register.profiles;
        let list = register.objects;
        let objects = self.profile_ids.resolve(profiles, list.clone())?;
        let objects = objects.ok_or_else(|| Refusal::new(Code::BAD_REQUEST, "no object list"))?;
        self.profile_ids.learn(profiles, list.as_ref());
        let known = self.by_endpoint.get(register.endpoint.as_str()).copied();
        let device = match known {
            Some(device) => device,
            None => self.number(&register.endpoint)?,
        };
        self.end_registration(now, device);
        let location = self.new_location();
        let formats = Formats::advertised(&objects.formats, register.version);
        let registration = Registration {
            location: location.clone().into(),
            peer,
            identity: self.identity(peer).cloned(),
            version: register.version,
            terms: register.terms,
            objects,
            refreshed: now,
            formats,
            abilities: Abilities::of(register.version),
            wake: Wake::new(now, self.settings.awake_window),
            observations: Vec::new(),
            running: None,
            upload: None,
            queue: VecDeque::new(),
        };
        self.enter_registration(device, registration);
        self.keep_session(now, device);
        self.keep_registration(device, Urgency::Now);
        self.emit(Event::Registered {
            device,
            new: known.is_none(),
        });
        Ok(location)
    }

    /// Enters the registration of a device that has none in the books.
    pub(super) fn enter_registration(&mut self, device: DeviceId, registration: Registration) {
        let location = registration.location.clone();
        self.by_location.insert(location, device);
        if let Some(identity) = &registration.identity {
            self.by_identity.insert(identity.clone(), device);
        }
        self.by_peer.insert(registration.peer, device);
        if let Some(entry) = self.devices.get_mut(device.0 as usize) {
            entry.registration = Some(registration);
        }
        self.watch(device);
    }

    /// Asks whether this peer may be this endpoint. What the answer makes known for good is stored
    /// before the device is answered.
    fn let_in(&mut self, now: Now, peer: Peer, endpoint: &str) -> Result<(), Refusal> {
        let Some(route) = self.route(peer) else {
            return Err(Refusal::new(Code::FORBIDDEN, "its session has ended"));
        };
        let identity = self.identity(peer).cloned();
        self.check_vouched(identity.as_deref(), endpoint)?;
        let answer = self.book.admit(
            now,
            self.purpose(peer),
            identity.as_deref(),
            route.address.ip(),
            endpoint,
        );
        self.settle(now);
        match answer {
            Ok(_) => Ok(()),
            Err(denied) => Err(Refusal::untold(denied.code, denied.reason)),
        }
    }

    /// Refuses whoever comes without security as an endpoint that is registered with a certificate.
    /// The book has no record of a device that an authority vouches for, and would take the name
    /// for a new one.
    pub(super) fn check_vouched(
        &self,
        identity: Option<&PeerIdentity>,
        endpoint: &str,
    ) -> Result<(), Refusal> {
        let registration = self
            .device_of(endpoint)
            .and_then(|device| self.registration(device));
        let proven = registration.and_then(|registration| registration.identity.as_deref());
        match (identity, proven) {
            (None, Some(PeerIdentity::X509 { .. })) => Err(Refusal::untold(
                Code::FORBIDDEN,
                format!(
                    "endpoint {} is registered by a device that proved its name with a certificate, and this one came without security; let it speak to the coaps address",
                    dtls::Printable(endpoint.as_bytes())
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Passes on what the book says: first what is to be stored, then what follows from it.
    pub(super) fn settle(&mut self, now: Now) {
        while let Some(change) = self.book.poll_change() {
            self.outputs
                .push_back(Output::Store(Change::Credential(change)));
        }
        let mut all_lost = BTreeSet::new();
        let mut changed = false;
        while let Some(event) = self.book.poll_event() {
            match event {
                credentials::Event::Ended {
                    endpoint,
                    removed,
                    lost,
                } => {
                    self.end_endpoint(now, &endpoint, removed);
                    all_lost.extend(lost);
                }
                credentials::Event::Changed => changed = true,
                credentials::Event::Joined(endpoint) => self.emit(Event::Joined(endpoint)),
                credentials::Event::WindowClosed => self.emit(Event::WindowClosed),
            }
        }
        if let Some(mux) = self.mux.as_mut().filter(|_| !all_lost.is_empty()) {
            mux.close_those(|peer, _| Lost::of(peer).is_some_and(|lost| all_lost.contains(&lost)));
        }
        if changed {
            self.judge_anew(now);
        }
    }

    /// Puts out whoever is here by what is not valid any more, after files or authorities changed.
    pub(super) fn judge_anew(&mut self, now: Now) {
        let fallen: Vec<Arc<str>> = self
            .devices
            .iter()
            .filter(|device| {
                device.registration.as_ref().is_some_and(|registration| {
                    let identity = registration.identity.as_deref();
                    !self.book.upholds(identity, &device.endpoint)
                })
            })
            .map(|device| device.endpoint.clone())
            .collect();
        for endpoint in fallen {
            self.end_endpoint(now, &endpoint, false);
        }
        if let Some(mux) = &mut self.mux {
            mux.close_those(|peer, _| !self.book.recognises(peer));
        }
    }

    /// Ends what an endpoint has here, because it may be here no longer.
    fn end_endpoint(&mut self, now: Now, endpoint: &str, removed: bool) {
        self.cut_bootstrap(now, endpoint, removed);
        let Some(device) = self.device_of(endpoint) else {
            return;
        };
        let registered = self.registration(device).is_some();
        self.end_registration(now, device);
        if registered || removed {
            self.emit(Event::Revoked { device, removed });
        }
    }

    /// A number for an endpoint name that was never seen.
    pub(super) fn number(&mut self, endpoint: &str) -> Result<DeviceId, Refusal> {
        if self.devices.len() >= self.limits.devices {
            return Err(Refusal::new(
                Code::SERVICE_UNAVAILABLE,
                "no more devices can be taken",
            ));
        }
        let device = DeviceId(self.devices.len() as u32);
        let endpoint: Arc<str> = endpoint.into();
        self.devices.push(Device {
            endpoint: endpoint.clone(),
            registration: None,
        });
        self.by_endpoint.insert(endpoint, device);
        Ok(device)
    }

    /// Not to be guessed: whoever knows a location can update or end the registration.
    fn new_location(&mut self) -> String {
        loop {
            let location = format!("{:012x}", self.rng.random::<u64>() >> 16);
            if !self.by_location.contains_key(location.as_str()) {
                return location;
            }
        }
    }

    fn on_update(&mut self, now: Now, peer: Peer, location: &str, request: &Request) -> Response {
        let Some(device) = self.at_location(now, peer, location) else {
            return Response::new(Code::NOT_FOUND);
        };
        let update = parse_update(request).and_then(|update| {
            let objects = self.profile_ids.resolve(&update.profiles, update.objects)?;
            Ok((update.terms, objects))
        });
        let (terms, objects) = match update {
            Ok(update) => update,
            Err(refusal) => {
                let endpoint = self.endpoint_name(device).map(ToString::to_string);
                return self.refuse(peer, endpoint, refusal);
            }
        };
        let Some(registration) = self.registration_mut(device) else {
            return Response::new(Code::NOT_FOUND);
        };
        let before = std::mem::replace(&mut registration.refreshed, now);
        let after = now.instant.since(before.instant);
        registration.wake.refreshed(after);
        let mut changed = registration.terms.change(terms);
        if let Some(objects) = objects {
            changed |= registration.objects != objects;
            registration.objects = objects;
        }
        self.hear_device(now, device);
        self.keep_session(now, device);
        if changed {
            self.keep_registration(device, Urgency::Soon);
        }
        self.emit(Event::Updated { device, changed });
        Response::new(Code::CHANGED)
    }

    fn on_deregister(&mut self, now: Now, peer: Peer, location: &str) -> Response {
        let Some(device) = self.at_location(now, peer, location) else {
            return Response::new(Code::NOT_FOUND);
        };
        self.end_registration(now, device);
        self.emit(Event::Deregistered(device));
        Response::new(Code::DELETED)
    }

    /// The device at a location, if `peer` is where it registered from; or has proven to be who
    /// registered, and then it is there from now on. Without a secured transport the address is all
    /// that tells it from somebody else; a device whose address changed registers again
    /// (LwM2M Transport 1.1 §6.4.1).
    fn at_location(&mut self, now: Now, peer: Peer, location: &str) -> Option<DeviceId> {
        let device = *self.by_location.get(location)?;
        let registration = self.registration(device)?;
        if registration.peer == peer {
            return Some(device);
        }
        // Several endpoints may have one identity; the location says which of them it is.
        let proven = self.identity(peer)?;
        if registration.identity.as_ref() != Some(proven) {
            return None;
        }
        self.follow(now, device, peer);
        Some(device)
    }

    /// Ends a registration, if there is one: forgets its observations and fails its operations.
    pub(super) fn end_registration(&mut self, now: Now, device: DeviceId) {
        let Some(registration) = self
            .devices
            .get_mut(device.0 as usize)
            .and_then(|entry| entry.registration.take())
        else {
            return;
        };
        self.by_location.remove(&registration.location);
        if self.by_peer.get(&registration.peer) == Some(&device) {
            self.by_peer.remove(&registration.peer);
        }
        // One certificate may be for several endpoints, and another of them the last registered.
        if let Some(identity) = &registration.identity
            && self.by_identity.get(identity) == Some(&device)
        {
            self.by_identity.remove(identity);
        }
        if let (Peer::Session(number), Some(mux)) = (registration.peer, &mut self.mux) {
            mux.keep(SessionId(number), Instant::ZERO);
        }
        if let Some(watched) = registration.wake.watched {
            self.deadlines.remove(&(watched, device));
        }
        self.keep_end(device);
        self.forget_all(now, registration.observations);
        self.end_upload(device, registration.upload);
        let running = registration.running.and_then(|exchange| {
            self.endpoint.abandon(exchange);
            self.running.remove(&exchange)
        });
        let running = running.map(|running| (running.id, running.asked));
        let queued = registration
            .queue
            .into_iter()
            .map(|queued| (queued.id, queued.operation));
        for (id, operation) in running.into_iter().chain(queued) {
            self.complete(id, device, operation, Err(OperationError::Unregistered));
        }
    }

    /// Ends the observations of a registration that goes on.
    pub(super) fn void_observations(&mut self, now: Now, device: DeviceId) {
        if let Some(registration) = self.registration_mut(device) {
            let observations = std::mem::take(&mut registration.observations);
            for (target, _) in &observations {
                self.keep_unobserved(device, target.clone());
            }
            self.forget_all(now, observations);
        }
    }

    fn forget_all(&mut self, now: Now, observations: Vec<(Target, ObservationId)>) {
        for (_, observation) in observations {
            self.observations.remove(&observation);
            self.endpoint
                .cancel(now.instant, observation, Cancel::Forget);
        }
    }
}
