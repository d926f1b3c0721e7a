//! What an answer of the API server means, and what to do about it.

use astraforge_core::{BoxError, id::SandboxId};
use kube::core::Status;

use crate::driver::DriverError;

/// A cluster's own error, with what would change it.
#[derive(Debug, thiserror::Error)]
#[error("{meaning}")]
pub(super) struct ClusterError {
    meaning: String,
    #[source]
    source: Option<kube::Error>,
}

impl ClusterError {
    /// An error of ours about the cluster.
    pub(super) fn new(meaning: impl Into<String>) -> Self {
        Self { meaning: meaning.into(), source: None }
    }
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        match status(&error) {
            // The server's words say it all.
            Some(status) => Self::new(meaning(status)),
            None => Self { meaning: "the cluster's API server gives no usable answer".to_owned(), source: Some(error) },
        }
    }
}

/// The status that the API server answered with.
pub(super) fn status(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// The code of the API server's answer, if it is one.
pub(super) fn code(error: &kube::Error) -> Option<u16> {
    status(error).map(|status| status.code)
}

/// An operation on a sandbox that failed.
pub(super) fn backend(operation: &'static str, id: SandboxId, source: impl Into<ClusterError>) -> DriverError {
    DriverError::Backend { operation, id, source: BoxError::from(source.into()) }
}

/// The server's words, and what to do.
fn meaning(status: &Status) -> String {
    let said = match status.message.as_str() {
        "" => format!("the cluster answers {} {}", status.code, status.reason),
        message => format!("the cluster answers: {message}"),
    };
    match remedy(status) {
        Some(remedy) => format!("{said}; {remedy}"),
        None => said,
    }
}

fn remedy(status: &Status) -> Option<&'static str> {
    let says = |text: &str| status.message.contains(text);
    match status.code {
        401 => Some("the login of KUBECONFIG or of the service account has expired or is wrong"),
        403 if says("exceeded quota") => Some("end sandboxes, ask for less, or have the namespace's quota raised"),
        403 if says("RuntimeClass") => Some("name a runtime class that the cluster has"),
        403 if says("PodSecurity") => Some("let the namespace run pods of the level `restricted`"),
        403 if says("service account") && says("not found") => Some("name a service account that the namespace has"),
        403 => Some("give the server's account what deploy/k8s/role.yaml names"),
        404 if says("namespaces") => Some("make the namespace, as deploy/k8s/namespace.yaml does"),
        422 => Some("the cluster refuses the pod as it is asked for; ask for other limits or another image"),
        429 => Some("the cluster is busy; try again"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: u16, message: &str, expected: &str) {
        let error = kube::Error::Api(Status::failure(message, "R").with_code(code).boxed());
        let shown = ClusterError::from(error).to_string();
        assert!(shown.contains(expected), "{shown}");
    }

    #[test]
    fn an_answer_says_what_to_do() {
        check(403, "pods \"x\" is forbidden: exceeded quota: q", "have the namespace's quota raised");
        check(403, "pod rejected: RuntimeClass \"kata\" not found", "a runtime class that the cluster has");
        check(403, "User \"u\" cannot create resource \"pods\"", "deploy/k8s/role.yaml");
        check(404, "namespaces \"agents\" not found", "make the namespace");
        check(429, "", "answers 429 R; the cluster is busy");
        check(500, "etcd is away", "etcd is away");
    }
}
