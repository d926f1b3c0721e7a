//! Packing a workspace, putting it back, and copying it into another sandbox, beside `tar` inside.

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    archive::{Compression, PackRequest, UnpackRequest},
    egress::Egress,
    id::SandboxId,
    ports::{
        machines::{Machine, Machines},
        sessions::Sessions,
    },
    session::{ByteSize, Command, Limit, Limits, SandboxSpec, Workspace},
};
use astraforge_sandbox::sandboxes::Sandboxes;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::samples::{Failure, Section, timed};

const SNAPSHOT: [Section; 2] = [
    Section { name: "snapshot 10 MB", what: "pack a workspace of 10 MB in 100 files, half of it random" },
    Section { name: "snapshot 1 GB", what: "pack a workspace of 1 GB in 10,000 files, half of it random" },
];
const RESTORE: [Section; 2] = [
    Section { name: "restore 10 MB", what: "replace the workspace by that archive" },
    Section { name: "restore 1 GB", what: "replace the workspace by that archive" },
];
const FORK: Section = Section { name: "fork 100 MB", what: "create another sandbox with these files" };

/// What a restore does, by other programs.
const REPLACE: &str = "mkdir /workspace/.new && zstd -qdc /tmp/archive | tar -C /workspace/.new -xf - && \
    rm -r /workspace/[rt]* && mv /workspace/.new/[rt]* /workspace && rmdir /workspace/.new";

pub(crate) async fn measure(sandboxes: &Sandboxes) -> Result<(), Failure> {
    for (i, (n_files, n_rounds)) in [(100, 10), (10_000, 2)].into_iter().enumerate() {
        let (id, machine) = filled(sandboxes, n_files).await?;
        let n_bytes = n_files * 100_000;
        let (mut packed, mut archive) = (Vec::new(), Vec::new());
        let (mut restored, mut tar, mut untar) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..n_rounds {
            let pack = async { Ok(machine.pack(workspace()).await?.try_collect::<Vec<Bytes>>().await?) };
            let (pieces, took) = timed(pack).await?;
            packed.push(took);
            archive = pieces;
            let pieces: Vec<_> = archive.iter().cloned().map(Ok).collect();
            let unpack = async { Ok(machine.unpack(replace(), stream::iter(pieces).boxed()).await?) };
            restored.push(timed(unpack).await?.1);
            tar.push(shell(&machine, "tar -C /workspace -cf - . | zstd -q -1 > /tmp/archive").await?);
            untar.push(shell(&machine, REPLACE).await?);
            shell(&machine, "rm -f /tmp/archive").await?;
        }
        drop(archive);
        SNAPSHOT[i].print_rate("native", "Machine::pack", &packed, n_bytes);
        SNAPSHOT[i].print_rate("tar | zstd -1", "tar -cf - . | zstd -1, inside", &tar, n_bytes);
        RESTORE[i].print_rate("native", "Machine::unpack", &restored, n_bytes);
        RESTORE[i].print_rate("zstd -d | tar", REPLACE, &untar, n_bytes);
        sandboxes.destroy(id).await?;
    }
    fork(sandboxes).await
}

async fn fork(sandboxes: &Sandboxes) -> Result<(), Failure> {
    let (id, machine) = filled(sandboxes, 1000).await?;
    let (mut forks, mut copies) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let fork = async {
            let id = SandboxId::random();
            sandboxes.create(id, spec(), Vec::new()).await?;
            let fork = sandboxes.find(id, Egress::Off).await?;
            let pack = PackRequest { compression: Compression::None, ..workspace() };
            let unpack = UnpackRequest { compression: pack.compression, ..replace() };
            fork.unpack(unpack, machine.pack(pack).await?).await?;
            Ok(id)
        };
        let (forked, took) = timed(fork).await?;
        forks.push(took);
        sandboxes.destroy(forked).await?;
        copies.push(shell(&machine, "mkdir /workspace/copy && cp -a /workspace/[rt]* /workspace/copy").await?);
        shell(&machine, "rm -rf /workspace/copy").await?;
    }
    FORK.print_rate("native", "Sandboxes::create + Machine::pack into Machine::unpack", &forks, 100_000_000);
    FORK.print_rate("cp -a", "cp -a, inside one sandbox, on the same disk", &copies, 100_000_000);
    sandboxes.destroy(id).await?;
    Ok(())
}

fn spec() -> SandboxSpec {
    let mut spec = SandboxSpec::default();
    spec.tmp_size = ByteSize::gib(3);
    let limits = Limits { memory: Limit::best_effort(ByteSize::gib(6)), ..Limits::default() };
    spec.with_limits(limits).with_workspace(Workspace::Disk { size: Limit::best_effort(ByteSize::gib(4)) })
}

/// A sandbox with so many files of 100 kB, every other one random.
async fn filled(sandboxes: &Sandboxes, n_files: u64) -> Result<(SandboxId, Arc<dyn Machine>), Failure> {
    let id = SandboxId::random();
    sandboxes.create(id, spec(), Vec::new()).await?;
    let machine = sandboxes.find(id, Egress::Off).await?;
    let line = format!(
        "for i in $(seq {}); do head -c 100000 /dev/urandom > r$i; yes line $i | head -c 100000 > t$i; done",
        n_files / 2
    );
    shell(&machine, &line).await?;
    Ok((id, machine))
}

async fn shell(machine: &Arc<dyn Machine>, line: &str) -> Result<Duration, Failure> {
    let run = async {
        let output = machine.exec(Command::shell(line)).await?.collect(1 << 16).await?;
        if output.exit.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
    };
    Ok(timed::<()>(run).await?.1)
}

fn workspace() -> PackRequest {
    PackRequest::of(["/workspace"])
}

fn replace() -> UnpackRequest {
    UnpackRequest {
        compression: Compression::Zstd,
        replace: workspace().include,
        max_bytes: 1 << 36,
        max_entries: 1_000_000,
    }
}
