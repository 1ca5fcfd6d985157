//! The request of a question, made canonical by the code that the proxy runs: what is explained is what would
//! be judged.

use std::net::{Ipv4Addr, SocketAddr};

use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use parsers::head::{self, HeadError};
use policy::explain::HttpQuery;
use serde::{Deserialize, Serialize};

use crate::api::types::ExplainHttp;

/// A request as the proxy sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestAnswer {
    pub method: String,
    /// Canonical path, with the query: what rules match and the server gets.
    pub path: String,
    /// Canonical host.
    pub host: String,
    /// The proxy refuses it with this status before any rule is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_status: Option<u16>,
    /// Why it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_why: Option<String>,
}

/// The query that policy is asked, or `None` with a refused request.
pub(super) fn canonical(asked: &ExplainHttp) -> (RequestAnswer, Option<HttpQuery>) {
    match judged(asked) {
        Ok(query) => {
            let (method, path, host) = (query.method.clone(), query.path.clone(), query.host.clone());
            (RequestAnswer { method, path, host, ..RequestAnswer::default() }, Some(query))
        }
        Err((status, why)) => {
            let answer = RequestAnswer {
                method: asked.method.clone(),
                path: asked.path.clone(),
                host: asked.host.clone(),
                refused_status: Some(status.as_u16()),
                refused_why: Some(why),
            };
            (answer, None)
        }
    }
}

type Refused = (StatusCode, String);

fn judged(asked: &ExplainHttp) -> Result<HttpQuery, Refused> {
    let bad = |why: &str| (StatusCode::BAD_REQUEST, why.to_owned());
    let refused = |error: HeadError| (error.status(), error.to_string());
    let method = Method::from_bytes(asked.method.as_bytes()).map_err(|_| bad("invalid method"))?;
    // A fragment is no part of a request target: the URI type would drop it in silence.
    if asked.path.contains('#') {
        return Err(refused(HeadError::Path(parsers::path::PathError::Forbidden)));
    }
    let request = Request::builder().method(method).uri(asked.path.as_str()).body(());
    let (mut head, ()) = request.map_err(|_| refused(HeadError::Target))?.into_parts();
    for (name, value) in std::iter::once((header::HOST.as_str(), &asked.host)).chain(named(asked)) {
        let name = HeaderName::try_from(name).map_err(|_| bad("invalid header name"))?;
        let value = HeaderValue::try_from(value).map_err(|_| bad("invalid header value"))?;
        head.headers.append(name, value);
    }
    // Asked for HTTP/1.1, which brings its host: the destination stands in for no other.
    let destination = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    head::canonicalise(&mut head, destination).map_err(refused)?;
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Ok(HttpQuery {
        method: head.method.to_string(),
        path: head::path(&head.uri).to_owned(),
        host: head::host(&head.uri, &head.headers).to_owned(),
        headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
    })
}

fn named(asked: &ExplainHttp) -> impl Iterator<Item = (&str, &String)> {
    asked.headers.iter().map(|(name, value)| (name.as_str(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str, host: &str) -> RequestAnswer {
        let (method, path, host) = ("GET".to_owned(), path.to_owned(), host.to_owned());
        canonical(&ExplainHttp { method, path, host, headers: Vec::new() }).0
    }

    #[test]
    fn what_is_explained_is_what_the_proxy_judges() {
        for (path, want) in [
            ("/a/../b", "/b"),
            ("/%2e%2e/b", "/b"),
            ("//a///b", "/a/b"),
            ("/%61?q=%2f", "/a?q=%2f"),
            ("http://api/x", "/x"),
        ] {
            let answer = ask(path, "api");
            assert_eq!((answer.refused_status, answer.path.as_str()), (None, want), "{path}: {answer:?}");
        }
        for (path, why) in [
            ("/a%2fb", "encoded"),
            ("/a%zz", "percent-encoding"),
            ("/a\\b", "forbidden"),
            ("/a#b", "forbidden"),
            ("a", "target"),
            ("/..;x/a", "dot segment"),
        ] {
            let answer = ask(path, "api");
            let text = answer.refused_why.unwrap_or_default();
            assert!(answer.refused_status == Some(400) && text.contains(why), "{path}: {text}");
        }
    }

    #[test]
    fn host_and_headers_are_those_of_the_proxy() {
        assert_eq!(ask("/", "API.Shop.").host, ask("/", "api.shop.").host);
        assert_eq!(ask("/", "a b").refused_status, Some(400));
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let (method, path, host) = ("GET".to_owned(), "/".to_owned(), "api".to_owned());
        // Hop-by-hop: gone before policy looks.
        let headers = vec![header("Connection", "x-user"), header("X-User", "7")];
        let (_, query) = canonical(&ExplainHttp { method, path, host, headers });
        let query = query.expect("valid");
        assert!(query.headers.iter().all(|(name, _)| name != "x-user"), "{query:?}");
    }
}
