//! Sources, and the zones and masks in their pictures.

use std::collections::BTreeSet;

use visualpath_core::{MaskKind, Name, Zone, ZoneError, check_polygon};
use visualpath_media::source::synthetic;

use super::Check;
use crate::config::diagnostic::Diagnostic;
use crate::config::model::{SourceConfig, SourceFormat, SourceKind};
use crate::config::tree::Origin;

impl Check<'_> {
    pub(super) fn sources(&mut self) {
        let config = self.config;
        for (name, source) in &config.source {
            let key = |k: &str| format!("source.{name}.{k}");
            let uri = source.uri.trim();
            if uri.is_empty() {
                self.error(key("uri"), "expected a file or device, got \"\"");
                continue;
            }
            if let Some(scheme) = unknown_scheme(uri) {
                self.error(
                    key("uri"),
                    format!("`{scheme}` is not a kind of source: expected a file, /dev/…, libcamera:, argus:, rtsp://, exec:, camera: or synthetic:"),
                );
                continue;
            }
            match source.kind() {
                SourceKind::Synthetic => self.synthetic(name, source),
                SourceKind::Rtsp => self.network_camera(name, source),
                SourceKind::Child if uri.ends_with(':') => {
                    let what = if uri == "exec:" {
                        "a command"
                    } else {
                        "the camera's number"
                    };
                    self.error(key("uri"), format!("expected {what} after `{uri}`"));
                }
                _ => {}
            }
            self.live(name, source);
            // Keys of the source that `--source` replaces were not written for what it puts there.
            if !matches!(self.origin(&key("uri")), Origin::Argument(_)) {
                self.without_effect(name, source);
            }
        }
    }

    /// What a live source can't do.
    fn live(&mut self, name: &Name, source: &SourceConfig) {
        if !source.kind().is_live() {
            return;
        }
        if !source.realtime {
            self.error(
                format!("source.{name}.realtime"),
                format!(
                    "{} does not wait until its pictures are taken",
                    source.kind().as_text()
                ),
            )
            .hint = Some("remove it; `false` is for files".to_owned());
        }
        if source.repeat {
            self.warning(
                format!("source.{name}.loop"),
                format!(
                    "has no effect on {}: it has no end to begin again at",
                    source.kind().as_text()
                ),
            );
        }
    }

    /// Warns of keys that are another kind's.
    fn without_effect(&mut self, name: &Name, source: &SourceConfig) {
        let kind = source.kind();
        let key = |k: &str| format!("source.{name}.{k}");
        let on = format!("has no effect on {}", kind.as_text());
        if matches!(kind, SourceKind::File | SourceKind::Rtsp) {
            for k in ["width", "height"] {
                if self.is_set(&key(k)) {
                    self.warning(key(k), format!("{on}: it has its own size"));
                }
            }
            if source.format != SourceFormat::Auto {
                self.warning(key("format"), format!("{on}: it has its own format"));
            }
        }
        if !matches!(kind, SourceKind::Device | SourceKind::Camera) && !source.controls.is_empty() {
            self.warning(
                key("controls"),
                format!("{on}: only a camera (/dev/…, camera:) has controls"),
            );
        }
        if kind != SourceKind::Rtsp {
            for k in ["username", "password_file", "transport"] {
                if self.is_set(&key(k)) {
                    self.warning(key(k), format!("{on}: it is of rtsp:// only"));
                }
            }
        }
    }

    fn network_camera(&mut self, name: &Name, source: &SourceConfig) {
        let key = |k: &str| format!("source.{name}.{k}");
        let (_, rest) = source.uri.split_once("://").unwrap_or_default();
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        if host.is_empty() {
            self.error(key("uri"), "expected a host after `://`");
        }
        // On the command line it is no secret any more.
        let typed = matches!(self.origin(&key("uri")), Origin::Argument(_));
        if user.contains(':') && !typed {
            // Not quoted: what stands there is a secret.
            self.error(
                key("uri"),
                format!("a password in the URL: write it as source.{name}.username and source.{name}.password_file"),
            );
        }
        if source.password_file.is_some() && source.username.is_none() && user.is_empty() {
            self.error(key("password_file"), "a password needs a user name")
                .hint = Some("add `username`".to_owned());
        }
    }

    fn synthetic(&mut self, name: &Name, source: &SourceConfig) {
        let key = |k: &str| format!("source.{name}.{k}");
        let asked = synthetic::Asked {
            width: source.width,
            height: source.height,
            fps: source.fps,
        };
        if let Err(wrong) = synthetic::Params::parse(&source.uri, &asked) {
            self.error(key("uri"), wrong.to_string());
        }
        if source.format != SourceFormat::Auto {
            self.warning(key("format"), "has no effect on a synthetic source")
                .hint = Some("write `format=` into its URI".to_owned());
        }
    }

    pub(super) fn zones(&mut self) {
        let config = self.config;
        for (name, zone) in &config.zone {
            self.refers(&format!("zone.{name}.source"), "source", &zone.source);
            let checked = Zone::new(name.clone(), zone.polygon.clone(), zone.anchor);
            if let Err(fault) = checked {
                self.polygon(&format!("zone.{name}.polygon"), &fault);
            }
        }
    }

    pub(super) fn masks(&mut self) {
        let config = self.config;
        let mut told = BTreeSet::new();
        for (name, mask) in &config.mask {
            let key = |k: &str| format!("mask.{name}.{k}");
            let sources = mask.source.as_slice();
            for (index, source) in sources.iter().enumerate() {
                let at = format!("mask.{name}.source[{index}]");
                let at = if self.is_set(&at) { at } else { key("source") };
                self.refers(&at, "source", source);
                if sources[..index].contains(source) {
                    self.error(at, format!("`{source}` is listed twice"));
                }
            }
            if let Err(fault) = check_polygon(&mask.polygon) {
                self.polygon(&key("polygon"), &fault);
            }
            if mask.kind != MaskKind::Privacy {
                continue;
            }
            for source in sources {
                let passes = config.source.get(source);
                let passes = passes.is_some_and(SourceConfig::may_pass_through);
                if passes && told.insert(source) {
                    let origin = self.origin(&key("kind"));
                    let message = format!(
                        "clips of source `{source}` are encoded here: in the video as it sends it nothing is painted over"
                    );
                    let note = Diagnostic::note(&origin, key("kind"), message);
                    self.push(note.hint("that costs CPU all the time if a rule makes clips"));
                }
            }
        }
    }

    fn polygon(&mut self, key: &str, fault: &ZoneError) {
        let key = match fault {
            ZoneError::Corner { index, .. } => format!("{key}[{index}]"),
            ZoneError::Corners(_) | ZoneError::Flat => key.to_owned(),
        };
        self.error(key, fault.to_string());
    }
}

/// The `scheme://` of a URI that is no source.
fn unknown_scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once("://")?;
    let form = scheme
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || c == b'+')
        && !scheme.is_empty();
    let file = SourceKind::of(uri) == SourceKind::File && scheme != "file";
    (form && file).then(|| &uri[..scheme.len() + 3])
}
