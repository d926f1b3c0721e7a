//! The Kubernetes driver against a small API server that misbehaves on request.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test is what these are for")]

use std::{sync::Arc, time::Duration};

use astraforge_core::{
    id::SandboxId,
    ports::sessions::{Session, SessionError, Sessions},
    session::{Command, SandboxSpec},
};
use astraforge_sandbox::{
    driver::{DriverError, SandboxDriver},
    egress::EgressSettings,
    kubernetes::{K8sConfig, KubernetesDriver},
    sandboxes::Sandboxes,
};
use serde_json::{Value, json};

use self::fake::{Answer, Exec, FakeCluster, running, waiting};

mod fake;

async fn config(cluster: &FakeCluster) -> K8sConfig {
    K8sConfig::new(cluster.config().await, "agents", "example/system:1".parse().unwrap())
        .with_owner("server-1", "tests")
        .accepting_unenforced_egress()
}

/// A driver on a new cluster.
async fn driver() -> (FakeCluster, KubernetesDriver) {
    let cluster = FakeCluster::start().await;
    let driver = KubernetesDriver::connect(config(&cluster).await).await.unwrap();
    (cluster, driver)
}

/// A sandbox on a new cluster that was told how to behave.
async fn sandbox(
    behave: impl FnOnce(&FakeCluster),
) -> (FakeCluster, Sandboxes, Result<Arc<dyn Session>, SessionError>) {
    let (cluster, driver) = driver().await;
    behave(&cluster);
    let sandboxes = on_free_port(driver);
    let session = sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new()).await;
    (cluster, sandboxes, session)
}

/// Its pods share this machine's network, and so would their ways out.
fn on_free_port(driver: KubernetesDriver) -> Sandboxes {
    let free = std::net::TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap().port();
    Sandboxes::new(Arc::new(driver)).with_egress(EgressSettings::default().with_port(free))
}

/// Asserts that a sandbox comes to be, works, and goes without a trace.
async fn check_works(behave: impl FnOnce(&FakeCluster)) -> FakeCluster {
    let (cluster, sandboxes, session) = sandbox(behave).await;
    let session = session.unwrap();
    let line = Command::shell("cat; echo err >&2; exit 7").with_cwd("/tmp").with_stdin(vec![b'x'; 100_000]);
    let output = session.exec(line).await.unwrap().collect(1 << 20).await.unwrap();
    assert_eq!((output.stdout.len(), output.stderr.as_slice(), output.exit.code()), (100_000, b"err\n".as_slice(), 7));
    sandboxes.destroy(session.id()).await.unwrap();
    assert!(cluster.lock().pods.is_empty());
    cluster
}

/// Asserts that a creation fails with `expected`, and that no pod is left.
async fn check_fails(expected: &str, behave: impl FnOnce(&FakeCluster)) {
    let (cluster, _, session) = sandbox(behave).await;
    let shown = chain(&session.expect_err("no sandbox comes to be"));
    assert!(shown.contains(expected), "{shown}");
    assert!(cluster.lock().pods.is_empty(), "nothing is left");
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn answer(cluster: &FakeCluster, code: u16, message: &'static str, makes: bool) {
    cluster.lock().create_answers.push_back(Answer { code, message, makes });
}

#[tokio::test]
async fn a_sandbox_works_on_both_versions_of_the_exec_protocol() {
    check_works(|cluster| cluster.lock().protocol = Some("v5.channel.k8s.io")).await;
    check_works(|cluster| cluster.lock().protocol = Some("v4.channel.k8s.io")).await;
}

#[tokio::test]
async fn watches_end_and_are_begun_again() {
    let stages = |_: &str| vec![waiting("PodInitializing"), waiting("ContainerCreating"), running()];
    let cluster = check_works(|cluster| {
        let mut state = cluster.lock();
        state.lives = vec![stages];
        state.watch_length = Some(1);
    })
    .await;
    assert!(cluster.lock().n_watches >= 3);
}

#[tokio::test]
async fn a_version_that_the_server_has_forgotten_is_looked_up_anew() {
    check_works(|cluster| cluster.lock().forgotten = 2).await;
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    check_works(|cluster| answer(cluster, 429, "too many requests", false)).await;
}

#[tokio::test]
async fn a_server_that_is_away_for_a_moment_is_asked_again() {
    let cluster = FakeCluster::start().await;
    let (way, gate) = cluster.gated().await;
    let mut config = config(&cluster).await;
    config.cluster = way;
    gate.drop_next(3);
    let sandboxes = on_free_port(KubernetesDriver::connect(config).await.unwrap());
    assert_eq!(gate.left(), 0);
    // The pod is asked for in vain, and then asked after in vain.
    gate.drop_next(2);
    let session = sandboxes.create(SandboxId::random(), SandboxSpec::default(), Vec::new()).await.unwrap();
    assert_eq!((gate.left(), cluster.lock().pods.len()), (0, 1));
    gate.drop_next(3);
    sandboxes.destroy(session.id()).await.unwrap();
    assert_eq!((gate.left(), cluster.lock().pods.len()), (0, 0));
}

#[tokio::test]
async fn a_server_that_goes_away_late_is_asked_again_all_the_same() {
    let cluster = FakeCluster::start().await;
    let (way, gate) = cluster.gated().await;
    let mut config = config(&cluster).await.with_patience(Duration::from_secs(1));
    config.cluster = way;
    let driver = KubernetesDriver::connect(config).await.unwrap();
    // Longer than a server that is not reached is asked again.
    gate.drop_next_after(1, Duration::from_millis(1500));
    // Time to notice that the connection it had is gone: on that one it would fail at once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let id = SandboxId::random();
    driver.create(id, &SandboxSpec::default(), &[]).await.unwrap();
    assert_eq!((gate.left(), cluster.lock().pods.len()), (0, 1));
    driver.destroy(id).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_pod_and_no_error() {
    check_works(|cluster| answer(cluster, 500, "etcdserver: request timed out", true)).await;
}

#[tokio::test]
async fn a_pod_that_its_node_does_not_know_yet_is_asked_again() {
    check_works(|cluster| {
        cluster.lock().execs.extend([
            Exec::Refused(500, "container not found (\"codex\")"),
            Exec::Refused(400, "pod does not have a host assigned"),
        ]);
    })
    .await;
}

#[tokio::test]
async fn what_the_cluster_refuses_is_told_at_once_with_what_to_do() {
    check_fails("have the namespace's quota raised", |it| answer(it, 403, "pods is forbidden: exceeded quota", false))
        .await;
    check_fails("deploy/k8s/role.yaml", |it| answer(it, 403, "User cannot create resource \"pods\"", false)).await;
    check_fails("a runtime class that the cluster has", |it| answer(it, 403, "RuntimeClass \"x\" not found", false))
        .await;
    check_fails("the cluster refuses the pod", |it| answer(it, 422, "Pod is invalid", false)).await;
    check_fails("etcd is away", |it| answer(it, 500, "etcd is away", false)).await;
}

#[tokio::test]
async fn a_pod_that_will_never_run_is_not_waited_for() {
    check_fails("check the image's name", |it| it.lock().lives = vec![|_| vec![waiting("ImagePullBackOff")]]).await;
    check_fails("CreateContainerConfigError", |it| {
        it.lock().lives = vec![|_| vec![waiting("CreateContainerConfigError")]]
    })
    .await;
    check_fails("Evicted", |it| it.lock().lives = vec![|_| vec![json!({ "phase": "Failed", "reason": "Evicted" })]])
        .await;
}

#[tokio::test]
async fn a_cluster_without_room_is_given_up_with_its_own_words() {
    let cluster = FakeCluster::start().await;
    cluster.lock().lives = vec![|_| {
        let full =
            json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" });
        vec![json!({ "phase": "Pending", "conditions": [full] })]
    }];
    let config = config(&cluster).await.with_schedule_timeout(Duration::from_millis(50));
    let driver = KubernetesDriver::connect(config).await.unwrap();
    let error = driver.create(SandboxId::random(), &SandboxSpec::default(), &[]).await.unwrap_err();
    assert!(chain(&error).contains("no node has room for it: 0/1 nodes"), "{}", chain(&error));
    assert!(cluster.lock().pods.is_empty());
}

#[tokio::test]
async fn a_connection_that_breaks_is_a_lost_sandbox_and_never_an_exit() {
    let (_cluster, _sandboxes, session) = sandbox(|it| it.lock().execs.push_back(Exec::CutAfter(1 << 20))).await;
    let session = session.unwrap();
    let flood = Command::shell("head -c 8000000 /dev/zero").with_cwd("/tmp");
    let output = session.exec(flood).await.unwrap().collect(16 << 20);
    let output = tokio::time::timeout(Duration::from_secs(30), output).await.expect("an end");
    assert!(matches!(output, Err(SessionError::Lost)), "{output:?}");
    let next = session.exec(Command::new(["true"])).await;
    assert!(matches!(next, Err(SessionError::Lost)), "{next:?}");
}

/// A pod of sandbox `id`, with that owner and in that state.
fn pod(id: SandboxId, owner: &str, status: Value) -> Value {
    let labels = json!({ "astraforge.dev/sandbox": id.to_string(), "astraforge.dev/owner": owner, "astraforge.dev/scope": "tests" });
    json!({ "metadata": { "name": format!("sandbox-{id}-sandbox"), "labels": labels }, "spec": { "containers": [] }, "status": status })
}

#[tokio::test]
async fn what_others_own_is_left_alone() {
    let (cluster, driver) = driver().await;
    let id = SandboxId::random();
    cluster.put(pod(id, "server-2", running()));
    assert_eq!(driver.list().await.unwrap(), []);
    assert!(matches!(driver.connect(id).await, Err(DriverError::NotFound { .. })));
    driver.destroy(id).await.expect("an unknown id is Ok");
    let again = driver.create(id, &SandboxSpec::default(), &[]).await;
    assert!(matches!(again, Err(DriverError::AlreadyExists { .. })), "{again:?}");
    assert_eq!(cluster.lock().pods.len(), 1, "it is still there");
}

#[tokio::test]
async fn a_pod_that_has_ended_makes_room_for_the_next_of_its_id() {
    let (cluster, driver) = driver().await;
    let id = SandboxId::random();
    cluster.put(pod(id, "server-1", json!({ "phase": "Succeeded" })));
    assert_eq!(driver.list().await.unwrap(), [], "it does not live");
    assert!(matches!(driver.connect(id).await, Err(DriverError::NotFound { .. })));
    driver.create(id, &SandboxSpec::default(), &[]).await.unwrap();
    assert_eq!(driver.list().await.unwrap(), [id]);
    driver.destroy(id).await.unwrap();
}

#[tokio::test]
async fn a_server_that_starts_removes_pods_that_have_ended() {
    let cluster = FakeCluster::start().await;
    for (owner, phase) in [("server-1", "Failed"), ("server-1", "Running"), ("server-2", "Failed")] {
        cluster.put(pod(SandboxId::random(), owner, json!({ "phase": phase })));
    }
    KubernetesDriver::connect(config(&cluster).await).await.unwrap();
    let left = cluster.lock().pods.values().filter(|pod| pod["status"]["phase"] == "Failed").count();
    assert_eq!((left, cluster.lock().pods.len()), (1, 2), "another's stays, and what runs");
}

/// Connects to a cluster where probe pods live such lives, and asserts on the refusal.
async fn check_network(life: fn(&str) -> Vec<Value>, expected: Result<(), &str>) {
    let cluster = FakeCluster::start().await;
    cluster.lock().lives = vec![life];
    let mut config = config(&cluster).await;
    config.accept_unenforced_egress = false;
    match (KubernetesDriver::connect(config).await, expected) {
        (Ok(_), Ok(())) => assert!(!cluster.lock().policies.is_empty(), "the policies are there"),
        (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
        (result, expected) => panic!("{result:?}, not {expected:?}"),
    }
    assert!(cluster.lock().pods.is_empty(), "no probe is left");
}

fn ended(phase: &str) -> Vec<Value> {
    vec![json!({ "phase": phase })]
}

#[tokio::test]
async fn a_cluster_that_keeps_no_network_policy_is_refused() {
    let enforcing = |name: &str| match name {
        name if name.ends_with("target") => vec![running()],
        name if name.ends_with("stranger") => ended("Succeeded"),
        _ => ended("Failed"),
    };
    check_network(enforcing, Ok(())).await;
    let open = |name: &str| if name.ends_with("target") { vec![running()] } else { ended("Succeeded") };
    check_network(open, Err("does not enforce them")).await;
    let silent = |name: &str| if name.ends_with("target") { vec![running()] } else { ended("Failed") };
    check_network(silent, Err("cannot be told")).await;
    check_network(|_| vec![waiting("ImagePullBackOff")], Err("did not run")).await;
}

#[tokio::test]
async fn a_policy_that_somebody_has_weakened_is_refused() {
    let cluster = FakeCluster::start().await;
    let weak = json!({ "metadata": { "name": "astraforge-sandboxes-reach-nothing" }, "spec": { "podSelector": {}, "policyTypes": ["Ingress"] } });
    cluster.lock().policies.insert("astraforge-sandboxes-reach-nothing".to_owned(), weak);
    let mut config = config(&cluster).await;
    config.accept_unenforced_egress = false;
    let error = KubernetesDriver::connect(config).await.unwrap_err().to_string();
    assert!(error.contains("is not what sandboxes need"), "{error}");
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_told_apart() {
    let cluster = astraforge_sandbox::kubernetes::ClusterConfig::new("http://127.0.0.1:9".parse().unwrap());
    let config = K8sConfig::new(cluster, "agents", "i".parse().unwrap()).with_patience(Duration::from_millis(200));
    let error = KubernetesDriver::connect(config).await.unwrap_err().to_string();
    assert!(error.contains("no usable answer"), "{error}");
    let strange = K8sConfig::new(FakeCluster::start().await.config().await, "agents", "i".parse().unwrap())
        .with_owner("a b", "c");
    assert!(KubernetesDriver::connect(strange).await.unwrap_err().to_string().contains("letters, digits"));
}
