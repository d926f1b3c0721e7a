//! A browser, with cookies, that fills in the provider's forms.

use reqwest::{Client, RequestBuilder, Response, Url, redirect::Policy};

use crate::world::World;

/// What the server is called by the provider.
const PUBLIC: &str = "https://forge.example";

/// A browser.
pub(crate) struct Browser {
    http: Client,
    server: String,
    /// Cookies, by the site that set them.
    cookies: Vec<Cookie>,
}

/// A cookie of a site: its port tells it from others here.
#[derive(Clone)]
pub(crate) struct Cookie {
    port: Option<u16>,
    name: String,
    value: String,
}

impl Browser {
    pub(crate) fn new(world: &World) -> Self {
        let http = Client::builder().redirect(Policy::none()).build().unwrap();
        Self { http, server: world.url().to_owned(), cookies: Vec::new() }
    }

    pub(crate) fn cookies(&self) -> Vec<Cookie> {
        self.cookies.clone()
    }

    pub(crate) fn has_cookies(&mut self, cookies: Vec<Cookie>) {
        self.cookies = cookies;
    }

    /// Follows the way that begins at `url`, logs in at the provider, and returns where it sends the browser back to.
    pub(crate) async fn log_in(&mut self, url: &str, name: &str) -> String {
        let mut place = url.to_owned();
        for _ in 0..12 {
            if let Some(callback) = self.callback(&place) {
                return callback;
            }
            let answer = self.get(&place).await;
            place = match answer.headers().get("location") {
                Some(next) => Url::parse(&place).unwrap().join(next.to_str().unwrap()).unwrap().to_string(),
                None => {
                    let page = answer.text().await.unwrap();
                    let form = if page.contains("value=\"login\"") { "login" } else { "consent" };
                    let body = format!("prompt={form}&login={name}&password=x");
                    let action = between(&page, "action=\"", "\"").to_owned();
                    let request = self.http.post(&action).header("content-type", "application/x-www-form-urlencoded");
                    let answer = self.send(&action, request.body(body)).await;
                    let next = answer.headers()["location"].to_str().unwrap();
                    Url::parse(&action).unwrap().join(next).unwrap().to_string()
                }
            };
        }
        panic!("the login leads nowhere: {place}");
    }

    /// Follows the way as far as the provider's form, and gives up there.
    pub(crate) async fn give_up(&mut self, url: &str) -> String {
        let mut place = url.to_owned();
        for _ in 0..12 {
            if let Some(callback) = self.callback(&place) {
                return callback;
            }
            let answer = self.get(&place).await;
            place = match answer.headers().get("location") {
                Some(next) => Url::parse(&place).unwrap().join(next.to_str().unwrap()).unwrap().to_string(),
                None => format!("{place}/abort"),
            };
        }
        panic!("giving up leads nowhere: {place}");
    }

    /// The same address at the server itself, if it is one of the server's.
    fn callback(&self, place: &str) -> Option<String> {
        place.strip_prefix(PUBLIC).map(|rest| format!("{}{rest}", self.server))
    }

    pub(crate) async fn get(&mut self, url: &str) -> Response {
        let request = self.http.get(url);
        self.send(url, request).await
    }

    async fn send(&mut self, url: &str, request: RequestBuilder) -> Response {
        let port = Url::parse(url).unwrap().port();
        let own = self.cookies.iter().filter(|cookie| cookie.port == port);
        let cookies: Vec<_> = own.map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        let answer = request.header("cookie", cookies.join("; ")).send().await.unwrap();
        for cookie in answer.headers().get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|it| it.port != port || it.name != name);
            if !value.is_empty() {
                self.cookies.push(Cookie { port, name: name.to_owned(), value: value.to_owned() });
            }
        }
        answer
    }
}

#[track_caller]
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no `{before}` in {text}"));
    rest.split_once(after).unwrap().0
}
