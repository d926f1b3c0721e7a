//! The account that `deploy/k8s` gives to a server: enough for all that the driver does, and for nothing else.

use astraforge_sandbox::kubernetes::{ClusterConfig, find_cluster};
use k8s_openapi::{
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
        core::v1::{Namespace, ServiceAccount},
        networking::v1::NetworkPolicy,
        rbac::v1::{Role, RoleBinding},
    },
    serde::de::DeserializeOwned,
};
use kube::{Api, Client, Resource, api::PostParams};
use serde_json::Value;

/// The namespace of `deploy/k8s`.
pub(crate) const NAMESPACE: &str = "astraforge";
/// The account of `deploy/k8s`.
const ACCOUNT: &str = "astraforge";

const NAMESPACE_MANIFEST: &str = include_str!("../../../deploy/k8s/namespace.yaml");
const ROLE: &str = include_str!("../../../deploy/k8s/role.yaml");
pub(crate) const POLICIES: &str = include_str!("../../../deploy/k8s/network-policies.yaml");

/// The cluster as its administrator sees it.
pub(crate) async fn administrator() -> ClusterConfig {
    find_cluster().await.expect("KUBECONFIG names a cluster")
}

/// The cluster as a server sees it, after `kubectl apply -f deploy/k8s`.
pub(crate) async fn server_account() -> ClusterConfig {
    let mut config = administrator().await;
    let client = Client::try_from(config.clone()).unwrap();
    apply(&Api::all(client.clone()), &of::<Namespace>("Namespace", NAMESPACE_MANIFEST)).await;
    apply(&in_namespace(&client), &of::<ServiceAccount>("ServiceAccount", ROLE)).await;
    apply(&in_namespace(&client), &of::<Role>("Role", ROLE)).await;
    apply(&in_namespace(&client), &of::<RoleBinding>("RoleBinding", ROLE)).await;
    apply(&in_namespace(&client), &of::<NetworkPolicy>("NetworkPolicy", POLICIES)).await;
    let accounts: Api<ServiceAccount> = in_namespace(&client);
    let wanted = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
    let granted = accounts.create_token_request(ACCOUNT, &PostParams::default(), &wanted).await.unwrap();
    config.auth_info = kube::config::AuthInfo::default();
    config.auth_info.token = Some(granted.status.unwrap().token.into());
    config
}

fn in_namespace<K: Resource<Scope = k8s_openapi::NamespaceResourceScope>>(client: &Client) -> Api<K>
where
    K::DynamicType: Default,
{
    Api::namespaced(client.clone(), NAMESPACE)
}

/// Makes what another test may have made before.
async fn apply<K>(api: &Api<K>, objects: &[K])
where
    K: Clone + std::fmt::Debug + DeserializeOwned + k8s_openapi::serde::Serialize,
{
    for object in objects {
        match api.create(&PostParams::default(), object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("{object:?}: {error}"),
        }
    }
}

/// The objects of one kind in a manifest.
pub(crate) fn of<K: DeserializeOwned>(kind: &str, manifest: &str) -> Vec<K> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(manifest).unwrap();
    let objects = objects.into_iter().filter(|object| object["kind"] == kind);
    objects.map(|object| serde_json::from_value(object).unwrap()).collect()
}

#[tokio::test]
async fn a_server_may_do_what_its_driver_does_and_nothing_else() {
    let client = Client::try_from(server_account().await).unwrap();
    let may = async |verb: &str, group: &str, resource: &str, namespace: &str| {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            namespace: Some(namespace.to_owned()),
            resource: Some(resource.to_owned()),
            subresource: Some(subresource.to_owned()),
            verb: Some(verb.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
        reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap().allowed
    };
    let networking = "networking.k8s.io";
    for verb in ["get", "list", "watch", "create", "delete"] {
        assert!(may(verb, "", "pods", NAMESPACE).await, "{verb} pods");
        assert!(!may(verb, "", "pods", "kube-system").await, "{verb} pods elsewhere");
        assert!(!may(verb, "", "secrets", NAMESPACE).await, "{verb} secrets");
        assert!(!may(verb, "", "nodes", "").await, "{verb} nodes");
    }
    assert!(may("get", "", "pods/exec", NAMESPACE).await && may("create", "", "pods/exec", NAMESPACE).await);
    assert!(may("get", networking, "networkpolicies", NAMESPACE).await);
    for verb in ["create", "update", "patch", "delete", "deletecollection"] {
        assert!(!may(verb, networking, "networkpolicies", NAMESPACE).await, "{verb} policies");
    }
    for (verb, resource) in [
        ("update", "pods"),
        ("patch", "pods"),
        ("deletecollection", "pods"),
        ("create", "pods/attach"),
        ("create", "pods/portforward"),
        ("update", "pods/ephemeralcontainers"),
        ("create", "serviceaccounts/token"),
        ("create", "configmaps"),
        ("impersonate", "serviceaccounts"),
    ] {
        assert!(!may(verb, "", resource, NAMESPACE).await, "{verb} {resource}");
    }
}
