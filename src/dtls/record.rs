//! DTLS 1.2 records as they stand in a datagram (RFC 6347 §4.1, RFC 9146 §4), as far as one can
//! read them without a key.

/// Length of the connection IDs that we ask peers to send. A record with a connection ID does not
/// say how long that is (RFC 9146 §4), so it is the same for all sessions.
pub const CID_LENGTH: usize = 8;

/// One of our connection IDs.
pub(crate) type Cid = [u8; CID_LENGTH];

/// A record header without a connection ID. No datagram that is shorter means anything.
pub(crate) const HEADER: usize = 13;

/// Content types (RFC 5246 §6.2.1, RFC 9146 §4).
pub(crate) mod content {
    pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const APPLICATION_DATA: u8 = 23;
    /// `tls12_cid`: protected, with a connection ID; the true type is inside.
    pub(crate) const CID: u8 = 25;
}

/// A record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// The content type.
    pub(crate) content: u8,
    /// Epoch (the upper 16 bits) and sequence number (the lower 48) as one number: what is sent
    /// later is larger.
    pub(crate) number: u64,
    /// The connection ID of a record that has one.
    pub(crate) cid: Option<Cid>,
    /// What follows the header.
    pub(crate) fragment: &'a [u8],
    /// The record with its header.
    pub(crate) whole: &'a [u8],
}

impl Record<'_> {
    /// The epoch: 0 is not protected, so anybody may have written it.
    pub(crate) fn epoch(&self) -> u16 {
        (self.number >> 48) as u16
    }
}

/// The records of a datagram, up to its end or to the first that is not sound. What does not come
/// whole is not taken at all (RFC 6347 §4.1.1).
pub(crate) struct Records<'a>(Reader<'a>);

/// Begins to read a datagram.
pub(crate) fn records(datagram: &[u8]) -> Records<'_> {
    Records(Reader(datagram))
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let start = self.0.0;
        let record = parse(&mut self.0);
        match record {
            Some((content, number, cid, fragment)) => Some(Record {
                content,
                number,
                cid,
                fragment,
                whole: start.get(..start.len() - self.0.0.len())?,
            }),
            None => {
                self.0 = Reader(&[]);
                None
            }
        }
    }
}

/// Content type, number, connection ID and fragment of one record.
fn parse<'a>(reader: &mut Reader<'a>) -> Option<(u8, u64, Option<Cid>, &'a [u8])> {
    let content = reader.uint(1)? as u8;
    // 254.255 is DTLS 1.0, which hellos are sent in, and 254.253 is DTLS 1.2.
    let version = reader.uint(2)?;
    if version != 0xfeff && version != 0xfefd {
        return None;
    }
    let number = reader.uint(8)?;
    let cid = match content {
        content::CHANGE_CIPHER_SPEC
        | content::ALERT
        | content::HANDSHAKE
        | content::APPLICATION_DATA => None,
        // Epoch 0 is never protected.
        content::CID if number >> 48 != 0 => Some(reader.array()?),
        _ => return None,
    };
    let fragment = reader.vector(2)?;
    Some((content, number, cid, fragment))
}

/// Reads bytes from the front of a slice; `None` when there are too few.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// So many bytes.
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// An unsigned number of `width` bytes, at most 8.
    pub(crate) fn uint(&mut self, width: usize) -> Option<u64> {
        let bytes = self.take(width)?;
        Some(
            bytes
                .iter()
                .fold(0, |number, byte| number << 8 | u64::from(*byte)),
        )
    }

    /// A vector behind its length, which has `width` bytes.
    pub(crate) fn vector(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(self.uint(width)?).ok()?;
        self.take(length)
    }

    /// Exactly `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPLICATION: &[u8] = &[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 7, 0, 3, 1, 2, 3];
    const WITH_CID: &[u8] = &[
        25, 254, 253, 0, 1, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 2, 9, 9,
    ];

    #[test]
    fn a_datagram_is_read_record_by_record() {
        let datagram = [APPLICATION, WITH_CID].concat();
        let both: Vec<_> = records(&datagram).collect();
        assert_eq!(both.len(), 2);
        assert_eq!(both[0].content, content::APPLICATION_DATA);
        assert_eq!((both[0].epoch(), both[0].number), (1, 1 << 48 | 7));
        assert_eq!(both[0].fragment, [1, 2, 3]);
        assert_eq!(both[0].whole, APPLICATION);
        assert_eq!(both[1].cid, Some([1, 2, 3, 4, 5, 6, 7, 8]));
        assert_eq!(both[1].number, 1 << 48 | 256);
        assert_eq!(both[1].whole, WITH_CID);
    }

    #[test]
    fn a_record_that_does_not_come_whole_is_not_taken() {
        for datagram in [APPLICATION, WITH_CID] {
            for length in 0..datagram.len() {
                assert_eq!(records(&datagram[..length]).count(), 0, "{length} bytes");
            }
        }
        let datagram = [APPLICATION, &WITH_CID[..22]].concat();
        assert_eq!(records(&datagram).count(), 1);
    }

    #[test]
    fn other_protocols_are_not_records() {
        for (at, byte) in [(0, 19), (0, 24), (0, 26), (1, 3), (2, 254), (2, 252)] {
            let mut datagram = APPLICATION.to_vec();
            datagram[at] = byte;
            assert_eq!(records(&datagram).count(), 0, "byte {at} is {byte}");
        }
        let mut unprotected = WITH_CID.to_vec();
        unprotected[4] = 0;
        assert_eq!(records(&unprotected).count(), 0);
    }
}
