//! A browser: it keeps cookies and sends what it is told to.

use axum::{body::Body, http::Request};
use serde_json::Value;

use crate::house::{Answer, House};

/// A browser at a server that it calls `forge.test`.
#[derive(Default)]
pub(crate) struct Browser {
    pub(crate) cookies: Vec<(String, String)>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Browser {
    pub(crate) async fn call(&mut self, house: &House, method: &str, path: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "forge.test");
        if !self.cookies.is_empty() {
            let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", cookies.join("; "));
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let answer = house.send(request.header("content-type", "application/json").body(body).unwrap()).await;
        for cookie in answer.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(kept, _)| kept != name);
            if !cookie.contains("Max-Age=0") {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        answer
    }

    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        self.cookies.iter().find(|(kept, _)| kept == name).map(|(_, value)| value.as_str())
    }

    /// Does as a page of the server does.
    pub(crate) fn brings_its_token(&mut self) {
        let token = self.cookie("csrftoken").unwrap().to_owned();
        self.headers.retain(|(name, _)| *name != "x-csrftoken");
        self.headers.push(("x-csrftoken", token));
    }
}
