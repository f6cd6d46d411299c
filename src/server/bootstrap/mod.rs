//! The bootstrap server: it tells devices which LwM2M servers are theirs (LwM2M Core 1.1 §6.1).
//!
//! A device asks with `POST /bs`; the profile for it is chosen, and a run of requests asks, deletes
//! and writes until Bootstrap-Finish. What is *absent* here: who may come in and where keys are
//! kept, which is asked of the [`Book`].

mod pack;
mod plan;
mod profile;
mod read;
mod request;
mod run;
#[cfg(test)]
mod tests;
mod trigger;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::StdRng;

use super::credentials::{self, Book, Grant, Psk, Purpose};
use super::{Event, Server};
use crate::coap::{Code, ExchangeId, Failure, IncomingId, Peer, Request, Response};
use crate::dtls::PeerIdentity;
use crate::kept::Change;
use crate::keyed::{self, KeyedMap};
use crate::secret::Secret;
use crate::server::registration::Refusal;
use crate::time::{Instant, Now, UnixTime};
use request::{Ask, AskPack};
use run::{Progress, Run};
use trigger::Trigger;

pub use profile::{AccessRule, Account, Instance, Key, OwnAccount, Profile, Profiles, Security};
pub use read::{Attachment, Attachments, Compiled};
pub use run::Step;
pub use trigger::no_trigger;

/// The length of a generated key in bytes: AES-128 has no use for more.
const KEY_LEN: usize = 16;

/// How long a device is told to wait when too many runs are under way, in seconds.
const BUSY: u32 = 30;

/// Whoever asks to be bootstrapped.
#[derive(Clone, Debug)]
struct Caller {
    /// Where answers go.
    peer: Peer,
    /// Its address.
    source: IpAddr,
    /// Who it is proven to be; `None` without security.
    identity: Option<Arc<PeerIdentity>>,
}

/// News of one bootstrap. Each [`News::Started`] is followed by one [`News::Done`] or
/// [`News::Failed`].
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// A run began.
    Started {
        /// The profile's id.
        profile: String,
    },
    /// It came to another step.
    Reached(Step),
    /// The device has its configuration and said so.
    Done {
        /// Instances and resources written.
        written: u32,
        /// How long it took.
        seconds: u64,
        /// What went wrong and did not matter enough to stop.
        notes: Vec<String>,
    },
    /// The run ended without that.
    Failed {
        /// Where.
        step: Step,
        /// Why.
        detail: String,
    },
    /// A Bootstrap-Pack was handed out. Whether the device takes it shows when it registers.
    Packed {
        /// The profile's id.
        profile: String,
        /// Instances in it.
        written: u32,
    },
    /// No run began.
    Refused(Refusal),
}

/// Who asks, and what it gets.
struct Chosen {
    endpoint: Arc<str>,
    profile: Arc<Profile>,
    key_expires: Option<UnixTime>,
}

/// A run and whom it is with.
struct Active {
    peer: Peer,
    endpoint: Arc<str>,
    started: Instant,
    /// When the key that it hands out ends.
    key_expires: Option<UnixTime>,
    exchange: Option<ExchangeId>,
    /// What the device had for a key, once it was given another one in this run.
    replaced: Option<Option<Arc<Grant>>>,
    run: Run,
}

/// The bootstrap server's part of a [`Server`].
pub(super) struct Bootstrap {
    runs: BTreeMap<u64, Active>,
    by_endpoint: KeyedMap<Arc<str>, u64>,
    exchanges: KeyedMap<ExchangeId, u64>,
    triggers: KeyedMap<super::OperationId, Trigger>,
    count: u64,
}

impl Bootstrap {
    pub(super) fn new(rng: &mut StdRng) -> Self {
        Self {
            runs: BTreeMap::new(),
            by_endpoint: keyed::map(rng),
            exchanges: keyed::map(rng),
            triggers: keyed::map(rng),
            count: 0,
        }
    }

    /// Takes a run out of the books.
    fn remove(&mut self, id: u64) -> Option<Active> {
        let active = self.runs.remove(&id)?;
        self.by_endpoint.remove(&active.endpoint);
        if let Some(exchange) = active.exchange {
            self.exchanges.remove(&exchange);
        }
        Some(active)
    }
}

impl Server {
    /// Takes new profiles. Runs under way go on with theirs.
    pub fn set_bootstrap_profiles(&mut self, profiles: Arc<Profiles>) {
        self.settings.bootstrap_profiles = profiles;
    }

    /// Runs under way.
    pub fn bootstraps(&self) -> usize {
        self.bootstrap.runs.len()
    }

    /// Answers a request that came in at a listener of the bootstrap server.
    pub(super) fn on_bootstrap_request(
        &mut self,
        now: Now,
        peer: Peer,
        incoming: IncomingId,
        request: &Request,
    ) {
        // A session that has ended meanwhile gets no answer anyway.
        let Some(route) = self.route(peer) else {
            return;
        };
        let caller = Caller {
            peer,
            source: route.address.ip(),
            identity: self.identity(peer).cloned(),
        };
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        match (request.method, path.as_slice()) {
            (Code::POST, ["bs"]) => {
                let asked = Ask::parse(request).and_then(|ask| self.prepare(now, &caller, ask));
                let response = match &asked {
                    Ok(_) => Response::new(Code::CHANGED),
                    Err(refusal) => self.refuse_bootstrap(&caller, request, refusal),
                };
                // The answer leaves before the first request of the run: until it is there, the
                // device does not take any.
                self.endpoint.respond(now.instant, incoming, response);
                if let Ok(active) = asked {
                    self.begin(now, active);
                }
            }
            (Code::GET, ["bspack"]) => {
                let packed = AskPack::parse(request).and_then(|ask| self.pack(now, &caller, &ask));
                let response = packed
                    .unwrap_or_else(|refusal| self.refuse_bootstrap(&caller, request, &refusal));
                self.endpoint.respond(now.instant, incoming, response);
            }
            (_, ["bs"] | ["bspack"]) => {
                let response = Response::new(Code::METHOD_NOT_ALLOWED);
                self.endpoint.respond(now.instant, incoming, response);
            }
            _ => {
                let response = Response::new(Code::NOT_FOUND);
                self.endpoint.respond(now.instant, incoming, response);
            }
        }
    }

    /// The answer to a device that is not bootstrapped, and a word about it.
    fn refuse_bootstrap(
        &mut self,
        caller: &Caller,
        request: &Request,
        refusal: &Refusal,
    ) -> Response {
        let endpoint = request
            .query
            .iter()
            .find_map(|argument| argument.strip_prefix("ep="));
        let endpoint = endpoint.map(Arc::from);
        self.tell(caller.peer, endpoint, News::Refused(refusal.clone()));
        let busy = refusal.code == Code::SERVICE_UNAVAILABLE;
        Response {
            max_age: busy.then_some(BUSY),
            ..refusal.to_response()
        }
    }

    fn tell(&mut self, peer: Peer, endpoint: Option<Arc<str>>, news: News) {
        self.emit(Event::Bootstrap {
            peer,
            endpoint,
            news,
        });
    }

    /// Who it is, whether it may, what it gets, and until when a key of it is good.
    fn choose(
        &mut self,
        now: Now,
        caller: &Caller,
        endpoint: Option<&str>,
    ) -> Result<Chosen, Refusal> {
        // Since LwM2M 1.1 the name may be left to the transport (Core 1.1 §6.1.7.1).
        let identity = caller.identity.as_deref();
        let proven =
            identity.and_then(|identity| self.book.endpoint_of(Purpose::Bootstrap, identity));
        let Some(endpoint) = endpoint.or(proven.as_deref()) else {
            return Err(Refusal::new(
                Code::BAD_REQUEST,
                "no endpoint name (ep), and none that the transport would prove",
            ));
        };
        self.check_vouched(identity, endpoint)?;
        let admitted = self
            .book
            .admit(now, Purpose::Bootstrap, identity, caller.source, endpoint);
        self.settle(now);
        // As of a registration: who is not let in does not learn who would be.
        admitted.map_err(|denied| Refusal::untold(denied.code, denied.reason))?;
        let until = self.book.grant_until(now);
        let profiles = &self.settings.bootstrap_profiles;
        let Some(profile) = profiles.choose(endpoint, identity) else {
            return Err(Refusal::new(
                Code::BAD_REQUEST,
                "no bootstrap profile is for this device; write one whose [match] has its name",
            ));
        };
        if identity.is_none() {
            check_unsecured(&profile, until)?;
        }
        let key_expires = until.filter(|_| identity.is_none());
        Ok(Chosen {
            endpoint: endpoint.into(),
            profile,
            key_expires,
        })
    }

    /// A run that may begin once the device has its answer.
    fn prepare(&mut self, now: Now, caller: &Caller, ask: Ask) -> Result<Active, Refusal> {
        let Chosen {
            endpoint,
            profile,
            key_expires,
        } = self.choose(now, caller, ask.endpoint.as_deref())?;
        let again = self.bootstrap.by_endpoint.contains_key(&endpoint);
        if !again && self.bootstrap.runs.len() >= self.limits.bootstraps {
            return Err(Refusal::new(
                Code::SERVICE_UNAVAILABLE,
                "too many devices are being bootstrapped",
            ));
        }
        self.tell_started(now, caller.peer, &endpoint, &profile);
        Ok(Active {
            peer: caller.peer,
            started: now.instant,
            key_expires,
            exchange: None,
            replaced: None,
            run: Run::new(&ask, endpoint.clone(), profile),
            endpoint,
        })
    }

    /// Ends the run that the endpoint had, which it has forgotten, and tells of the new one.
    fn tell_started(&mut self, now: Now, peer: Peer, endpoint: &Arc<str>, profile: &Profile) {
        let older = self.bootstrap.by_endpoint.get(endpoint).copied();
        if let Some(older) = older.and_then(|id| self.bootstrap.remove(id)) {
            if let Some(exchange) = older.exchange {
                self.endpoint.abandon(exchange);
            }
            self.give_back(now, &older.endpoint, older.replaced);
            let detail = "the device began anew".to_owned();
            let step = older.run.step();
            self.tell(
                older.peer,
                Some(older.endpoint),
                News::Failed { step, detail },
            );
        }
        let profile = profile.id.clone();
        self.tell(peer, Some(endpoint.clone()), News::Started { profile });
    }

    fn begin(&mut self, now: Now, active: Active) {
        self.bootstrap.count += 1;
        let id = self.bootstrap.count;
        self.bootstrap
            .by_endpoint
            .insert(active.endpoint.clone(), id);
        self.bootstrap.runs.insert(id, active);
        self.ask_next(now, id);
    }

    /// Sends the request of the step that a run is at.
    fn ask_next(&mut self, now: Now, id: u64) {
        let Some(active) = self.bootstrap.runs.get_mut(&id) else {
            return;
        };
        let peer = active.peer;
        let sent = active.run.request(now, &self.models).and_then(|request| {
            self.endpoint
                .request(now.instant, peer, request)
                .map_err(|overload| overload.to_string())
        });
        match sent {
            Ok(exchange) => {
                active.exchange = Some(exchange);
                self.bootstrap.exchanges.insert(exchange, id);
            }
            Err(detail) => self.end_run(now, id, Err(detail)),
        }
    }

    /// Takes a response if it is one of a run; gives it back if not.
    pub(super) fn on_bootstrap_response(
        &mut self,
        now: Now,
        exchange: ExchangeId,
        result: Result<Response, Failure>,
    ) -> Option<Result<Response, Failure>> {
        let Some(id) = self.bootstrap.exchanges.remove(&exchange) else {
            return Some(result);
        };
        let active = self.bootstrap.runs.get_mut(&id)?;
        active.exchange = None;
        let before = active.run.step();
        let endpoint = active.endpoint.clone();
        let expires = active.key_expires;
        // Silence at the end may mean that the answer was lost; every other end takes the device back
        // to what it had.
        let silent = result.is_err() && before == Step::Finish;
        let (book, rng, replaced) = (&mut self.book, &mut self.rng, &mut active.replaced);
        let mut issue = |identity: &[u8]| {
            let before = book.grant_of(&endpoint);
            let key = issue(now, book, rng, &endpoint, identity, expires)?;
            *replaced = Some(before);
            Ok(key)
        };
        let progress = active.run.answered(now, result, &self.models, &mut issue);
        let (peer, reached) = (active.peer, active.run.step());
        // A key is in the store before the device has it.
        self.settle(now);
        match progress {
            Progress::Next => {
                if reached != before {
                    self.tell(peer, Some(endpoint), News::Reached(reached));
                }
                self.ask_next(now, id);
            }
            Progress::Done => self.end_run(now, id, Ok(())),
            Progress::Failed(detail) => {
                if !silent {
                    let active = self.bootstrap.runs.get_mut(&id);
                    let replaced = active.and_then(|active| active.replaced.take());
                    self.give_back(now, &endpoint, replaced);
                }
                self.end_run(now, id, Err(detail));
            }
        }
        None
    }

    /// The device goes back to the key that it had before the run, or to having none.
    fn give_back(&mut self, now: Now, endpoint: &Arc<str>, replaced: Option<Option<Arc<Grant>>>) {
        match replaced {
            None => {}
            Some(None) => {
                self.book.revoke(endpoint);
            }
            Some(Some(grant)) => {
                // It was good before, so it is now.
                let (psk, expires) = (grant.psk.clone(), grant.expires);
                let _ = self.book.grant(now, endpoint, psk, expires);
            }
        }
        self.settle(now);
    }

    fn end_run(&mut self, now: Now, id: u64, result: Result<(), String>) {
        let Some(mut active) = self.bootstrap.remove(id) else {
            return;
        };
        if let Some(before) = &active.replaced {
            self.close_sessions_before(&active.endpoint, before.as_deref());
        }
        let news = match result {
            Ok(()) => News::Done {
                written: active.run.written(),
                seconds: now.instant.since(active.started).as_secs(),
                notes: active.run.notes(),
            },
            Err(detail) => News::Failed {
                step: active.run.step(),
                detail,
            },
        };
        self.tell(active.peer, Some(active.endpoint), news);
    }

    /// Closes the sessions with our LwM2M server that stand on a key which was handed out anew since:
    /// whoever has that older key, the device or somebody else, has to come with the new one.
    fn close_sessions_before(&mut self, endpoint: &str, before: Option<&Grant>) {
        let now = self.book.grant_of(endpoint);
        let identities: Vec<_> = [before, now.as_deref()]
            .into_iter()
            .flatten()
            .map(|grant| grant.psk.identity.clone())
            .collect();
        let settings = &self.settings;
        let is_theirs = |peer: &PeerIdentity, listener: u16| {
            let place = settings.listener(listener);
            place.is_some_and(|place| place.purpose == Purpose::Management)
                && matches!(peer, PeerIdentity::Psk(identity)
                    if identities.iter().any(|theirs| **theirs == **identity))
        };
        if let Some(mux) = &mut self.mux {
            mux.close_those(is_theirs);
        }
    }

    /// Ends the run of an endpoint whose credentials changed: what it hands out may be void, or not
    /// meant any more. A removed device is not given back what it had.
    pub(super) fn cut_bootstrap(&mut self, now: Now, endpoint: &str, removed: bool) {
        let detail = "the credentials of the device were changed meanwhile".to_owned();
        self.break_off(now, endpoint, detail, !removed);
    }

    /// A change could not be stored. A device must not be left with a key that the next start does
    /// not know: its run is not finished, so that it goes back to what it had and comes again.
    pub fn unstored(&mut self, now: Now, change: &Change, why: &str) {
        if let Change::Credential(credentials::Change::Grant(grant)) = change {
            let detail = format!("the new key of the device could not be stored: {why}");
            self.break_off(now, &grant.endpoint, detail, true);
            self.pump(now);
        }
    }

    /// Ends the run of an endpoint, if there is one, in the middle.
    fn break_off(&mut self, now: Now, endpoint: &str, detail: String, give_back: bool) {
        let Some(id) = self.bootstrap.by_endpoint.get(endpoint).copied() else {
            return;
        };
        let Some(active) = self.bootstrap.remove(id) else {
            return;
        };
        if let Some(exchange) = active.exchange {
            self.endpoint.abandon(exchange);
        }
        let step = active.run.step();
        let endpoint = Some(active.endpoint.clone());
        self.tell(active.peer, endpoint, News::Failed { step, detail });
        if give_back {
            self.give_back(now, &active.endpoint, active.replaced);
        }
    }

    fn pack(&mut self, now: Now, caller: &Caller, ask: &AskPack) -> Result<Response, Refusal> {
        let Chosen {
            endpoint,
            profile,
            key_expires,
        } = self.choose(now, caller, ask.endpoint.as_deref())?;
        let before = self.book.grant_of(&endpoint);
        let (book, rng) = (&mut self.book, &mut self.rng);
        let mut replaced = None;
        let mut issue = |identity: &[u8]| {
            let before = book.grant_of(&endpoint);
            let key = issue(now, book, rng, &endpoint, identity, key_expires)?;
            replaced = Some(before);
            Ok(key)
        };
        let packed = pack::pack(now, ask, &endpoint, &profile, &self.models, &mut issue);
        self.settle(now);
        let (response, written) = match packed {
            Ok(packed) => packed,
            Err(refusal) => {
                self.give_back(now, &endpoint, replaced);
                return Err(refusal);
            }
        };
        if replaced.is_some() {
            self.close_sessions_before(&endpoint, before.as_deref());
        }
        let profile = profile.id.clone();
        self.tell(
            caller.peer,
            Some(endpoint),
            News::Packed { profile, written },
        );
        Ok(response)
    }
}

/// Without security everybody on the way reads what is handed out. So a key of our own is good
/// until the join window closes and no longer, and one that another server knows is not handed out
/// at all.
fn check_unsecured(profile: &Profile, until: Option<UnixTime>) -> Result<(), Refusal> {
    let reason = if profile.has_given_key() {
        "its profile has a key of another server, which is never sent without DTLS; let the device \
         bootstrap over coaps"
    } else if profile.generated().is_some() && until.is_none() {
        "without DTLS a key is handed out only while the join window is open; open it, or let the \
         device bootstrap over coaps"
    } else {
        return Ok(());
    };
    Err(Refusal::new(Code::BAD_REQUEST, reason))
}

/// Makes a key, and has the book know it before anybody else sees it.
fn issue(
    now: Now,
    book: &mut Book,
    rng: &mut StdRng,
    endpoint: &str,
    identity: &[u8],
    expires: Option<UnixTime>,
) -> Result<Secret, String> {
    let mut bytes = zeroize::Zeroizing::new([0; KEY_LEN]);
    rng.fill_bytes(&mut *bytes);
    let key = Secret::new(*bytes);
    book.grant(now, endpoint, Psk::new(identity, key.clone()), expires)
        .map_err(|refused| refused.to_string())?;
    Ok(key)
}
