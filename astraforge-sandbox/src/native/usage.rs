//! What a sandbox uses, as the host's kernel tells it.
//!
//! Processes and their time come from `/proc`, so they are known on every machine. All of them descend from the first
//! one, which also collects the time of those that ended. Memory is known where there is a control group to count it,
//! files where the workspace is on disk.

use std::path::Path;

use astraforge_core::{ports::machines::Usage, session::ByteSize};

use super::record::Folder;
use crate::usage::{MEMORY, MEMORY_PEAK, first_number, in_file_system, on_disk, tree};

/// Reads what the sandbox of `folder` uses; `None` when it does not live.
pub(super) fn read(folder: &Folder) -> Option<Usage> {
    let record = folder.record()?;
    let init = record.init.filter(|_| folder.is_live())?.pid;
    let (cpu, processes) = tree(Path::new("/proc"), init).unzip();
    let number = |names| first_number(&record.cgroups, names).map(ByteSize::bytes);
    let workspace = folder.workspace();
    Some(Usage {
        cpu,
        memory: number(MEMORY),
        memory_peak: number(MEMORY_PEAK),
        disk: if folder.disk().is_file() {
            // Its mount point lies in a folder that only the sandbox's maker could write.
            in_file_system(Path::new(&format!("/proc/{init}/root/workspace"))).map(ByteSize::bytes)
        } else if workspace.is_dir() {
            on_disk(&workspace).ok().map(ByteSize::bytes)
        } else {
            None
        },
        processes,
    })
}
