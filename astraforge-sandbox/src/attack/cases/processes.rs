//! How many processes there may be, and what becomes of more.

use std::time::Duration;

use astraforge_core::session::{Command, Limit};

use crate::attack::{
    Target,
    case::{Judged, hold, table},
    host,
    target::host_is_well,
};

table! { Processes:
    "limit-forks" "processes made by fork stop at their limit" target => count(target, "fork");
    "limit-clones" "processes made by clone stop at their limit" target => count(target, "clone");
    "limit-clone3" "processes made by clone3 stop at their limit" target => count(target, "clone3");
    "limit-threads" "threads stop at the same limit" target => count(target, "threads");
    "fork-bomb" "a fork bomb stays below its limit, and the host and the session go on" target => fork_bomb(target);
    "shell-bomb" "the fork bomb of shells ends with its command" target => shell_bomb(target);
    "neighbour-processes" "a sandbox at its limit takes no processes from another" target => neighbour(target);
    "zombie-storm" "orphans that ended are reaped" target => zombies(target);
}

const LIMIT: u32 = 64;

/// A few of the sandbox's own: the daemon and its hosts' way to it, and for this command and the next what each is started
/// with.
const OWN: u64 = 8;

async fn count(target: &Target, how: &str) -> Judged {
    target.needs("a limit on processes", target.capabilities().processes)?;
    let subject = target.limited(|it| it.processes = Limit::required(LIMIT)).await?;
    let (running, transcript) = subject.ready(&["processes", how, &LIMIT.to_string()]).await?;
    let n_seen: u64 = subject.processes().await?.iter().map(|it| it.n_threads).sum();
    host_is_well()?;
    transcript.hold()?;
    hold!(n_seen <= u64::from(LIMIT) + OWN, "the host sees {n_seen} under a limit of {LIMIT}");
    drop(running);
    subject.settles_at(0).await?;
    subject.is_well().await?;
    Ok(format!("the host saw {n_seen} of {LIMIT}"))
}

async fn fork_bomb(target: &Target) -> Judged {
    target.needs("a limit on processes", target.capabilities().processes)?;
    let subject = target.limited(|it| it.processes = Limit::required(LIMIT)).await?;
    let (running, _) = subject.ready(&["bomb"]).await?;
    let mut most = 0;
    for _ in 0..20 {
        most = most.max(subject.processes().await?.len() as u64);
        host_is_well()?;
    }
    hold!(most <= u64::from(LIMIT) + OWN, "the host saw {most} under a limit of {LIMIT}");
    drop(running);
    subject.settles_at(0).await?;
    subject.is_well().await?;
    Ok(format!("the host saw {most} of {LIMIT}"))
}

async fn shell_bomb(target: &Target) -> Judged {
    target.needs("a limit on processes", target.capabilities().processes)?;
    let subject = target.limited(|it| it.processes = Limit::required(LIMIT)).await?;
    let bomb = Command::shell("b() { b | b & }; b; sleep 60").with_cwd("/tmp").with_timeout(Duration::from_secs(2));
    let transcript = subject.start_command(bomb).await?.end().await?;
    host_is_well()?;
    subject.settles_at(0).await?;
    subject.is_well().await?;
    Ok(format!("it ended: {:?}", transcript.exit))
}

async fn neighbour(target: &Target) -> Judged {
    target.needs("a limit on processes", target.capabilities().processes)?;
    let one = target.limited(|it| it.processes = Limit::required(LIMIT)).await?;
    let two = target.limited(|it| it.processes = Limit::required(LIMIT)).await?;
    let (running, full) = one.ready(&["processes", "fork", &LIMIT.to_string()]).await?;
    let n_most = full.number("made")?;
    let (other, also_full) = two.ready(&["processes", "fork", &LIMIT.to_string()]).await?;
    let n_other = also_full.number("made")?;
    hold!(n_other + 2 >= n_most, "beside a full sandbox another may have {n_other} instead of {n_most}");
    host::is_well().map_err(crate::attack::case::Stop::Breach)?;
    drop((running, other));
    Ok(format!("{n_most} and {n_other}"))
}

async fn zombies(target: &Target) -> Judged {
    let subject = target.limited(|it| it.processes = Limit::required(256)).await?;
    let n_orphans = target.scaled("150", "200");
    let (running, transcript) = subject.ready(&["zombies", n_orphans]).await?;
    // Those that a living parent does not wait for are its own, and count; orphans are the sandbox's to reap.
    let n_own = usize::try_from(transcript.number("zombies")?).unwrap_or(0);
    subject.settles_at(n_own + 5).await?;
    drop(running);
    subject.settles_at(0).await?;
    subject.is_well().await?;
    Ok(format!("{} orphans were reaped, {n_own} zombies went with their parent", transcript.number("orphans")?))
}
