//! Settings of how long and how much of run logs stays in the database.

use std::time::Duration;

use anyhow::bail;
use astraforge_core::{retention::Kept, session::ByteSize};
use clap::Args;

use crate::{database::DatabaseArgs, files::FilesArgs};

/// Settings of what stays in the database. What does not is kept among the files of requests.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run logs")]
pub(crate) struct RetentionArgs {
    /// After how many days without a change the run log of a request that is at rest moves from the database to the files,
    /// the same for all nodes of a database [default: never]
    #[arg(long, global = true, env = "ASTRAFORGE_LOG_DAYS", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=36_500))]
    log_days: Option<u32>,
    /// How large run logs in the database may be together before those of the requests that have been at rest for longest
    /// move to the files, the same for all nodes of a database [default: no limit]
    #[arg(long, global = true, env = "ASTRAFORGE_LOG_SIZE", value_name = "SIZE")]
    log_size: Option<ByteSize>,
}

impl RetentionArgs {
    /// What stays.
    pub(crate) fn kept(&self) -> Kept {
        let age = self.log_days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600));
        Kept { age, size: self.log_size }
    }

    /// Fails if logs would move to where other nodes cannot read them.
    pub(crate) fn check(&self, database: &DatabaseArgs, files: &FilesArgs) -> anyhow::Result<()> {
        if self.kept() != Kept::default() && database.postgres()?.is_some() && !files.is_shared()? {
            bail!(
                "ASTRAFORGE_LOG_DAYS and ASTRAFORGE_LOG_SIZE move run logs to files that all nodes of the database read: \
                 set SANDBOX_S3_BUCKET, or ASTRAFORGE_FILES to a folder that all of them have"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        retention: RetentionArgs,
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        files: FilesArgs,
    }

    fn read(words: &[&str]) -> Line {
        Line::try_parse_from(["x"].iter().chain(words)).unwrap()
    }

    #[test]
    fn all_is_kept_unless_something_is_set() {
        assert_eq!(read(&[]).retention.kept(), Kept::default());
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(read(&["--log-days=7"]).retention.kept(), Kept { age: Some(7 * day), size: None });
        let kept = read(&["--log-size=2Gi"]).retention.kept();
        assert_eq!(kept, Kept { age: None, size: Some(ByteSize::gib(2)) });
        assert!(Line::try_parse_from(["x", "--log-days=0"]).is_err(), "it would be taken for never");
    }

    #[test]
    fn logs_move_only_to_files_that_every_node_reads() {
        let check = |words: &[&str]| {
            let line = read(words);
            line.retention.check(&line.database, &line.files).map_err(|error| error.to_string())
        };
        const SHARED: &str = "--database-url=postgres://h/x";
        for allowed in [&["--log-days=7"][..], &[SHARED], &[SHARED, "--log-size=1Gi", "--request-dir=/mnt/files"]] {
            assert_eq!(check(allowed), Ok(()), "{allowed:?}");
        }
        assert_eq!(check(&[SHARED, "--log-size=1Gi", "--s3-bucket=b"]), Ok(()));
        assert!(check(&[SHARED, "--log-days=7"]).unwrap_err().contains("ASTRAFORGE_FILES"));
    }
}
