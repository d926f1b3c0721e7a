//! Hints as short texts, which any carrier can carry.

use astraforge_core::{id::RequestId, ports::wakeup::Topic};
use uuid::Uuid;

use super::outbox::Changed;

/// What one process tells the others: who it is, and what changed. Nothing changed: it only says that it is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hint {
    /// The process that tells it, by a name that it made at its start.
    pub(super) from: Uuid,
    /// What changed.
    pub(super) changed: Changed<Topic>,
}

impl Hint {
    /// How many topics are told at once: so few that a notification of PostgreSQL, of 8,000 bytes, holds them.
    const MOST: usize = 100;

    /// The texts that tell of `changed`: at least one.
    pub(super) fn texts(from: Uuid, changed: &Changed<Topic>) -> Vec<String> {
        let words: Vec<String> = match changed {
            Changed::Everything => vec!["*".to_owned()],
            Changed::Some(topics) => topics.iter().copied().map(word).collect(),
        };
        if words.is_empty() {
            return vec![from.simple().to_string()];
        }
        words.chunks(Self::MOST).map(|words| format!("{} {}", from.simple(), words.join(" "))).collect()
    }

    /// Reads a text, or nothing if it is none of ours. Words of newer versions are passed over.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (from, words) = text.split_once(' ').unwrap_or((text, ""));
        let from = Uuid::parse_str(from).ok()?;
        if words.split(' ').any(|word| word == "*") {
            return Some(Self { from, changed: Changed::Everything });
        }
        Some(Self { from, changed: Changed::Some(words.split(' ').filter_map(topic).collect()) })
    }
}

fn word(topic: Topic) -> String {
    match topic {
        Topic::Jobs => "jobs".to_owned(),
        Topic::Log(request) => format!("log:{request}"),
    }
}

fn topic(word: &str) -> Option<Topic> {
    match word.split_once(':') {
        None if word == "jobs" => Some(Topic::Jobs),
        Some(("log", request)) => Some(Topic::Log(RequestId::from(Uuid::parse_str(request).ok()?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[track_caller]
    fn check(changed: &Changed<Topic>, n_texts: usize) {
        let from = Uuid::new_v4();
        let texts = Hint::texts(from, changed);
        assert_eq!(texts.len(), n_texts);
        let mut heard = HashSet::new();
        for text in &texts {
            assert!(text.len() < 8000, "{} bytes", text.len());
            let hint = Hint::parse(text).unwrap();
            assert_eq!(hint.from, from);
            match hint.changed {
                Changed::Some(topics) => heard.extend(topics),
                Changed::Everything => return assert_eq!(*changed, Changed::Everything),
            }
        }
        assert_eq!(Changed::Some(heard), *changed);
    }

    #[test]
    fn what_is_told_is_heard() {
        check(&Changed::default(), 1);
        check(&Changed::Everything, 1);
        check(&Changed::Some([Topic::Jobs, Topic::Log(RequestId::random())].into()), 1);
        check(&Changed::Some((0..250).map(|_| Topic::Log(RequestId::random())).collect()), 3);
    }

    #[test]
    fn what_is_none_of_ours_is_passed_over() {
        for text in ["", " ", "jobs", "*", "rubbish \u{0} jobs", "{\"a\":1}"] {
            assert_eq!(Hint::parse(text), None, "{text:?}");
        }
        let newer = format!("{} plans log:none jobs log:", Uuid::nil());
        assert_eq!(Hint::parse(&newer).unwrap().changed, Changed::Some([Topic::Jobs].into()));
    }
}
