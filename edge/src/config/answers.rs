//! What follows from a config: answers that take more than one key, and the defaults that depend
//! on the machine or on other keys.

use std::path::PathBuf;

use jiff::tz::TimeZone;
use visualpath_core::{Mask, MaskKind, Name, Zone};
use visualpath_media::source::Polygon;

use super::Machine;
use super::model::{
    Config, DeviceId, DropPolicy, ExtractorConfig, Isolation, MaskConfig, PathConfig, SourceConfig,
};

impl Config {
    /// The device's id. [`super::load`] always fills it in.
    pub fn device_id(&self) -> &str {
        self.device.id.as_ref().map_or("device", DeviceId::as_str)
    }

    /// The time zone of the hours in which rules are active: the device's, else the system's, else
    /// UTC.
    pub fn timezone(&self) -> TimeZone {
        let named = self.device.timezone.as_deref().map(TimeZone::get);
        match named {
            Some(Ok(timezone)) => timezone,
            // Only for a config that was not checked.
            Some(Err(error)) => {
                tracing::error!(%error, "device.timezone: taken as UTC");
                TimeZone::UTC
            }
            None => TimeZone::try_system().unwrap_or(TimeZone::UTC),
        }
    }

    /// Where clips go.
    pub fn clip_dir(&self) -> PathBuf {
        self.device.state_dir.join(&self.clip.dir)
    }

    /// The isolation of an extractor whose plugin recommends `recommended` at least.
    pub fn isolation_of(&self, extractor: &ExtractorConfig, recommended: Isolation) -> Isolation {
        extractor
            .isolation
            .unwrap_or_else(|| recommended.max(self.isolation.default))
    }

    /// The sources an extractor looks at: those of the paths that have it, itself or because
    /// another needs it; if there is no such path, the only source.
    pub fn sources_of(&self, extractor: &str) -> Vec<(&Name, &SourceConfig)> {
        let mut names: Vec<&Name> = self
            .path
            .values()
            .filter(|path| self.extractors_of(path).contains(&extractor))
            .flat_map(|path| path.source.as_slice())
            .collect();
        if names.is_empty() && self.source.len() == 1 {
            names.extend(self.source.keys());
        }
        names.sort();
        names.dedup();
        let known = |name: &Name| self.source.get_key_value(name);
        names.into_iter().filter_map(known).collect()
    }

    /// The paths of a source.
    pub fn paths_of(&self, source: &Name) -> impl Iterator<Item = (&Name, &PathConfig)> {
        self.path
            .iter()
            .filter(move |(_, path)| path.source.as_slice().contains(source))
    }

    /// The extractors a source's paths need, each after those it needs itself.
    pub fn extractors_on(&self, source: &Name) -> Vec<&str> {
        let mut out = Vec::new();
        for (_, path) in self.paths_of(source) {
            for name in self.extractors_of(path) {
                if !out.contains(&name) {
                    out.push(name);
                }
            }
        }
        out
    }

    /// The extractors one waits for: its `depends` and those its `gate` reads.
    pub fn needs_of<'a>(&'a self, extractor: &'a ExtractorConfig) -> Vec<&'a Name> {
        let mut needs: Vec<&Name> = extractor.depends.iter().collect();
        let gate = unquoted(extractor.gate.as_deref().unwrap_or_default());
        for word in words(&gate) {
            if let Some((name, _)) = self.extractor.get_key_value(word)
                && !needs.contains(&name)
            {
                needs.push(name);
            }
        }
        needs
    }

    /// The extractors a path needs: its own and, before each, those it needs.
    pub fn extractors_of<'a>(&'a self, path: &'a PathConfig) -> Vec<&'a str> {
        fn visit<'a>(
            config: &'a Config,
            name: &'a str,
            on_way: &mut Vec<&'a str>,
            out: &mut Vec<&'a str>,
        ) {
            if out.contains(&name) || on_way.contains(&name) {
                return;
            }
            on_way.push(name);
            if let Some(extractor) = config.extractor.get(name) {
                for need in config.needs_of(extractor) {
                    visit(config, need.as_str(), on_way, out);
                }
            }
            on_way.pop();
            out.push(name);
        }
        let mut out = Vec::new();
        for name in &path.extractors {
            visit(self, name.as_str(), &mut Vec::new(), &mut out);
        }
        out
    }

    /// Which frame goes when the extractor's queue is full, on a source that is `realtime` or not.
    pub fn drop_policy_of(extractor: &ExtractorConfig, realtime: bool) -> DropPolicy {
        extractor.drop.unwrap_or(if realtime {
            DropPolicy::Oldest
        } else {
            DropPolicy::None
        })
    }

    /// The zones of a source, checked before by [`super::load`].
    pub fn zones_of(&self, source: &str) -> Vec<Zone> {
        self.zone
            .iter()
            .filter(|(_, zone)| zone.source == *source)
            .filter_map(|(name, zone)| {
                Zone::new(name.clone(), zone.polygon.clone(), zone.anchor).ok()
            })
            .collect()
    }

    /// The masks of a source that somebody has to heed, checked before by [`super::load`]: all but
    /// those of privacy, of which nobody needs to know.
    pub fn masks_of(&self, source: &str) -> Vec<Mask> {
        self.mask
            .iter()
            .filter(|(_, mask)| mask.kind != MaskKind::Privacy && mask.is_of(source))
            .filter_map(|(name, mask)| {
                Mask::new(name.clone(), mask.kind, mask.polygon.clone()).ok()
            })
            .collect()
    }

    /// What is painted over in every picture of a source: its masks of privacy.
    pub fn privacy_of(&self, source: &str) -> Vec<Polygon> {
        self.mask
            .values()
            .filter(|mask| mask.kind == MaskKind::Privacy && mask.is_of(source))
            .map(|mask| mask.polygon.clone())
            .collect()
    }

    /// Fills in the defaults that depend on the machine or on other keys.
    pub(super) fn resolve(&mut self, machine: &Machine) {
        if self.device.id.is_none() {
            self.device.id = Some(machine.device_id());
        }
        let policies: Vec<(Name, DropPolicy)> = self
            .extractor
            .iter()
            .filter_map(|(name, extractor)| {
                let sources = self.sources_of(name.as_str());
                let realtime = sources.first().is_none_or(|(_, s)| s.realtime);
                // On sources of both kinds each keeps its own default.
                let agree = sources.iter().all(|(_, s)| s.realtime == realtime);
                agree.then(|| (name.clone(), Self::drop_policy_of(extractor, realtime)))
            })
            .collect();
        for (name, policy) in policies {
            if let Some(extractor) = self.extractor.get_mut(&name) {
                extractor.drop = Some(policy);
            }
        }
    }
}

impl MaskConfig {
    fn is_of(&self, source: &str) -> bool {
        self.source.as_slice().iter().any(|name| *name == *source)
    }
}

/// A CEL expression with its texts blanked out.
fn unquoted(text: &str) -> String {
    let mut quote = None;
    let mut escaped = false;
    let blank = |c: char| {
        let inside = quote.is_some();
        match quote {
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(q) if c == q && !escaped => quote = None,
            _ => {}
        }
        escaped = inside && c == '\\' && !escaped;
        if inside { ' ' } else { c }
    };
    text.chars().map(blank).collect()
}

/// The words of a CEL expression that are not the name of a field.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut before = ' ';
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(is_word)?;
            if let Some(c) = rest[..start].trim_end().chars().next_back() {
                before = c;
            }
            let tail = &rest[start..];
            let end = tail.find(|c| !is_word(c)).unwrap_or(tail.len());
            let (word, after) = tail.split_at(end);
            rest = after;
            let field = before == '.';
            before = ' ';
            if !field {
                return Some(word);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{unquoted, words};

    #[test]
    fn fields_and_texts_of_an_expression_are_no_extractors() {
        let text = unquoted("motion.score > 0.02 && face . count>1||hand[\"count\"]==2.0");
        let all: Vec<&str> = words(&text).collect();
        assert_eq!(all, ["motion", "0", "face", "1", "hand", "2"]);
    }
}
