//! `/api/auth/oidc/`: people log in at an identity provider, and programs come with its tokens.

use std::sync::Arc;

use astraforge_core::{
    access::Caller,
    account::Account,
    error::chain,
    identity::Identity,
    ports::identity_provider::{IdentityError, IdentityProvider, LoginAnswer, LoginAsk},
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header::LOCATION, header::SET_COOKIE},
    response::{AppendHeaders, IntoResponse, Response},
};
use serde::Deserialize;
use tracing::{error, info};
use utoipa::IntoParams;

use super::{
    super::{AppState, audit::doors, error::ApiError, layers::CallId, query::QueryOf},
    Accounts,
    browser::Browser,
    next::Next,
};
use crate::wire::{
    login_methods::{LoginMethods, ProviderLogin},
    outcome::Problem,
};

/// Where a browser begins.
const LOGIN: &str = "/api/auth/oidc/login/";
/// Where the provider sends it back to.
const CALLBACK: &str = "/api/auth/oidc/callback/";

/// An identity provider, as people see it.
#[derive(Debug, Clone)]
pub(super) struct SingleSignOn {
    pub(super) provider: Arc<dyn IdentityProvider>,
    pub(super) name: String,
    /// Scheme and host that the provider knows this server by, unless they are those that a browser uses.
    pub(super) address: Option<String>,
}

/// Where a browser wants to be.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct LoginQuery {
    /// A path of this server, such as `/requests?state=open`; `/` unless set.
    next: Option<String>,
}

/// What a browser brings back from the provider.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct CallbackQuery {
    /// What the provider passed on of the beginning.
    state: Option<String>,
    /// What shows who logged in.
    code: Option<String>,
    /// Why nobody did.
    error: Option<String>,
    /// Which provider says so.
    iss: Option<String>,
}

/// Show the ways in which people log in here; additive.
#[utoipa::path(
    get, path = "/api/auth/methods/", tag = "accounts", operation_id = "login_methods", security(()),
    responses((status = 200, description = "The ways that there are.", body = LoginMethods)),
)]
pub(in super::super) async fn methods(State(state): State<AppState>) -> Json<LoginMethods> {
    let accounts = state.accounts.as_ref();
    let provider = accounts.and_then(|it| it.single_sign_on.as_ref()).filter(|it| it.provider.ways().browsers);
    Json(LoginMethods {
        password: accounts.is_some(),
        registration: accounts.is_some_and(|it| it.registration.is_some()),
        oidc: provider.map(|it| ProviderLogin { login_url: LOGIN.to_owned(), name: it.name.clone() }),
    })
}

/// Log in at the identity provider; additive.
///
/// For browsers: it leads to the provider, from there back here, and in the end to `next`, logged in with the cookies
/// `sessionid` and `csrftoken`.
#[utoipa::path(
    get, path = "/api/auth/oidc/login/", tag = "accounts", operation_id = "log_in_at_provider", security(()),
    params(LoginQuery),
    responses(
        (status = 303, description = "On to the provider."),
        (status = 400, description = "`next` is no path of this server.", body = Problem),
        (status = 404, description = "There is no identity provider here.", body = Problem),
        (status = 503, description = "The provider cannot be used now.", body = Problem),
    ),
)]
pub(in super::super) async fn begin(
    State(state): State<AppState>,
    uri: Uri,
    headers: HeaderMap,
    QueryOf(query): QueryOf<LoginQuery>,
) -> Result<Response, ApiError> {
    let browser = Browser::of(&uri, &headers);
    let sign_on = state.accounts()?.single_sign_on()?;
    let next = Next::read(query.next.as_deref())?;
    let ask = LoginAsk { redirect_uri: sign_on.redirect_uri(&browser)?, next: next.into() };
    let begun = sign_on.provider.begin_login(ask).await.map_err(refusal)?;
    let cookie = browser.provider_cookie(&begun.sealed);
    Ok((StatusCode::SEE_OTHER, [(LOCATION, begun.url)], [(SET_COOKIE, cookie)]).into_response())
}

/// Come back from the identity provider; additive. Only browsers that it sends come here.
#[utoipa::path(
    get, path = "/api/auth/oidc/callback/", tag = "accounts", operation_id = "come_from_provider", security(()),
    params(CallbackQuery),
    responses(
        (status = 303, description = "Logged in, with the cookies `sessionid` and `csrftoken`, and on to `next`."),
        (status = 400, description = "No such login was begun in this browser a short while ago.", body = Problem),
        (status = 401, description = "What the provider says proves nothing.", body = Problem),
        (status = 403, description = "They may not come in, or did not want to.", body = Problem),
        (status = 404, description = "There is no identity provider here.", body = Problem),
        (status = 503, description = "The provider cannot be used now.", body = Problem),
    ),
)]
pub(in super::super) async fn end(
    State(state): State<AppState>,
    call: CallId,
    uri: Uri,
    headers: HeaderMap,
    QueryOf(query): QueryOf<CallbackQuery>,
) -> Response {
    let browser = Browser::of(&uri, &headers);
    let came = match come_in(&state, &browser, query).await {
        Ok((account, response)) => {
            doors::came_in(&state, &account, false, call).await;
            response
        }
        Err(refusal) => {
            doors::stayed_out(&state, None, doors::Refused::AtProvider, call).await;
            refusal.into_response()
        }
    };
    // However it went, it is over.
    (AppendHeaders([(SET_COOKIE, browser.no_provider_cookie())]), came).into_response()
}

async fn come_in(
    state: &AppState,
    browser: &Browser<'_>,
    query: CallbackQuery,
) -> Result<(Account, Response), ApiError> {
    let accounts = state.accounts()?;
    let sign_on = accounts.single_sign_on()?;
    let no_such = || refusal(IdentityError::NoSuchLogin);
    let outcome = match (query.code, query.error) {
        (_, Some(error)) => Err(word(error)),
        (Some(code), None) => Ok(code),
        (None, None) => return Err(no_such()),
    };
    let sealed = browser.provider_login().ok_or_else(no_such)?.to_owned();
    let answer = LoginAnswer { sealed, state: query.state.unwrap_or_default(), issuer: query.iss, outcome };
    let ended = sign_on.provider.end_login(answer).await.map_err(refusal)?;
    // It was read when the login began, and is read again: what is trusted is the reading.
    let next = Next::read(Some(&ended.next))?;
    let account = accounts.of_identity(state, &ended.identity).await?;
    let account = Account { email: ended.identity.email, role: ended.identity.role, ..account };
    accounts.store.refresh_account(&account.user, &account.email, account.role).await?;
    let cookies = accounts.note_login(state, browser, &account).await?;
    let cookies = AppendHeaders(cookies.map(|cookie| (SET_COOKIE, cookie)));
    Ok((account, (StatusCode::SEE_OTHER, [(LOCATION, String::from(next))], cookies).into_response()))
}

impl Accounts {
    /// Whoever brings a token of the identity provider; `None` where such tokens are not taken.
    pub(in super::super) async fn bearer(&self, state: &AppState, token: &str) -> Result<Option<Caller>, ApiError> {
        let Some(sign_on) = self.single_sign_on.as_ref().filter(|it| it.provider.ways().bearers) else {
            return Ok(None);
        };
        let identity = sign_on.provider.bearer(token).await.map_err(refusal)?;
        let account = self.of_identity(state, &identity).await?;
        // What the token says of the role holds for its own calls.
        Ok(Some(identity.caller(account.user)))
    }

    fn single_sign_on(&self) -> Result<&SingleSignOn, ApiError> {
        let offered = self.single_sign_on.as_ref().filter(|it| it.provider.ways().browsers);
        offered.ok_or_else(|| ApiError::not_found("Nobody logs in at an identity provider here."))
    }

    /// The account of somebody whom the provider knows. It is made when they come for the first time.
    async fn of_identity(&self, state: &AppState, identity: &Identity) -> Result<Account, ApiError> {
        if let Some(account) = self.store.account_of(&identity.subject).await? {
            return admitted(account, identity);
        }
        let account = Account {
            user: identity.user.clone(),
            tenant: identity.tenant.clone(),
            email: identity.email.clone(),
            // No password has this hash.
            password_hash: String::new(),
            role: identity.role,
            is_active: true,
            created_at: state.forge().journal().clock().now(),
        };
        // What a key's user did must not be anybody's who comes.
        let has_key = state.store().api_keys(&account.tenant).await?.iter().any(|key| key.user == account.user);
        if !has_key && self.store.add_account_of(&identity.subject, &account).await? {
            info!(user = account.user.as_str(), "somebody came from the identity provider for the first time");
            return Ok(account);
        }
        match self.store.account_of(&identity.subject).await? {
            // Since a moment ago, by another call of theirs.
            Some(account) => admitted(account, identity),
            None => Err(name_is_taken(identity)),
        }
    }
}

impl SingleSignOn {
    fn redirect_uri(&self, browser: &Browser<'_>) -> Result<String, ApiError> {
        let address = self.address.as_deref().unwrap_or(browser.own_origin());
        if address.is_empty() {
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "The call does not name this server (`Host`)."));
        }
        Ok(format!("{address}{CALLBACK}"))
    }
}

/// Whoever has an account comes in by it, if they still may.
fn admitted(account: Account, identity: &Identity) -> Result<Account, ApiError> {
    let refused = |detail: &str| Err(ApiError::new(StatusCode::FORBIDDEN, detail));
    if !account.is_active {
        return refused("Your account is disabled; ask whoever runs this server.");
    }
    if account.tenant != identity.tenant {
        return refused("Your account belongs to another tenant than your identity provider says.");
    }
    Ok(account)
}

fn name_is_taken(identity: &Identity) -> ApiError {
    let detail = format!(
        "The name `{}` is somebody else's here; ask whoever runs this server to take names from another claim.",
        identity.user.as_str()
    );
    ApiError::new(StatusCode::FORBIDDEN, detail)
}

/// A word of the protocol. Anything else is not repeated: whoever made the link could have written it.
fn word(text: String) -> String {
    let is_word = text.len() <= 64 && text.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
    if is_word && !text.is_empty() { text } else { "it gives no reason that is known".to_owned() }
}

fn refusal(error: IdentityError) -> ApiError {
    let status = match &error {
        IdentityError::Refused(fault) => return ApiError::invalid_token(*fault),
        IdentityError::NoSuchLogin => StatusCode::BAD_REQUEST,
        IdentityError::NotAdmitted { .. } | IdentityError::Denied { .. } => StatusCode::FORBIDDEN,
        IdentityError::NotOffered(_) => StatusCode::NOT_FOUND,
        _ => {
            error!(error = chain(&error), "an identity provider cannot be used");
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let mut detail = error.to_string();
    if let Some(first) = detail.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    ApiError::new(status, detail)
}
