//! Addresses as people may see them.

/// Put where a secret was.
const HIDDEN: &str = "***";

/// Keys whose value is a secret, in a query or, as some cameras want it, in the path
/// (`/user=admin_password=x_channel=1`).
const SECRET_KEYS: [&str; 7] = [
    "password",
    "passwd",
    "passphrase",
    "pass",
    "pwd",
    "token",
    "secret",
];

/// The URI without the secrets in it: `rtsp://***@host/path`. Text that is not a URI (a path, a
/// device, `exec:`) comes back as it is.
///
/// It hides too much rather than too little. A password with a raw `/` or `@` in it cannot be told
/// from a host and a path, so where a `:` stands before an `@`, everything up to the last `@` goes.
/// The value of a secret key goes up to the next `&`, `;`, `/`, `?` or `#`.
pub fn redacted(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once(':') else {
        return uri.to_owned();
    };
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    // A network address with a slash too few is one all the same.
    let network = ["rtsp", "rtsps", "http", "https"].contains(&&*scheme.to_ascii_lowercase());
    if !network && (!rest.starts_with("//") || !scheme.chars().all(is_scheme)) {
        return uri.to_owned();
    }
    let rest = rest.trim_start_matches('/');
    let scheme = &uri[..uri.len() - rest.len()];
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let has_user = authority.contains('@')
        || matches!((rest.find(':'), rest.rfind('@')), (Some(colon), Some(at)) if colon < at);
    let open = match rest.rfind('@') {
        Some(at) if has_user => format!("{scheme}{HIDDEN}{}", &rest[at..]),
        _ => uri.to_owned(),
    };
    without_secret_values(&open)
}

/// The text with the values of secret keys hidden.
fn without_secret_values(text: &str) -> String {
    // ASCII lower case keeps every byte where it is.
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(value) = next_secret_value(&lower, at) {
        out.push_str(&text[at..value]);
        out.push_str(HIDDEN);
        at = text[value..]
            .find(['&', ';', '/', '?', '#'])
            .map_or(text.len(), |end| value + end);
    }
    out.push_str(&text[at..]);
    out
}

/// Where the value of the next secret key begins.
fn next_secret_value(lower: &str, from: usize) -> Option<usize> {
    SECRET_KEYS
        .iter()
        .filter_map(|key| {
            let mut search = from;
            loop {
                let end = search + lower[search..].find(key)? + key.len();
                if lower[end..].starts_with('=') {
                    return Some(end + 1);
                }
                search = end;
            }
        })
        .min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_secret_stays() {
        for same in [
            "rtsp://cam.local/stream1",
            "rtsp://[fe80::1]:8554/a?channel=1&subtype=0",
            "/dev/video0",
            "exec:ffmpeg -i x@y -f h264 -",
            "a file@with://at",
            "",
        ] {
            assert_eq!(redacted(same), same);
        }
    }

    #[test]
    fn credentials_go_wherever_a_camera_wants_them() {
        for (uri, seen) in [
            ("rtsp://u:p@h/x", "rtsp://***@h/x"),
            ("rtsp:/u:p@h/x", "rtsp:/***@h/x"),
            ("rtsp:u:p@h/x", "rtsp:***@h/x"),
            ("rtsp://u@h:554/x", "rtsp://***@h:554/x"),
            ("RTSP://u:p%40@h", "RTSP://***@h"),
            ("rtsp://u:a/b@h/x", "rtsp://***@h/x"),
            ("rtsp://u:12/34@h/x", "rtsp://***@h/x"),
            ("rtsp://u:a@b/c?d#e@h/x", "rtsp://***@h/x"),
            (
                "rtsp://h/cgi?User=a&Password=b&x=1",
                "rtsp://h/cgi?User=a&Password=***&x=1",
            ),
            (
                "rtsp://h/user=a_password=b_channel=1",
                "rtsp://h/user=a_password=***",
            ),
            ("rtsp://h/a?pwd=1&pwd=2", "rtsp://h/a?pwd=***&pwd=***"),
        ] {
            assert_eq!(redacted(uri), seen);
        }
    }

    proptest! {
        #[test]
        fn no_password_survives(
            user in "[a-z]{1,8}",
            // Capitals are in no other part.
            password in "[A-Z][A-Z/?#@:&=%\\[\\]]{3,12}",
            host in "[a-z]{1,8}(:[0-9]{1,4})?",
            path in "(/[a-z0-9]{0,5}){0,3}",
        ) {
            for uri in [
                format!("rtsp://{user}:{password}@{host}{path}"),
                format!("rtsps://{user}:{password}@{host}{path}"),
            ] {
                let seen = redacted(&uri);
                prop_assert!(!seen.contains(|c: char| c.is_ascii_uppercase()), "{}", seen);
                let tail = format!("@{host}{path}");
                prop_assert!(seen.ends_with(&tail), "{}", seen);
            }
        }

        #[test]
        fn any_text_is_redacted_without_a_panic_and_once_is_enough(text in "\\PC{0,60}") {
            let once = redacted(&text);
            prop_assert_eq!(redacted(&once), once);
        }
    }
}
