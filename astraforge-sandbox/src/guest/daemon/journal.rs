//! The last output of a process, bounded: what is older is gone, and that it is gone is known.

use std::collections::VecDeque;

use bytes::Bytes;

/// What is kept of one process's output, in bytes.
pub(super) const CAPACITY: usize = 1024 * 1024;

/// Which stream a piece was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Stdout,
    Stderr,
}

/// Output in the order in which it was read, with the number of each byte.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pieces: VecDeque<(Channel, Bytes)>,
    n_kept: usize,
    next: u64,
}

/// What a reader gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes, from the one asked for on.
    Piece(Channel, Bytes),
    /// So many bytes from the one asked for on are gone.
    Lost(u64),
    /// Nothing was written yet from there on.
    Nothing,
}

impl Journal {
    /// The first byte that is kept.
    pub(super) fn first(&self) -> u64 {
        self.next - self.n_kept as u64
    }

    /// The number of bytes written so far.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn push(&mut self, channel: Channel, bytes: Bytes) {
        self.next += bytes.len() as u64;
        self.n_kept += bytes.len();
        // A copy of its own: a slice would keep the buffer that it was read into.
        self.pieces.push_back((channel, Bytes::copy_from_slice(&bytes)));
        while self.n_kept > CAPACITY {
            let Some((_, oldest)) = self.pieces.front_mut() else { return };
            let excess = self.n_kept - CAPACITY;
            if oldest.len() <= excess {
                self.n_kept -= oldest.len();
                self.pieces.pop_front();
            } else {
                drop(oldest.split_to(excess));
                self.n_kept -= excess;
            }
        }
    }

    /// Reads from byte `from` on, at most `max` bytes.
    pub(super) fn read(&self, from: u64, max: usize) -> Read {
        let Some(mut skip) = from.checked_sub(self.first()) else { return Read::Lost(self.first() - from) };
        for (channel, bytes) in &self.pieces {
            let length = bytes.len() as u64;
            if skip < length {
                let start = usize::try_from(skip).unwrap_or(0);
                return Read::Piece(*channel, bytes.slice(start..bytes.len().min(start + max)));
            }
            skip -= length;
        }
        Read::Nothing
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_older_than_the_capacity_is_lost_and_counted() {
        let mut journal = Journal::default();
        journal.push(Channel::Stdout, vec![b'a'; CAPACITY].into());
        journal.push(Channel::Stderr, Bytes::from_static(b"end"));
        assert_eq!(journal.read(0, 10), Read::Lost(3));
        assert_eq!(journal.read(3, 2), Read::Piece(Channel::Stdout, "aa".into()));
        assert_eq!(journal.read(CAPACITY as u64 + 1, 9), Read::Piece(Channel::Stderr, "nd".into()));
        assert_eq!(journal.read(CAPACITY as u64 + 3, 9), Read::Nothing);
    }

    proptest! {
        #[test]
        fn a_reader_gets_every_byte_once_or_its_loss(
            pieces in prop::collection::vec((any::<bool>(), 0..400_000usize), 0..12), max in 1..100_000usize,
        ) {
            let (mut journal, mut position) = (Journal::default(), 0_u64);
            for (n, (stdout, length)) in pieces.iter().enumerate() {
                let channel = if *stdout { Channel::Stdout } else { Channel::Stderr };
                journal.push(channel, vec![n as u8; *length].into());
                prop_assert!(journal.n_kept <= CAPACITY);
                if n % 3 == 0 {
                    position = drain(&journal, position, max);
                }
            }
            prop_assert_eq!(drain(&journal, position, max), journal.next());
            prop_assert_eq!(journal.next(), pieces.iter().map(|(_, length)| *length as u64).sum::<u64>());
        }
    }

    fn drain(journal: &Journal, mut position: u64, max: usize) -> u64 {
        loop {
            position += match journal.read(position, max) {
                Read::Piece(_, bytes) => bytes.len() as u64,
                Read::Lost(n) => n,
                Read::Nothing => return position,
            };
        }
    }
}
