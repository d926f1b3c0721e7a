//! The keys of a node: what seals secrets in its database, what binds entries of the audit, what signs links to files.

use std::path::Path;

use anyhow::Context;
use astraforge_adapters::secret_box::{SecretKey, key_bytes, parse_key};
use astraforge_core::{audit::chain::AuditKey, download_link::LinkKey};
use clap::Args;

use crate::config::given;

/// Where keys come from.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// Key that seals secrets in the database, 32 bytes in base64, the same for all nodes of a database; set the variable
    /// instead [default: in DATA/secret.key, made at the first start]
    #[arg(long, global = true, env = "ASTRAFORGE_SECRET_KEY", value_name = "BASE64", hide_env_values = true)]
    secret_key: Option<String>,
}

impl KeyArgs {
    /// What seals secrets in the database of the node whose data folder is `root`.
    pub(crate) fn secrets(&self, root: &Path) -> anyhow::Result<SecretKey> {
        Ok(match self.given()? {
            Some(bytes) => SecretKey::new(&bytes),
            None => SecretKey::load_or_create(root.join("secret.key"))?,
        })
    }

    /// What binds entries of the audit to each other; it goes with the key that seals secrets.
    pub(crate) fn audit(&self, root: &Path) -> anyhow::Result<AuditKey> {
        let secret = match self.given()? {
            Some(bytes) => bytes,
            None => key_bytes(root.join("secret.key"))?,
        };
        Ok(AuditKey::derived_from(&secret))
    }

    /// What signs links to files. Nodes that share a key take each other's links.
    pub(crate) fn links(&self, root: &Path) -> anyhow::Result<LinkKey> {
        Ok(match self.given()? {
            Some(bytes) => LinkKey::derived_from(&bytes),
            None => LinkKey::new(key_bytes(root.join("link.key"))?),
        })
    }

    /// The key that is configured.
    pub(crate) fn given(&self) -> anyhow::Result<Option<[u8; 32]>> {
        let key = given(self.secret_key.as_deref());
        key.map(|text| parse_key(text).context("ASTRAFORGE_SECRET_KEY is no key")).transpose()
    }
}
