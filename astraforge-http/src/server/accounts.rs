//! `/api/auth/`: people log in with a name and a password, and their browsers stay logged in, whichever way they came.

use std::{fmt, sync::Arc};

use astraforge_core::{
    access::Role,
    account::{Account, Login},
    error::chain,
    id::{TenantId, UserId},
    ports::{account_store::AccountStore, identity_provider::IdentityProvider},
    repository::Secret,
};
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header::RETRY_AFTER, header::SET_COOKIE, request::Parts},
    response::{AppendHeaders, IntoResponse, Response},
};
use serde_json::Value;

use self::{
    browser::{Browser, LOGGED_IN},
    passwords::Passwords,
    single_sign_on::SingleSignOn,
};
use super::{
    AppState,
    audit::doors,
    auth::{MintError, hash_api_key, random_text},
    body::JsonBody,
    caller::Authenticated,
    error::ApiError,
    fields::{self, Fields, FromFields, Mistake, mistake},
    layers::CallId,
    refusals::{Invalid, Refused},
};
use crate::wire::{
    account::{AccountView, LoginBody, RegisterBody},
    outcome::Problem,
};

mod browser;
mod next;
mod passwords;
pub(super) mod single_sign_on;

pub use self::passwords::{PasswordError, hash_password};

/// The shortest password that is taken, in characters.
const SHORTEST: usize = 8;
/// The longest, so that hashing it takes no longer than others.
const LONGEST: usize = 1024;

/// How people log in. Clones share it.
///
/// ```
/// use std::sync::Arc;
/// use astraforge_core::{access::Role, id::TenantId, testing::account_store::MemoryAccountStore};
/// use astraforge_http::server::Accounts;
///
/// // Whoever comes may have an account, and look at what is there.
/// let accounts = Accounts::new(Arc::new(MemoryAccountStore::default()))
///     .with_registration(TenantId::new("acme"), Role::Observer)
///     .with_trusted_origin("https://forge.example.org");
/// ```
#[derive(Clone)]
pub struct Accounts {
    store: Arc<dyn AccountStore>,
    passwords: Passwords,
    registration: Option<(TenantId, Role)>,
    trusted_origins: Vec<String>,
    single_sign_on: Option<SingleSignOn>,
}

impl Accounts {
    /// Accounts of a store, to which nobody can add themselves.
    pub fn new(store: Arc<dyn AccountStore>) -> Self {
        Self {
            store,
            passwords: Passwords::default(),
            registration: None,
            trusted_origins: Vec::new(),
            single_sign_on: None,
        }
    }

    /// Lets whoever comes have an account of that tenant with that role.
    #[must_use]
    pub fn with_registration(mut self, tenant: TenantId, role: Role) -> Self {
        self.registration = Some((tenant, role));
        self
    }

    /// Lets pages of another origin, such as `https://forge.example.org`, use a browser's login.
    #[must_use]
    pub fn with_trusted_origin(mut self, origin: impl Into<String>) -> Self {
        self.trusted_origins.push(origin.into());
        self
    }

    /// Lets people log in at an identity provider, which is called `name` for them, and programs come with its tokens.
    /// Browsers are sent back to `address`, such as `https://forge.example.org`, or to where they say that they came from.
    #[must_use]
    pub fn with_provider(
        mut self,
        provider: Arc<dyn IdentityProvider>,
        name: impl Into<String>,
        address: Option<String>,
    ) -> Self {
        self.single_sign_on = Some(SingleSignOn { provider, name: name.into(), address });
        self
    }

    /// Who is logged in with what a browser sends, when what it asks for is not another page's doing.
    pub(super) async fn logged_in(&self, state: &AppState, parts: &Parts) -> Result<Option<Account>, ApiError> {
        let browser = Browser::of(&parts.uri, &parts.headers);
        let Some(proof) = browser.login() else { return Ok(None) };
        let now = state.forge().journal().clock().now();
        let Some(account) = self.store.logged_in(&hash_api_key(proof), now).await? else { return Ok(None) };
        if !parts.method.is_safe() {
            browser.check_origin(&self.trusted_origins)?;
            browser.check_token()?;
        }
        Ok(Some(account))
    }

    /// Logs somebody in, and tells their browser.
    async fn log_in(&self, state: &AppState, browser: &Browser<'_>, account: Account) -> Result<Response, ApiError> {
        let cookies = self.note_login(state, browser, &account).await?;
        let cookies = AppendHeaders(cookies.map(|cookie| (SET_COOKIE, cookie)));
        Ok((cookies, Json(AccountView::from(account))).into_response())
    }

    /// Notes that somebody is logged in from now on, and returns the cookies that show it.
    async fn note_login(
        &self,
        state: &AppState,
        browser: &Browser<'_>,
        account: &Account,
    ) -> Result<[HeaderValue; 2], ApiError> {
        let (proof, token) = (random_text().map_err(no_random)?, browser::new_token().map_err(no_random)?);
        let now = state.forge().journal().clock().now();
        let login = Login {
            hash: hash_api_key(proof.reveal()),
            user: account.user.clone(),
            created_at: now,
            expires_at: now + LOGGED_IN,
        };
        if let Some(former) = browser.login() {
            self.store.remove_login(&hash_api_key(former)).await?;
        }
        // Its password may have been changed while it was checked.
        if !self.store.add_login(&login, account).await? {
            return Err(ApiError::unauthorized("Invalid credentials"));
        }
        Ok([browser.login_cookie(proof.reveal()), browser.token_cookie(&token)])
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("registration", &self.registration).finish_non_exhaustive()
    }
}

/// What proves that somebody is logged in, if a call brings it.
pub(super) fn login_of(parts: &Parts) -> Option<&str> {
    Browser::of(&parts.uri, &parts.headers).login()
}

/// Get a token that proves in later calls that this server's own page makes them.
#[utoipa::path(
    get, path = "/api/auth/csrf/", tag = "accounts", operation_id = "get_csrf_token", security(()),
    responses((status = 204, description = "It is in the cookie `csrftoken`.")),
)]
pub(super) async fn csrf(uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let browser = Browser::of(&uri, &headers);
    let token = match browser.token() {
        Some(token) => token.to_owned(),
        None => browser::new_token().map_err(no_random)?,
    };
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, browser.token_cookie(&token))]).into_response())
}

/// Add oneself, where the server lets people do so, and log in.
#[utoipa::path(
    post, path = "/api/auth/register/", tag = "accounts", operation_id = "register", security(()),
    request_body = RegisterBody,
    responses(
        (status = 201, description = "Added and logged in, with the cookies `sessionid` and `csrftoken`.", body = AccountView),
        (status = 403, description = "The server lets nobody add themselves.", body = Problem),
        Invalid,
    ),
)]
pub(super) async fn register(
    State(state): State<AppState>,
    call: CallId,
    uri: Uri,
    headers: HeaderMap,
    JsonBody(body): JsonBody<RegisterBody>,
) -> Result<Response, ApiError> {
    let accounts = state.accounts()?;
    let browser = Browser::of(&uri, &headers);
    browser.check_origin(&accounts.trusted_origins)?;
    let Some((tenant, role)) = accounts.registration.clone() else {
        let detail = "Nobody can add themselves here. Ask whoever runs this server: astraforge users add NAME";
        return Err(ApiError::new(StatusCode::FORBIDDEN, detail));
    };
    let taken = || ApiError::field("username", "Username already exists");
    let user = UserId::new(body.username);
    // What a key's user did must not be anybody's who comes.
    let has_key = state.store().api_keys(&tenant).await?.iter().any(|key| key.user == user);
    if has_key || accounts.store.account(&user).await?.is_some() {
        return Err(taken());
    }
    let account = Account {
        user,
        tenant,
        email: body.email,
        password_hash: accounts.passwords.hash(body.password).await.map_err(broken)?,
        role,
        is_active: true,
        created_at: state.forge().journal().clock().now(),
    };
    if !accounts.store.add_account(&account).await? {
        return Err(taken());
    }
    doors::came_in(&state, &account, true, call).await;
    let mut response = accounts.log_in(&state, &browser, account).await?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

/// Log in.
#[utoipa::path(
    post, path = "/api/auth/login/", tag = "accounts", operation_id = "log_in", security(()), request_body = LoginBody,
    responses(
        (status = 200, description = "Logged in, with the cookies `sessionid` and `csrftoken`.", body = AccountView),
        (status = 401, description = "No such name with such a password.", body = Problem),
        (status = 429, description = "Too many passwords were wrong; `Retry-After` says how long to wait.", body = Problem),
        Invalid,
    ),
)]
pub(super) async fn log_in(
    State(state): State<AppState>,
    call: CallId,
    uri: Uri,
    headers: HeaderMap,
    JsonBody(body): JsonBody<LoginBody>,
) -> Result<Response, ApiError> {
    let accounts = state.accounts()?;
    let browser = Browser::of(&uri, &headers);
    browser.check_origin(&accounts.trusted_origins)?;
    if let Err(wait) = accounts.passwords.begin_attempt(&body.username) {
        let account = accounts.store.account(&UserId::new(&body.username)).await?;
        doors::stayed_out(&state, account.as_ref(), doors::Refused::TooMany, call).await;
        let detail = format!("Too many passwords were wrong. Try again in {} s.", wait.as_secs() + 1);
        let refusal = ApiError::new(StatusCode::TOO_MANY_REQUESTS, detail);
        return Ok(([(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1))], refusal).into_response());
    }
    let account = accounts.store.account(&UserId::new(&body.username)).await?;
    let hash = account.as_ref().map(|account| account.password_hash.clone());
    let is_right = accounts.passwords.check(&body.username, body.password, hash).await.map_err(broken)?;
    let why = if is_right { doors::Refused::Disabled } else { doors::Refused::Wrong };
    match account {
        Some(account) if is_right && account.is_active => {
            let answer = accounts.log_in(&state, &browser, account.clone()).await?;
            doors::came_in(&state, &account, false, call).await;
            Ok(answer)
        }
        account => {
            doors::stayed_out(&state, account.as_ref(), why, call).await;
            Err(ApiError::unauthorized("Invalid credentials"))
        }
    }
}

/// Log out.
#[utoipa::path(
    post, path = "/api/auth/logout/", tag = "accounts", operation_id = "log_out",
    responses((status = 204, description = "Logged out."), Refused),
)]
pub(super) async fn log_out(
    State(state): State<AppState>,
    _: Authenticated,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let browser = Browser::of(&uri, &headers);
    if let (Some(accounts), Some(proof)) = (&state.accounts, browser.login()) {
        accounts.store.remove_login(&hash_api_key(proof)).await?;
    }
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, browser.no_login_cookie())]).into_response())
}

/// Show who one is.
#[utoipa::path(
    get, path = "/api/auth/me/", tag = "accounts", operation_id = "who_am_i",
    responses((status = 200, description = "Whoever calls.", body = AccountView), Refused),
)]
pub(super) async fn me(
    State(state): State<AppState>,
    Authenticated(caller): Authenticated,
) -> Result<Json<AccountView>, ApiError> {
    let account = match &state.accounts {
        Some(accounts) => accounts.store.account(&caller.user).await?,
        None => None,
    };
    let account = account.filter(|account| account.tenant == caller.tenant).map(AccountView::from);
    let unnamed = || AccountView { username: caller.user.as_str().to_owned(), email: String::new() };
    Ok(Json(account.unwrap_or_else(unnamed)))
}

fn broken(error: PasswordError) -> ApiError {
    if matches!(error, PasswordError::Busy) {
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "Too many people log in at this moment; try again.");
    }
    tracing::error!(error = chain(&error), "cannot handle a password");
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "Passwords cannot be checked now; try again.")
}

fn no_random(error: MintError) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

impl FromFields for RegisterBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let username = fields.required("username", fields::name(150));
        let email = fields.optional("email", fields::email).unwrap_or_default();
        let password = fields.required("password", new_password);
        Some(Self { username: username?, email, password: password? })
    }
}

impl FromFields for LoginBody {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        let username = fields.required("username", fields::name(150));
        let password = fields.required("password", fields::secret);
        Some(Self { username: username?, password: password? })
    }
}

fn new_password(value: Value) -> Result<Secret, Mistake> {
    let password = fields::secret(value)?;
    match password.reveal().chars().count() {
        n if n < SHORTEST => Err(mistake(format!("Ensure this field has at least {SHORTEST} characters."))),
        n if n > LONGEST => Err(mistake(format!("Ensure this field has no more than {LONGEST} characters."))),
        _ => Ok(password),
    }
}
