//! Archives of the sandbox's files, each made or read by an errand.

use astraforge_core::archive::{CompareRequest, PackRequest, UnpackRequest};
use serde::Serialize;

use super::{
    Daemon, FrameSink, Frames,
    errand::{self, Outcome},
};
use crate::{
    archive::{self, ArchiveError},
    guest::frame::Failure,
};

pub(super) async fn pack(daemon: &Daemon, request: PackRequest, frames: Frames, sink: FrameSink) {
    errand::run(daemon, frames, sink, |_, reply| archive::pack(&request, reply).map(|_| None).map_err(failure)).await;
}

pub(super) async fn unpack(daemon: &Daemon, request: UnpackRequest, frames: Frames, sink: FrameSink) {
    let _alone = daemon.archives.write().await;
    errand::run(daemon, frames, sink, |input, _| json(archive::unpack(&request, input))).await;
}

pub(super) async fn compare(daemon: &Daemon, request: CompareRequest, frames: Frames, sink: FrameSink) {
    let _shared = daemon.archives.read().await;
    errand::run(daemon, frames, sink, |input, _| json(archive::compare(&request, input))).await;
}

fn json<T: Serialize>(result: Result<T, ArchiveError>) -> Outcome {
    let value = result.map_err(failure)?;
    serde_json::to_vec(&value).map(Some).map_err(|error| Failure::Refused { reason: error.to_string() })
}

fn failure(error: ArchiveError) -> Failure {
    Failure::File { kind: error.kind(), reason: error.to_string() }
}
