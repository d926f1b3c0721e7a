//! The OpenID provider that people log in at, and whose tokens programs bring.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, bail};
use astraforge_adapters::{
    clock::SystemClock,
    oidc::{ClaimRules, OidcClient, OidcConfig, OidcProvider},
    secret_box::SecretKey,
};
use astraforge_core::{access::Role, id::TenantId, repository::Secret};
use astraforge_http::server::Accounts;
use clap::Args;
use reqwest::Url;

use crate::config::{TENANT, given};

/// Settings of an OpenID provider.
#[derive(Debug, Args)]
#[command(next_help_heading = "OpenID provider")]
pub(crate) struct OidcArgs {
    /// Issuer of the provider, exactly as it calls itself, such as https://id.example.com/realms/acme [default: there is
    /// none]
    #[arg(long, global = true, env = "OIDC_ISSUER", value_name = "URL")]
    oidc_issuer: Option<String>,
    /// What access tokens that programs bring have to be made for (`aud`) [default: no token is taken]
    #[arg(long, global = true, env = "OIDC_AUDIENCE", value_name = "NAME")]
    oidc_audience: Option<String>,
    /// What this server is called at the provider, for people who log in with a browser [default: nobody does]
    #[arg(long, global = true, env = "OIDC_CLIENT_ID", value_name = "ID")]
    oidc_client_id: Option<String>,
    /// Secret of that client; set the variable instead, which other users of the machine can't see [default: a public
    /// client, with PKCE alone]
    #[arg(long, global = true, env = "OIDC_CLIENT_SECRET", value_name = "SECRET", hide_env_values = true)]
    oidc_client_secret: Option<String>,
    /// What is asked of the provider when somebody logs in, separated by blanks [default: openid profile email]
    #[arg(long, global = true, env = "OIDC_SCOPES", value_name = "SCOPES")]
    oidc_scopes: Option<String>,
    /// Address of this server, as browsers reach it, for their way back from the provider [default: the one that they used]
    #[arg(long, global = true, env = "OIDC_PUBLIC_URL", value_name = "URL")]
    oidc_public_url: Option<String>,
    /// What the provider is called where people choose how to log in [default: Single sign-on]
    #[arg(long, global = true, env = "OIDC_NAME", value_name = "NAME")]
    oidc_name: Option<String>,
    /// Claim with what somebody is called when they come for the first time [default: preferred_username, else sub]
    #[arg(long, global = true, env = "OIDC_USER_CLAIM", value_name = "CLAIM")]
    oidc_user_claim: Option<String>,
    /// Claim with roles, such as realm_access.roles [default: roles]
    #[arg(long, global = true, env = "OIDC_ROLE_CLAIM", value_name = "CLAIM")]
    oidc_role_claim: Option<String>,
    /// What they mean here, such as af-admins=admin,devs=maintainer; the highest counts
    #[arg(long, global = true, env = "OIDC_ROLES", value_name = "MAPPING")]
    oidc_roles: Option<String>,
    /// Role of those who have none of these: observer, reviewer, maintainer or admin [default: they may not come in]
    #[arg(long, global = true, env = "OIDC_DEFAULT_ROLE", value_name = "ROLE")]
    oidc_default_role: Option<String>,
    /// Claim with the tenant; who has none may not come in [default: everybody is of the server's own]
    #[arg(long, global = true, env = "OIDC_TENANT_CLAIM", value_name = "CLAIM")]
    oidc_tenant_claim: Option<String>,
}

impl OidcArgs {
    /// Lets people and programs come from the provider, if there is one. Servers that share `key` end each other's logins.
    pub(crate) fn attach(&self, accounts: Accounts, key: SecretKey) -> anyhow::Result<Accounts> {
        let Some(config) = self.config()? else { return Ok(accounts) };
        let provider = OidcProvider::new(config, key, Arc::new(SystemClock)).context("OIDC_ISSUER")?;
        let name = given(self.oidc_name.as_deref()).unwrap_or("Single sign-on");
        Ok(accounts.with_provider(Arc::new(provider), name, self.public_url()?))
    }

    /// Fails if the settings contradict each other, or one cannot be used.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.config().map(drop)
    }

    fn config(&self) -> anyhow::Result<Option<OidcConfig>> {
        let Some(issuer) = given(self.oidc_issuer.as_deref()) else {
            if let Some((name, _)) = self.others().into_iter().find(|(_, value)| given(*value).is_some()) {
                bail!("{name} is set, but no provider: set OIDC_ISSUER");
            }
            return Ok(None);
        };
        let mut config = OidcConfig::new(issuer, self.claims()?);
        config.audience = given(self.oidc_audience.as_deref()).map(str::to_owned);
        config.client = self.client()?;
        if config.audience.is_none() && config.client.is_none() {
            bail!(
                "OIDC_ISSUER is set, but nothing is taken from it: set OIDC_CLIENT_ID for browsers, OIDC_AUDIENCE for \
                   programs with access tokens, or both"
            );
        }
        config.check().context("OIDC_ISSUER")?;
        self.public_url()?;
        Ok(Some(config))
    }

    fn client(&self) -> anyhow::Result<Option<OidcClient>> {
        let Some(id) = given(self.oidc_client_id.as_deref()) else {
            let of_client = ["OIDC_CLIENT_SECRET", "OIDC_SCOPES", "OIDC_PUBLIC_URL", "OIDC_NAME"];
            let mut set = self.others().into_iter().filter(|(_, value)| given(*value).is_some());
            if let Some((name, _)) = set.find(|(name, _)| of_client.contains(name)) {
                bail!("{name} is for people who log in with a browser: set OIDC_CLIENT_ID too");
            }
            return Ok(None);
        };
        let mut client = OidcClient::new(id);
        client.secret = given(self.oidc_client_secret.as_deref()).map(Secret::new);
        if let Some(scopes) = given(self.oidc_scopes.as_deref()) {
            client.scopes = scopes.split_whitespace().map(str::to_owned).collect();
            if !client.scopes.iter().any(|scope| scope == "openid") {
                bail!("OIDC_SCOPES: `openid` has to be among them");
            }
        }
        Ok(Some(client))
    }

    fn claims(&self) -> anyhow::Result<ClaimRules> {
        let mut rules = ClaimRules::new(TenantId::new(TENANT));
        let named = |setting: &Option<String>| given(setting.as_deref()).map(str::to_owned);
        rules.user = named(&self.oidc_user_claim).unwrap_or(rules.user);
        rules.role = named(&self.oidc_role_claim).unwrap_or(rules.role);
        rules.tenant = named(&self.oidc_tenant_claim);
        rules.roles =
            given(self.oidc_roles.as_deref()).map(roles).transpose().context("OIDC_ROLES")?.unwrap_or_default();
        let default_role = given(self.oidc_default_role.as_deref()).map(str::parse::<Role>);
        rules.default_role = default_role.transpose().context("OIDC_DEFAULT_ROLE")?;
        if rules.roles.is_empty() && rules.default_role.is_none() {
            bail!(
                "OIDC_ISSUER is set, but nobody could come in: set OIDC_ROLES, such as devs=maintainer, or \
                   OIDC_DEFAULT_ROLE"
            );
        }
        if rules.roles.is_empty() && named(&self.oidc_role_claim).is_some() {
            bail!("OIDC_ROLE_CLAIM is set, but not what its roles mean: set OIDC_ROLES, such as devs=maintainer");
        }
        Ok(rules)
    }

    fn public_url(&self) -> anyhow::Result<Option<String>> {
        let Some(text) = given(self.oidc_public_url.as_deref()) else { return Ok(None) };
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.path() == "/");
        let url = url.filter(|url| url.query().is_none() && url.fragment().is_none() && url.username().is_empty());
        let url =
            url.with_context(|| format!("OIDC_PUBLIC_URL: `{text}` is no address such as https://forge.example.com"))?;
        Ok(Some(url.origin().ascii_serialization()))
    }

    /// What means nothing without a provider, by the names of the variables.
    fn others(&self) -> [(&'static str, Option<&str>); 11] {
        [
            ("OIDC_AUDIENCE", self.oidc_audience.as_deref()),
            ("OIDC_CLIENT_ID", self.oidc_client_id.as_deref()),
            ("OIDC_CLIENT_SECRET", self.oidc_client_secret.as_deref()),
            ("OIDC_SCOPES", self.oidc_scopes.as_deref()),
            ("OIDC_PUBLIC_URL", self.oidc_public_url.as_deref()),
            ("OIDC_NAME", self.oidc_name.as_deref()),
            ("OIDC_USER_CLAIM", self.oidc_user_claim.as_deref()),
            ("OIDC_ROLE_CLAIM", self.oidc_role_claim.as_deref()),
            ("OIDC_ROLES", self.oidc_roles.as_deref()),
            ("OIDC_DEFAULT_ROLE", self.oidc_default_role.as_deref()),
            ("OIDC_TENANT_CLAIM", self.oidc_tenant_claim.as_deref()),
        ]
    }
}

/// Reads what roles mean: `THEIRS=OURS`, separated by commas.
fn roles(text: &str) -> anyhow::Result<BTreeMap<String, Role>> {
    let mut roles = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        // Theirs may have the sign in it.
        let (theirs, ours) =
            pair.rsplit_once('=').with_context(|| format!("`{pair}` is no pair such as devs=maintainer"))?;
        let (theirs, ours) = (theirs.trim(), ours.trim().parse::<Role>()?);
        if theirs.is_empty() {
            bail!("`{pair}` names no role of the provider");
        }
        if roles.insert(theirs.to_owned(), ours).is_some_and(|other| other != ours) {
            bail!("`{theirs}` means two things");
        }
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        oidc: OidcArgs,
    }

    const USUAL: [&str; 2] = ["--oidc-issuer=https://id.example", "--oidc-roles=devs=maintainer"];

    fn read(words: &[&str]) -> Result<Option<OidcConfig>, String> {
        let args = Line::try_parse_from(["x"].iter().chain(words)).unwrap().oidc;
        args.config().map_err(|error| format!("{error:#}"))
    }

    #[track_caller]
    fn check_refused(words: &[&str], told: &str) {
        let error = read(words).unwrap_err();
        assert!(error.contains(told), "{words:?}: {error}");
    }

    #[test]
    fn a_provider_is_there_once_it_is_named_and_used() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&["--oidc-issuer=", "--oidc-client-id= "]).unwrap().is_none(), "set to nothing is not set");
        let both = read(&[&USUAL[..], &["--oidc-client-id=forge", "--oidc-audience=api"]].concat()).unwrap().unwrap();
        assert_eq!((both.issuer.as_str(), both.audience.as_deref()), ("https://id.example", Some("api")));
        let client = both.client.unwrap();
        assert_eq!((client.id.as_str(), client.scopes.join(" ")), ("forge", "openid profile email".to_owned()));
        assert!(client.secret.is_none());
        let mapped =
            ["--oidc-issuer=http://127.0.0.1:9", "--oidc-audience=a", "--oidc-roles= cn=x=admin , devs=maintainer,"];
        let rules = read(&mapped).unwrap().unwrap().claims;
        let expected = [("cn=x".to_owned(), Role::Admin), ("devs".to_owned(), Role::Maintainer)];
        assert_eq!((rules.roles, rules.role.as_str()), (BTreeMap::from(expected), "roles"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_the_variables_name() {
        let with = |words: &[&'static str]| [&USUAL[..], words].concat();
        check_refused(&["--oidc-audience=api"], "OIDC_AUDIENCE is set");
        check_refused(&["--oidc-default-role=admin"], "OIDC_DEFAULT_ROLE is set");
        check_refused(&USUAL, "set OIDC_CLIENT_ID");
        check_refused(&with(&["--oidc-audience=a", "--oidc-client-secret=s"]), "OIDC_CLIENT_SECRET is for people");
        check_refused(&with(&["--oidc-client-id=a", "--oidc-scopes=profile"]), "OIDC_SCOPES");
        check_refused(&with(&["--oidc-client-id=a", "--oidc-public-url=https://x/path"]), "OIDC_PUBLIC_URL");
        check_refused(&with(&["--oidc-client-id=a", "--oidc-default-role=boss"]), "OIDC_DEFAULT_ROLE");
        let issuer = ["--oidc-issuer=http://id.example", "--oidc-roles=a=admin", "--oidc-audience=a"];
        check_refused(&issuer, "OIDC_ISSUER");
        check_refused(&["--oidc-issuer=https://id.example", "--oidc-audience=a"], "set OIDC_ROLES");
        let unmapped = [
            "--oidc-issuer=https://id.example",
            "--oidc-audience=a",
            "--oidc-role-claim=r",
            "--oidc-default-role=admin",
        ];
        check_refused(&unmapped, "OIDC_ROLE_CLAIM");
        for roles in
            ["--oidc-roles=devs", "--oidc-roles=devs=boss", "--oidc-roles==admin", "--oidc-roles=a=admin,a=observer"]
        {
            check_refused(&["--oidc-issuer=https://id.example", "--oidc-audience=a", roles], "OIDC_ROLES");
        }
    }
}
