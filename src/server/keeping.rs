//! What of the server outlives the process: registrations, and the observations that devices hold.

use super::wake::Wake;
use super::*;
use crate::coap::Standing;
use crate::kept::{self, Urgency};

/// How long a restored registration stands at least, MAX_TRANSMIT_WAIT (RFC 7252 §4.8.2): whoever
/// sent its Update while nobody was here repeats it so long.
const RETURN: Duration = Duration::from_secs(93);

impl Server {
    /// Says what the registration of a device is now.
    pub(super) fn keep_registration(&mut self, device: DeviceId, urgency: Urgency) {
        let Some(entry) = self.devices.get(device.0 as usize) else {
            return;
        };
        let Some(registration) = &entry.registration else {
            return;
        };
        let kept = kept::Registration {
            location: registration.location.clone(),
            route: kept::Registration::route_of(registration.peer),
            identity: registration.identity.clone(),
            version: registration.version,
            terms: registration.terms.clone(),
            objects: registration.objects.clone(),
            standing: true,
        };
        let change = Change::Registered(entry.endpoint.clone(), Box::new(kept), urgency);
        self.outputs.push_back(Output::Store(change));
    }

    /// Says that the registration of a device has ended.
    pub(super) fn keep_end(&mut self, device: DeviceId) {
        if let Some(endpoint) = self.endpoint_name(device).cloned() {
            self.outputs
                .push_back(Output::Store(Change::Ended(endpoint)));
        }
    }

    /// Says that this is observed of a device.
    pub(super) fn keep_observation(
        &mut self,
        device: DeviceId,
        target: Target,
        observation: ObservationId,
    ) {
        let (Some(endpoint), Some(Standing { token, request, .. })) = (
            self.endpoint_name(device).cloned(),
            self.endpoint.standing(observation),
        ) else {
            return;
        };
        let kept = kept::Observation {
            target,
            token,
            request: request.into(),
        };
        let change = Change::Observed(endpoint, Box::new(kept));
        self.outputs.push_back(Output::Store(change));
    }

    /// Says that this is not observed of a device any more.
    pub(super) fn keep_unobserved(&mut self, device: DeviceId, target: Target) {
        if let Some(endpoint) = self.endpoint_name(device).cloned() {
            let change = Change::Unobserved(endpoint, target);
            self.outputs.push_back(Output::Store(change));
        }
    }

    /// Fills in what of a contact the server knows.
    pub fn remember(&mut self, device: DeviceId, contact: &mut kept::Contact) {
        let Some(registration) = self
            .devices
            .get(device.0 as usize)
            .and_then(|entry| entry.registration.as_ref())
        else {
            return;
        };
        contact.refreshed = Some(registration.refreshed.unix);
        let [fetch, ipatch] = registration.abilities.known();
        contact.learned = kept::Learned {
            many: registration
                .formats
                .attempt(0, false)
                .map(|format| format.0),
            single: registration.formats.attempt(0, true).map(|format| format.0),
            fetch,
            ipatch,
        };
        contact.message_id = self.endpoint.message_id(registration.peer);
        contact.numbers = registration
            .observations
            .iter()
            .filter_map(|(_, id)| self.endpoint.standing(*id))
            .filter_map(|standing| {
                let (number, _) = standing.newest?;
                Some((prefix(&standing.token), number))
            })
            .collect();
    }

    /// Takes back a device of an earlier process, after all credentials: its registration stands
    /// as if nothing had happened, unless it may not be here any more, which an
    /// [`Event::Revoked`] tells. `None` when there are too many devices.
    pub fn restore(&mut self, now: Now, kept: &kept::Device) -> Option<DeviceId> {
        if self.by_endpoint.contains_key(&*kept.endpoint) {
            return None;
        }
        let device = self.number(&kept.endpoint).ok()?;
        let Some(registration) = kept.registration.as_ref().filter(|it| it.standing) else {
            return Some(device);
        };
        match self.peer_of(now, device, &kept.endpoint, registration) {
            Some(peer) => self.restore_registration(now, device, peer, registration, kept),
            None => {
                self.keep_end(device);
                self.emit(Event::Revoked {
                    device,
                    removed: false,
                });
            }
        }
        Some(device)
    }

    /// Where a device of an earlier process is; `None` if it may not be here. One that came by a
    /// session is nowhere until it shakes hands again, or the session is restored as well: then
    /// [`take_over`](Self::take_over) finds it by its identity.
    fn peer_of(
        &mut self,
        now: Now,
        device: DeviceId,
        endpoint: &str,
        kept: &kept::Registration,
    ) -> Option<Peer> {
        if self.by_location.contains_key(&*kept.location) {
            return None;
        }
        if let Some(identity) = &kept.identity {
            // The numbers of sessions begin at the other end.
            let nowhere = Peer::Session(u64::MAX - u64::from(device.0));
            let welcome = self.mux.is_some() && self.book.upholds(Some(identity), endpoint);
            return welcome.then_some(nowhere);
        }
        let route = kept.route?;
        let listener = self.settings.listener(route.listener)?;
        if listener.secure || listener.purpose != Purpose::Management {
            return None;
        }
        let ip = route.address.ip();
        let admitted = self
            .book
            .admit(now, Purpose::Management, None, ip, endpoint);
        admitted.is_ok().then_some(Peer::Route(route))
    }

    fn restore_registration(
        &mut self,
        now: Now,
        device: DeviceId,
        peer: Peer,
        kept: &kept::Registration,
        of: &kept::Device,
    ) {
        let contact = of.contact.as_ref();
        let mut formats = Formats::advertised(&kept.objects.formats, kept.version);
        let mut abilities = Abilities::of(kept.version);
        if let Some(learned) = contact.map(|contact| &contact.learned) {
            for (format, single) in [(learned.many, false), (learned.single, true)] {
                if let Some(format) = format {
                    formats.worked(ContentFormat(format), single);
                }
            }
            abilities.restore([learned.fetch, learned.ipatch]);
        }
        let heard = contact.map_or(now, |contact| now.back_to(contact.availability.last_seen));
        let refreshed = contact.and_then(|contact| contact.refreshed);
        let mut registration = Registration {
            location: kept.location.clone(),
            peer,
            identity: kept.identity.clone(),
            version: kept.version,
            terms: kept.terms.clone(),
            objects: kept.objects.clone(),
            refreshed: refreshed.map_or(heard, |at| now.back_to(at)),
            formats,
            abilities,
            wake: Wake::restored(now, heard, self.settings.awake_window),
            observations: Vec::new(),
            running: None,
            upload: None,
            queue: VecDeque::new(),
        };
        let grace = self.settings.lifetime_grace;
        let earliest = now.instant + RETURN;
        if let Some(deadline) = registration.deadline(grace)
            && deadline.instant < earliest
        {
            registration.refreshed.instant += earliest.since(deadline.instant);
        }
        for observation in &of.observations {
            let target = observation.target.clone();
            let numbers = contact.map_or(&[][..], |contact| &contact.numbers);
            let number = numbers
                .iter()
                .find(|(token, _)| *token == prefix(&observation.token));
            let standing = Standing {
                token: observation.token,
                request: observation.request.as_slice().into(),
                newest: number.map(|(_, number)| (*number, heard.instant)),
            };
            if let Some(id) = self.endpoint.stand(now.instant, peer, standing) {
                self.observations.insert(id, (device, target.clone()));
                registration.observations.push((target, id));
            }
        }
        if let Some(next) = contact.and_then(|contact| contact.message_id) {
            self.endpoint.number_apart(peer, next);
        }
        self.enter_registration(device, registration);
    }
}

/// Enough of a token to tell it from others of the same device.
fn prefix(token: &coap::Token) -> u32 {
    let mut bytes = [0; 4];
    bytes
        .iter_mut()
        .zip(token.as_bytes())
        .for_each(|(to, from)| *to = *from);
    u32::from_be_bytes(bytes)
}
