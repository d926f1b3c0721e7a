//! Beginning and end of sandboxes, by many hands and many times.

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    archive::PackRequest,
    id::SandboxId,
    ports::{
        machines::Machines,
        sessions::{SessionError, Sessions},
    },
    session::{Command, SandboxSpec},
};
use futures::StreamExt;

use crate::{
    attack::{
        Target,
        case::{Judged, Stop, hold, table},
        host::Held,
        target::PROGRAM,
        transcript::PATIENCE,
    },
    sandboxes::Sandboxes,
};

table! { Lifecycle:
    "double-create" "of many who want one id one gets it" target => double_create(target);
    "double-destroy" "to destroy twice, at once or what never was is no error" target => double_destroy(target);
    "dropped-create" "a creation that nobody waits for leaves nothing" target => dropped(target);
    "destroy-during-command" "a sandbox destroyed during a command ends it" target => during_command(target);
    "destroy-during-pack" "a sandbox destroyed while it is packed ends that too" target => during_pack(target);
    "abandoned" "a sandbox whose server is gone ends by itself" target => abandoned(target);
    "adopted" "another server finds a sandbox, and goes on with it" target => adopted(target);
    "dead-sandbox" "calls to a sandbox that is gone fail at once" target => dead(target);
    "flat" "many sandboxes in a row leave nothing, and descriptors, mounts and memory as they were" target => flat(target);
    "at-once" "many sandboxes live at once, each with its own files" target => at_once(target);
}

async fn double_create(target: &Target) -> Judged {
    let n_rounds = target.scaled(3, 50);
    for _ in 0..n_rounds {
        let id = SandboxId::random();
        target.expect(id);
        let tries = (0..6).map(|_| target.sandboxes().make(id, SandboxSpec::default()));
        let made: Vec<_> = futures::future::join_all(tries).await;
        let n_made = made.iter().filter(|it| it.is_ok()).count();
        hold!(n_made == 1, "{n_made} got it");
        for refused in made.into_iter().filter_map(Result::err) {
            hold!(matches!(refused, SessionError::AlreadyExists { .. }), "the others are told: {refused}");
        }
        let subject = target.subject(id, target.sandboxes().find(id, Default::default()).await?).await?;
        subject.is_well().await?;
        target.clear().await.map_err(Stop::Breach)?;
    }
    Ok(format!("{n_rounds} times 6"))
}

async fn double_destroy(target: &Target) -> Judged {
    target.sandboxes().destroy(SandboxId::random()).await?;
    let subject = target.sandbox(SandboxSpec::default()).await?;
    target.remember(subject.id).await?;
    let destroyed = futures::future::join_all((0..5).map(|_| target.sandboxes().destroy(subject.id))).await;
    for result in destroyed {
        result?;
    }
    target.sandboxes().destroy(subject.id).await?;
    Ok("5 at once, one after, one that never was".to_owned())
}

async fn dropped(target: &Target) -> Judged {
    let n_rounds = target.scaled(10, 200);
    for it in 0..n_rounds {
        let id = SandboxId::random();
        target.expect(id);
        let making = target.sandboxes().make(id, SandboxSpec::default());
        let _ = tokio::time::timeout(Duration::from_millis(it * 2), making).await;
    }
    let gone = async {
        // What was dropped is removed in the background; what was made in time is the case's own to remove.
        tokio::time::sleep(Duration::from_millis(500)).await;
        target.clear().await
    };
    gone.await.map_err(Stop::Breach)?;
    Ok(format!("{n_rounds} creations"))
}

async fn during_command(target: &Target) -> Judged {
    for delay in [0, 5, 20, 60] {
        let subject = target.sandbox(SandboxSpec::default()).await?;
        let busy =
            subject.start_command(Command::shell("while :; do (sleep 5 &); echo x; done").with_cwd("/tmp")).await?;
        tokio::time::sleep(Duration::from_millis(delay)).await;
        target.remember(subject.id).await?;
        target.clear().await.map_err(Stop::Breach)?;
        let ended = busy.end().await?;
        hold!(ended.exit.is_none(), "it is said to have ended by itself: {:?}", ended.exit);
    }
    Ok("4 moments".to_owned())
}

async fn during_pack(target: &Target) -> Judged {
    for delay in [0, 10, 50] {
        let subject = target.sandbox(SandboxSpec::default()).await?;
        subject.shell("head -c 200000000 /dev/urandom > /workspace/big").await?;
        let mut pack = subject.machine.pack(PackRequest::of(["/workspace"])).await?;
        let first = pack.next().await;
        hold!(first.is_some_and(|it| it.is_ok()), "nothing is packed");
        tokio::time::sleep(Duration::from_millis(delay)).await;
        target.remember(subject.id).await?;
        target.clear().await.map_err(Stop::Breach)?;
        let rest = async { pack.by_ref().filter(|it| futures::future::ready(it.is_err())).next().await };
        let last = tokio::time::timeout(PATIENCE, rest).await.map_err(|_| Stop::breach("packing hangs"))?;
        hold!(last.is_some(), "an archive that breaks off ends as if it were whole");
    }
    Ok("each archive ended in an error".to_owned())
}

async fn abandoned(target: &Target) -> Judged {
    target.needs_guest()?;
    let id = SandboxId::random();
    target.expect(id);
    let server = Sandboxes::new(Arc::clone(target.driver()));
    let spec = SandboxSpec::default().with_orphan_timeout(Duration::from_millis(500));
    let made = server.make(id, spec).await?;
    let subject = target.subject(id, made.machine).await?;
    let busy = subject.machine.exec(Command::new([PROGRAM, "stray", "stay"]).with_cwd("/tmp")).await?;
    target.remember(id).await?;
    drop((busy, made.workspace, server));
    let host = subject.footprint().await?;
    drop(subject);
    let start = std::time::Instant::now();
    while host.processes.iter().flatten().any(crate::attack::HostProcess::lives) {
        hold!(start.elapsed() < PATIENCE, "its processes live on: {:?}", host.processes);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok("the host sees none of its processes".to_owned())
}

async fn adopted(target: &Target) -> Judged {
    target.needs_guest()?;
    let subject = target.sandbox(SandboxSpec::default()).await?;
    subject.shell("echo kept > /workspace/it").await?;
    let next = Sandboxes::new(Arc::clone(target.driver()));
    hold!(next.list().await?.contains(&subject.id), "another server does not find it");
    let session = next.attach(subject.id, Vec::new()).await?;
    hold!(session.read_file("/workspace/it", 100).await? == "kept\n", "its files are others");
    Ok("its files are there".to_owned())
}

async fn dead(target: &Target) -> Judged {
    let subject = target.sandbox(SandboxSpec::default()).await?;
    target.remember(subject.id).await?;
    target.sandboxes().destroy(subject.id).await?;
    let calls = async {
        let exec = subject.machine.exec(Command::new(["true"])).await.is_err();
        let read = subject.machine.read_file("/workspace/x", 1).await;
        let usage = subject.machine.usage().await.is_err();
        let connect = target.driver().connect(subject.id).await.is_err();
        (exec, matches!(read, Err(SessionError::Lost | SessionError::Backend { .. })), usage, connect)
    };
    let failed = tokio::time::timeout(PATIENCE, calls).await.map_err(|_| Stop::breach("a call to it hangs"))?;
    hold!(failed == (true, true, true, true), "a call to it is answered: {failed:?}");
    Ok("4 calls failed".to_owned())
}

async fn flat(target: &Target) -> Judged {
    const N_AT_ONCE: usize = 4;
    const SETTLING: Duration = Duration::from_secs(5);
    let n_rounds = if target.driver().name() == "native" { target.scaled(100, 10_000) } else { target.scaled(5, 300) };
    // The first ones warm up what stays: threads, connections, what memory was ever needed.
    rounds(target, 2 * N_AT_ONCE, N_AT_ONCE).await?;
    let before = Held::now(target.host());
    rounds(target, n_rounds, N_AT_ONCE).await?;
    let start = std::time::Instant::now();
    let after = loop {
        let after = Held::now(target.host());
        match after.no_more_than(&before) {
            Ok(()) => break after,
            Err(more) => hold!(start.elapsed() < SETTLING, "{more}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let grown = after.memory.saturating_sub(before.memory) >> 20;
    hold!(grown < 64, "the server grew by {grown} MiB");
    Ok(format!("{n_rounds} rounds, {N_AT_ONCE} at once: {after}; {grown} MiB more"))
}

/// Makes sandboxes, `n_at_once` at a time, and destroys them; nothing may be left of any.
async fn rounds(target: &Target, n_rounds: usize, n_at_once: usize) -> Result<(), Stop> {
    let round = async |_| {
        let id = SandboxId::random();
        target.expect(id);
        let made = target.sandboxes().make(id, SandboxSpec::default()).await?;
        made.machine.exec(Command::new(["true"])).await?.collect(10).await?;
        target.destroy(id).await
    };
    let mut ended = futures::stream::iter(0..n_rounds).map(round).buffer_unordered(n_at_once).enumerate();
    while let Some((n_before, result)) = ended.next().await {
        result?;
        target.has_done(format!("{} of {n_rounds} rounds", n_before + 1));
    }
    Ok(())
}

async fn at_once(target: &Target) -> Judged {
    let n_sandboxes = if target.driver().name() == "native" { target.scaled(16, 100) } else { target.scaled(3, 10) };
    let lives = (0..n_sandboxes).map(|it| async move {
        let subject = target.sandbox(SandboxSpec::default()).await?;
        subject.shell(&format!("echo {it} > /workspace/it")).await?;
        let read = subject.shell("cat /workspace/it; ls /workspace | wc -l").await?;
        hold!(read.stdout == format!("{it}\n1\n").as_bytes(), "sandbox {it} has {read:?}");
        Ok(())
    });
    futures::future::try_join_all(lives).await?;
    Ok(format!("{n_sandboxes} at once"))
}
