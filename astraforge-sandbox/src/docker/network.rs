//! The bridge of sandboxes that may reach public addresses by themselves.

use std::collections::HashMap;

use astraforge_core::BoxError;
use bollard::models::NetworkCreateRequest;

use super::{
    engine::{Engine, found, is_conflict},
    names,
    settings::ISOLATED,
};

/// The engine's option that keeps the containers of a bridge apart.
const BETWEEN_CONTAINERS: &str = "com.docker.network.bridge.enable_icc";

/// Makes sure that the isolated bridge is there, and isolated.
pub(super) async fn ensure_isolated(engine: &Engine) -> Result<(), BoxError> {
    if let Some(network) = found(engine.0.inspect_network(ISOLATED, None).await)? {
        let option = network.options.as_ref().and_then(|options| options.get(BETWEEN_CONTAINERS));
        return match option {
            Some(value) if value == "false" => Ok(()),
            _ => Err(format!(
                "the network {ISOLATED} lets its containers reach each other; remove it, and it is made as it should be"
            )
            .into()),
        };
    }
    tracing::info!(network = ISOLATED, "making the network of sandboxes");
    let request = NetworkCreateRequest {
        name: ISOLATED.to_owned(),
        driver: Some("bridge".to_owned()),
        options: Some(HashMap::from([(BETWEEN_CONTAINERS.to_owned(), "false".to_owned())])),
        labels: Some(HashMap::from([(names::ROLE.to_owned(), "network".to_owned())])),
        ..Default::default()
    };
    match engine.0.create_network(request).await {
        // Another server was quicker.
        Err(error) if is_conflict(&error) => Ok(()),
        made => Ok(made.map(drop)?),
    }
}
