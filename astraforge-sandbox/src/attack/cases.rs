//! All cases, a group or a part of one in each file.

use super::Case;

mod archives;
mod counted;
mod devices;
mod durable;
mod ends;
mod files;
mod kernel;
mod lifecycle;
mod memory;
mod network;
mod output;
mod processes;
mod reach;
mod resources;
mod signals;
mod streams;

/// Every case, in the order in which they are run.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        processes::CASES,
        ends::CASES,
        signals::CASES,
        memory::CASES,
        resources::CASES,
        counted::CASES,
        kernel::CASES,
        devices::CASES,
        reach::CASES,
        files::CASES,
        archives::CASES,
        streams::CASES,
        output::CASES,
        network::CASES,
        lifecycle::CASES,
        durable::CASES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn each_case_has_a_name_of_its_own() {
        let ids: Vec<_> = super::all().map(|it| it.id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        assert!(ids.iter().all(|id| id.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-')));
    }
}
