//! When a device listens, and when it is to be heard of: the awake window of queue mode
//! (LwM2M Transport 1.1 §6.5) and the contact that is expected next.
//!
//! Every message of a device begins its window anew. While the window is closed nothing goes to the
//! device; what waits for it leaves one by one after the next message.

use super::*;

/// What a device teaches about its habits.
#[derive(Clone, Debug)]
pub(super) struct Wake {
    /// The last message from the device.
    heard: Now,
    /// The first message of the contact that the last one belongs to.
    woke: Now,
    /// From the beginning of the contact before to that of this one.
    between_contacts: Option<Duration>,
    /// The longest time between two refreshes of the registration, of those that were contacts of
    /// their own, and how many those were.
    between_refreshes: Duration,
    refreshes: u8,
    /// How long the device listens after a message of its own.
    window: Duration,
    /// The window is closed.
    closed: bool,
    /// The expected contact was missed.
    overdue: bool,
    /// Which entry stands in [`Server::deadlines`]; it may be earlier than it has to be.
    pub(super) watched: Option<Instant>,
}

/// Refreshes that are nearer to each other than this (MAX_TRANSMIT_WAIT) are one contact, and teach
/// nothing about the time to the next.
const ONE_CONTACT: Duration = Duration::from_secs(93);

/// How many refreshes it takes to know how often a device refreshes.
const ENOUGH_REFRESHES: u8 = 2;

impl Wake {
    /// A device that has just sent its Register.
    pub(super) const fn new(now: Now, window: Duration) -> Self {
        Self {
            heard: now,
            woke: now,
            between_contacts: None,
            between_refreshes: Duration::ZERO,
            refreshes: 0,
            window,
            closed: false,
            overdue: false,
            watched: None,
        }
    }

    /// A device that was heard last by an earlier process.
    pub(super) fn restored(now: Now, heard: Now, window: Duration) -> Self {
        Self {
            // Instants do not reach back beyond the beginning of the process.
            closed: (heard + window).unix <= now.unix,
            ..Self::new(heard, window)
        }
    }

    /// Takes note of a refresh that comes `after` the last one.
    pub(super) fn refreshed(&mut self, after: Duration) {
        if after >= ONE_CONTACT {
            self.between_refreshes = self.between_refreshes.max(after);
            self.refreshes = self.refreshes.saturating_add(1);
        }
    }

    /// Takes note of a message. Whether it was not to be expected that the device listens.
    fn hear(&mut self, now: Now) -> bool {
        let news = self.closed || self.overdue;
        if self.closed || now.instant >= (self.heard + self.window).instant {
            self.between_contacts = Some(now.instant.since(self.woke.instant));
            self.woke = now;
        }
        self.heard = now;
        self.closed = false;
        self.overdue = false;
        news
    }

    /// How often the device refreshes its registration, if it has shown.
    fn rhythm(&self) -> Option<Duration> {
        (self.refreshes >= ENOUGH_REFRESHES).then_some(self.between_refreshes)
    }
}

impl Registration {
    /// The last message of the device, of whatever kind.
    pub const fn heard(&self) -> Now {
        self.wake.heard
    }

    /// Whether a message of ours would find the device listening, as far as we know.
    pub fn listens(&self, now: Now) -> bool {
        !self.queue_mode()
            || self
                .awake_until()
                .is_some_and(|end| now.instant < end.instant)
    }

    /// When the awake window of a device in queue mode closes; `None` when it is closed, and for
    /// a device that does not sleep.
    pub fn awake_until(&self) -> Option<Now> {
        (self.queue_mode() && !self.wake.closed).then(|| self.wake.heard + self.wake.window)
    }

    /// Whether the device was to be heard of and was not.
    pub const fn is_overdue(&self) -> bool {
        self.wake.overdue
    }

    /// When the device is probably heard of next: as long after its last contact as that was after
    /// the one before; else when its registration is to be refreshed. `None` when nothing is known.
    pub fn next_contact(&self, now: Now) -> Option<Now> {
        let ahead = |at: &Now| at.instant > now.instant;
        let by_contacts = self.wake.between_contacts.map(|gap| self.wake.woke + gap);
        let by_refreshes = self.wake.rhythm().map(|gap| self.refreshed + gap);
        // Clients refresh MAX_TRANSMIT_WAIT before the end, or at half of a short lifetime.
        let by_lifetime = self
            .terms
            .lifetime()
            .map(|lifetime| self.refreshed + (lifetime - (lifetime / 2).min(ONE_CONTACT)));
        [by_contacts, by_refreshes, by_lifetime, self.expires()]
            .into_iter()
            .flatten()
            .find(ahead)
    }

    /// Until when the device has to be heard of, not to be late: the end of its lifetime, or half as
    /// long again as it ever left us without a word between two refreshes.
    fn due(&self) -> Option<Now> {
        let by_habit = self
            .wake
            .rhythm()
            .map(|gap| self.wake.heard + (gap + gap / 2).max(self.wake.window));
        match (by_habit, self.expires()) {
            (Some(habit), Some(lifetime)) if habit.instant < lifetime.instant => Some(habit),
            (habit, lifetime) => lifetime.or(habit),
        }
    }

    /// When something about the device is to be done next by the clock.
    fn deadline_next(&self, grace: Duration) -> Option<Instant> {
        let due = self.due().filter(|_| !self.wake.overdue);
        [self.deadline(grace), self.awake_until(), due]
            .into_iter()
            .flatten()
            .map(|at| at.instant)
            .min()
    }
}

impl Server {
    /// How long a device listens after a message of its own, if its mapping says so; `None` is what
    /// the operator says of all.
    pub fn set_awake_window(&mut self, device: DeviceId, window: Option<Duration>) {
        let window = window.unwrap_or(self.settings.awake_window);
        if let Some(registration) = self.registration_mut(device)
            && registration.wake.window != window
        {
            registration.wake.window = window;
            self.watch(device);
        }
    }

    /// A message came from a peer. If a registered device is there, it listens now.
    pub(super) fn hear(&mut self, now: Now, peer: Peer) {
        if let Some(device) = self.by_peer.get(&peer).copied() {
            self.hear_device(now, device);
        }
    }

    pub(super) fn hear_device(&mut self, now: Now, device: DeviceId) {
        let Some(registration) = self.registration_mut(device) else {
            return;
        };
        let (peer, slept) = (registration.peer, registration.wake.closed);
        if registration.wake.hear(now) {
            self.woken.push(device);
        }
        if slept {
            self.endpoint.resume(now.instant, peer);
        }
        self.watch(device);
    }

    /// Goes on with the next device that woke, once what it said has been dealt with. Whether there
    /// was one.
    pub(super) fn serve_woken(&mut self, now: Now) -> bool {
        let Some(device) = self.woken.pop() else {
            return false;
        };
        if self.registration(device).is_some() {
            self.emit(Event::Woke(device));
            self.start_next(now, device);
        }
        true
    }

    /// A device in queue mode sleeps: its window is over, or it did not answer. What is under way
    /// to it is not repeated.
    pub(super) fn put_to_sleep(&mut self, device: DeviceId) {
        let Some(registration) = self.registration_mut(device) else {
            return;
        };
        if registration.queue_mode() && !std::mem::replace(&mut registration.wake.closed, true) {
            let peer = registration.peer;
            self.endpoint.hush(peer);
            self.watch(device);
            self.emit(Event::Slept(device));
        }
    }

    /// Sees to it that [`Server::tend_devices`] looks at a device in time.
    ///
    /// Each message of a device moves its deadline away. What stands is left to come up then, finds
    /// nothing to do and is set anew: once in a window, and not at each message.
    pub(super) fn watch(&mut self, device: DeviceId) {
        let grace = self.settings.lifetime_grace;
        let Some(registration) = self.registration_mut(device) else {
            return;
        };
        let next = registration.deadline_next(grace);
        let standing = registration.wake.watched;
        if standing.is_some_and(|standing| next.is_none_or(|next| standing <= next)) {
            return;
        }
        registration.wake.watched = next;
        if let Some(standing) = standing {
            self.deadlines.remove(&(standing, device));
        }
        if let Some(next) = next {
            self.deadlines.insert((next, device));
        }
    }

    /// Does what is due at each device: windows close, contacts are missed, lifetimes end.
    pub(super) fn tend_devices(&mut self, now: Now) {
        let grace = self.settings.lifetime_grace;
        while let Some((at, device)) = self
            .deadlines
            .first()
            .copied()
            .filter(|(at, _)| *at <= now.instant)
        {
            self.deadlines.remove(&(at, device));
            let Some(registration) = self.registration_mut(device) else {
                continue;
            };
            registration.wake.watched = None;
            let is_past = |at: Option<Now>| at.is_some_and(|at| at.instant <= now.instant);
            if let (Some(expires), true) = (
                registration.expires(),
                is_past(registration.deadline(grace)),
            ) {
                self.end_registration(now, device);
                self.emit(Event::Expired {
                    device,
                    at: expires.unix,
                });
                continue;
            }
            let sleeps = is_past(registration.awake_until());
            let missed = !registration.wake.overdue && is_past(registration.due());
            registration.wake.overdue |= missed;
            if sleeps {
                self.put_to_sleep(device);
            }
            if missed {
                self.emit(Event::Overdue(device));
            }
            self.watch(device);
        }
    }
}
