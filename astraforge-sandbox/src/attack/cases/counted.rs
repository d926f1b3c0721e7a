//! What the kernel counts for a user or the whole machine: a sandbox that takes all of it leaves others enough.

use crate::attack::{
    Target,
    case::{Judged, Stop, hold, table},
    host,
    target::host_is_well,
};

table! { Resources:
    "exhaust-descriptors" "open files" target => exhaust(target, "descriptors", "8", "4000");
    "exhaust-pipes" "pipes and what lies in them" target => exhaust(target, "pipes", "4", "600");
    "exhaust-sockets" "sockets" target => exhaust(target, "sockets", "8", "1900");
    "exhaust-watchers" "watchers of files" target => exhaust(target, "watchers", "2", "2000");
    "exhaust-watches" "watched files" target => exhaust(target, "watches", "2", "20000");
    "exhaust-timers" "timers" target => exhaust(target, "timers", "4", "50000");
    "exhaust-signals" "signals that wait" target => exhaust(target, "signals", "4", "50000");
    "exhaust-contexts" "contexts of asynchronous input and output" target => contexts(target);
    "exhaust-terminals" "terminals" target => terminals(target);
    "exhaust-polls" "sets of events to wait for" target => exhaust(target, "polls", "8", "3900");
    "exhaust-events" "counters to wait for" target => exhaust(target, "events", "8", "3900");
    "exhaust-memfds" "files in memory" target => exhaust(target, "memfds", "8", "3900");
    "exhaust-queues" "message queues" target => exhaust(target, "queues", "2", "1000");
    "exhaust-semaphores" "semaphores" target => exhaust(target, "semaphores", "2", "40000");
    "exhaust-segments" "shared segments" target => exhaust(target, "segments", "2", "5000");
    "exhaust-keys" "keys" target => exhaust(target, "keys", "2", "1000");
    "exhaust-locked" "locked memory" target => exhaust(target, "locked", "4", "400");
    "exhaust-passing" "descriptors on their way through sockets" target => passing(target);
}

async fn exhaust(target: &Target, kind: &str, n_processes: &str, most: &str) -> Judged {
    let other = target.shared().await?;
    let subject = target.sandbox(Default::default()).await?;
    let (running, transcript) = subject.ready(&["exhaust", kind, n_processes, most]).await?;
    host_is_well()?;
    other.is_well().await?;
    let taken = transcript.number("taken")?;
    drop(running);
    Ok(format!("it took {taken}; the host and another sandbox go on"))
}

async fn contexts(target: &Target) -> Judged {
    target.or_its_engine(exhaust(target, "contexts", "4", "2000").await)
}

async fn terminals(target: &Target) -> Judged {
    target.or_its_engine(take_terminals(target).await)
}

async fn take_terminals(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let other = target.sandbox(Default::default()).await?;
    let (running, transcript) = subject.ready(&["exhaust", "terminals", "4", "2000"]).await?;
    host_is_well()?;
    let output = other.shell("exec 3<>/dev/ptmx && echo made").await?;
    hold!(output.stdout == b"made\n", "another sandbox gets no terminal: {output:?}");
    drop(running);
    Ok(format!("it took {}", transcript.number("taken")?))
}

async fn passing(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let (running, transcript) = subject.ready(&["pass", "400000"]).await?;
    let taken = transcript.number("taken")?;
    host_is_well()?;
    if let Err(text) = host::can_pass_descriptors() {
        let text = format!("{text}, while a sandbox has {taken} on their way");
        // The kernel counts them for a user, and has no such count for a user name space.
        return Err(if target.shares_its_user() {
            Stop::Excused(format!("the sandbox is the server's own user to this kernel: {text}"))
        } else {
            Stop::Breach(text)
        });
    }
    drop(running);
    Ok(format!("it had {taken} on their way; the host passes its own"))
}
