//! Brings the base branch of a real repository into a quarantine.

use astraforge_core::{
    ports::git::{Base, GitError, Remote},
    request::change_set::Change,
};

use super::{
    Quarantine,
    argv::{Call, Serve, Transport, fetch_settings},
    failure::{of_source, refused},
    parse::{self, Offered},
    quarantine::Bare,
    run::backend,
};

/// How many branch names an error lists.
const MAX_KNOWN: usize = 20;
const LIST: &str = "list the branches of the repository";
const FETCH: &str = "fetch from the repository";

impl Quarantine {
    pub(super) async fn mirror_into(
        &self,
        bare: &Bare,
        remote: &Remote,
        branch: Option<&str>,
        standing: Option<&Change>,
    ) -> Result<Base, GitError> {
        let transport = Transport::of(remote).map_err(|reason| no_repository(&remote.url, reason))?;
        check_folder(&remote.url, &transport)?;
        let made = bare.ensure(&self.git).await?;
        let mirrored = self.mirror_through(bare, &remote.url, &transport, branch, standing).await;
        if mirrored.is_err() && made {
            // Nothing is in it yet.
            bare.remove().await?;
        }
        mirrored
    }

    async fn mirror_through(
        &self,
        bare: &Bare,
        repository: &str,
        transport: &Transport,
        branch: Option<&str>,
        standing: Option<&Change>,
    ) -> Result<Base, GitError> {
        let offered = self.offered(bare, repository, transport).await?;
        let branch = choose(repository, offered, branch)?;
        let work_branch = match standing {
            Some(change) => Some(change.branch.clone()),
            None => bare.work_branch(&self.git).await?,
        };
        if work_branch.as_deref() == Some(branch.as_str()) {
            return Err(refused(format!("`{branch}` holds the work of this request and cannot be its base as well")));
        }
        self.drop_other_bases(bare, &branch).await?;
        self.fetch_base(bare, repository, transport, &branch).await?;
        let fetched = bare.commit(&self.git, &format!("refs/base/{branch}")).await?;
        let commit = fetched.ok_or_else(|| refused(format!("branch `{branch}` does not point at a commit")))?;
        match standing {
            Some(change) => {
                self.bring_commit(bare, repository, transport, &change.head_commit).await?;
                bare.set_work(&self.git, &change.branch, &change.head_commit).await?;
            }
            None => bare.drop_work(&self.git).await?,
        }
        bare.remember_size().await?;
        let work_head = match standing.map(|change| change.head_commit.clone()) {
            // A branch that has nothing beyond the base is not work.
            Some(head) if bare.is_ancestor(&self.git, &head, &commit).await? => None,
            head => head,
        };
        Ok(Base { branch, commit, work_head })
    }

    /// Lists what a real repository offers.
    pub(super) async fn offered(
        &self,
        bare: &Bare,
        repository: &str,
        transport: &Transport,
    ) -> Result<Offered, GitError> {
        let call = self.reading_call(bare, transport, &["ls-remote", "--symref"], &["HEAD", "refs/heads/*"]);
        let output = self.git.ask(call, LIST).await?;
        if !output.success {
            return Err(of_source(repository, LIST, &output.stderr));
        }
        parse::ls_remote(&output.stdout).map_err(|error| backend(LIST, error))
    }

    async fn fetch_base(
        &self,
        bare: &Bare,
        repository: &str,
        transport: &Transport,
        branch: &str,
    ) -> Result<(), GitError> {
        let refspecs =
            [format!("+refs/heads/{branch}:refs/base/{branch}"), format!("+refs/heads/{branch}:refs/heads/{branch}")];
        self.fetch(bare, repository, transport, &refspecs.each_ref().map(String::as_str)).await?;
        let call = bare.call(&self.git, ["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]);
        self.git.ask(call, FETCH).await?.printed(FETCH).map(drop)
    }

    /// Fetches exactly the refspecs: no tags, no submodules, no housekeeping.
    pub(super) async fn fetch(
        &self,
        bare: &Bare,
        repository: &str,
        transport: &Transport,
        refspecs: &[&str],
    ) -> Result<(), GitError> {
        let verb = [
            "fetch",
            "--quiet",
            "--atomic",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
        ];
        let forgiven = fetch_settings();
        let forgiven: Vec<_> = forgiven.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let call = self.reading_call(bare, transport, &verb, refspecs).with_settings(&forgiven);
        let output = self.git.ask(call, FETCH).await?;
        if output.success { Ok(()) } else { Err(of_source(repository, FETCH, &output.stderr)) }
    }

    fn reading_call(&self, bare: &Bare, transport: &Transport, verb: &[&str], what: &[&str]) -> Call {
        let mut call = bare.call(&self.git, verb).reaching(transport);
        call.args.extend(transport.serving_option(self.git.path(), Serve::Upload));
        call.args.push("--".into());
        call.args.push(transport.address());
        call.args.extend(what.iter().map(Into::into));
        call
    }

    /// Forgets the branches that earlier runs started from: a workspace sees one base.
    async fn drop_other_bases(&self, bare: &Bare, branch: &str) -> Result<(), GitError> {
        for (name, _) in bare.refs(&self.git, "refs/base").await? {
            let Some(other) = name.strip_prefix("refs/base/").filter(|other| *other != branch) else { continue };
            for doomed in [&name, &format!("refs/heads/{other}")] {
                let call = bare.call(&self.git, ["update-ref", "-d", doomed]);
                self.git.ask(call, "forget an earlier base").await?.printed("forget an earlier base")?;
            }
        }
        Ok(())
    }
}

/// Says in plain words what is wrong with a folder, before git says it in its own.
fn check_folder(repository: &str, transport: &Transport) -> Result<(), GitError> {
    let Transport::Local(path) = transport else { return Ok(()) };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(no_repository(repository, "it is a file, not a folder")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(no_repository(repository, "there is no such folder; check its path"))
        }
        Err(error) => Err(no_repository(repository, format!("its folder cannot be read: {error}"))),
    }
}

fn choose(repository: &str, offered: Offered, wanted: Option<&str>) -> Result<String, GitError> {
    let known: Vec<String> = offered.branches.into_iter().map(|(branch, _)| branch).collect();
    if known.is_empty() {
        return Err(GitError::Empty { repository: repository.to_owned() });
    }
    // A HEAD that names no branch (a detached one) leaves nothing to guess, unless there is one branch only.
    let only = || (known.len() == 1).then(|| known[0].clone());
    let head = || offered.default_branch.filter(|head| known.contains(head)).or_else(only);
    match wanted.map(str::to_owned).or_else(head) {
        Some(branch) if known.contains(&branch) => Ok(branch),
        missing => Err(GitError::NoBranch {
            repository: repository.to_owned(),
            branch: missing.unwrap_or_else(|| "HEAD".to_owned()),
            known: known.into_iter().take(MAX_KNOWN).collect(),
        }),
    }
}

pub(super) fn no_repository(repository: &str, reason: impl Into<String>) -> GitError {
    GitError::NoRepository { repository: repository.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(default: Option<&str>, branches: &[&str], wanted: Option<&str>, chosen: Result<&str, &str>) {
        let branches = branches.iter().map(|branch| ((*branch).to_owned(), "a".repeat(40))).collect();
        let offered = Offered { default_branch: default.map(str::to_owned), branches };
        let got = choose("/r", offered, wanted).map_err(|error| error.to_string());
        match chosen {
            Ok(branch) => assert_eq!(got.as_deref(), Ok(branch)),
            Err(told) => assert!(got.as_ref().is_err_and(|error| error.contains(told)), "{got:?}"),
        }
    }

    #[test]
    fn the_branch_asked_for_or_else_the_default_one_is_chosen() {
        check(Some("main"), &["dev", "main"], None, Ok("main"));
        check(Some("main"), &["dev", "main"], Some("dev"), Ok("dev"));
        check(None, &["trunk"], None, Ok("trunk"));
        check(Some("gone"), &["trunk"], None, Ok("trunk"));
        check(Some("main"), &["dev", "main"], Some("nope"), Err("no branch `nope`; its branches are: dev, main"));
        check(Some("main"), &["main"], Some("--upload-pack=x"), Err("no branch"));
        check(Some("gone"), &["a", "b"], None, Err("no branch `HEAD`"));
        check(Some("main"), &[], None, Err("no commit yet"));
    }
}
