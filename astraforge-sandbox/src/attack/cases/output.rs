//! Output of processes that go on when nobody watches: bounded, and read again from any byte.

use astraforge_core::{
    process::ProcessName,
    session::{Command, ExecEvent},
};
use futures::StreamExt;
use tokio::time::timeout;

use crate::{
    attack::{
        Target,
        case::{Judged, Stop, hold, table},
        host::resident,
        target::{Subject, find},
        transcript::PATIENCE,
    },
    sandboxes::Sandboxes,
};

table! { Streams:
    "reconnect" "who comes back at a byte gets every byte from there once" target => reconnect(target);
    "absent-reader" "output that nobody reads is bounded, and what is lost is told" target => absent(target);
    "kept-processes" "processes that go on are bounded in number" target => kept(target);
}

/// Reads from byte `from` on: at most `most` bytes, or to the end.
async fn read(subject: &Subject, process: &ProcessName, from: u64, most: usize) -> Result<(Vec<u8>, u64, bool), Stop> {
    let mut execution = subject.machine.attach(process.clone(), from).await?;
    let (mut bytes, mut n_lost) = (Vec::new(), 0);
    while bytes.len() < most {
        let event = timeout(PATIENCE, execution.events.next()).await.map_err(|_| Stop::breach("output stops"))?;
        match event.ok_or_else(|| Stop::breach("the end was not told"))?? {
            ExecEvent::Stdout(piece) | ExecEvent::Stderr(piece) => bytes.extend_from_slice(&piece),
            ExecEvent::Lost(lost) => n_lost += lost,
            ExecEvent::Exited(_) => return Ok((bytes, n_lost, true)),
        }
    }
    Ok((bytes, n_lost, false))
}

async fn reconnect(target: &Target) -> Judged {
    target.needs_guest()?;
    let subject = target.sandbox(Default::default()).await?;
    let count = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done";
    let started = subject.machine.spawn(Command::shell(count).with_cwd("/tmp"), None).await?;
    let process = ProcessName::Id(started.id);
    let (mut text, mut n_times, mut ended) = (Vec::new(), 0, false);
    while !ended {
        // A new client each time, which goes in the middle of what it reads.
        let other = Sandboxes::new(target.driver().clone());
        other.attach(subject.id, Vec::new()).await?;
        let client = target.client(subject.id, find(&other, subject.id).await?);
        let (bytes, n_lost, over) = read(&client, &process, text.len() as u64, 7001).await?;
        hold!(n_lost == 0, "{n_lost} bytes are lost");
        text.extend(bytes);
        (n_times, ended) = (n_times + 1, over);
    }
    let expected: String = (0..20_000).map(|it| format!("{it}\n")).collect();
    hold!(text == expected.as_bytes(), "{} of {} bytes, or others", text.len(), expected.len());
    Ok(format!("{} bytes in {n_times} pieces", text.len()))
}

async fn absent(target: &Target) -> Judged {
    target.needs_guest()?;
    let subject = target.sandbox(Default::default()).await?;
    let before = resident();
    let wanted: u64 = target.scaled(256 << 20, 4 << 30);
    let flood = Command::shell(format!("yes 0123456789 | head -c {wanted}")).with_cwd("/tmp");
    let started = subject.machine.spawn(flood, None).await?;
    let process = ProcessName::Id(started.id);
    // Who looks late finds the end, and is told what is no longer there.
    let wait = async {
        loop {
            let all = subject.machine.processes().await?;
            if all.iter().any(|it| it.id == started.id && it.exit.is_some()) {
                return Ok::<_, Stop>(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE * 3, wait).await.map_err(|_| Stop::breach("without a reader it does not end"))??;
    let (bytes, n_lost, _) = read(&subject, &process, 0, usize::MAX).await?;
    hold!(bytes.len() as u64 + n_lost == wanted, "{} kept and {n_lost} lost are not {wanted}", bytes.len());
    hold!(n_lost > 0, "{} bytes are kept", bytes.len());
    let grown = resident().saturating_sub(before);
    hold!(grown < 96 << 20, "the server grew by {} MiB", grown >> 20);
    let most = subject.machine.usage().await?.memory;
    Ok(format!("{} KiB kept of {} MiB; the sandbox uses {most:?}", bytes.len() >> 10, wanted >> 20))
}

async fn kept(target: &Target) -> Judged {
    target.needs_guest()?;
    let subject = target.sandbox(Default::default()).await?;
    let mut n_started = 0;
    for _ in 0..400 {
        match subject.machine.spawn(Command::new(["sleep", "600"]).with_cwd("/tmp"), None).await {
            Ok(_) => n_started += 1,
            Err(_) => break,
        }
    }
    let listed = subject.machine.processes().await?.len();
    hold!(listed <= 400, "{listed} are listed");
    // The sandbox takes on no more, or answers as before.
    let answer = subject.is_well().await;
    if let Err(stop @ Stop::Breach(_)) = answer {
        return Err(stop);
    }
    hold!(n_started < 400, "{n_started} processes are kept without a bound");
    Ok(format!("{n_started} were started, and no more"))
}
