//! What the claims of a token mean here: who it is, of which tenant, with which role.

use std::collections::BTreeMap;

use astraforge_core::{
    access::Role,
    id::{TenantId, UserId},
    identity::{Identity, Subject},
    ports::identity_provider::{IdentityError, TokenFault},
};
use serde_json::Value;

use super::token::Claims;

/// The longest name of a user or a tenant, in characters.
const LONGEST_NAME: usize = 150;
/// The longest that a provider may call somebody, in bytes.
const LONGEST_SUBJECT: usize = 255;

/// Which claims are read, and what they mean.
///
/// A claim is named as it is written, or with dots where it lies inside others: `realm_access.roles`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClaimRules {
    /// What somebody is called when they come for the first time. A token that does not have it gives `sub`, what the
    /// provider calls them. Default `preferred_username`.
    pub user: String,
    /// Where roles are: a text, words in a text, or a list. Default `roles`.
    pub role: String,
    /// What each of them means. The highest counts. Default none.
    pub roles: BTreeMap<String, Role>,
    /// The role of those who have none of these; `None`, the default, keeps them out.
    pub default_role: Option<Role>,
    /// Where the tenant is. Without one, everybody is of [`own_tenant`](Self::own_tenant); a token without this claim is
    /// kept out.
    pub tenant: Option<String>,
    /// The tenant of everybody whose provider does not tell.
    pub own_tenant: TenantId,
}

impl ClaimRules {
    /// Rules that let nobody in yet: no role means anything.
    pub fn new(own_tenant: TenantId) -> Self {
        Self {
            user: "preferred_username".to_owned(),
            role: "roles".to_owned(),
            roles: BTreeMap::new(),
            default_role: None,
            tenant: None,
            own_tenant,
        }
    }

    /// Whether everything that is read here is among the claims.
    pub(super) fn are_in(&self, claims: &Claims) -> bool {
        let read = [Some(&self.user), Some(&self.role), self.tenant.as_ref()];
        read.into_iter().flatten().all(|name| find(claims, name).is_some()) && claims.contains_key("email")
    }

    /// Reads who it is.
    pub(super) fn identity(&self, issuer: &str, claims: &Claims) -> Result<Identity, IdentityError> {
        let id = claims.get("sub").and_then(Value::as_str);
        let is_sound = |id: &&str| (1..=LONGEST_SUBJECT).contains(&id.len()) && !id.chars().any(char::is_control);
        let id = id.filter(is_sound).ok_or(TokenFault::Claim("sub"))?;
        let email = claims.get("email").and_then(Value::as_str).and_then(|email| name(email, 254));
        Ok(Identity {
            user: UserId::new(self.user(claims).or_else(|| name(id, LONGEST_SUBJECT)).ok_or(TokenFault::Claim("sub"))?),
            tenant: self.tenant(claims)?,
            role: self.role(claims)?,
            email: email.filter(|_| is_email_sure(claims)).unwrap_or_default(),
            subject: Subject { issuer: issuer.to_owned(), id: id.to_owned() },
        })
    }

    fn user(&self, claims: &Claims) -> Option<String> {
        // An address that nobody has checked may be somebody else's.
        let is_sure = self.user != "email" || is_email_sure(claims);
        find(claims, &self.user).and_then(Value::as_str).and_then(|text| name(text, LONGEST_NAME)).filter(|_| is_sure)
    }

    fn tenant(&self, claims: &Claims) -> Result<TenantId, IdentityError> {
        let Some(claim) = &self.tenant else { return Ok(self.own_tenant.clone()) };
        let tenant = find(claims, claim).and_then(Value::as_str).and_then(|text| name(text, LONGEST_NAME));
        tenant.map(TenantId::new).ok_or_else(|| IdentityError::NotAdmitted {
            reason: format!("Your identity provider does not say which tenant you belong to (claim `{claim}`)."),
        })
    }

    fn role(&self, claims: &Claims) -> Result<Role, IdentityError> {
        let meant = find(claims, &self.role).into_iter().flat_map(words).filter_map(|word| self.roles.get(word));
        meant.max().copied().or(self.default_role).ok_or_else(|| IdentityError::NotAdmitted {
            reason: format!(
                "None of the roles that your identity provider gives you (claim `{}`) means anything here; ask whoever \
                 runs this server.",
                self.role
            ),
        })
    }
}

fn is_email_sure(claims: &Claims) -> bool {
    match claims.get("email_verified") {
        Some(Value::Bool(is_sure)) => *is_sure,
        // Some providers say it in a word.
        Some(Value::String(word)) => word != "false",
        _ => true,
    }
}

/// A claim by its name, or by its way through others.
fn find<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        // Names may have dots themselves, such as those of clients at Keycloak.
        let mut ways = name.match_indices('.').map(|(dot, _)| (&name[..dot], &name[dot + 1..]));
        ways.find_map(|(first, rest)| find(claims.get(first)?.as_object()?, rest))
    })
}

/// The texts of a claim: itself and its words, or those of its list.
fn words(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => std::iter::once(text.as_str()).chain(text.split_whitespace()).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// A name as it can be shown.
fn name(text: &str, longest: usize) -> Option<String> {
    let text = text.trim();
    let is_fine = (1..=longest).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    is_fine.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules() -> ClaimRules {
        let mut rules = ClaimRules::new(TenantId::new("own"));
        rules.roles =
            BTreeMap::from([("af-admins".to_owned(), Role::Admin), ("all devs".to_owned(), Role::Maintainer)]);
        rules
    }

    fn identity(rules: &ClaimRules, claims: Value) -> Result<Identity, String> {
        let mut all = json!({"sub": "1", "preferred_username": "mira"}).as_object().unwrap().clone();
        all.extend(claims.as_object().unwrap().clone());
        rules.identity("https://p", &all).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn check_role(claim: &str, claims: Value, expected: Option<Role>) {
        let rules = ClaimRules { role: claim.to_owned(), ..rules() };
        let found = identity(&rules, claims.clone()).ok().map(|identity| identity.role);
        assert_eq!(found, expected, "{claim} {claims}");
    }

    #[test]
    fn the_highest_role_that_means_something_counts() {
        use Role::{Admin, Maintainer};
        check_role("roles", json!({"roles": ["x", "all devs", "af-admins"]}), Some(Admin));
        check_role("roles", json!({"roles": "all devs"}), Some(Maintainer));
        check_role("scope", json!({"scope": "openid af-admins"}), Some(Admin));
        check_role("realm_access.roles", json!({"realm_access": {"roles": ["all devs"]}}), Some(Maintainer));
        check_role(
            "resource_access.a.b.roles",
            json!({"resource_access": {"a.b": {"roles": ["af-admins"]}}}),
            Some(Admin),
        );
        check_role("https://x.y/roles", json!({"https://x.y/roles": ["af-admins"]}), Some(Admin));
        for none in [json!({}), json!({"roles": ["admin"]}), json!({"roles": {"af-admins": true}}), json!({"roles": 1})]
        {
            check_role("roles", none, None);
        }
        check_role("roles.x", json!({"roles": ["af-admins"]}), None);
    }

    #[test]
    fn who_has_no_role_gets_the_usual_one_or_is_told() {
        let told = identity(&rules(), json!({"roles": ["x"]})).unwrap_err();
        assert!(told.contains("claim `roles`"), "{told}");
        let usual = ClaimRules { default_role: Some(Role::Observer), ..rules() };
        assert_eq!(identity(&usual, json!({})).unwrap().role, Role::Observer);
        assert_eq!(identity(&usual, json!({"roles": "af-admins"})).unwrap().role, Role::Admin);
    }

    #[test]
    fn the_tenant_is_what_the_provider_says_where_it_has_to() {
        let admin = json!({"roles": "af-admins"});
        assert_eq!(identity(&rules(), admin.clone()).unwrap().tenant.as_str(), "own");
        let rules = ClaimRules { tenant: Some("org".to_owned()), ..rules() };
        assert_eq!(identity(&rules, json!({"roles": "af-admins", "org": " acme "})).unwrap().tenant.as_str(), "acme");
        for org in [json!(""), json!(["acme"]), json!("a\nb"), json!("x".repeat(151))] {
            assert!(identity(&rules, json!({"roles": "af-admins", "org": org})).unwrap_err().contains("claim `org`"));
        }
        assert!(identity(&rules, admin).is_err(), "nobody becomes one of another tenant's by leaving it out");
    }

    #[test]
    fn a_name_is_one_that_can_be_shown_and_a_subject_has_to_be_there() {
        let usual = ClaimRules { default_role: Some(Role::Observer), ..rules() };
        let name = |claims: Value| identity(&usual, claims).unwrap().user.as_str().to_owned();
        assert_eq!(name(json!({})), "mira");
        for odd in [json!("a\u{1b}[2J"), json!(" "), json!(7), json!("x".repeat(151))] {
            assert_eq!(name(json!({ "preferred_username": odd })), "1");
        }
        for odd in [json!(null), json!(""), json!(7), json!("a\nb"), json!("x".repeat(256)), json!(" ")] {
            assert!(identity(&usual, json!({ "sub": odd, "preferred_username": "\n" })).is_err(), "{odd}");
        }
        let by_mail = ClaimRules { user: "email".to_owned(), ..usual.clone() };
        let mail = |verified: Value| {
            let claims = json!({"email": "a@b", "email_verified": verified});
            let it = identity(&by_mail, claims).unwrap();
            (it.user.as_str().to_owned(), it.email)
        };
        assert_eq!(mail(json!(true)), ("a@b".to_owned(), "a@b".to_owned()));
        assert_eq!(mail(json!(false)), ("1".to_owned(), String::new()), "it may be anybody's");
    }
}
