//! What can be typed after `astraforge sandbox`.

use std::path::PathBuf;

use astraforge_core::{
    egress::Egress,
    image::Image,
    process::{ProcessName, ProcessTag},
    session::{ByteSize, Cpus},
};
use clap::{Args, Subcommand, ValueEnum};

/// What to do with sandboxes.
#[derive(Debug, Subcommand)]
pub(crate) enum SandboxCommand {
    /// Make a sandbox, and print its id
    Create(Box<CreateArgs>),
    /// List sandboxes
    Ls {
        /// At most so many, the newest first
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show all about a sandbox, and what it uses
    #[command(visible_alias = "get")]
    Show(SandboxArg),
    /// Run a command in a sandbox; its exit code is this one's
    Exec(ExecArgs),
    /// Open a terminal in a sandbox; its exit code is this one's
    Shell(ShellArgs),
    /// List the commands that go on in a sandbox, or went on
    Ps(SandboxArg),
    /// Show the output of a command that goes on
    Logs(ProcessLogsArgs),
    /// End a command that goes on, and all it started
    Kill(KillArgs),
    /// Copy files and folders into a sandbox or out of it: one of the two is SANDBOX:PATH
    Cp(CopyArgs),
    /// Show what a sandbox may reach and what it tried to, or change the former
    Egress(EgressOptions),
    /// Look at the files of a sandbox, and change them
    #[command(subcommand)]
    Files(FilesCommand),
    /// Keep the files of a sandbox
    Snapshot(SnapshotArgs),
    /// List the snapshots of a sandbox
    Snapshots(SandboxArg),
    /// Replace the files of a sandbox by those of a snapshot
    Restore(RestoreArgs),
    /// Make a new sandbox with the files that another has now
    Fork(SandboxArg),
    /// Show how the files of a sandbox differ from a snapshot
    Diff(SandboxDiffArgs),
    /// Take a file out of a sandbox, to be kept when the sandbox is gone
    Export(ExportArgs),
    /// List the files that were taken out of a sandbox
    Artifacts(SandboxArg),
    /// Make a link with which anybody can download a file that was taken out, for a while
    Link(LinkArgs),
    /// Show what changes in a sandbox's files, until Ctrl-C
    Watch(WatchArgs),
    /// Take a picture of a sandbox's screen, where its image has one
    Screenshot(ScreenshotArgs),
    /// Say that somebody is there: a sandbox is not stopped for lying unused
    Heartbeat(SandboxArg),
    /// Stop a sandbox; it comes back with its files when it is used
    Stop(SandboxArg),
    /// Delete a sandbox for good
    Rm(SandboxArg),
    /// Try to break out of sandboxes, in every way that is known, and say what came of it
    Attack(crate::commands::sandbox::attack::AttackArgs),
}

/// A sandbox.
#[derive(Debug, Args)]
pub(crate) struct SandboxArg {
    /// The sandbox
    pub(crate) id: String,
}

/// Arguments of `create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its id: the same id is the same sandbox [default: a new one]
    #[arg(long, value_name = "UUID")]
    pub(crate) id: Option<String>,
    /// Driver it runs on [default: that of PROVISIONER]
    #[arg(long, value_name = "DRIVER")]
    pub(crate) mode: Option<String>,
    /// What it sees as its system: an image by name, or the path of a folder, layout or archive [default: the driver's]
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<Image>,
    /// Processors that it may use, such as 2, 1.5 or 500m
    #[arg(long, value_name = "CPUS")]
    pub(crate) cpu: Option<Cpus>,
    /// Most memory of all its processes
    #[arg(long, default_value = "4Gi", value_name = "SIZE")]
    pub(crate) memory: ByteSize,
    /// Most processes and threads
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pids: u32,
    /// Largest size of its files, which are on disk
    #[arg(long, visible_alias = "disk", default_value = "10Gi", value_name = "SIZE")]
    pub(crate) size: ByteSize,
    /// Refuse to make it where the limits on files, memory and processors cannot be enforced
    #[arg(long)]
    pub(crate) hard: bool,
    /// Keep its files in memory, at most so much; a snapshot keeps them when it stops
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["size", "hard"])]
    pub(crate) tmpfs: Option<ByteSize>,
    /// Variable in the environment of every command; may be given more than once
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// What it may reach: off, public, or allow:HOST,... such as allow:example.com,*.example.org:8443
    #[arg(long, default_value = "public", value_name = "EGRESS")]
    pub(crate) egress: Egress,
    /// Seconds without use after which it is stopped
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    pub(crate) idle: u64,
    /// Seconds after which it is stopped in any case
    #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
    pub(crate) lifetime: u64,
    /// Snapshot whose files it begins with
    #[arg(long, value_name = "SNAPSHOT")]
    pub(crate) restore: Option<String>,
}

/// Arguments of `egress`.
#[derive(Debug, Args)]
pub(crate) struct EgressOptions {
    /// The sandbox
    pub(crate) id: String,
    /// What it may reach from now on: off, public, or allow:HOST,...
    #[arg(long, value_name = "EGRESS")]
    pub(crate) set: Option<Egress>,
    /// How many of the last connections are shown
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub(crate) last: usize,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The sandbox
    pub(crate) id: String,
    /// Working directory
    #[arg(long, default_value = "/workspace", value_name = "PATH")]
    pub(crate) cwd: String,
    /// Variable in its environment; may be given more than once
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// Seconds after which the command and all it started are ended
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Let it go on when nobody watches, and print its number; see `ps`, `logs` and `kill`
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Name for a command that goes on
    #[arg(long, value_name = "NAME", requires = "detach")]
    pub(crate) tag: Option<ProcessTag>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
}

/// Arguments of `shell`.
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// The sandbox
    pub(crate) id: String,
    /// Working directory
    #[arg(long, default_value = "/workspace", value_name = "PATH")]
    pub(crate) cwd: String,
    /// Variable in its environment; may be given more than once
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The program and its arguments [default: bash, or sh where there is none]
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub(crate) struct ProcessLogsArgs {
    /// The sandbox
    pub(crate) id: String,
    /// Number or name of the command, as `ps` shows them
    pub(crate) process: ProcessName,
    /// Byte of its output to begin with
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) from: u64,
    /// Stay until it ends
    #[arg(long, short)]
    pub(crate) follow: bool,
}

/// Arguments of `kill`.
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// The sandbox
    pub(crate) id: String,
    /// Number or name of the command, as `ps` shows them
    pub(crate) process: ProcessName,
    /// How
    #[arg(long, short, value_enum, default_value_t = KillSignal::Term)]
    pub(crate) signal: KillSignal,
}

/// How a command is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KillSignal {
    /// As Ctrl-C does
    Int,
    /// Asks it to end
    Term,
    /// Ends it and all it started at once
    Kill,
}

/// Arguments of `cp`.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// What is copied
    pub(crate) from: String,
    /// Where to
    pub(crate) to: String,
    /// Replace a folder that is there, with all that it holds
    #[arg(long)]
    pub(crate) replace: bool,
}

/// What to do with the files of a sandbox.
#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    /// List a folder
    Ls {
        /// The sandbox
        id: String,
        /// The folder
        #[arg(default_value = "/workspace")]
        path: String,
        /// Levels below it that are listed
        #[arg(long, default_value_t = 1, value_name = "N")]
        depth: u32,
    },
    /// Print a file
    Cat {
        /// The sandbox
        id: String,
        /// The file
        path: String,
    },
    /// Find files by name
    Glob {
        /// The sandbox
        id: String,
        /// The pattern, such as '*.rs' or 'src/**/*.py'
        pattern: String,
        /// The folder
        #[arg(default_value = "/workspace")]
        path: String,
    },
    /// Find lines by content
    Grep {
        /// The sandbox
        id: String,
        /// The text
        pattern: String,
        /// The file or folder
        #[arg(default_value = "/workspace")]
        path: String,
        /// The text is a regular expression
        #[arg(long, short = 'E')]
        regex: bool,
        /// Only in files whose name matches
        #[arg(long, value_name = "PATTERN")]
        glob: Option<String>,
        /// Print how many lines of each file match
        #[arg(long, short)]
        count: bool,
    },
    /// Replace text in a file
    Edit {
        /// The sandbox
        id: String,
        /// The file
        path: String,
        /// The text to find, exactly
        old: String,
        /// What is put in its place
        new: String,
        /// Replace it wherever it is; else it must be there exactly once
        #[arg(long)]
        all: bool,
    },
    /// Make a folder, and those above it
    Mkdir {
        /// The sandbox
        id: String,
        /// The folder
        path: String,
    },
    /// Move a file or folder
    Mv {
        /// The sandbox
        id: String,
        /// What is moved
        from: String,
        /// Where to
        to: String,
        /// Replace what is there
        #[arg(long)]
        replace: bool,
    },
    /// Remove a file or folder
    Rm {
        /// The sandbox
        id: String,
        /// What is removed
        path: String,
        /// A folder goes with all it holds
        #[arg(long, short)]
        recursive: bool,
    },
}

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// The sandbox
    pub(crate) id: String,
    /// What to call it
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Path that goes in; may be given more than once [default: /workspace]
    #[arg(long, value_name = "PATH")]
    pub(crate) include: Vec<String>,
    /// Pattern of what stays out, as `tar --exclude` takes it; may be given more than once
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The sandbox
    pub(crate) id: String,
    /// The snapshot
    #[arg(conflicts_with = "from")]
    pub(crate) snapshot: Option<String>,
    /// Archive whose files they become: .tar.gz or .tar.zst, with members named workspace/…
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
}

/// Arguments of `link`.
#[derive(Debug, Args)]
pub(crate) struct LinkArgs {
    /// The file that was taken out, as `artifacts` lists it
    pub(crate) artifact: String,
    /// Seconds for which the link is of use, at most a week
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    pub(crate) expires: u32,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The sandbox
    pub(crate) id: String,
    /// The file or folder
    #[arg(default_value = "/workspace")]
    pub(crate) path: String,
    /// Only what is in the folder itself, not in those below it
    #[arg(long)]
    pub(crate) flat: bool,
}

/// Arguments of `screenshot`.
#[derive(Debug, Args)]
pub(crate) struct ScreenshotArgs {
    /// The sandbox
    pub(crate) id: String,
    /// File for the picture, a PNG
    pub(crate) file: PathBuf,
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub(crate) struct SandboxDiffArgs {
    /// The sandbox
    pub(crate) id: String,
    /// The snapshot; the latest if left out
    pub(crate) snapshot: Option<String>,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The sandbox
    pub(crate) id: String,
    /// The file
    pub(crate) path: String,
    /// Name it is offered under [default: its own]
    #[arg(long, value_name = "NAME")]
    pub(crate) filename: Option<String>,
    /// What it holds
    #[arg(long, default_value = "application/octet-stream", value_name = "TYPE")]
    pub(crate) content_type: String,
    /// Write it to a file here too
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// Reads `NAME=VALUE`.
fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(variable("=b").is_err() && variable("A").is_err());
    }
}
