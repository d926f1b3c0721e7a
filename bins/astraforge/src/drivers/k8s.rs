//! The Kubernetes driver of a node, as configured.

use std::{fs, io, path::Path, path::PathBuf, time::Duration};

use anyhow::Context;
use astraforge_core::image::Image;
use astraforge_sandbox::{
    doctor::{Check, Status},
    driver::SandboxDriver,
    kubernetes::{GUEST_IMAGE, K8sConfig, KubernetesDriver, find_cluster},
};
use clap::{Args, builder::BoolishValueParser};

use super::{Purpose, image::ImageArgs, owner};
use crate::config::given;

/// Where a pod finds the name of its own namespace.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// Settings of the Kubernetes driver.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct K8sArgs {
    /// File that names the namespace of pods [default: the own one's, where the server is a pod itself]
    #[arg(long = "k8s-namespace-file", global = true, env = "KUBERNETES_NAMESPACE_FILE", value_name = "FILE")]
    namespace_file: Option<PathBuf>,
    /// Namespace of pods, where no file names it [default: the kubeconfig's]
    #[arg(long = "k8s-namespace", global = true, env = "KUBERNETES_NAMESPACE", value_name = "NAME")]
    namespace: Option<String>,
    /// The same, by an older name
    #[arg(long, global = true, env = "ASTRAFORGE_K8S_NAMESPACE", hide = true)]
    k8s_namespace_fallback: Option<String>,
    /// Image of sandboxes that ask for none, where no other option names one
    #[arg(
        long = "k8s-image",
        global = true,
        env = "KUBERNETES_WORKSPACE_IMAGE",
        value_name = "IMAGE",
        hide_default_value = true
    )]
    image: Option<Image>,
    /// The same, by an older name
    #[arg(long, global = true, env = "ASTRAFORGE_K8S_IMAGE", hide = true)]
    k8s_image_fallback: Option<Image>,
    /// Image with the guest program, which an init container brings into every pod
    #[arg(long = "k8s-guest-image", global = true, env = "KUBERNETES_GUEST_IMAGE", value_name = "IMAGE",
          default_value = GUEST_IMAGE)]
    guest_image: String,
    /// Service account of pods; its token is never mounted
    #[arg(long = "k8s-service-account", global = true, env = "KUBERNETES_SERVICE_ACCOUNT", value_name = "NAME")]
    service_account: Option<String>,
    /// Runtime class of pods, such as gvisor or kata
    #[arg(long = "k8s-runtime-class", global = true, env = "KUBERNETES_RUNTIME_CLASS", value_name = "NAME")]
    runtime_class: Option<String>,
    /// Seconds that a pod may take to become ready
    #[arg(long = "k8s-start-timeout", global = true, env = "KUBERNETES_WORKSPACE_TIMEOUT", value_name = "SECONDS",
          default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=3600))]
    start_timeout: u64,
    /// Seconds that a pod may wait for a node with room
    #[arg(long = "k8s-schedule-timeout", global = true, env = "KUBERNETES_SCHEDULE_TIMEOUT", value_name = "SECONDS",
          default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    schedule_timeout: u64,
    /// Name of this server on the pods of durable sandboxes; servers of one name share them [default: one of the data
    /// folder's own]
    #[arg(long = "k8s-owner", global = true, env = "ASTRAFORGE_K8S_OWNER", value_name = "NAME")]
    owner: Option<String>,
    /// Let sandboxes with public egress out by the cluster's own network instead of the server's gateway
    #[arg(long = "k8s-direct-egress", global = true, env = "KUBERNETES_DIRECT_EGRESS",
          value_parser = BoolishValueParser::new())]
    direct_egress: bool,
    /// Run sandboxes although the cluster does not keep them off its network
    #[arg(long, global = true, env = "ACCEPT_UNENFORCED_EGRESS", value_parser = BoolishValueParser::new())]
    accept_unenforced_egress: bool,
}

impl K8sArgs {
    /// Whether other servers have the same pods.
    pub(crate) fn is_shared(&self) -> bool {
        given(self.owner.as_deref()).is_some()
    }

    /// The driver's settings, for the node whose data folder is `root`.
    pub(crate) async fn config(&self, image: &ImageArgs, root: &Path, purpose: Purpose) -> anyhow::Result<K8sConfig> {
        let cluster = find_cluster().await?;
        let namespace = self.namespace()?.unwrap_or_else(|| cluster.default_namespace.clone());
        // What is left of runs is removed when a server starts, so runs are one server's alone.
        let owner = match given(self.owner.as_deref()) {
            Some(owner) if purpose == Purpose::Sessions => owner.to_owned(),
            _ => owner(root)?,
        };
        let mut config = K8sConfig::new(cluster, namespace, self.image(image)?)
            .with_owner(owner, purpose.as_str())
            .with_guest_image(&self.guest_image)
            .with_start_timeout(Duration::from_secs(self.start_timeout))
            .with_schedule_timeout(Duration::from_secs(self.schedule_timeout));
        config.service_account = self.service_account.clone();
        config.runtime_class = self.runtime_class.clone();
        config.direct_egress = self.direct_egress;
        config.accept_unenforced_egress = self.accept_unenforced_egress;
        Ok(config)
    }

    /// The image that is named for all drivers, else for this one.
    fn image(&self, image: &ImageArgs) -> anyhow::Result<Image> {
        let own = self.image.as_ref().or(self.k8s_image_fallback.as_ref());
        match own {
            Some(own) if !image.is_named() => Ok(own.clone()),
            _ => image.image().context("the default image"),
        }
    }

    fn namespace(&self) -> anyhow::Result<Option<String>> {
        let named = match &self.namespace_file {
            Some(file) => Some(read(file)?),
            None => match read(Path::new(OWN_NAMESPACE)) {
                Ok(name) => Some(name),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error.into()),
            },
        };
        Ok(named.or_else(|| self.namespace.clone()).or_else(|| self.k8s_namespace_fallback.clone()))
    }

    /// Examines the cluster. The last checks make pods, so they speak for all the others.
    pub(crate) async fn examine(&self, image: &ImageArgs, root: &Path) -> Vec<Check> {
        let failed =
            |name, error: &dyn std::fmt::Display| vec![Check::new(name, Status::Fail, error.to_string(), None)];
        let mut config = match self.config(image, root, Purpose::Sessions).await {
            Ok(config) => config,
            Err(error) => return failed("cluster", &format!("{error:#}")),
        };
        config.accept_unenforced_egress = true;
        let place = format!("{}, namespace {}", config.cluster.cluster_url, config.namespace);
        let driver = match KubernetesDriver::connect(config).await {
            Ok(driver) => driver,
            Err(error) => return failed("cluster", &error),
        };
        let mut checks = vec![Check::new("cluster", Status::Ok, place, None)];
        let (status, detail) = match driver.keeps_policies().await {
            Ok(()) => (Status::Ok, "sandboxes are kept off the cluster's network".to_owned()),
            Err(error) if self.accept_unenforced_egress => (Status::Warn, error.to_string()),
            Err(error) => (Status::Fail, error.to_string()),
        };
        checks.push(Check::new("network policies", status, detail, None));
        let capabilities = driver.capabilities();
        let limits = format!("memory, processes and cpu {:?}, disk {:?}", capabilities.memory, capabilities.disk);
        checks.push(Check::new("limits", Status::Ok, limits.to_lowercase(), None));
        checks
    }
}

fn read(file: &Path) -> io::Result<String> {
    let text = fs::read_to_string(file)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", file.display())))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        k8s: K8sArgs,
        #[command(flatten)]
        image: ImageArgs,
    }

    fn line(words: &[&str]) -> Line {
        Line::try_parse_from(["x"].iter().chain(words)).unwrap()
    }

    fn args(words: &[&str]) -> K8sArgs {
        line(words).k8s
    }

    #[test]
    fn a_file_names_the_namespace_before_anything_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("namespace");
        fs::write(&file, "agents\n").unwrap();
        let file = file.to_str().unwrap();
        let check = |words: &[&str], expected: &str| {
            assert_eq!(args(words).namespace().unwrap().as_deref(), Some(expected), "{words:?}");
        };
        check(&["--k8s-namespace-file", file, "--k8s-namespace", "other"], "agents");
        check(&["--k8s-namespace", "other", "--k8s-namespace-fallback", "old"], "other");
        check(&["--k8s-namespace-fallback", "old"], "old");
        assert!(args(&["--k8s-namespace-file", "/nowhere"]).namespace().unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn an_image_that_could_be_an_option_is_refused() {
        assert!(Line::try_parse_from(["x", "--k8s-image", "-v"]).is_err());
        let check = |words: &[&str], expected: &str| {
            let line = line(words);
            assert_eq!(line.k8s.image(&line.image).unwrap().as_str(), expected, "{words:?}");
        };
        check(&[], "astraforge/codex-cli:latest");
        check(&["--k8s-image", "a:1"], "a:1");
        check(&["--k8s-image-fallback", "c:1"], "c:1");
        check(&["--k8s-image", "a:1", "--k8s-image-fallback", "c:1"], "a:1");
        check(&["--k8s-image", "a:1", "--sandbox-image", "b:1"], "b:1");
    }
}
