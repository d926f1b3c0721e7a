//! What keeps pods off the network: policies that are made once in a namespace, or found as they must be.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kube::{Api, api::PostParams};

use super::{
    config::K8sConfig,
    error::{ClusterError, code},
    names::{EGRESS, MANAGED_BY, PodEgress},
};

/// Addresses that are nobody's business even where the internet may be reached: private, shared, link-local with the
/// cloud's metadata, loopback, multicast.
const NOT_PUBLIC: [&str; 9] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
const NOT_PUBLIC_6: [&str; 5] = ["::1/128", "fc00::/7", "fe80::/10", "ff00::/8", "64:ff9b::/96"];

/// The policies that the driver stands on.
pub(super) fn policies(config: &K8sConfig) -> Vec<NetworkPolicy> {
    let mut policies = vec![deny_all()];
    if config.direct_egress {
        policies.push(internet());
    }
    policies
}

/// Makes the policies, or verifies those that somebody made before.
pub(super) async fn ensure(api: &Api<NetworkPolicy>, config: &K8sConfig) -> Result<(), ClusterError> {
    for wanted in policies(config) {
        let name = wanted.metadata.name.clone().unwrap_or_default();
        match api.get_opt(&name).await? {
            Some(found) if found.spec == wanted.spec => {}
            Some(_) => {
                return Err(ClusterError::new(format!(
                    "the network policy `{name}` of this namespace is not what sandboxes need; apply \
                     deploy/k8s/network-policies.yaml, or remove it and let the server make it"
                )));
            }
            None => match api.create(&PostParams::default(), &wanted).await {
                Ok(_) => tracing::info!(policy = name, "made a network policy"),
                // Another server was quicker.
                Err(error) if code(&error) == Some(409) => {}
                Err(error) if code(&error) == Some(403) => {
                    return Err(ClusterError::new(format!(
                        "the network policy `{name}` is missing, and this server may not make it; apply \
                         deploy/k8s/network-policies.yaml"
                    )));
                }
                Err(error) => return Err(error.into()),
            },
        }
    }
    Ok(())
}

/// Nothing reaches a sandbox, and a sandbox reaches nothing.
fn deny_all() -> NetworkPolicy {
    // Whatever the label says: one that was forgotten here must not be a way out.
    let selector = LabelSelector {
        match_expressions: None,
        match_labels: Some(BTreeMap::from([("app.kubernetes.io/name".to_owned(), "astraforge-workspace".to_owned())])),
    };
    policy("astraforge-sandboxes-reach-nothing", selector, ["Ingress", "Egress"].as_slice(), None)
}

/// Sandboxes that may reach the internet reach public addresses, and the cluster's own name server.
fn internet() -> NetworkPolicy {
    let labels = BTreeMap::from([(EGRESS.to_owned(), PodEgress::Internet.label().to_owned())]);
    let selector = LabelSelector { match_expressions: None, match_labels: Some(labels) };
    let names = NetworkPolicyEgressRule {
        ports: Some(["UDP", "TCP"].map(dns_port).to_vec()),
        to: Some(vec![NetworkPolicyPeer {
            namespace_selector: Some(labelled("kubernetes.io/metadata.name", "kube-system")),
            pod_selector: Some(labelled("k8s-app", "kube-dns")),
            ip_block: None,
        }]),
    };
    let public = NetworkPolicyEgressRule {
        ports: None,
        to: Some(vec![block("0.0.0.0/0", &NOT_PUBLIC), block("::/0", &NOT_PUBLIC_6)]),
    };
    policy("astraforge-sandboxes-reach-the-internet", selector, &["Egress"], Some(vec![names, public]))
}

fn policy(
    name: &str,
    pod_selector: LabelSelector,
    types: &[&str],
    egress: Option<Vec<NetworkPolicyEgressRule>>,
) -> NetworkPolicy {
    let (label, value) = MANAGED_BY;
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
            ..ObjectMeta::default()
        },
        spec: Some(NetworkPolicySpec {
            egress,
            ingress: None,
            pod_selector: Some(pod_selector),
            policy_types: Some(types.iter().map(ToString::to_string).collect()),
        }),
    }
}

fn dns_port(protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort { end_port: None, port: Some(IntOrString::Int(53)), protocol: Some(protocol.to_owned()) }
}

fn labelled(name: &str, value: &str) -> LabelSelector {
    LabelSelector { match_expressions: None, match_labels: Some(BTreeMap::from([(name.to_owned(), value.to_owned())])) }
}

fn block(cidr: &str, except: &[&str]) -> NetworkPolicyPeer {
    let except = except.iter().map(ToString::to_string).collect();
    NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: cidr.to_owned(), except: Some(except) }),
        namespace_selector: None,
        pod_selector: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_are_those_that_are_shipped() {
        let cluster = kube::Config::new("https://127.0.0.1".parse().unwrap());
        let config = K8sConfig::new(cluster, "n", "i".parse().unwrap()).with_direct_egress();
        insta::assert_json_snapshot!(policies(&config));
    }
}
