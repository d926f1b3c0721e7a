//! What containers are asked to be, seen whole.

use std::path::PathBuf;

use astraforge_core::session::Limits;

use super::*;
use crate::driver::IsolationTier;

const ID: &str = "5f0c7f0e-3c1b-4f5e-9a51-0a8d1f6f0b11";

fn settings() -> DockerConfig {
    DockerConfig::new("data-folder-runs", "/guest", "python:3.11-slim".parse().unwrap())
}

/// On an engine that can hold every limit.
fn decide(config: &DockerConfig, spec: &SandboxSpec) -> Result<ContainerCreateBody, DriverError> {
    let capabilities = Capabilities {
        memory: Enforcement::Hard,
        processes: Enforcement::Hard,
        cpu: Enforcement::Hard,
        disk: Enforcement::Soft,
        ..Capabilities::new(IsolationTier::Container)
    };
    decide_on(config, spec, &capabilities)
}

fn decide_on(
    config: &DockerConfig,
    spec: &SandboxSpec,
    capabilities: &Capabilities,
) -> Result<ContainerCreateBody, DriverError> {
    let around = Surroundings {
        config,
        capabilities,
        image: "python:3.11-slim",
        guest: "astraforge-sandbox-guest-0.1.0-abcd",
        maker: "boot 1 2 driver",
    };
    container(ID.parse().unwrap(), spec, &[8080], &around)
}

fn shown(body: &ContainerCreateBody) -> serde_json::Value {
    serde_json::to_value(body).unwrap()
}

#[test]
fn a_sandbox_of_a_run_is_closed_in_like_this() {
    insta::assert_json_snapshot!(shown(&decide(&settings(), &SandboxSpec::default()).unwrap()));
}

#[test]
fn a_durable_sandbox_with_all_wishes_is_closed_in_like_this() {
    let config = DockerConfig {
        network: Network::Isolated,
        host_gateway: HostGateway::Named,
        seccomp: Seccomp::Profile("{}".to_owned()),
        tmpfs: vec![PathBuf::from("/var/tmp")],
        runtime: Some("runsc".to_owned()),
        ..settings()
    };
    let limits = Limits {
        memory: Limit::required(ByteSize::gib(2)),
        processes: Limit::required(10_000),
        cpu_millis: Some(Limit::required(1500)),
        ..Limits::default()
    };
    let spec = SandboxSpec::default()
        .with_egress(Egress::Public)
        .with_workspace(Workspace::Disk { size: Limit::best_effort(ByteSize::gib(1)) })
        .with_limits(limits)
        .with_folder("/opt/codex", "/opt/codex")
        .with_env("LANG", "de_DE.UTF-8");
    insta::assert_json_snapshot!(shown(&around_kept_workspace(decide(&config, &spec).unwrap())));
}

#[test]
fn only_sandboxes_that_may_reach_public_addresses_have_a_network() {
    let config = DockerConfig { network: Network::Named("office".to_owned()), ..settings() };
    let network = |egress| {
        let body = decide(&config, &SandboxSpec::default().with_egress(egress)).unwrap();
        body.host_config.unwrap().network_mode.unwrap()
    };
    assert_eq!(network(Egress::Off), "none");
    assert_eq!(network(Egress::Allowlist { rules: Vec::new() }), "none");
    assert_eq!(network(Egress::Public), "office");
}

#[test]
fn what_the_engine_cannot_hold_is_refused_or_left_out() {
    let nothing = Capabilities::new(IsolationTier::Container);
    let refused = |spec: &SandboxSpec| match decide_on(&settings(), spec, &nothing) {
        Err(DriverError::Unsupported { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert!(refused(&SandboxSpec::default()).contains("processes"), "that limit is a required one");
    let limits = Limits { processes: Limit::best_effort(1), ..Limits::default() };
    let soft = decide_on(&settings(), &SandboxSpec::default().with_limits(limits.clone()), &nothing).unwrap();
    let host = soft.host_config.unwrap();
    assert_eq!((host.memory, host.memory_swap, host.pids_limit), (None, None, None));
    let disk = Workspace::Disk { size: Limit::required(ByteSize::mib(1)) };
    assert!(refused(&SandboxSpec::default().with_limits(limits).with_workspace(disk)).contains("disk"));
}

#[test]
fn a_path_that_is_not_plain_is_no_folder() {
    for (source, target) in
        [("relative", "/a"), ("/a", "relative"), ("/a/../b", "/a"), ("/a", "/a/../../b"), ("/a\nb", "/a")]
    {
        let refused = decide(&settings(), &SandboxSpec::default().with_folder(source, target));
        assert!(matches!(refused, Err(DriverError::Unsupported { .. })), "{source} {target}");
    }
}
