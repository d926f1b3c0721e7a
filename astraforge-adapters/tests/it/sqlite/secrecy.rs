//! Secrets are not in the file, nor in what is printed.

use std::{fs, os::unix::fs::MetadataExt as _};

use astraforge_core::{
    access::Role,
    idempotency::{Answer, Begun, CallName, Fingerprint, Outcome},
    ports::{call_store::CallStore, store::Store},
    repository::{RepositoryLink, Secret},
    testing::samples::{self, at},
};
use sqlx::{Connection as _, Executor as _};

use super::{database, fresh, open, raw};

const TOKEN: &str = "glpat-very-secret-token";
const VARIABLE: &str = "password-in-a-variable";

fn secret_link() -> RepositoryLink {
    let mut link = samples::link();
    link.access_token = Some(Secret::new(TOKEN));
    link.environment.env.insert("DB_PASSWORD".to_owned(), VARIABLE.to_owned());
    link
}

#[tokio::test]
async fn secrets_are_in_no_file_of_the_store() {
    let (folder, store) = fresh().await;
    let link = secret_link();
    store.add_link(link.clone()).await.unwrap();
    store.update_link(link.clone()).await.unwrap();
    let files = |folder: &std::path::Path| -> Vec<_> {
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect()
    };
    let while_open = files(folder.path());
    assert!(while_open.iter().any(|path| path.to_str().unwrap().ends_with("-wal")), "{while_open:?}");
    assert_unreadable(&while_open, &link.repository);
    store.close().await;
    assert_unreadable(&files(folder.path()), &link.repository);
    assert_eq!(open(folder.path()).await.link(&link.tenant, link.id).await.unwrap(), Some(link));
}

/// Looks for the secrets, and for something plain, so that the search is known to work.
fn assert_unreadable(files: &[std::path::PathBuf], plain: &str) {
    let holds = |text: &str| {
        let contents = files.iter().map(|path| fs::read(path).unwrap());
        contents.filter(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes())).count()
    };
    assert!(holds(plain) > 0);
    assert_eq!((holds(TOKEN), holds(VARIABLE)), (0, 0));
}

#[tokio::test]
async fn an_answer_that_is_kept_and_the_key_of_its_call_are_in_no_file_of_the_store() {
    let (folder, store) = fresh().await;
    let name = CallName { caller: samples::caller("ada", Role::Admin), key: VARIABLE.parse().unwrap() };
    let print = Fingerprint::of("POST", "/api/api-keys/", b"{}");
    let begun = store.begin_call(&name, print, at(0), at(9)).await.unwrap();
    let Begun::Attempt(attempt) = begun else { panic!("{begun:?}") };
    let headers = vec![("set-cookie".to_owned(), TOKEN.into())];
    let answer = Outcome::Answer(Answer { status: 201, headers, body: TOKEN.into() });
    assert!(store.end_call(&attempt, &answer, at(1)).await.unwrap());
    store.close().await;
    let files: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert_unreadable(&files, &name.digest());
    let print_is_there = |file| fs::read(file).unwrap().windows(32).any(|part| part == print.as_bytes());
    assert!(!files.iter().any(print_is_there), "a password could be guessed by it");
    let reopened = open(folder.path()).await;
    assert_eq!(reopened.begin_call(&name, print, at(2), at(9)).await.unwrap(), Begun::Over(answer));
}

#[tokio::test]
async fn a_sealed_token_moved_to_another_link_does_not_open() {
    let (folder, store) = fresh().await;
    let one = secret_link();
    let two = RepositoryLink { repository: "evil/repository".to_owned(), ..samples::link() };
    store.add_link(one.clone()).await.unwrap();
    store.add_link(two.clone()).await.unwrap();
    let mut other = raw(folder.path()).await;
    let steal = "UPDATE links SET access_token = (SELECT access_token FROM links WHERE repository = 'acme/loader')";
    other.execute(steal).await.unwrap();
    other.close().await.unwrap();
    assert!(store.link(&two.tenant, two.id).await.is_err());
    assert_eq!(store.link(&one.tenant, one.id).await.unwrap(), Some(one));
}

#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    let (folder, store) = fresh().await;
    store.commit(samples::submitted(&samples::request())).await.unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let mut path = database(folder.path()).into_os_string();
        path.push(suffix);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{path:?}");
    }
}

#[tokio::test]
async fn nothing_printed_holds_a_secret() {
    let (_folder, store) = fresh().await;
    let link = secret_link();
    store.add_link(link.clone()).await.unwrap();
    let error = store.add_link(link).await.unwrap_err();
    assert!(!format!("{store:?} {error:?} {error}").contains(TOKEN));
}
