//! What strangers can make grow, and what was counted.

use std::time::Duration;

/// Caps on what peers can make grow. `Default` has the values that the fields name.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Established sessions. When one more comes, the one that has been silent longest gives way
    /// (to the minute). 200 000; 1 to 8 million.
    pub sessions: usize,
    /// Handshakes under way with clients, in all. When one more comes, the oldest
    /// gives way: a new one is never refused. 4096; 1 to 4 million.
    pub handshakes: usize,
    /// The same for one source: an IPv4 address, or an IPv6 network of 64 bits. Many devices may
    /// sit behind one address. 512; at least 1.
    pub handshakes_per_source: usize,
    /// How long a handshake may take, retransmissions included. 90 s.
    pub handshake_lifetime: Duration,
    /// How long a session may be silent before it is closed: counted from the last datagram that
    /// the peer authenticated. That of a registered device stays as long as the registration, for
    /// a month at most. 24 h.
    pub idle: Duration,
    /// How long one cookie secret is used; a cookie is good for once to twice as long. 120 s.
    pub cookie_period: Duration,
    /// [`Work`](crate::dtls::Work)s that may be out at a time, at least 1; further costly
    /// handshakes wait inside, where they can give way. 16.
    pub work: usize,
    /// Bytes of datagrams that wait for one [`Work`](crate::dtls::Work) to come back, 64 more
    /// counted for each. 8 KiB.
    pub waiting_bytes: usize,
    /// How many failed handshakes of one source are told in one
    /// [`failure_interval`](Self::failure_interval); further ones are only counted. Several,
    /// because who mends a device tries one thing after the other, and many devices may sit behind
    /// one address. 8.
    pub failures_per_source: u32,
    /// How long after the first of them it begins anew. 10 s.
    pub failure_interval: Duration,
    /// Sources whose failures are told in one [`failure_interval`](Self::failure_interval). 1024.
    pub failure_sources: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 200_000,
            handshakes: 4096,
            handshakes_per_source: 512,
            handshake_lifetime: Duration::from_secs(90),
            idle: Duration::from_secs(24 * 60 * 60),
            cookie_period: Duration::from_secs(120),
            work: 16,
            waiting_bytes: 8 << 10,
            failures_per_source: 8,
            failure_interval: Duration::from_secs(10),
            failure_sources: 1024,
        }
    }
}

impl Limits {
    /// The same, with sessions and handshakes together within so many places.
    pub(super) fn within(mut self, places: usize) -> Self {
        self.sessions = self.sessions.clamp(1, places / 2);
        self.handshakes = self.handshakes.clamp(1, places / 4);
        self
    }
}

/// What happened, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Datagrams under 13 bytes, the least that a record has.
    pub short_datagrams: u64,
    /// Datagrams that do not begin with a whole DTLS record.
    pub malformed_datagrams: u64,
    /// Datagrams on a listener that is not served, for no session in the client's role.
    pub unserved_datagrams: u64,
    /// Records that belong to no session: of a peer that we have forgotten, or forged.
    pub strays: u64,
    /// Records with a connection ID that none of our sessions has, or from another listener.
    pub unknown_cids: u64,
    /// Records for an established session that had no effect: replayed, forged, unprotected.
    pub passed_over: u64,
    /// ClientHellos that are malformed, fragmented or oversized, or come from the address of a
    /// server that we are the client of.
    pub bad_hellos: u64,
    /// HelloVerifyRequests sent, which is hellos without good cookie.
    pub hello_verify_requests: u64,
    /// Proven hellos that a session has begun with which was heard of a moment ago: come late, or
    /// replayed.
    pub late_hellos: u64,
    /// Handshakes begun, in both roles.
    pub handshakes_started: u64,
    /// Handshakes that became sessions.
    pub handshakes_completed: u64,
    /// Handshakes that failed, with a reason.
    pub handshakes_failed: u64,
    /// Handshakes that gave way to newer ones because of a limit.
    pub handshakes_evicted: u64,
    /// Handshakes that their own client began anew.
    pub handshakes_replaced: u64,
    /// Failed handshakes that were not told, because their source had enough told a moment ago.
    pub failures_untold: u64,
    /// Sessions that a new one from the same address took the place of (RFC 6347 §4.2.8).
    pub sessions_replaced: u64,
    /// Sessions that the peer closed.
    pub sessions_closed: u64,
    /// Sessions that ended by a fatal alert or another failure.
    pub sessions_failed: u64,
    /// Sessions closed because they were silent for [`Limits::idle`].
    pub sessions_expired: u64,
    /// Sessions that gave way to newer ones because of [`Limits::sessions`].
    pub sessions_evicted: u64,
    /// Sessions that went on at another address (RFC 9146 §6).
    pub moved: u64,
    /// Datagrams of the layer above for sessions that are not (any more) established.
    pub unsendable: u64,
    /// Datagrams dropped because too many waited for a [`Work`](crate::dtls::Work).
    pub waiting_dropped: u64,
    /// Sessions of an earlier process that could not be restored.
    pub unrestored: u64,
}
