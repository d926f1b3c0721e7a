//! An archive of a part of a run log: its events in the form that other programs and versions read, a line each, compressed.

use std::io::{Read as _, Write as _};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use sha2::{Digest as _, Sha256};

use crate::{
    BoxError,
    event::{Envelope, RunEvent},
    id::{LogArchiveId, RequestId},
};

/// Events that are in the artifact store and no rows any more, and how to know them again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogArchive {
    /// The request whose log it is.
    pub request: RequestId,
    /// The sequence number of its first event.
    pub first: u64,
    /// The sequence number of its last event; none between the two is missing.
    pub last: u64,
    /// Where it is in the artifact store.
    pub key: String,
    /// The SHA-256 of what is stored there, in hex.
    pub sha256: String,
    /// How many bytes that is.
    pub size: u64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// An archive does not hold what its row says.
#[derive(Debug, thiserror::Error)]
#[error("archive `{key}` is damaged, put it back from a backup: {what}")]
pub(crate) struct DamagedArchive {
    key: String,
    what: String,
    #[source]
    source: Option<BoxError>,
}

impl LogArchive {
    /// How the keys of archives begin.
    pub(crate) const PREFIX: &str = "run-logs/";
    const SUFFIX: &str = ".jsonl.gz";

    /// Packs events that follow each other, of one log: as many as are about `most_bytes` before they are compressed, and
    /// one at least; `None` when there are none. Says too what is to be stored.
    pub(crate) fn pack(
        events: &[RunEvent],
        most_bytes: usize,
        now: DateTime<Utc>,
    ) -> Result<Option<(Self, Bytes)>, BoxError> {
        let Some(first) = events.first() else { return Ok(None) };
        let (mut last, mut n_bytes) = (first, 0);
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        for event in events {
            if n_bytes > most_bytes {
                break;
            }
            let mut line = serde_json::to_vec(&Envelope::from(event.clone()))?;
            line.push(b'\n');
            packer.write_all(&line)?;
            n_bytes += line.len();
            last = event;
        }
        let bytes = Bytes::from(packer.finish()?);
        let request = first.request_id;
        let archive = Self {
            request,
            first: first.seq,
            last: last.seq,
            // A name of its own each time: nobody writes where another one may be read.
            key: format!("{}{request}/{}{}", Self::PREFIX, LogArchiveId::random(), Self::SUFFIX),
            sha256: hash(&bytes),
            size: bytes.len() as u64,
            created_at: now,
        };
        Ok(Some((archive, bytes)))
    }

    /// Unpacks what is stored, once it is what was stored.
    ///
    /// # Errors
    /// [`DamagedArchive`] says what is wrong with it.
    pub(crate) fn open(&self, bytes: &[u8]) -> Result<Vec<RunEvent>, DamagedArchive> {
        let damaged = |what: String, source| DamagedArchive { key: self.key.clone(), what, source };
        let found = hash(bytes);
        if found != self.sha256 {
            return Err(damaged(format!("its SHA-256 is {found} and not {}", self.sha256), None));
        }
        let mut text = String::new();
        let unpacked = GzDecoder::new(bytes).read_to_string(&mut text);
        unpacked.map_err(|error| damaged("it cannot be unpacked".into(), Some(error.into())))?;
        let mut events = Vec::new();
        for line in text.lines() {
            let envelope: Envelope = serde_json::from_str(line)
                .map_err(|error| damaged(format!("line {} is no event", events.len() + 1), Some(error.into())))?;
            events.push(envelope.into_event());
        }
        let numbers = events.iter().map(|event| event.seq);
        if !numbers.eq(self.first..=self.last) || events.iter().any(|event| event.request_id != self.request) {
            return Err(damaged(format!("it does not hold events {} to {} of its log", self.first, self.last), None));
        }
        Ok(events)
    }

    /// When the making of an archive of that name began; `None` for a name that is none of an archive.
    pub(crate) fn made_at(name: &str) -> Option<DateTime<Utc>> {
        name.strip_suffix(Self::SUFFIX)?.parse::<LogArchiveId>().ok()?.made_at()
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::EventKind, id::RunId, testing::samples::at};

    fn events(numbers: impl Iterator<Item = u64>) -> Vec<RunEvent> {
        let (request_id, run) = (RequestId::random(), RunId::random());
        let event = |seq: u64| RunEvent {
            seq,
            request_id,
            run_id: seq.is_multiple_of(2).then_some(run),
            kind: EventKind::log(format!("line {seq}\n\u{0} ä")),
            created_at: at(3),
        };
        numbers.map(event).collect()
    }

    fn pack(events: &[RunEvent]) -> (LogArchive, Bytes) {
        LogArchive::pack(events, usize::MAX, at(9)).unwrap().unwrap()
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let events = events(7..=900);
        let (archive, bytes) = pack(&events);
        assert_eq!((archive.first, archive.last, archive.size), (7, 900, bytes.len() as u64));
        assert_eq!(archive.open(&bytes).unwrap(), events);
        assert_eq!(LogArchive::pack(&[], 9, at(9)).unwrap(), None);
    }

    #[test]
    fn an_archive_takes_what_fits_and_one_event_at_least() {
        let events = events(1..=100);
        let last = |most_bytes| LogArchive::pack(&events, most_bytes, at(9)).unwrap().unwrap().0.last;
        assert_eq!(last(0), 1);
        assert!((5..50).contains(&last(2000)), "{}", last(2000));
        assert_eq!(last(100_000), 100);
    }

    #[test]
    fn an_archive_is_lines_in_the_form_that_other_programs_read() {
        let (_, bytes) = pack(&events(1..=2));
        let mut text = String::new();
        GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line["version"] == 1 && line["type"] == "log"), "{text}");
    }

    #[test]
    fn whatever_is_wrong_with_an_archive_is_found_and_said() {
        let (archive, bytes) = pack(&events(1..=20));
        let check = |archive: &LogArchive, bytes: &[u8], expected: &str| {
            let error = archive.open(bytes).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(&archive.key), "{error}");
        };
        check(&archive, b"", "SHA-256");
        check(&archive, &bytes[..bytes.len() - 1], "SHA-256");
        let hashed = |bytes: &[u8]| LogArchive { sha256: hash(bytes), ..archive.clone() };
        check(&hashed(b"not packed"), b"not packed", "cannot be unpacked");
        check(&hashed(&bytes[..40]), &bytes[..40], "cannot be unpacked");
        for wrong in [
            LogArchive { first: 2, ..archive.clone() },
            LogArchive { last: 21, ..archive.clone() },
            LogArchive { request: RequestId::random(), ..archive.clone() },
        ] {
            check(&wrong, &bytes, "does not hold events");
        }
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        packer.write_all(b"{}\n").unwrap();
        let odd = packer.finish().unwrap();
        check(&hashed(&odd), &odd, "line 1 is no event");
    }

    #[test]
    fn the_name_of_an_archive_tells_when_it_was_made() {
        let (archive, _) = pack(&events(1..=1));
        let name = archive.key.strip_prefix(&format!("run-logs/{}/", archive.request)).unwrap();
        assert!(LogArchive::made_at(name).is_some());
        assert_eq!(LogArchive::made_at("other.jsonl.gz"), None);
    }
}
