//! Output and input of any size, at any pace.

use std::time::Duration;

use astraforge_core::{
    ports::sessions::Sessions,
    session::{Command, ExecEvent, Exit},
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::timeout;

use crate::attack::{
    Target,
    case::{Judged, Stop, hold, table},
    host::resident,
    target::{PROGRAM, Subject},
    transcript::PATIENCE,
};

table! { Streams:
    "flood" "gigabytes of output take no memory of the server, and the exit code is kept" target => flood(target);
    "byte-exact" "any bytes arrive as they were written, wherever they are cut" target => exact(target);
    "long-line" "a line without an end arrives whole" target => long_line(target);
    "many-lines" "a million lines arrive each and in order" target => lines(target);
    "slow-reader" "who reads slowly slows the writer down, and nobody else" target => slow(target);
    "many-streams" "many commands run at once, each with its own output" target => many(target);
    "stdin" "input ends, is left unread, is huge or comes late, and holds up nothing" target => stdin(target);
    "closed-output" "output that is closed early ends nothing else" target => closed(target);
    "locked-pipes" "a command that locks its own pipes holds up nobody, not even its own end" target => locked(target);
    "huge-arguments" "arguments and environments of any size are taken or refused" target => arguments(target);
}

const MIB: u64 = 1 << 20;

/// How much a server may grow while bytes go through it.
const GROWTH: u64 = 96 * MIB;

/// Reads all output of a command; checks each piece, and how the server grows.
async fn drain(
    subject: &Subject,
    command: Command,
    mut check: impl FnMut(&Bytes) -> Result<(), Stop>,
) -> Result<(u64, Exit, u64), Stop> {
    let mut execution = subject.machine.exec(command.with_cwd("/tmp")).await?;
    let (before, mut most, mut n_bytes, mut n_pieces) = (resident(), 0, 0, 0_u64);
    loop {
        let event = timeout(PATIENCE, execution.events.next()).await.map_err(|_| Stop::breach("output stops"))?;
        match event.ok_or_else(|| Stop::breach("the end was not told"))?? {
            ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => {
                check(&bytes)?;
                n_bytes += bytes.len() as u64;
            }
            ExecEvent::Exited(exit) => return Ok((n_bytes, exit, most.max(resident()).saturating_sub(before))),
            ExecEvent::Lost(n_bytes) => return Err(Stop::Breach(format!("{n_bytes} bytes are lost"))),
        }
        n_pieces += 1;
        if n_pieces.is_multiple_of(256) {
            most = most.max(resident());
        }
    }
}

async fn flood(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let wanted = target.scaled(512 * MIB, 10 * 1024 * MIB);
    let line = format!("yes | head -c {wanted}; exit 7");
    let (n_bytes, exit, grown) = drain(&subject, Command::shell(line), |_| Ok(())).await?;
    hold!(n_bytes == wanted && exit == Exit::Exited { code: 7 }, "{n_bytes} of {wanted} bytes, {exit}");
    hold!(grown < GROWTH, "the server grew by {} MiB", grown / MIB);
    Ok(format!("{} MiB, the server grew by {} MiB", n_bytes / MIB, grown / MIB))
}

async fn exact(target: &Target) -> Judged {
    let subject = target.shared().await?;
    let line = r"printf '\000\377\303'; sleep 0.05; printf '\244\n'; printf 'err\n\200\000' >&2; printf '\360\237'; sleep 0.05; printf '\230\200'";
    let output = subject.shell(line).await?;
    hold!(output.stdout == b"\x00\xff\xc3\xa4\n\xf0\x9f\x98\x80", "{:?}", output.stdout);
    hold!(output.stderr == b"err\n\x80\x00", "{:?}", output.stderr);
    Ok("both streams".to_owned())
}

async fn long_line(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let wanted = target.scaled(32 * MIB, 100 * MIB);
    let line = format!("head -c {wanted} /dev/zero | tr '\\0' x");
    let (n_bytes, exit, grown) = drain(&subject, Command::shell(line), |bytes| {
        hold!(bytes.iter().all(|it| *it == b'x'), "other bytes are among it");
        Ok(())
    })
    .await?;
    hold!(n_bytes == wanted && exit.success(), "{n_bytes} of {wanted} bytes, {exit}");
    hold!(grown < GROWTH, "the server grew by {} MiB", grown / MIB);
    Ok(format!("{} MiB in one line", n_bytes / MIB))
}

async fn lines(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let n_lines = target.scaled(100_000_u64, 1_000_000);
    let (mut rest, mut next) = (Vec::new(), 0_u64);
    let count = Command::shell(format!("i=0; while [ $i -lt {n_lines} ]; do echo $i; i=$((i+1)); done"));
    let (_, exit, _) = drain(&subject, count, |bytes| {
        rest.extend_from_slice(bytes);
        while let Some(end) = rest.iter().position(|it| *it == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            hold!(line == format!("{next}\n").as_bytes(), "line {next} is {:?}", String::from_utf8_lossy(&line));
            next += 1;
        }
        Ok(())
    })
    .await?;
    hold!(next == n_lines && exit.success(), "{next} of {n_lines} lines, {exit}");
    Ok(format!("{n_lines} lines, each in its place"))
}

async fn slow(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let before = resident();
    let mut floods = Vec::new();
    for _ in 0..8 {
        floods.push(subject.machine.exec(Command::shell("yes").with_cwd("/tmp")).await?);
    }
    for _ in 0..10 {
        subject.is_well().await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let grown = resident().saturating_sub(before);
    hold!(grown < GROWTH, "with 8 readers that stand still the server grew by {} MiB", grown / MIB);
    drop(floods);
    subject.is_well().await?;
    Ok(format!("beside 8 that stand still; the server grew by {} MiB", grown / MIB))
}

async fn many(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let n_commands = target.scaled(120, 2000);
    let commands = (0..n_commands).map(|it| {
        let subject = &subject;
        async move {
            let output = subject.shell(&format!("echo {it}; echo e{it} >&2; exit {}", it % 200)).await?;
            let right = output.stdout == format!("{it}\n").as_bytes() && output.stderr == format!("e{it}\n").as_bytes();
            hold!(right && output.exit == Exit::Exited { code: it % 200 }, "command {it}: {output:?}");
            Ok(())
        }
    });
    futures::future::try_join_all(commands).await?;
    Ok(format!("{n_commands} at once"))
}

async fn stdin(target: &Target) -> Judged {
    let subject = target.shared().await?;
    let huge = Bytes::from(vec![b'x'; 8 << 20]);
    let run =
        async |command: Command| Ok::<_, Stop>(subject.start_command(command.with_cwd("/tmp")).await?.end().await?);
    let eof = run(Command::shell("cat; echo over")).await?;
    hold!(eof.text == "over\n", "input that is empty does not end: {}", eof.text);
    for line in ["true", "exec 0<&-; true", "head -c 1 > /dev/null", "sleep 0.2"] {
        let ended = run(Command::shell(line).with_stdin(huge.clone())).await?;
        hold!(ended.exit.is_some_and(Exit::success), "input that nobody reads holds up `{line}`: {:?}", ended.exit);
    }
    let counted = run(Command::shell("wc -c").with_stdin(huge)).await?;
    hold!(counted.text.trim() == (8 << 20).to_string(), "of 8 MiB {} bytes arrived", counted.text.trim());
    let execution = subject.machine.exec(Command::new(["true"]).with_cwd("/tmp").with_open_stdin()).await?;
    let control = std::sync::Arc::clone(&execution.control);
    let ended =
        timeout(PATIENCE, execution.collect(100)).await.map_err(|_| Stop::breach("open input holds up an end"))??;
    hold!(ended.exit.success(), "{ended:?}");
    let late = timeout(PATIENCE, control.write_stdin(Bytes::from(vec![0; 1 << 20]))).await;
    late.map_err(|_| Stop::breach("input after the end waits for ever"))?.ok();
    subject.is_well().await?;
    Ok("empty, unread, huge and late".to_owned())
}

async fn closed(target: &Target) -> Judged {
    let subject = target.shared().await?;
    for line in
        ["exec 1>&- 2>&-; sleep 0.1; exit 9", "exec 1>&-; (sleep 600 &); exit 9", "yes | head -1 > /dev/null; exit 9"]
    {
        let output = subject.shell(line).await?;
        hold!(output.exit == Exit::Exited { code: 9 }, "{line}: {output:?}");
    }
    Ok("the exit code is kept".to_owned())
}

async fn locked(target: &Target) -> Judged {
    let subject = target.sandbox(Default::default()).await?;
    let lock = |pipe| {
        let command = Command::new([PROGRAM, "lock-pipe", pipe]).with_cwd("/tmp");
        command.with_stdin(Bytes::from(vec![b'x'; 4 << 20])).with_timeout(Duration::from_secs(2))
    };
    for pipe in ["output", "input"] {
        let running = subject.machine.exec(lock(pipe)).await?;
        let ended = timeout(PATIENCE, running.collect(64 << 20)).await;
        let ended =
            ended.map_err(|_| Stop::Breach(format!("with its {pipe} locked its time limit does not hold")))??;
        hold!(ended.exit == Exit::TimedOut, "with its {pipe} locked a timeout became {:?}", ended.exit);
        subject.is_well().await?;
    }
    let mut running = subject.machine.exec(lock("output").with_timeout(10 * PATIENCE)).await?;
    let mut n_bytes = 0;
    // All that it writes before, but for what may be in the pipe.
    while n_bytes < 3 << 20 {
        match timeout(PATIENCE, running.events.next()).await {
            Ok(Some(Ok(ExecEvent::Stdout(bytes)))) => n_bytes += bytes.len(),
            other => return Err(Stop::trouble(format_args!("{other:?} after {n_bytes} bytes"))),
        }
    }
    subject.is_well().await?;
    target.remember(subject.id).await?;
    let destroyed = timeout(PATIENCE, target.sandboxes().destroy(subject.id)).await;
    destroyed.map_err(|_| Stop::breach("a locked pipe keeps the sandbox from being destroyed"))??;
    drop(running);
    Ok("time limits hold, and so does the end of the sandbox".to_owned())
}

async fn arguments(target: &Target) -> Judged {
    let subject = target.shared().await?;
    let long = |n: usize| "x".repeat(n);
    let mut n_refused = 0;
    for command in [
        Command::new(["true".to_owned(), long(200_000)]),
        Command::new(["true".to_owned(), long(20_000_000)]),
        Command::new(["true"]).with_env("HUGE", long(200_000)),
        Command::new(["true"]).with_env("A\0B", "c"),
        Command::new(["true"]).with_env("A=B", "c"),
        Command::new(["true", "a\0b"]),
        Command::new([""; 0]),
        Command::new([""]),
    ] {
        let started = timeout(PATIENCE, subject.machine.exec(command.with_cwd("/tmp"))).await;
        match started.map_err(|_| Stop::breach("a start hangs"))? {
            Err(_) => n_refused += 1,
            Ok(execution) => {
                drop(timeout(PATIENCE, execution.collect(100)).await.map_err(|_| Stop::breach("a start hangs"))?)
            }
        }
    }
    for cwd in ["/etc/passwd", "/tmp/a\0b", "/proc/1/root", "/nonsense", "../..", ""] {
        let started = timeout(PATIENCE, subject.machine.exec(Command::new(["true"]).with_cwd(cwd))).await;
        if started.map_err(|_| Stop::breach("a start hangs"))?.is_err() {
            n_refused += 1;
        }
    }
    subject.is_well().await?;
    Ok(format!("{n_refused} refused"))
}
