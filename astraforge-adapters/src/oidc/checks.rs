//! Whom a token is for, and when it holds.

use astraforge_core::ports::identity_provider::TokenFault;
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::token::Claims;

/// How far the provider's clock and ours may be apart, in seconds.
const LEEWAY: f64 = 60.0;

/// Checks what every token has to keep: that it is for `audience`, and holds at `now`.
pub(super) fn holds(claims: &Claims, audience: &str, now: DateTime<Utc>) -> Result<(), TokenFault> {
    if !audiences(claims).any(|one| one == audience) {
        return Err(TokenFault::Audience);
    }
    let now = now.timestamp_micros() as f64 / 1e6;
    let expires = time(claims, "exp")?.ok_or(TokenFault::Claim("exp"))?;
    if expires + LEEWAY <= now {
        return Err(TokenFault::Expired);
    }
    for begins in [time(claims, "nbf")?, time(claims, "iat")?].into_iter().flatten() {
        if begins - LEEWAY > now {
            return Err(TokenFault::NotYet);
        }
    }
    Ok(())
}

/// Refuses what is signed by the provider, for us, and still no plain access token: one that shows who logged in or out,
/// one that is there to get others, and one that only its owner may use.
pub(super) fn is_access_token(claims: &Claims) -> Result<(), TokenFault> {
    let is = |claim: &str, known: &[&str]| {
        let kind = claims.get(claim).map(|kind| kind.as_str().unwrap_or_default());
        kind.map(|kind| known.iter().any(|known| known.eq_ignore_ascii_case(kind)))
    };
    let told = [is("typ", &["bearer", "jwt", "at+jwt"]), is("token_use", &["access"])];
    // Keycloak used to put the nonce of a login into the access token too, which says by itself that it is one.
    let is_of_login = claims.contains_key("nonce") && is("typ", &["bearer"]) != Some(true);
    let is_other = ["at_hash", "c_hash", "events"].iter().any(|claim| claims.contains_key(*claim));
    if told.contains(&Some(false)) || is_of_login || is_other {
        return Err(TokenFault::Kind);
    }
    if claims.contains_key("cnf") { Err(TokenFault::Bound) } else { Ok(()) }
}

/// Whether a token has what only those have that give access (RFC 9068, and what providers had before).
pub(super) fn says_that_it_gives_access(claims: &Claims) -> bool {
    let is = |claim: &str, kind: &str| {
        claims.get(claim).and_then(Value::as_str).is_some_and(|it| it.eq_ignore_ascii_case(kind))
    };
    is("typ", "bearer")
        || is("typ", "at+jwt")
        || is("token_use", "access")
        || ["scope", "scp", "client_id"].iter().any(|claim| claims.contains_key(*claim))
}

/// Checks what a token that shows who logged in has to keep besides: that it was made for the client that asked, and for
/// this very login.
pub(super) fn is_of_login(claims: &Claims, client: &str, nonce: &str) -> Result<(), TokenFault> {
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    let made_for = text("azp");
    if made_for.is_some_and(|made_for| made_for != client) || (made_for.is_none() && audiences(claims).count() > 1) {
        return Err(TokenFault::Audience);
    }
    if text("nonce") != Some(nonce) {
        return Err(TokenFault::Nonce);
    }
    time(claims, "iat")?.map(drop).ok_or(TokenFault::Claim("iat"))
}

fn audiences(claims: &Claims) -> impl Iterator<Item = &str> {
    let audience = claims.get("aud");
    let many = audience.and_then(Value::as_array).into_iter().flatten();
    audience.filter(|one| one.is_string()).into_iter().chain(many).filter_map(Value::as_str)
}

/// A time in seconds since 1970, which may have a fraction.
fn time(claims: &Claims, claim: &'static str) -> Result<Option<f64>, TokenFault> {
    match claims.get(claim) {
        None => Ok(None),
        Some(time) => time.as_f64().filter(|time| time.is_finite()).map(Some).ok_or(TokenFault::Claim(claim)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn claims(claims: Value) -> Claims {
        let usual = json!({"aud": "forge", "exp": NOW + 300});
        let mut all = usual.as_object().unwrap().clone();
        all.extend(claims.as_object().unwrap().clone());
        all
    }

    #[track_caller]
    fn check_holds(with: Value, expected: Result<(), TokenFault>) {
        let now = DateTime::from_timestamp(NOW, 0).unwrap();
        assert_eq!(holds(&claims(with.clone()), "forge", now), expected, "{with}");
    }

    #[test]
    fn a_token_is_for_us_and_for_now() {
        check_holds(json!({}), Ok(()));
        check_holds(json!({"aud": ["account", "forge"]}), Ok(()));
        for audience in
            [json!("forge2"), json!("Forge"), json!(["account"]), json!([]), json!(null), json!({"forge": 1})]
        {
            check_holds(json!({ "aud": audience }), Err(TokenFault::Audience));
        }
        check_holds(json!({"exp": NOW - 59}), Ok(()));
        check_holds(json!({"exp": NOW - 60}), Err(TokenFault::Expired));
        check_holds(json!({"exp": -1e300}), Err(TokenFault::Expired));
        for time in [json!(null), json!("1800000300"), json!([1])] {
            check_holds(json!({ "exp": time }), Err(TokenFault::Claim("exp")));
        }
        for claim in ["nbf", "iat"] {
            check_holds(json!({claim: NOW + 60}), Ok(()));
            check_holds(json!({claim: NOW as f64 + 60.5}), Err(TokenFault::NotYet));
            check_holds(json!({claim: "soon"}), Err(TokenFault::Claim(claim)));
        }
    }

    #[test]
    fn a_token_without_an_end_is_refused() {
        let now = DateTime::from_timestamp(NOW, 0).unwrap();
        let endless = json!({"aud": "forge"}).as_object().unwrap().clone();
        assert_eq!(holds(&endless, "forge", now), Err(TokenFault::Claim("exp")));
    }

    #[test]
    fn what_gives_access_says_so() {
        for sign in
            [json!({"typ": "Bearer"}), json!({"token_use": "access"}), json!({"scope": "a"}), json!({"client_id": "c"})]
        {
            assert!(says_that_it_gives_access(&claims(sign.clone())), "{sign}");
        }
        // As a login has it that was renewed: neither a nonce nor a hash of what came with it.
        assert!(!says_that_it_gives_access(&claims(json!({"auth_time": 1, "email": "a@b.c"}))));
    }

    #[test]
    fn only_plain_access_tokens_are_bearers() {
        let check = |with: Value| is_access_token(&claims(with));
        assert_eq!(check(json!({"typ": "Bearer"})), Ok(()), "as Keycloak makes them");
        assert_eq!(check(json!({"typ": "Bearer", "nonce": "n"})), Ok(()), "as it made them before");
        assert_eq!(check(json!({"token_use": "access"})), Ok(()), "as Cognito does");
        for kind in [json!("ID"), json!("Refresh"), json!("Offline"), json!("Logout"), json!(1)] {
            assert_eq!(check(json!({ "typ": kind })), Err(TokenFault::Kind));
        }
        for other in [json!({"token_use": "id"}), json!({"nonce": "n"}), json!({"at_hash": "h"}), json!({"events": {}})]
        {
            assert_eq!(check(other), Err(TokenFault::Kind));
        }
        assert_eq!(check(json!({"cnf": {"jkt": "x"}})), Err(TokenFault::Bound));
    }

    #[test]
    fn a_login_is_shown_by_its_own_token_only() {
        let check = |with: Value| is_of_login(&claims(with), "forge", "n");
        assert_eq!(check(json!({"nonce": "n", "iat": NOW})), Ok(()));
        assert_eq!(check(json!({"nonce": "n", "iat": NOW, "aud": ["forge", "x"], "azp": "forge"})), Ok(()));
        assert_eq!(check(json!({"nonce": "n", "iat": NOW, "aud": ["forge", "x"]})), Err(TokenFault::Audience));
        assert_eq!(check(json!({"nonce": "n", "iat": NOW, "azp": "x"})), Err(TokenFault::Audience));
        assert_eq!(check(json!({"nonce": "m", "iat": NOW})), Err(TokenFault::Nonce));
        assert_eq!(check(json!({"iat": NOW})), Err(TokenFault::Nonce));
        assert_eq!(check(json!({"nonce": "n"})), Err(TokenFault::Claim("iat")));
    }
}
