//! `camera:N`: one of the system's own cameras, by number, through `nokhwa`. For development on a
//! laptop; an appliance uses `/dev/videoN`, which loses nothing silently and copies less.
//!
//! ```text
//!  thread camera:<source>                          capture thread
//!  nokhwa ─ pictures ─▶ bounded queue ─▶ CameraStream ─ next, fill ─▶ EncodedSource
//! ```
//!
//! The hard part: the library's calls have no time limit, and on some drivers a call on a camera
//! that was pulled out never returns. So they are made in a thread of their own. One that hangs is
//! left behind and said so, and no other is started for that camera until it has come back.

#[cfg(feature = "nokhwa")]
mod choose;
#[cfg(feature = "nokhwa")]
mod stream;

use std::sync::Arc;

use visualpath_core::Clock;

use super::{Source, SourceError, SourceOptions, redacted};

const SCHEME: &str = "camera:";

/// Whether this module opens it.
pub(super) fn is_uri(uri: &str) -> bool {
    uri.starts_with(SCHEME)
}

/// The source behind `camera:N`. Nothing is opened yet.
#[cfg(feature = "nokhwa")]
pub(super) fn open(
    opts: &SourceOptions,
    clock: Arc<dyn Clock>,
) -> Result<Box<dyn Source>, SourceError> {
    let number = number(&opts.uri)
        .ok_or_else(|| unsupported(opts, "names no camera; write `camera:0` for the first one"))?;
    if opts.format == super::WantedFormat::H264 {
        let detail = "gives no H.264 through `camera:`; on Linux use `/dev/videoN`";
        return Err(unsupported(opts, detail));
    }
    let connect = stream::CameraConnect::new(opts, number);
    Ok(Box::new(super::encoded::EncodedSource::new(
        opts, clock, connect,
    )))
}

/// Says which build can open it, and what can be used instead.
#[cfg(not(feature = "nokhwa"))]
pub(super) fn open(
    opts: &SourceOptions,
    clock: Arc<dyn Clock>,
) -> Result<Box<dyn Source>, SourceError> {
    drop(clock);
    let instead = match number(&opts.uri) {
        Some(number) => format!("/dev/video{number}"),
        None => "/dev/video0".to_owned(),
    };
    let detail = format!(
        "this build has no `camera:` (build it with the feature `nokhwa`); on Linux use `{instead}`"
    );
    Err(unsupported(opts, &detail))
}

fn number(uri: &str) -> Option<u32> {
    let digits = uri.strip_prefix(SCHEME)?;
    // `+1` is a number to `parse`, and none to people.
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

fn unsupported(opts: &SourceOptions, detail: &str) -> SourceError {
    SourceError::Unsupported {
        uri: redacted(&opts.uri),
        detail: detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_camera_is_named_by_a_plain_number() {
        assert_eq!(number("camera:0"), Some(0));
        assert_eq!(number("camera:12"), Some(12));
        for wrong in [
            "camera:",
            "camera:+1",
            "camera:-1",
            "camera:front",
            "camera:99999999999",
        ] {
            assert!(is_uri(wrong));
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }

    #[cfg(not(feature = "nokhwa"))]
    #[test]
    fn a_build_without_it_names_the_feature_and_the_device_to_use_instead() {
        let opts = SourceOptions::new(visualpath_core::Name::new("cam0").unwrap(), "camera:2");
        let clock = Arc::new(visualpath_core::ManualClock::default());
        let Err(error) = super::super::open(&opts, clock) else {
            panic!("it opened");
        };
        let said = error.to_string();
        assert!(
            said.contains("`nokhwa`") && said.contains("/dev/video2"),
            "{said}"
        );
    }
}
