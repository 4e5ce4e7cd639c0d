//! What follows from a config: answers that take more than one key, and the defaults that depend
//! on the machine or on other keys.

use std::path::PathBuf;

use jiff::tz::TimeZone;
use visualpath_core::{Name, Zone};

use super::Machine;
use super::model::{
    Config, DeviceId, DropPolicy, ExtractorConfig, Isolation, PathConfig, SourceConfig,
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

    /// The source an extractor looks at: that of the first path that has it, itself or through
    /// `depends`; else the only source.
    pub fn source_of(&self, extractor: &str) -> Option<(&Name, &SourceConfig)> {
        self.path
            .values()
            .find(|path| self.extractors_of(path).contains(&extractor))
            .and_then(|path| path.source.as_slice().first())
            .and_then(|name| self.source.get_key_value(name))
            .or_else(|| self.source.iter().next().filter(|_| self.source.len() == 1))
    }

    /// The extractors a path needs: its own and, before each, those it depends on.
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
                for dep in &extractor.depends {
                    visit(config, dep.as_str(), on_way, out);
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

    /// Which frame goes when the extractor's queue is full.
    pub fn drop_policy_of(&self, extractor: &str) -> DropPolicy {
        let chosen = self.extractor.get(extractor).and_then(|e| e.drop);
        let realtime = self.source_of(extractor).is_none_or(|(_, s)| s.realtime);
        chosen.unwrap_or(if realtime {
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

    /// Fills in the defaults that depend on the machine or on other keys.
    pub(super) fn resolve(&mut self, machine: &Machine) {
        if self.device.id.is_none() {
            self.device.id = Some(machine.device_id());
        }
        let policies: Vec<(Name, DropPolicy)> = self
            .extractor
            .keys()
            .map(|name| (name.clone(), self.drop_policy_of(name.as_str())))
            .collect();
        for (name, policy) in policies {
            if let Some(extractor) = self.extractor.get_mut(&name) {
                extractor.drop = Some(policy);
            }
        }
    }
}
