//! When changes are written: urgent ones at once, the others together.

use std::time::Duration;

use tracing::error;

use super::Store;
use crate::kept::{Change, Changes, Urgency};
use crate::time::Instant;

/// How long a change that is not urgent waits for others.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// How many changes may wait.
const PENDING_MOST: usize = 10_000;

/// How many of those that wait go along with urgent ones.
const ALONG: usize = 64;

/// Changes that are not on the disk.
#[derive(Debug)]
pub struct Unstored {
    /// Which.
    pub changes: Vec<Change>,
    /// Why, for a person.
    pub why: String,
}

/// A store, and what waits to be written to it.
pub struct Writer {
    store: Box<dyn Store>,
    pending: Changes,
    flush_due: Option<Instant>,
}

impl Writer {
    /// Writes to this store.
    pub fn new(store: Box<dyn Store>) -> Self {
        Self {
            store,
            pending: Changes::default(),
            flush_due: None,
        }
    }

    /// The store, as far as it is written.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Keeps changes: those that are urgent before this returns, in one transaction; the others in
    /// a while, or along with those if they are few. What cannot be kept is said in the log.
    ///
    /// # Errors
    ///
    /// The urgent changes, and why they could not be kept.
    pub fn keep(&mut self, now: Instant, changes: Vec<Change>) -> Result<(), Unstored> {
        let mut urgent = Vec::new();
        for change in changes {
            if change.urgency() == Urgency::Now {
                // What waits is older, and must not be written over it.
                self.pending.supersede(&change);
                urgent.push(change);
            } else {
                self.pending.add(change);
            }
        }
        let count = urgent.len();
        if count > 0 && self.pending.len() <= ALONG {
            urgent.extend(self.pending.take());
            self.flush_due = None;
        }
        let written = self.write(urgent);
        if self.pending.len() >= PENDING_MOST {
            self.flush();
        } else if self.flush_due.is_none() && !self.pending.is_empty() {
            self.flush_due = Some(now + FLUSH_INTERVAL);
        }
        written.map_err(|mut unstored| {
            unstored.changes.truncate(count);
            unstored
        })
    }

    /// When [`flush`](Self::flush) is due.
    pub const fn flush_due(&self) -> Option<Instant> {
        self.flush_due
    }

    /// Writes what waited. What cannot be written is lost, and said in the log.
    pub fn flush(&mut self) {
        self.flush_due = None;
        let changes = self.pending.take().collect();
        // It was said, and nobody waits for it.
        let _ = self.write(changes);
    }

    fn write(&mut self, changes: Vec<Change>) -> Result<(), Unstored> {
        if changes.is_empty() {
            return Ok(());
        }
        self.store.apply_all(&changes).map_err(|failure| {
            let why = failure.to_string();
            error!(
                "{} could not be stored and will be lost at the next start: {why}",
                match changes.len() {
                    1 => "one change".to_owned(),
                    count => format!("{count} changes"),
                }
            );
            Unstored { changes, why }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::agent::store::StoreError;
    use crate::kept::{Document, DocumentKey, Kept, Kind};
    use crate::server::credentials::Stored;

    /// Each transaction that it was given.
    #[derive(Clone, Default)]
    struct Recorded(Arc<Mutex<Vec<Vec<Change>>>>);

    impl Store for Recorded {
        fn credentials(&self) -> Result<Stored, StoreError> {
            Ok(Stored::default())
        }

        fn load(&self, _: &mut dyn FnMut(Kept)) -> Result<(), StoreError> {
            Ok(())
        }

        fn apply_all(&mut self, changes: &[Change]) -> Result<(), StoreError> {
            self.0.lock().unwrap().push(changes.to_vec());
            Ok(())
        }
    }

    fn put(id: &str, body: u8, urgency: Urgency) -> Change {
        let key = DocumentKey {
            kind: Kind::Command,
            endpoint: "dev1".into(),
            id: id.into(),
        };
        let body = vec![body];
        Change::Put(Document { key, body }, urgency)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn what_is_not_urgent_waits_and_only_the_newest_of_it_is_written() {
        let recorded = Recorded::default();
        let mut writer = Writer::new(Box::new(recorded.clone()));
        for body in 1..4 {
            let change = put("a", body, Urgency::Soon);
            writer.keep(at(body.into()), vec![change]).unwrap();
        }
        assert!(recorded.0.lock().unwrap().is_empty());
        assert_eq!(writer.flush_due(), Some(at(11)));
        writer.flush();
        assert_eq!(
            *recorded.0.lock().unwrap(),
            [vec![put("a", 3, Urgency::Soon)]]
        );
        assert_eq!(writer.flush_due(), None);
    }

    #[test]
    fn an_older_change_is_not_written_over_an_urgent_one() {
        let recorded = Recorded::default();
        let mut writer = Writer::new(Box::new(recorded.clone()));
        let changes = vec![
            put("a", 1, Urgency::Soon),
            put("a", 2, Urgency::Now),
            put("b", 3, Urgency::Soon),
        ];
        writer.keep(at(1), changes).unwrap();
        assert_eq!(
            *recorded.0.lock().unwrap(),
            [vec![put("a", 2, Urgency::Now), put("b", 3, Urgency::Soon)]]
        );
    }

    #[test]
    fn urgent_changes_do_not_wait_for_many_others() {
        let recorded = Recorded::default();
        let mut writer = Writer::new(Box::new(recorded.clone()));
        let mut changes: Vec<_> = (0..100)
            .map(|index| put(&index.to_string(), 0, Urgency::Soon))
            .collect();
        changes.push(put("a", 1, Urgency::Now));
        writer.keep(at(1), changes).unwrap();
        assert_eq!(
            *recorded.0.lock().unwrap(),
            [vec![put("a", 1, Urgency::Now)]]
        );
        writer.flush();
        assert_eq!(recorded.0.lock().unwrap()[1].len(), 100);
    }

    #[test]
    fn so_many_changes_wait_and_no_more() {
        let recorded = Recorded::default();
        let mut writer = Writer::new(Box::new(recorded.clone()));
        let changes: Vec<_> = (0..PENDING_MOST)
            .map(|index| put(&index.to_string(), 0, Urgency::Soon))
            .collect();
        writer.keep(at(1), changes).unwrap();
        assert_eq!(recorded.0.lock().unwrap().len(), 1);
        assert_eq!(writer.flush_due(), None);
    }
}
