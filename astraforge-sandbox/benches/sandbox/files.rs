//! File verbs, beside the Python one-liner that does the same inside.

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    egress::Egress,
    files::{DownloadRequest, Existing, FileRequest, FileVerb, GrepOutput, Occurrences, Pattern, Roots, UploadRequest},
    id::SandboxId,
    ports::{
        machines::{Machine, Machines},
        sessions::Sessions,
    },
    session::{ByteSize, Command, SandboxSpec, Workspace},
};
use astraforge_sandbox::sandboxes::Sandboxes;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::samples::{Failure, Section, timed};

const N_ROUNDS: usize = 100;
const N_PYTHON: usize = 20;

pub(crate) async fn measure(sandboxes: &Sandboxes) -> Result<(), Failure> {
    let id = SandboxId::random();
    let spec = SandboxSpec::default().with_workspace(Workspace::Tmpfs { size: ByteSize::gib(1) });
    sandboxes.create(id, spec, Vec::new()).await?;
    let desk = Desk(sandboxes.find(id, Egress::Off).await?);
    desk.shell("mkdir -p tree && cd tree && for i in $(seq 500); do seq 40 > f$i.txt; done; printf 'a line\\n' > one")
        .await?;
    desk.verbs().await?;
    for (name, n_bytes) in [("upload 200 kB", 200_000), ("upload 10 MiB", 10 << 20)] {
        desk.upload(name, n_bytes).await?;
    }
    sandboxes.destroy(id).await?;
    Ok(())
}

/// A machine that has a folder of 500 files.
struct Desk(Arc<dyn Machine>);

impl Desk {
    async fn shell(&self, line: &str) -> Result<(), Failure> {
        let output = self.0.exec(Command::shell(line)).await?.collect(1 << 20).await?;
        if output.exit.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
    }

    async fn verb(&self, verb: FileVerb) -> Result<(), Failure> {
        self.0.file(FileRequest { roots: Roots::everywhere(), verb }).await?;
        Ok(())
    }

    async fn verbs(&self) -> Result<(), Failure> {
        let path = || "/workspace/tree/one".to_owned();
        let folder = || "/workspace/tree".to_owned();
        let edit = |old: &str, new: &str| FileVerb::Edit {
            path: path(),
            old: old.to_owned(),
            new: new.to_owned(),
            occurrences: Occurrences::Unique,
        };
        let table: [(Section, Vec<FileVerb>, &str); 6] = [
            (
                Section { name: "stat", what: "look at one file" },
                vec![FileVerb::Stat { path: path() }],
                "import os; os.stat('/workspace/tree/one')",
            ),
            (
                Section { name: "read", what: "read a file of one line" },
                vec![FileVerb::ReadText { path: path(), offset: 0, limit: 2000, max_bytes: 65536 }],
                "print(open('/workspace/tree/one').read())",
            ),
            (
                Section { name: "edit", what: "replace a word in a file, and back" },
                vec![edit("a line", "a word"), edit("a word", "a line")],
                "p='/workspace/tree/one'; t=open(p).read(); open(p,'w').write(t.replace('line','word').replace('word','line'))",
            ),
            (
                Section { name: "list", what: "list a folder of 500 files" },
                vec![FileVerb::List { path: folder(), depth: 1, limit: 1000 }],
                "import os; [(e.name, e.stat()) for e in os.scandir('/workspace/tree')]",
            ),
            (
                Section { name: "glob", what: "find 500 files by name" },
                vec![FileVerb::Glob { pattern: "*.txt".to_owned(), path: folder(), limit: 1000 }],
                "import glob; glob.glob('/workspace/tree/**/*.txt', recursive=True)",
            ),
            (
                Section { name: "grep", what: "search 500 files of 40 lines" },
                vec![FileVerb::Grep {
                    pattern: Pattern::Literal("39".to_owned()),
                    path: folder(),
                    glob: None,
                    output: GrepOutput::Counts,
                    limit: 1000,
                }],
                "import os; [l for e in os.scandir('/workspace/tree') for l in open(e) if '39' in l]",
            ),
        ];
        for (section, verbs, python) in table {
            let mut ours = Vec::new();
            for round in 0..=N_ROUNDS {
                let mut took = Duration::ZERO;
                for verb in &verbs {
                    took += timed(self.verb(verb.clone())).await?.1;
                }
                if round > 0 {
                    ours.push(took / u32::try_from(verbs.len())?);
                }
            }
            section.print("native", "Machine::file", &ours);
            section.print("python3 -c", python, &self.python(python).await?);
        }
        Ok(())
    }

    /// The same as a program inside, started by the same exec.
    async fn python(&self, code: &str) -> Result<Vec<Duration>, Failure> {
        let mut samples = Vec::new();
        for _ in 0..N_PYTHON {
            let run = async {
                let output = self.0.exec(Command::new(["python3", "-c", code])).await?.collect(1 << 20).await?;
                if output.exit.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
            };
            samples.push(timed::<()>(run).await?.1);
        }
        Ok(samples)
    }

    async fn upload(&self, name: &'static str, n_bytes: usize) -> Result<(), Failure> {
        let section = Section { name, what: "bytes into a file, as a stream; and out of it" };
        let bytes = Bytes::from((0..n_bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect::<Vec<u8>>());
        let (mut up, mut down, mut piped) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..20 {
            let pieces: Vec<_> =
                (0..n_bytes).step_by(256 * 1024).map(|at| Ok(bytes.slice(at..n_bytes.min(at + 256 * 1024)))).collect();
            let request = UploadRequest {
                roots: Roots::everywhere(),
                path: "/workspace/upload".to_owned(),
                mode: 0o644,
                existing: Existing::Replace,
            };
            let upload = async { Ok(self.0.upload(request, stream::iter(pieces).boxed()).await?) };
            up.push(timed(upload).await?.1);
            let request = DownloadRequest {
                roots: Roots::everywhere(),
                path: "/workspace/upload".to_owned(),
                offset: 0,
                limit: None,
            };
            let download = async {
                let contents = self.0.download(request).await?;
                let n = contents.try_fold(0, |n, piece| async move { Ok(n + piece.len()) }).await?;
                if n == n_bytes { Ok(()) } else { Err(format!("{n} bytes came back").into()) }
            };
            down.push(timed(download).await?.1);
            let cat = Command::shell("cat > /workspace/upload").with_stdin(bytes.clone());
            let cat = async { Ok(self.0.exec(cat).await?.collect(1024).await?) };
            piped.push(timed(cat).await?.1);
        }
        section.print_rate("native, in", "Machine::upload", &up, n_bytes as u64);
        section.print_rate("native, out", "Machine::download", &down, n_bytes as u64);
        section.print_rate("sh -c cat", "exec sh -c 'cat > file', bytes as its input", &piped, n_bytes as u64);
        Ok(())
    }
}
