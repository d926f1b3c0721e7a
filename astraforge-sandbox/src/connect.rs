//! From a configuration to a driver; the only file that names every one of them.

#[cfg(any(feature = "native", feature = "docker", feature = "k8s"))]
use std::sync::Arc;

#[cfg(feature = "docker")]
use crate::docker::{DockerConfig, DockerDriver};
use crate::driver::{DriverError, DynSandboxDriver};
#[cfg(feature = "k8s")]
use crate::kubernetes::{K8sConfig, KubernetesDriver};
#[cfg(feature = "native")]
use crate::native::{NativeConfig, NativeDriver};

/// A driver that is to be used, with its settings.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DriverConfig {
    /// Processes of this machine, in namespaces of their own.
    #[cfg(feature = "native")]
    Native(NativeConfig),
    /// Containers of a Docker engine.
    #[cfg(feature = "docker")]
    Docker(DockerConfig),
    /// Pods of a Kubernetes cluster.
    #[cfg(feature = "k8s")]
    K8s(Box<K8sConfig>),
}

/// Prepares the driver: finds out what its backend can do, and removes what sandboxes of dead servers left.
///
/// # Errors
/// [`DriverError::Unsupported`] when the backend is not there or does not allow sandboxes; the text says what would
/// change that.
pub async fn connect(config: DriverConfig) -> Result<DynSandboxDriver, DriverError> {
    match config {
        #[cfg(feature = "native")]
        DriverConfig::Native(config) => Ok(Arc::new(NativeDriver::new(config)?)),
        #[cfg(feature = "docker")]
        DriverConfig::Docker(config) => Ok(Arc::new(DockerDriver::connect(config).await?)),
        #[cfg(feature = "k8s")]
        DriverConfig::K8s(config) => Ok(Arc::new(Box::pin(KubernetesDriver::connect(*config)).await?)),
    }
}
