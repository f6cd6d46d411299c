//! One server's registration: Register, Update, De-register, and when to try again
//! (LwM2M Core 1.1 §6.2).

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::client::offer::Offer;
use crate::coap::{Code, ExchangeId, Failure, Request, Response};
use crate::lwm2m::{ContentFormat, Version};
use crate::time::Instant;

/// RFC 7252 §4.8.2: how long one Update may take with all its retransmissions.
const MAX_TRANSMIT_WAIT: Duration = Duration::from_secs(93);

/// When to try again after a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// After the first failure; each further one doubles it (LwM2M Core 1.1 §6.2.1.2, the
    /// default of /1/x/18).
    pub first: Duration,
    /// Not longer than this.
    pub longest: Duration,
}

impl Default for Retry {
    /// From a minute to a day.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(60),
            longest: Duration::from_secs(86_400),
        }
    }
}

impl Retry {
    /// The wait after so many failures in a row, up to half longer by chance, so that clients that
    /// lost their server together do not come back together.
    fn after(&self, failures: u32, rng: &mut impl Rng) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.longest);
        wait.mul_f64(rng.random_range(1.0..1.5))
    }
}

/// What became of an exchange with the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Registered,
    Updated,
    /// The server does not speak this version; the next lower one is tried at once.
    VersionRefused(Version),
    /// Registering failed; the next attempt comes at this time.
    Failed(Reason, Instant),
    /// The registration is gone, and a new one is sought at once or a little later.
    Lost(Reason),
    Deregistered,
}

/// Why a registration failed or was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The server answered with an error code.
    #[error("the server answered {0:?}")]
    Refused(Code),
    /// The server did not answer.
    #[error("{0}")]
    Unanswered(#[from] Failure),
    /// The server accepted without saying where (no Location-Path): it cannot be updated.
    #[error("the server named no location")]
    NoLocation,
}

#[derive(Debug)]
enum State {
    /// Not registered; to be tried at this instant.
    Away {
        until: Instant,
    },
    Registering {
        sent: Sent,
    },
    Registered(Standing),
    Updating {
        standing: Standing,
        sent: Sent,
    },
    Leaving {
        exchange: Option<ExchangeId>,
    },
    /// De-registered, and not to come back.
    Left,
}

/// A request under way.
#[derive(Debug)]
struct Sent {
    exchange: Option<ExchangeId>,
    at: Instant,
    /// What it tells the server.
    lifetime: u32,
    revision: u64,
}

/// What the server knows of us.
#[derive(Clone, Debug)]
struct Standing {
    location: Vec<String>,
    lifetime: u32,
    revision: u64,
    /// When the last Register or Update left: the server counts from a little later.
    refreshed: Instant,
}

impl Standing {
    /// When to refresh the registration; never if it lasts for ever.
    fn update_at(&self) -> Option<Instant> {
        let lifetime = Duration::from_secs(self.lifetime.into());
        let margin = (lifetime / 2).min(MAX_TRANSMIT_WAIT);
        (self.lifetime > 0).then(|| self.refreshed + (lifetime - margin))
    }
}

/// The state machine of one server's registration.
#[derive(Debug)]
pub(super) struct Registration {
    state: State,
    newest: Version,
    version: Version,
    retry: Retry,
    failures: u32,
    update_wanted: bool,
    leaving: bool,
}

impl Registration {
    /// Registers at `start`, offering `version` first.
    pub(super) fn new(start: Instant, version: Version, retry: Retry) -> Self {
        Self {
            state: State::Away { until: start },
            newest: version,
            version,
            retry,
            failures: 0,
            update_wanted: false,
            leaving: false,
        }
    }

    /// The version offered or agreed on.
    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// Where the server keeps the registration.
    pub(super) fn location(&self) -> Option<&[String]> {
        match &self.state {
            State::Registered(standing) | State::Updating { standing, .. } => {
                Some(&standing.location)
            }
            _ => None,
        }
    }

    /// Whether all is over.
    pub(super) fn has_left(&self) -> bool {
        matches!(self.state, State::Left)
    }

    /// Sends an Update soon, due or not (Registration Update Trigger).
    pub(super) fn want_update(&mut self) {
        self.update_wanted = true;
    }

    /// De-registers, then rests.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
    }

    /// Forgets the registration as a device that lost its memory would, and registers at `until`.
    pub(super) fn restart(&mut self, until: Instant) {
        if !self.leaving {
            self.state = State::Away { until };
            self.version = self.newest;
            self.failures = 0;
            self.update_wanted = false;
        }
    }

    /// The request to send now, if any. [`Registration::sent`] must follow.
    pub(super) fn advance(&mut self, now: Instant, offer: &Offer<'_>) -> Option<Request> {
        match &self.state {
            State::Away { .. } if self.leaving => {
                self.state = State::Left;
                None
            }
            State::Registered(standing) if self.leaving => {
                let request = Request::new(Code::DELETE, &standing.location);
                self.state = State::Leaving { exchange: None };
                Some(request)
            }
            State::Away { until } if *until <= now => {
                self.state = State::Registering {
                    sent: Sent::new(now, offer),
                };
                Some(offer.register(self.version))
            }
            State::Registered(standing) => {
                let due = standing.update_at().is_some_and(|at| at <= now);
                let other_lifetime = standing.lifetime != offer.lifetime;
                let other_objects = standing.revision != offer.tree.revision();
                if !(due || other_lifetime || other_objects || self.update_wanted) {
                    return None;
                }
                let mut request = Request::new(Code::POST, &standing.location);
                if other_lifetime {
                    request.query.push(format!("lt={}", offer.lifetime));
                }
                if other_objects {
                    request.content_format = Some(ContentFormat::LINK_FORMAT.0);
                    request.payload = offer.links(self.version);
                }
                self.update_wanted = false;
                let standing = standing.clone();
                let sent = Sent::new(now, offer);
                self.state = State::Updating { standing, sent };
                Some(request)
            }
            _ => None,
        }
    }

    /// Under which id the request of [`Registration::advance`] is under way.
    pub(super) fn sent(&mut self, id: ExchangeId) {
        match &mut self.state {
            State::Registering { sent } | State::Updating { sent, .. } => sent.exchange = Some(id),
            State::Leaving { exchange } => *exchange = Some(id),
            _ => {}
        }
    }

    /// The request of [`Registration::advance`] could not leave: as good as unanswered.
    pub(super) fn unsent(&mut self, now: Instant, rng: &mut impl Rng) {
        match self.state {
            State::Leaving { .. } => self.state = State::Left,
            _ => _ = self.back_off(now, &Err(Failure::Abandoned), rng),
        }
    }

    /// Takes the answer to a request of ours; `None` if it is not this registration's.
    pub(super) fn concluded(
        &mut self,
        now: Instant,
        id: ExchangeId,
        result: &Result<Response, Failure>,
        rng: &mut impl Rng,
    ) -> Option<Outcome> {
        match &self.state {
            State::Registering { sent } if sent.exchange == Some(id) => {
                let standing = sent.standing();
                Some(self.registered(now, standing, result, rng))
            }
            State::Updating { standing, sent } if sent.exchange == Some(id) => {
                let standing = Standing {
                    location: standing.location.clone(),
                    ..sent.standing()
                };
                Some(self.updated(now, standing, result, rng))
            }
            State::Leaving { exchange } if *exchange == Some(id) => {
                self.state = State::Left;
                Some(match result {
                    Ok(response) if response.code.is_success() => Outcome::Deregistered,
                    Ok(response) => Outcome::Lost(Reason::Refused(response.code)),
                    Err(failure) => Outcome::Lost(Reason::Unanswered(*failure)),
                })
            }
            _ => None,
        }
    }

    fn registered(
        &mut self,
        now: Instant,
        standing: Standing,
        result: &Result<Response, Failure>,
        rng: &mut impl Rng,
    ) -> Outcome {
        let reason = match result {
            Ok(response) if response.code.is_success() => {
                if !response.location.is_empty() {
                    self.failures = 0;
                    self.state = State::Registered(Standing {
                        location: response.location.clone(),
                        ..standing
                    });
                    return Outcome::Registered;
                }
                Reason::NoLocation
            }
            Ok(response) if response.code == Code::PRECONDITION_FAILED => {
                let refused = self.version;
                if let Some(lower) = lower(refused) {
                    self.version = lower;
                    self.state = State::Away { until: now };
                    return Outcome::VersionRefused(refused);
                }
                self.version = self.newest;
                Reason::Refused(response.code)
            }
            Ok(response) => Reason::Refused(response.code),
            Err(failure) => Reason::Unanswered(*failure),
        };
        let until = self.back_off(now, result, rng);
        Outcome::Failed(reason, until)
    }

    fn updated(
        &mut self,
        now: Instant,
        standing: Standing,
        result: &Result<Response, Failure>,
        rng: &mut impl Rng,
    ) -> Outcome {
        match result {
            Ok(response) if response.code.is_success() => {
                self.state = State::Registered(standing);
                Outcome::Updated
            }
            // the server lives but does not know us: no reason to wait
            Ok(response) if response.code.class() == 4 => {
                self.state = State::Away { until: now };
                Outcome::Lost(Reason::Refused(response.code))
            }
            Ok(response) => {
                let code = response.code;
                self.back_off(now, result, rng);
                Outcome::Lost(Reason::Refused(code))
            }
            Err(failure) => {
                self.back_off(now, result, rng);
                Outcome::Lost(Reason::Unanswered(*failure))
            }
        }
    }

    /// A server that is overloaded may say for how long, in Max-Age.
    fn back_off(
        &mut self,
        now: Instant,
        result: &Result<Response, Failure>,
        rng: &mut impl Rng,
    ) -> Instant {
        self.failures = self.failures.saturating_add(1);
        let asked = result.as_ref().ok().and_then(|response| response.max_age);
        let asked = Duration::from_secs(asked.unwrap_or(0).into());
        let until = now + self.retry.after(self.failures, rng).max(asked);
        self.state = State::Away { until };
        until
    }

    /// When [`Registration::advance`] has something to do by time alone.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Away { until } => Some(*until),
            State::Registered(standing) => standing.update_at(),
            _ => None,
        }
    }
}

impl Sent {
    fn new(now: Instant, offer: &Offer<'_>) -> Self {
        Self {
            exchange: None,
            at: now,
            lifetime: offer.lifetime,
            revision: offer.tree.revision(),
        }
    }

    fn standing(&self) -> Standing {
        Standing {
            location: Vec::new(),
            lifetime: self.lifetime,
            revision: self.revision,
            refreshed: self.at,
        }
    }
}

/// The version to try after this one was refused with 4.12.
fn lower(version: Version) -> Option<Version> {
    match version.minor.checked_sub(1) {
        Some(minor) if version.major == 1 => Some(Version::new(1, minor)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::client::access::Formats;
    use crate::client::tree::{Resource, Tree};
    use crate::lwm2m::Value;

    const LATEST: Version = Version::V1_2;

    fn second(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    /// One registration and the client behind it.
    struct Rig {
        registration: Registration,
        tree: Tree,
        formats: Formats,
        lifetime: u32,
        rng: StdRng,
        exchange: u64,
    }

    impl Rig {
        fn new(version: Version) -> Self {
            let mut tree = Tree::new();
            let resources = || [(5700, Resource::readable(Value::Float(1.0)))];
            tree.insert(1, None, 0, resources());
            tree.insert(3, None, 0, resources());
            tree.insert(3303, None, 0, resources());
            tree.insert(3315, Some(Version::V1_1), 2, resources());
            Self {
                registration: Registration::new(Instant::ZERO, version, Retry::default()),
                tree,
                formats: Formats::default(),
                lifetime: 300,
                rng: StdRng::from_seed([1; 32]),
                exchange: 0,
            }
        }

        /// What leaves at this instant.
        fn at(&mut self, now: Instant) -> Option<Request> {
            let offer = Offer {
                endpoint: "dev1",
                lifetime: self.lifetime,
                queue_mode: false,
                tree: &self.tree,
                formats: &self.formats,
            };
            let request = self.registration.advance(now, &offer)?;
            self.exchange += 1;
            self.registration.sent(ExchangeId(self.exchange));
            Some(request)
        }

        fn answer(&mut self, now: Instant, result: Result<Response, Failure>) -> Outcome {
            let id = ExchangeId(self.exchange);
            let outcome = self.registration.concluded(now, id, &result, &mut self.rng);
            outcome.unwrap()
        }

        fn refuse(&mut self, now: Instant, code: Code) -> Outcome {
            self.answer(now, Ok(Response::new(code)))
        }

        fn register(&mut self, now: Instant) {
            self.at(now).unwrap();
            let mut created = Response::new(Code::CREATED);
            created.location = vec!["rd".into(), "5a3f".into()];
            assert_eq!(self.answer(now, Ok(created)), Outcome::Registered);
        }
    }

    // conformance: P1
    #[test]
    fn after_4_12_the_next_lower_version_is_tried_at_once() {
        let mut rig = Rig::new(LATEST);
        for (offered, lower) in [("1.2", "1.1"), ("1.1", "1.0")] {
            let request = rig.at(Instant::ZERO).unwrap();
            assert!(request.query.contains(&format!("lwm2m={offered}")));
            let outcome = rig.refuse(Instant::ZERO, Code::PRECONDITION_FAILED);
            assert_eq!(outcome, Outcome::VersionRefused(offered.parse().unwrap()));
            assert_eq!(rig.registration.version().to_string(), lower);
        }
        rig.at(Instant::ZERO).unwrap();
        let outcome = rig.refuse(Instant::ZERO, Code::PRECONDITION_FAILED);
        assert!(
            matches!(outcome, Outcome::Failed(Reason::Refused(_), until) if until > second(59))
        );
        assert_eq!(rig.registration.version(), LATEST, "from the top next time");
    }

    #[test]
    fn only_4_12_steps_down() {
        let mut rig = Rig::new(LATEST);
        rig.at(Instant::ZERO).unwrap();
        rig.refuse(Instant::ZERO, Code::BAD_REQUEST);
        assert_eq!(rig.registration.version(), LATEST);
    }

    #[test]
    fn waits_double_and_differ_by_chance() {
        let mut rig = Rig::new(LATEST);
        let mut now = Instant::ZERO;
        let mut waits = Vec::new();
        for _ in 0..14 {
            assert!(rig.at(now).is_some());
            assert!(rig.at(now).is_none(), "one request at a time");
            let Outcome::Failed(_, until) = rig.answer(now, Err(Failure::Timeout)) else {
                panic!("a failure")
            };
            waits.push(until.since(now).as_secs_f64());
            assert_eq!(rig.registration.next_timeout(), Some(until));
            now = until;
        }
        for (attempt, wait) in waits.iter().enumerate() {
            let least = (60.0 * 2f64.powi(attempt as i32)).min(86_400.0);
            assert!((least..=least * 1.5).contains(wait), "{attempt}: {wait}");
        }
        assert!(waits.iter().any(|wait| wait.fract() != 0.0), "no jitter");
    }

    #[test]
    fn an_overloaded_server_says_how_long_to_wait() {
        let mut rig = Rig::new(LATEST);
        rig.at(Instant::ZERO).unwrap();
        let mut busy = Response::new(Code::SERVICE_UNAVAILABLE);
        busy.max_age = Some(600);
        rig.answer(Instant::ZERO, Ok(busy));
        assert_eq!(rig.registration.next_timeout(), Some(second(600)));
    }

    #[test]
    fn an_update_leaves_before_the_lifetime_ends() {
        for (lifetime, update_at) in [(300, 207), (86_400, 86_307), (60, 30), (1, 0)] {
            let mut rig = Rig::new(LATEST);
            rig.lifetime = lifetime;
            rig.register(Instant::ZERO);
            let at = rig.registration.next_timeout().unwrap();
            assert_eq!(at.since(Instant::ZERO).as_secs(), update_at, "{lifetime}");
            assert_eq!(rig.at(at).unwrap().path, ["rd", "5a3f"]);
        }
        let mut rig = Rig::new(LATEST);
        rig.lifetime = 0;
        rig.register(Instant::ZERO);
        assert_eq!(rig.registration.next_timeout(), None, "0 is for ever");
    }

    #[test]
    fn an_update_tells_only_what_changed() {
        let mut rig = Rig::new(LATEST);
        rig.register(Instant::ZERO);
        assert_eq!(rig.at(second(1)), None);

        let update = rig.at(second(207)).unwrap();
        assert_eq!((update.query.len(), update.payload.len()), (0, 0));
        assert_eq!(update.content_format, None);
        assert_eq!(rig.refuse(second(207), Code::CHANGED), Outcome::Updated);
        assert_eq!(rig.registration.next_timeout(), Some(second(414)));

        rig.lifetime = 600;
        assert_eq!(rig.at(second(208)).unwrap().query, ["lt=600"]);
        rig.refuse(second(208), Code::CHANGED);

        rig.tree.remove(3303, 0);
        let update = rig.at(second(209)).unwrap();
        assert_eq!(update.content_format, Some(40));
        assert!(
            update
                .payload
                .ends_with(b"</3303>,</3315>;ver=1.1,</3315/2>")
        );
        rig.refuse(second(209), Code::CHANGED);

        rig.registration.want_update();
        assert!(rig.at(second(210)).is_some());
        rig.refuse(second(210), Code::CHANGED);
        assert_eq!(rig.at(second(211)), None);
    }

    #[test]
    fn a_server_that_forgot_us_is_registered_with_at_once() {
        let mut rig = Rig::new(LATEST);
        rig.register(Instant::ZERO);
        rig.at(second(207)).unwrap();
        let outcome = rig.refuse(second(208), Code::NOT_FOUND);
        assert_eq!(outcome, Outcome::Lost(Reason::Refused(Code::NOT_FOUND)));
        let again = rig.at(second(208)).unwrap();
        assert_eq!(again.path, ["rd"]);
        assert!(!again.payload.is_empty());
    }

    #[test]
    fn leaving_deletes_the_registration_and_ends_there() {
        let mut rig = Rig::new(LATEST);
        rig.register(Instant::ZERO);
        rig.registration.leave();
        let request = rig.at(second(1)).unwrap();
        assert_eq!(
            (request.method, request.path.join("/")),
            (Code::DELETE, "rd/5a3f".into())
        );
        assert_eq!(rig.refuse(second(1), Code::DELETED), Outcome::Deregistered);
        assert!(rig.registration.has_left());
        assert_eq!(
            (rig.at(second(9)), rig.registration.next_timeout()),
            (None, None)
        );
    }

    #[test]
    fn leaving_while_registering_waits_for_the_location() {
        let mut rig = Rig::new(LATEST);
        rig.at(Instant::ZERO).unwrap();
        rig.registration.leave();
        assert_eq!(rig.at(second(1)), None);
        let mut created = Response::new(Code::CREATED);
        created.location = vec!["rd".into(), "7".into()];
        rig.answer(second(1), Ok(created));
        assert_eq!(rig.at(second(1)).unwrap().method, Code::DELETE);
    }

    #[test]
    fn a_late_answer_to_a_forgotten_request_is_nobody_s() {
        let mut rig = Rig::new(LATEST);
        rig.at(Instant::ZERO).unwrap();
        rig.registration.restart(second(2));
        let late = Ok(Response::new(Code::CREATED));
        let id = ExchangeId(rig.exchange);
        let outcome = rig
            .registration
            .concluded(second(1), id, &late, &mut rig.rng);
        assert_eq!(outcome, None);
        assert!(rig.at(second(1)).is_none());
        assert!(rig.at(second(2)).is_some());
    }
}
