//! One session, in safe words.

use super::ffi::{Context, Failure, Item, PskPeer, Read, Step};
use super::suites;
use crate::dtls::{CertificateProblem, DtlsSession, Event, Fatal};
use crate::secret::Secret;
use crate::time::Now;
use mbedtls_rs_sys as sys;

/// The length of a record's header (RFC 6347 §4.1).
const SHORTEST: usize = 13;

/// A session, or the handshake that becomes one.
pub(super) struct Session {
    context: Context,
    phase: Phase,
    /// What the last [`Event`] borrows.
    current: Vec<u8>,
    suite: &'static str,
    peer_cid: Vec<u8>,
}

enum Phase {
    /// The handshake runs. A client with a PSK knows by what name it called itself.
    Opening { psk: Option<Vec<u8>> },
    /// Application data goes both ways.
    Open,
    /// Closed, or failed: the context is not used again.
    Over,
}

impl Session {
    pub(super) fn opening(context: Context, psk: Option<Vec<u8>>) -> Self {
        Self {
            context,
            phase: Phase::Opening { psk },
            current: Vec::new(),
            suite: "",
            peer_cid: Vec::new(),
        }
    }

    /// One that another process has opened.
    pub(super) fn open(context: Context) -> Self {
        let mut session = Self {
            phase: Phase::Open,
            ..Self::opening(context, None)
        };
        session.agreed();
        session
    }

    fn agreed(&mut self) {
        self.suite = suites::name(self.context.suite());
        self.peer_cid = self.context.peer_cid();
    }

    /// Goes on with the handshake; an empty record is the clock's tick.
    pub(super) fn shake(&mut self, now: Now, record: &[u8]) -> Result<(), Fatal> {
        match self.context.handshake(now, record) {
            Step::More => Ok(()),
            Step::Done => {
                let psk = match std::mem::replace(&mut self.phase, Phase::Open) {
                    Phase::Opening { psk } => psk,
                    Phase::Open | Phase::Over => None,
                };
                let Some(identity) = self.context.settle(psk) else {
                    self.phase = Phase::Over;
                    return Err(Fatal::Protocol(
                        "the handshake ended without telling who the peer is".to_owned(),
                    ));
                };
                self.agreed();
                self.context.push(Item::Established(Box::new(identity)));
                // Application data that overtook the Finished.
                self.take(now, &[])
            }
            Step::Failed(failure) => {
                self.phase = Phase::Over;
                Err(self.explain(&failure, record))
            }
        }
    }

    /// Takes a record of the open session.
    fn take(&mut self, now: Now, record: &[u8]) -> Result<(), Fatal> {
        match self.context.read(now, record) {
            Read::Nothing => Ok(()),
            Read::Closed => {
                self.phase = Phase::Over;
                self.context.push(Item::Closed);
                Ok(())
            }
            Read::Failed(failure) => {
                self.phase = Phase::Over;
                Err(self.explain(&failure, &[]))
            }
        }
    }

    /// What went wrong, for the one who has to mend it.
    fn explain(&mut self, failure: &Failure, record: &[u8]) -> Fatal {
        const CLIENT_HELLO: i32 = sys::mbedtls_ssl_states_MBEDTLS_SSL_CLIENT_HELLO as i32;
        let server = self.context.is_server();
        let opening = self.context.opening();
        match failure.code {
            sys::MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE => {
                Fatal::Alert(failure.alert.unwrap_or_default())
            }
            sys::MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY => Fatal::Alert(0),
            sys::MBEDTLS_ERR_SSL_TIMEOUT => Fatal::TimedOut,
            sys::MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION => Fatal::Version,
            sys::MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE if server && failure.state == CLIENT_HELLO => {
                Fatal::NoCommonSuite {
                    offered: suites::offered(record),
                }
            }
            sys::MBEDTLS_ERR_SSL_HELLO_VERIFY_REQUIRED => {
                Fatal::Protocol("its hello does not carry the cookie that was proven".to_owned())
            }
            sys::MBEDTLS_ERR_SSL_NO_CLIENT_CERTIFICATE => Fatal::NoCertificate,
            sys::MBEDTLS_ERR_X509_CERT_VERIFY_FAILED | sys::MBEDTLS_ERR_SSL_BAD_CERTIFICATE => {
                let verdict = opening.map(|opening| std::mem::take(&mut opening.verdict));
                let verdict = verdict.unwrap_or_default();
                // Without one of ours, it is a rule that Mbed TLS looks at later: key usage, curve.
                let (subject, problem) = verdict
                    .problem
                    .unwrap_or((verdict.subject, CertificateProblem::Unacceptable));
                Fatal::Certificate { subject, problem }
            }
            code => match (code, opening.and_then(|opening| opening.psk.take())) {
                (_, Some(PskPeer::Unusable { identity, length })) => Fatal::Ours(format!(
                    "key of PSK identity {} has {length} bytes, and has to have 1 to {}",
                    crate::dtls::Printable(&identity),
                    super::LONGEST_KEY,
                )),
                // The first record under the new keys is the client's Finished.
                (sys::MBEDTLS_ERR_SSL_INVALID_MAC, Some(PskPeer::Unknown(identity))) => {
                    Fatal::UnknownIdentity { identity }
                }
                (sys::MBEDTLS_ERR_SSL_INVALID_MAC, Some(PskPeer::Known(identity))) => {
                    Fatal::WrongKey { identity }
                }
                _ => Fatal::Protocol(failure.words()),
            },
        }
    }
}

impl DtlsSession for Session {
    fn datagram(&mut self, now: Now, datagram: &[u8]) -> Result<(), Fatal> {
        let cid_length = self.context.config().cid_length;
        records(datagram, cid_length).try_for_each(|record| match self.phase {
            Phase::Opening { .. } => self.shake(now, record),
            // Not protected (epoch 0): somebody's leftover or somebody's forgery. A ClientHello
            // among them would make Mbed TLS begin anew in the place of the session; a client that
            // does is the mux's affair.
            Phase::Open if [record[3], record[4]] == [0, 0] => Ok(()),
            Phase::Open => self.take(now, record),
            Phase::Over => Ok(()),
        })
    }

    fn timeout(&mut self, now: Now) -> Result<(), Fatal> {
        match self.phase {
            Phase::Opening { .. } => self.shake(now, &[]),
            // The last flight is sent again when the peer repeats its own, not by the clock.
            Phase::Open | Phase::Over => Ok(()),
        }
    }

    fn poll(&mut self) -> Event<'_> {
        match self.context.pop() {
            Some(Item::Send(datagram)) => {
                self.current = datagram;
                Event::Send(&self.current)
            }
            Some(Item::App(data)) => {
                self.current = data;
                Event::App(&self.current)
            }
            Some(Item::Established(identity)) => Event::Established(*identity),
            Some(Item::Closed) => Event::Closed,
            None => {
                self.current = Vec::new();
                Event::Wait(match self.phase {
                    Phase::Opening { .. } => self.context.deadline(),
                    Phase::Open | Phase::Over => None,
                })
            }
        }
    }

    /// # Errors
    ///
    /// [`Fatal::Unsupported`] for more bytes than a record holds, 2048 or what the peer asked not
    /// to exceed (RFC 6066 §4), and before or after the session: nothing is sent, and the session
    /// goes on. Any other ends it.
    fn send(&mut self, application_data: &[u8]) -> Result<(), Fatal> {
        if !matches!(self.phase, Phase::Open) {
            return Err(Fatal::Unsupported(
                "there is no session to send in".to_owned(),
            ));
        }
        let room = self.context.room();
        if application_data.len() > room {
            return Err(Fatal::Unsupported(format!(
                "a datagram of {} bytes is too long: this session takes {room}",
                application_data.len(),
            )));
        }
        self.context.write(application_data).map_err(|problem| {
            self.phase = Phase::Over;
            Fatal::Protocol(problem)
        })
    }

    fn close(&mut self) {
        if !matches!(self.phase, Phase::Over) {
            self.context.close();
            self.phase = Phase::Over;
        }
    }

    fn peer_cid(&self) -> &[u8] {
        &self.peer_cid
    }

    fn suite(&self) -> &'static str {
        self.suite
    }

    fn save(self: Box<Self>) -> Option<Secret> {
        match self.phase {
            Phase::Open => super::saved::write(self.context),
            Phase::Opening { .. } | Phase::Over => None,
        }
    }
}

/// The whole records of a datagram, one by one, which is how Mbed TLS gets to see them.
///
/// Given the datagram itself, it would give up with an internal error when a record that it passes
/// over is followed by a piece shorter than a header; in an open session too, and anyone could put
/// that there.
fn records(mut datagram: &[u8], cid_length: usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (record, rest) = datagram.split_at_checked(record_length(datagram, cid_length)?)?;
        datagram = rest;
        Some(record)
    })
}

/// The length of the record at the front, with its header, if it is there as a whole
/// (RFC 6347 §4.1, RFC 9146 §4).
fn record_length(bytes: &[u8], cid_length: usize) -> Option<usize> {
    const CID: u8 = 25;
    let cid = if *bytes.first()? == CID {
        cid_length
    } else {
        0
    };
    let header = SHORTEST + cid;
    let length = bytes.get(header - 2..header)?.first_chunk()?;
    let whole = header + usize::from(u16::from_be_bytes(*length));
    (bytes.len() >= whole).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, epoch: u8, length: u8) -> Vec<u8> {
        let mut record = vec![kind, 254, 253, 0, epoch, 0, 0, 0, 0, 0, 1, 0, length];
        record.extend(vec![7; length.into()]);
        record
    }

    fn whole(datagram: &[u8], cid_length: usize) -> Vec<&[u8]> {
        records(datagram, cid_length).collect()
    }

    #[test]
    fn a_datagram_is_taken_apart_into_whole_records() {
        let (hello, data) = (record(22, 0, 20), record(23, 1, 30));
        let both = [&hello[..], &data].concat();
        assert_eq!(whole(&both, 0), [&hello[..], &data]);
        for extra in 1..13 {
            let longer = [&data[..], &vec![0; extra]].concat();
            assert_eq!(whole(&longer, 0), [&data[..]]);
        }
        for cut in 0..data.len() {
            assert!(whole(&data[..cut], 0).is_empty());
        }
    }

    #[test]
    fn a_connection_id_stands_before_the_length_of_its_record() {
        let mut with_cid = record(25, 1, 0);
        with_cid.splice(11..13, [9, 9, 9, 9, 0, 3, 7, 7, 7, 1]);
        assert_eq!(whole(&with_cid, 4), [&with_cid[..20]]);
    }
}
