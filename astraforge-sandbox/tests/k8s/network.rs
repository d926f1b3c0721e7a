//! Sandboxes and the cluster's network.

use std::collections::BTreeMap;

use astraforge_core::session::SandboxSpec;
use astraforge_sandbox::kubernetes::{K8sConfig, KubernetesDriver};
use k8s_openapi::api::{core::v1::Namespace, networking::v1::NetworkPolicy};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};

use super::{
    Fixture,
    account::{POLICIES, administrator, of},
    config, image,
};

#[tokio::test]
async fn a_cluster_that_enforces_no_policy_is_refused_unless_that_is_accepted() {
    let mut strict = config().await;
    strict.accept_unenforced_egress = false;
    match KubernetesDriver::connect(strict).await {
        Ok(_) => eprintln!("this cluster enforces network policies"),
        Err(error) => assert!(error.to_string().contains("does not enforce them"), "{error}"),
    }
    let pods: Api<k8s_openapi::api::core::v1::Pod> =
        Api::namespaced(Client::try_from(administrator().await).unwrap(), super::NAMESPACE);
    let left = pods.list(&ListParams::default().labels("app.kubernetes.io/name=astraforge-probe")).await.unwrap();
    let left: Vec<_> = left.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
    assert!(left.is_empty(), "{left:?}");
    Fixture::new(config().await, SandboxSpec::default()).await.end().await;
}

#[tokio::test]
async fn the_policies_that_are_shipped_are_those_that_a_server_makes() {
    let cluster = administrator().await;
    let client = Client::try_from(cluster.clone()).unwrap();
    let name = format!("astraforge-test-{}", std::process::id());
    let namespace = Namespace {
        metadata: kube::core::ObjectMeta { name: Some(name.clone()), ..Default::default() },
        ..Default::default()
    };
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let driver = KubernetesDriver::connect(
        K8sConfig::new(cluster, &name, image().parse().unwrap()).with_direct_egress().accepting_unenforced_egress(),
    )
    .await
    .unwrap();
    // Whether they are kept is another test's.
    drop(driver.keeps_policies().await);
    let policies: Api<NetworkPolicy> = Api::namespaced(client, &name);
    let made = policies.list(&ListParams::default()).await.unwrap().items;
    namespaces.delete(&name, &DeleteParams::default()).await.unwrap();
    let specs = |policies: Vec<NetworkPolicy>| {
        policies.into_iter().map(|it| (it.metadata.name.unwrap(), it.spec.unwrap())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(specs(made), specs(of("NetworkPolicy", POLICIES)));
}
