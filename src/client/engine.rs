//! The client itself: takes an input to the registration, the tree or reporting that it concerns.

use std::collections::{BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::client::offer::Offer;
use crate::client::operation::{self, Operation};
use crate::client::registration::{Outcome, Registration};
use crate::client::reporting::{self, Defaults, Reporting};
use crate::client::{
    Account, Behaviour, Config, Counters, Effect, Event, Formats, Input, Limits, Output, Tree,
    access, instances, write,
};
use crate::coap::{
    self, Code, Endpoint, ExchangeId, IncomingId, Observe, Peer, Request, Response, Token,
};
use crate::lwm2m::codec::{self, Context};
use crate::lwm2m::{ContentFormat, Id, Path, Target, Value, Version};
use crate::time::{Instant, Now};

/// /1/x/1
const LIFETIME: Id = 1;
/// /1/x/23
const MUTE_SEND: Id = 23;
/// /1/x/8
const REGISTRATION_UPDATE_TRIGGER: Id = 8;
/// The lifetime where /1/x/1 does not say (LwM2M Core 1.0 §5.3.1), in seconds.
const DEFAULT_LIFETIME: u32 = 86_400;

/// One LwM2M client.
pub struct Client<B> {
    endpoint_name: String,
    formats: Formats,
    limits: Limits,
    servers: Vec<Server>,
    tree: Tree,
    behaviour: B,
    coap: Endpoint,
    rng: StdRng,
    outputs: VecDeque<Output>,
    step_at: Option<Instant>,
    stopping: bool,
    counters: Counters,
}

/// What belongs to one server.
struct Server {
    account: Account,
    registration: Registration,
    reporting: Reporting,
    /// A Send that is not answered yet.
    sending: Option<ExchangeId>,
    /// Of the last message in either direction, for queue mode.
    awake_since: Instant,
}

impl Server {
    fn is_registered(&self) -> bool {
        self.registration.location().is_some()
    }

    fn sleeps(&self, now: Instant) -> bool {
        let window = self.account.queue_mode;
        self.is_registered() && window.is_some_and(|window| now.since(self.awake_since) > window)
    }
}

impl<B: Behaviour> Client<B> {
    /// A client that begins to register with its servers at the first [`Client::handle`].
    pub fn new(now: Now, config: Config, tree: Tree, behaviour: B, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let coap = Endpoint::new(config.coap, config.coap_limits, rng.random());
        let servers = config.accounts.into_iter().map(|account| Server {
            registration: Registration::new(
                now.instant + account.hold_off,
                account.version,
                config.retry.clone(),
            ),
            reporting: Reporting::default(),
            sending: None,
            awake_since: now.instant,
            account,
        });
        Self {
            endpoint_name: config.endpoint,
            formats: config.formats,
            limits: config.limits,
            servers: servers.collect(),
            tree,
            behaviour,
            coap,
            rng,
            outputs: VecDeque::new(),
            step_at: Some(now.instant),
            stopping: false,
            counters: Counters::default(),
        }
    }

    /// The endpoint name.
    pub fn endpoint_name(&self) -> &str {
        &self.endpoint_name
    }

    /// The objects.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The objects, to change values from outside; call [`Client::handle`] with
    /// [`Input::Timeout`] afterwards so that it is told.
    pub fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// How many servers have accepted the registration.
    pub fn registrations(&self) -> usize {
        self.servers
            .iter()
            .filter(|server| server.is_registered())
            .count()
    }

    /// How many observations the servers have.
    pub fn observations(&self) -> usize {
        let observations = self
            .servers
            .iter()
            .map(|server| server.reporting.observations());
        observations.sum()
    }

    /// What was done and dropped so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Takes one input. Drain [`Client::poll`] afterwards.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        match input {
            Input::Datagram { peer, bytes } => self.receive(now, peer, bytes),
            Input::Timeout => self.coap.timeout(now.instant),
            Input::Send(paths) => self.send(now, paths),
            Input::Stop => {
                self.stopping = true;
                for server in &mut self.servers {
                    server.registration.leave();
                }
            }
        }
        self.step_at = self.behaviour.step(now, &mut self.tree);
        self.drain(now);
        self.report(now);
        self.advance(now);
        self.drain(now);
    }

    /// The next thing the client wants; [`Output::Timeout`] when it wants nothing more.
    pub fn poll(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        let servers = self.servers.iter().flat_map(|server| {
            let reporting = server
                .is_registered()
                .then(|| server.reporting.next_timeout());
            [server.registration.next_timeout(), reporting.flatten()]
        });
        let timeouts = servers.chain([self.step_at, self.coap.next_timeout()]);
        Output::Timeout(timeouts.flatten().min())
    }

    fn receive(&mut self, now: Now, peer: Peer, bytes: &[u8]) {
        let known = self
            .servers
            .iter_mut()
            .find(|server| server.account.peer == peer);
        let Some(server) = known else {
            self.counters.strangers += 1;
            return;
        };
        if server.sleeps(now.instant) {
            self.counters.asleep += 1;
            return;
        }
        server.awake_since = now.instant;
        if is_request(bytes) && !server.is_registered() {
            self.counters.premature += 1;
            return;
        }
        self.coap.receive(now.instant, peer, bytes);
    }

    /// Takes what the message layer has, until it has no more.
    fn drain(&mut self, now: Now) {
        while let Some(output) = self.coap.poll() {
            match output {
                coap::Output::Datagram { peer, bytes } => {
                    for server in &mut self.servers {
                        if server.account.peer == peer {
                            server.awake_since = now.instant;
                        }
                    }
                    self.outputs.push_back(Output::Datagram { peer, bytes });
                }
                coap::Output::Event(event) => self.event(now, event),
            }
        }
    }

    fn event(&mut self, now: Now, event: coap::Event) {
        match event {
            coap::Event::Request {
                peer,
                incoming,
                token,
                request,
            } => {
                let known = self
                    .servers
                    .iter()
                    .position(|server| server.account.peer == peer);
                if let Some(index) = known {
                    self.request(now, index, incoming, token, &request);
                }
            }
            coap::Event::Response { exchange, result } => {
                for index in 0..self.servers.len() {
                    let Some(server) = self.servers.get_mut(index) else {
                        break;
                    };
                    if server.sending == Some(exchange) {
                        server.sending = None;
                        let account = server.account.instance;
                        let code = result.as_ref().ok().map(|response| response.code);
                        let event = Event::Sent { account, code };
                        self.outputs.push_back(Output::Event(event));
                        break;
                    }
                    let outcome = server.registration.concluded(
                        now.instant,
                        exchange,
                        &result,
                        &mut self.rng,
                    );
                    if let Some(outcome) = outcome {
                        self.registration_outcome(now, index, outcome);
                        break;
                    }
                }
            }
            coap::Event::ObserverGone { peer, token } => {
                for server in &mut self.servers {
                    if server.account.peer == peer {
                        server.reporting.cancel(token);
                    }
                }
            }
            // the client observes nobody, and sends nothing long
            coap::Event::Notification { .. } | coap::Event::Progress { .. } => {}
        }
    }

    fn registration_outcome(&mut self, now: Now, index: usize, outcome: Outcome) {
        let Some(server) = self.servers.get_mut(index) else {
            return;
        };
        let account = server.account.instance;
        let event = match outcome {
            Outcome::Registered => {
                // LwM2M Core 1.1 §6.2.1: a registration voids the observations before it
                server.reporting.end_observations();
                let location = server.registration.location().unwrap_or_default();
                Event::Registered {
                    account,
                    version: server.registration.version(),
                    location: location.join("/"),
                }
            }
            Outcome::VersionRefused(version) => Event::VersionRefused { account, version },
            Outcome::Failed(reason, until) => Event::RegistrationFailed {
                account,
                reason,
                retry_in: until.since(now.instant),
            },
            Outcome::Updated => Event::Updated { account },
            Outcome::Lost(reason) => {
                server.reporting.end_observations();
                Event::RegistrationLost { account, reason }
            }
            Outcome::Deregistered => {
                server.reporting.end_observations();
                Event::Deregistered { account }
            }
        };
        self.outputs.push_back(Output::Event(event));
        self.advance(now);
    }

    /// Sends what the registrations have to send.
    fn advance(&mut self, now: Now) {
        for server in &mut self.servers {
            let lifetime = Path::resource(1, server.account.instance, LIFETIME);
            let offer = Offer {
                endpoint: &self.endpoint_name,
                lifetime: match self.tree.value(&lifetime) {
                    Some(Value::Integer(seconds)) => u32::try_from(*seconds).unwrap_or(u32::MAX),
                    _ => DEFAULT_LIFETIME,
                },
                queue_mode: server.account.queue_mode.is_some(),
                tree: &self.tree,
                formats: &self.formats,
            };
            if let Some(request) = server.registration.advance(now.instant, &offer) {
                match self.coap.request(now.instant, server.account.peer, request) {
                    Ok(exchange) => server.registration.sent(exchange),
                    Err(_) => server.registration.unsent(now.instant, &mut self.rng),
                }
            }
        }
        if self.stopping
            && self
                .servers
                .iter()
                .all(|server| server.registration.has_left())
        {
            self.stopping = false;
            self.outputs.push_back(Output::Event(Event::Stopped));
        }
    }

    /// Reports values of its own accord; one message at a time, and none to whoever has muted us.
    fn send(&mut self, now: Now, paths: &[Path]) {
        self.step_at = self.behaviour.step(now, &mut self.tree);
        let target = Target::composite(paths.iter().copied());
        for server in &mut self.servers {
            let version = server.registration.version();
            let muted = Path::resource(1, server.account.instance, MUTE_SEND);
            let is_heard = self.tree.value(&muted) == Some(&Value::Boolean(false));
            if !server.is_registered()
                || version < Version::V1_1
                || !is_heard
                || server.sending.is_some()
            {
                continue;
            }
            let read = access::read(&self.tree, &self.formats, version, &target, None, now.unix);
            let Ok(Response {
                content_format,
                payload,
                ..
            }) = read
            else {
                continue;
            };
            let mut request = Request::new(Code::POST, ["dp"]);
            request.content_format = content_format;
            request.payload = payload;
            let sent = self.coap.request(now.instant, server.account.peer, request);
            server.sending = sent.ok();
        }
    }

    /// Sends the notifications that are due.
    fn report(&mut self, now: Now) {
        let changes = self.tree.take_changes();
        for server in &mut self.servers {
            if !changes.is_empty() {
                server.reporting.changed(&self.tree, &changes);
            }
            if !server.is_registered() {
                continue;
            }
            while let Some(due) = server.reporting.next_due(now.instant, &self.tree) {
                let read = access::read(
                    &self.tree,
                    &self.formats,
                    server.registration.version(),
                    &due.target,
                    due.accept,
                    now.unix,
                );
                let response = match read {
                    Ok(response) => Response {
                        observe: Some(0),
                        ..response
                    },
                    // the node is gone: an error is the last notification (RFC 7641 §4.2)
                    Err(code) => {
                        server.reporting.cancel(due.token);
                        Response::new(code)
                    }
                };
                self.counters.notifications += 1;
                let peer = server.account.peer;
                self.coap
                    .notify(now.instant, peer, due.token, response, due.confirmable);
            }
        }
    }

    fn request(
        &mut self,
        now: Now,
        index: usize,
        incoming: IncomingId,
        token: Token,
        request: &Request,
    ) {
        let mut effect = Effect::None;
        let response = self
            .perform(now, index, token, request, &mut effect)
            .unwrap_or_else(Response::new);
        self.counters.requests += 1;
        self.counters.refused += u64::from(!response.code.is_success());
        self.coap.respond(now.instant, incoming, response);
        if let Effect::Restart(back_in) = effect {
            self.outputs
                .push_back(Output::Event(Event::Restarting { back_in }));
            for server in &mut self.servers {
                server.reporting.end_observations();
                server.registration.restart(now.instant + back_in);
            }
        }
    }

    fn perform(
        &mut self,
        now: Now,
        index: usize,
        token: Token,
        request: &Request,
        effect: &mut Effect,
    ) -> Result<Response, Code> {
        let operation = operation::parse(request)?;
        if operation.path().object_id().is_some_and(access::is_hidden) {
            return Err(Code::UNAUTHORIZED);
        }
        let server = self.servers.get_mut(index).ok_or(Code::UNAUTHORIZED)?;
        let account = server.account.instance;
        let version = server.registration.version();
        let defaults = Defaults::of(&self.tree, account);
        let (tree, formats) = (&mut self.tree, &self.formats);
        match operation {
            Operation::Read(path, accept) => {
                access::read(tree, formats, version, &path.into(), accept, now.unix)
            }
            Operation::Discover(path, depth) => {
                access::discover(tree, &server.reporting, version, &path, depth)
            }
            Operation::Observe(path, accept, query) => {
                self.observe(now, index, (token, path.into()), accept, query)
            }
            Operation::CancelObservation(path, accept) => {
                server.reporting.cancel(token);
                access::read(tree, formats, version, &path.into(), accept, now.unix)
            }
            Operation::Fetch(..) | Operation::Patch(_) if version < Version::V1_1 => {
                Err(Code::METHOD_NOT_ALLOWED)
            }
            Operation::Fetch(format, accept, observe, query) => {
                let target = paths(format, &request.payload, tree, now)?;
                match observe {
                    Some(Observe::Register) => {
                        return self.observe(now, index, (token, target), accept, query);
                    }
                    Some(Observe::Deregister) => _ = server.reporting.cancel(token),
                    None => {}
                }
                access::read(tree, formats, version, &target, accept, now.unix)
            }
            Operation::Patch(format) => {
                let written = write::write_composite(tree, format, &request.payload, now.unix)?;
                self.written(now, account, &written);
                Ok(Response::new(Code::CHANGED))
            }
            Operation::Create(object, format) => {
                let payload = &request.payload;
                let (path, ours) = instances::create(tree, object, format, payload, now.unix)?;
                self.step_at = self.behaviour.step(now, &mut self.tree);
                let event = Event::Created { account, path };
                self.outputs.push_back(Output::Event(event));
                let location = path.ids().iter().filter(|_| ours);
                Ok(Response {
                    location: location.map(ToString::to_string).collect(),
                    ..Response::new(Code::CREATED)
                })
            }
            Operation::Delete(path) => {
                instances::delete(tree, &path)?;
                self.step_at = self.behaviour.step(now, &mut self.tree);
                let event = Event::Deleted { account, path };
                self.outputs.push_back(Output::Event(event));
                Ok(Response::new(Code::DELETED))
            }
            Operation::WriteAttributes(path, query) => {
                tree.require(&path)?;
                if server.reporting.attachments() >= self.limits.attachments {
                    server.reporting.prune(tree);
                }
                let attached = server.reporting.attached(&path);
                if attached.is_empty() && server.reporting.attachments() >= self.limits.attachments
                {
                    return Err(Code::SERVICE_UNAVAILABLE);
                }
                let merged =
                    reporting::merge(&attached, &path, version, query).ok_or(Code::BAD_REQUEST)?;
                server.reporting.attach(path, merged, defaults);
                Ok(Response::new(Code::CHANGED))
            }
            Operation::Write(path, format, mode) => {
                let payload = &request.payload;
                let written = write::write(tree, &path, format, mode, payload, now.unix)?;
                self.written(now, account, &written);
                Ok(Response::new(Code::CHANGED))
            }
            Operation::Execute(path, arguments) => {
                let resource = tree.resource(&path).ok_or(Code::NOT_FOUND)?;
                if !resource.operations.execute {
                    return Err(Code::METHOD_NOT_ALLOWED);
                }
                match *path.ids() {
                    [1, instance, REGISTRATION_UPDATE_TRIGGER] if instance == account => {
                        server.registration.want_update();
                    }
                    _ => *effect = self.behaviour.execute(now, &path, &arguments, tree)?,
                }
                // executing may have moved when the next value is due
                self.step_at = self.behaviour.step(now, &mut self.tree);
                self.outputs.push_back(Output::Event(Event::Executed {
                    account,
                    path,
                    arguments,
                }));
                Ok(Response::new(Code::CHANGED))
            }
        }
    }

    fn observe(
        &mut self,
        now: Now,
        index: usize,
        (token, target): (Token, Target),
        accept: Option<ContentFormat>,
        query: &[String],
    ) -> Result<Response, Code> {
        let server = self.servers.get_mut(index).ok_or(Code::UNAUTHORIZED)?;
        let account = server.account.instance;
        let version = server.registration.version();
        let (tree, formats) = (&self.tree, &self.formats);
        // LwM2M Core 1.2 §6.4.1; before, a query meant nothing here
        let query = if version < Version::V1_2 { &[] } else { query };
        let base = target.base();
        let own = reporting::merge(&Default::default(), &base, version, query);
        let own = own.ok_or(Code::BAD_REQUEST)?;
        let mut response = access::read(tree, formats, version, &target, accept, now.unix)?;
        if server.reporting.is_full(token, self.limits.observations) {
            return Err(Code::SERVICE_UNAVAILABLE);
        }
        let own = (!own.is_empty()).then_some(own);
        let defaults = Defaults::of(tree, account);
        let observed = (token, target.clone());
        server
            .reporting
            .observe(now.instant, observed, accept, own, tree, defaults);
        response.observe = Some(0);
        let event = Event::Observed { account, target };
        self.outputs.push_back(Output::Event(event));
        Ok(response)
    }

    fn written(&mut self, now: Now, account: Id, written: &BTreeSet<Path>) {
        for path in written {
            self.behaviour.written(now, path, &mut self.tree);
            let value = self.tree.value(path).cloned();
            self.outputs.push_back(Output::Event(Event::Written {
                account,
                path: *path,
                value,
            }));
        }
        self.step_at = self.behaviour.step(now, &mut self.tree);
        // a new lifetime is told by `advance`, new default periods count from now on
        if written.iter().any(|path| path.object_id() == Some(1)) {
            for server in &mut self.servers {
                let defaults = Defaults::of(&self.tree, server.account.instance);
                server.reporting.reconsider(defaults);
            }
        }
    }
}

/// The nodes of a composite operation; as many as make sense in a request.
fn paths(format: ContentFormat, payload: &[u8], tree: &Tree, now: Now) -> Result<Target, Code> {
    const PATHS_MAX: usize = 256;
    let context = Context {
        base: Path::ROOT,
        alternate: None,
        now: now.unix,
        types: tree,
    };
    match codec::decode_paths(format, payload, &context) {
        Ok(paths) if (1..=PATHS_MAX).contains(&paths.len()) => Ok(Target::composite(paths)),
        Err(codec::DecodeError::Unsupported(_)) => Err(Code::UNSUPPORTED_CONTENT_FORMAT),
        _ => Err(Code::BAD_REQUEST),
    }
}

/// Whether a datagram holds a request: code class 0, and not the empty message (RFC 7252 §3).
fn is_request(bytes: &[u8]) -> bool {
    bytes
        .get(1)
        .is_some_and(|code| code >> 5 == 0 && *code != 0)
}

#[cfg(test)]
mod tests;
