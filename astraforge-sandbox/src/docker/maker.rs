//! Who makes a container: a process that may still be at it, or one whose work is left over.
//!
//! Several processes may use the sandboxes of one owner at once, so a container that has not started yet is either
//! being made or was left by a crash. Its label tells which.

use std::fs;

use astraforge_core::id::SandboxId;

/// One driver in one process of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Maker {
    /// The machine, since it was booted.
    boot: String,
    pid: u32,
    /// When the process began, in the kernel's own ticks: a number is given to another process some day.
    began: u64,
    driver: String,
}

impl Maker {
    /// A driver of this process.
    pub(super) fn new() -> Self {
        let pid = std::process::id();
        Self { boot: boot(), pid, began: began(pid).unwrap_or(0), driver: SandboxId::random().to_string() }
    }

    /// What a label says of it.
    pub(super) fn to_label(&self) -> String {
        format!("{} {} {} {}", self.boot, self.pid, self.began, self.driver)
    }

    /// Tells whether somebody else, who made something with this label, may still be at it. A process of another boot is
    /// not: an owner's servers share one machine.
    pub(super) fn leaves_to(&self, label: &str) -> bool {
        Self::parse(label).is_some_and(|other| {
            other.driver != self.driver && other.boot == self.boot && began(other.pid) == Some(other.began)
        })
    }

    fn parse(label: &str) -> Option<Self> {
        let mut words = label.split(' ');
        let (boot, pid, began, driver) = (words.next()?, words.next()?, words.next()?, words.next()?);
        Some(Self {
            boot: boot.to_owned(),
            pid: pid.parse().ok()?,
            began: began.parse().ok()?,
            driver: driver.to_owned(),
        })
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// When a process began; `None` when there is none. Its name, in parentheses, may hold anything.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_living_process_and_another_driver_is_left_to_its_work() {
        let me = Maker::new();
        assert!(!me.leaves_to(&me.to_label()), "its own work is its own to clear away");
        let other = Maker::new();
        assert!(me.leaves_to(&other.to_label()));
        let dead = Maker { began: other.began + 1, ..other.clone() };
        assert!(!me.leaves_to(&dead.to_label()));
        let rebooted = Maker { boot: "another".to_owned(), ..other };
        assert!(!me.leaves_to(&rebooted.to_label()));
        assert!(!me.leaves_to("nonsense"));
    }
}
