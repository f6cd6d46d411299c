//! Who waits for messages to be safe, and what is written down for their sake.

use super::{Class, Entry, Outbox, Publish, Qos, Rejected, Ticket};

/// Names somebody who waits for messages to be safe. It is let go once for each message that it
/// was given with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hold(pub u64);

/// A message that the broker has not acknowledged, and that is to be written down.
#[derive(Debug)]
pub struct Waiting<'a> {
    /// Its number.
    pub ticket: Ticket,
    /// The message. One of [`Class::State`] is written down as what stands on its topic.
    pub publish: &'a Publish,
    /// Who waits for it; it is their giver who lets them go when it is on the disk.
    pub holds: Vec<Hold>,
}

impl Outbox {
    /// As [`Outbox::push`], of a message for which somebody waits. Of one at QoS 0 nobody can.
    ///
    /// # Errors
    ///
    /// As [`Outbox::push`]; then nobody waits.
    pub fn push_held(&mut self, publish: Publish, hold: Hold) -> Result<Ticket, Rejected> {
        let hold = Some(hold).filter(|_| publish.qos == Qos::AtLeastOnce);
        self.accept(publish, false, hold)
    }

    /// Somebody waits for the value of a topic that was accepted before. Whether there is one that
    /// the broker has not acknowledged.
    pub fn hold(&mut self, topic: &str, hold: Hold) -> bool {
        let is_it = |entry: &&mut Entry| {
            entry.publish.class == Class::State && *entry.publish.topic == *topic
        };
        let found = match self.states.waiting(topic) {
            Some(waiting) => Some(waiting),
            None => self.in_flight.iter_mut().rev().find(is_it),
        };
        found
            .filter(|entry| entry.publish.qos == Qos::AtLeastOnce)
            .map(|entry| entry.holds.push(hold))
            .is_some()
    }

    /// Whether a value of this topic waits to be sent, or to be acknowledged.
    pub fn is_open(&mut self, topic: &str) -> bool {
        let mut sent = self.in_flight.iter();
        self.states.waiting(topic).is_some() || sent.any(|entry| *entry.publish.topic == *topic)
    }

    /// Somebody who need not wait any more for one of the messages it was given with.
    pub fn released(&mut self) -> Option<Hold> {
        self.released.pop_front()
    }

    /// The newest message.
    pub const fn newest(&self) -> Ticket {
        Ticket(self.last_ticket)
    }

    /// Gives the messages up to `until` that are to be written down: all events and samples that
    /// are not, and values for which somebody waits; or, with `all`, every value of a signal.
    pub fn spool(&mut self, until: Ticket, all: bool, give: &mut dyn FnMut(Waiting<'_>)) {
        let Self {
            states,
            events,
            samples,
            in_flight,
            spooled,
            ..
        } = self;
        let mut take = |entry: &mut Entry| {
            if entry.publish.qos == Qos::AtMostOnce || entry.ticket > until {
                return;
            }
            if entry.publish.class == Class::State {
                let is_wanted = !entry.holds.is_empty() || all && entry.publish.origin.is_some();
                if !is_wanted {
                    return;
                }
            } else if std::mem::replace(&mut entry.spooled, true) {
                return;
            } else {
                *spooled += 1;
            }
            give(Waiting {
                ticket: entry.ticket,
                publish: &entry.publish,
                holds: std::mem::take(&mut entry.holds),
            });
        };
        in_flight.iter_mut().for_each(&mut take);
        states.queue.iter_mut().for_each(&mut take);
        // What is written down is in front.
        for lane in [events, samples] {
            let unspooled = lane.iter().rev().take_while(|entry| !entry.spooled).count();
            let written = lane.len() - unspooled;
            lane.range_mut(written..).for_each(&mut take);
        }
    }

    /// A message that [`Outbox::spool`] gave could not be written down.
    pub fn not_spooled(&mut self, ticket: Ticket, holds: Vec<Hold>) {
        let Self {
            states,
            events,
            samples,
            in_flight,
            ..
        } = self;
        let lanes = [in_flight, &mut states.queue, events, samples];
        let mut entries = lanes.into_iter().flat_map(|lane| lane.iter_mut());
        match entries.find(|entry| entry.ticket == ticket) {
            Some(entry) => {
                self.spooled -= usize::from(std::mem::take(&mut entry.spooled));
                entry.holds.extend(holds);
            }
            None => self.released.extend(holds),
        }
    }

    /// Whether [`Outbox::spool`] or [`Outbox::unspooled`] may have something now or soon.
    pub fn is_to_be_looked_after(&self) -> bool {
        self.events.len() + self.samples.len() + self.in_flight.len() > self.spooled
            || self.departed != [false; 2]
    }

    /// A class of which messages have left the spool since it was asked last, and the number below
    /// which none of that class is needed.
    pub fn unspooled(&mut self) -> Option<(Class, Ticket)> {
        let (index, class) = match self.departed {
            [true, _] => (0, Class::Event),
            [_, true] => (1, Class::Sample),
            _ => return None,
        };
        if let Some(departed) = self.departed.get_mut(index) {
            *departed = false;
        }
        let sent = self.in_flight.iter();
        let needed = sent
            .filter(|entry| entry.publish.class == class)
            .chain(self.front(class))
            .map(|entry| entry.ticket)
            .min();
        Some((class, needed.unwrap_or(Ticket(self.last_ticket + 1))))
    }

    /// Takes a message that the spool held at start, before any other, the oldest first.
    pub fn restore(&mut self, number: i64, publish: Publish) {
        self.last_ticket = self.last_ticket.max(number);
        self.backlog = self.last_ticket;
        let entry = Entry {
            ticket: Ticket(number),
            publish,
            spooled: true,
            holds: Vec::new(),
        };
        // It counts as new: what does not fit any more is dropped by name.
        if self.make_room(entry.weight()).is_err() {
            self.depart(entry.publish.class);
            return;
        }
        self.spooled += 1;
        self.put_last(entry);
    }

    /// A message of the spool cannot be read.
    pub fn pass_over(&mut self, number: i64, class: Class) {
        self.last_ticket = self.last_ticket.max(number);
        self.depart(class);
    }

    /// A message is with the broker, or will never be: nobody waits for it any more.
    pub(super) fn leave(&mut self, entry: &mut Entry) {
        self.released.extend(entry.holds.drain(..));
        if std::mem::take(&mut entry.spooled) {
            self.spooled -= 1;
            self.depart(entry.publish.class);
        }
    }

    fn depart(&mut self, class: Class) {
        let [event, sample] = &mut self.departed;
        match class {
            Class::Event => *event = true,
            Class::Sample => *sample = true,
            Class::State => {}
        }
    }
}
