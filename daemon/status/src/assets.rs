//! Files that never change while the daemon runs: embedded, each with an entity tag over its bytes, so that a
//! browser asks again and is told "not modified", and a new daemon's files are seen at once.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// One embedded file.
pub(crate) struct Asset {
    /// Where it is mounted.
    pub(crate) path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    tag: u64,
}

impl Asset {
    const fn new(path: &'static str, kind: &'static str, bytes: &'static [u8]) -> Self {
        Self {
            path,
            kind,
            bytes,
            tag: fnv1a(bytes),
        }
    }

    /// The file, or 304 where the client has it.
    pub(crate) fn respond(&self, request: &HeaderMap) -> Response {
        let tag = format!("\"{:016x}\"", self.tag);
        let known = request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|value| value.trim().trim_start_matches("W/"))
            .any(|value| value == tag || value == "*");
        let common = [
            (header::ETAG, tag),
            (header::CACHE_CONTROL, "no-cache".to_owned()),
        ];
        if known {
            return (StatusCode::NOT_MODIFIED, common).into_response();
        }
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(self.kind))];
        (common, kind, self.bytes).into_response()
    }
}

/// The stylesheet.
pub(crate) static STYLE: Asset = Asset::new(
    "/assets/tidegate.css",
    "text/css; charset=utf-8",
    include_bytes!("../assets/tidegate.css"),
);

/// What keeps an open page up to date.
pub(crate) static SCRIPT: Asset = Asset::new(
    "/assets/tidegate.js",
    "text/javascript; charset=utf-8",
    include_bytes!("../assets/tidegate.js"),
);

/// The tab's icon.
pub(crate) static ICON: Asset = Asset::new(
    "/assets/icon.svg",
    "image/svg+xml",
    include_bytes!("../assets/icon.svg"),
);

/// The description of everything that is mounted.
pub(crate) static OPENAPI: Asset = Asset::new(
    "/api/v1/openapi.json",
    "application/json",
    include_bytes!("../assets/openapi.json"),
);

/// FNV-1a, 64 bits: tells versions of a file apart, which is all that an entity tag has to do. Source: draft-eastlake-fnv.
const fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_the_published_hash() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
