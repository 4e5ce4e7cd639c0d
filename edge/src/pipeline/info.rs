//! The `info` message: what runs here, on what, with which models, and what the sources deliver.

use visualpath_core::ModelUse;
use visualpath_mqtt::Info;
use visualpath_mqtt::payload::{INFO_SCHEMA, InfoSource};

use super::{Running, line, wall};
use crate::config::Config;

impl Running {
    /// What a source delivers is known once it is open, and may change with every connection.
    pub(super) fn say_formats(&mut self) {
        let is_said = |line: &line::Line| {
            let of = |f: &&InfoSource| f.source == line.shared.source.as_str();
            let said = self.formats.iter().find(of);
            said.is_some_and(|f| line.stats.capture.is_format(&f.format))
        };
        if self.lines.iter().all(is_said) {
            return;
        }
        let format = |line: &line::Line| InfoSource {
            source: line.shared.source.to_string(),
            format: line.stats.capture.format(),
        };
        self.formats = self.lines.iter().map(format).collect();
        self.say_info();
    }

    pub(super) fn say_info(&self) {
        let models = self.lines.iter().flat_map(|l| l.shared.all_models());
        let info = message(&self.config, models.collect(), self.formats.clone());
        self.out.info(&info);
    }
}

pub(super) fn message(config: &Config, used: Vec<ModelUse>, sources: Vec<InfoSource>) -> Info {
    let mut models = Vec::new();
    for used in used {
        let model = crate::models::with_licences(config, &used);
        if !models.contains(&model) {
            models.push(model);
        }
    }
    Info {
        schema: INFO_SCHEMA.to_owned(),
        device: config.device_id().to_owned(),
        boot_id: wall::boot_id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: crate::version::commit(),
        target: crate::version::target(),
        capabilities: crate::version::capabilities(),
        models,
        sources,
        machine: crate::version::machine(),
    }
}
