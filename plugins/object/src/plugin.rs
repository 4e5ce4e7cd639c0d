//! The plugin's face to the platform.

use std::sync::Arc;

use visualpath_core::{Extractor, ExtractorPlugin, PluginContext, PluginError, ViewSpec};
use visualpath_onnx::{
    CardError, LoadError, LoadOptions, ModelCard, ModelError, ModelLocator, Normalizer, load,
};

use crate::config::Config;
use crate::extractor::{ObjectExtractor, SignalNames};
use crate::ssd::{SsdCard, SsdDecoder, SsdSettings};

/// The plugin `object`, to be registered.
pub fn plugin() -> Arc<dyn ExtractorPlugin> {
    Arc::new(ObjectPlugin)
}

struct ObjectPlugin;

/// A config with its model's card, checked against each other; no model loaded yet.
struct Plan {
    config: Config,
    card: ModelCard,
    ssd: SsdCard,
    enabled: Vec<usize>,
}

impl Plan {
    fn new(cx: &PluginContext) -> Result<(Self, ModelLocator), PluginError> {
        let config = Config::parse(&cx.config)?;
        let locator = ModelLocator::new(cx.model_dirs.clone());
        let card = locator
            .card(&config.model)
            .map_err(|e| model_error(&config, &e))?;
        Ok((Self::of(config, card)?, locator))
    }

    fn of(config: Config, card: ModelCard) -> Result<Self, PluginError> {
        let ssd: SsdCard = card
            .decoder("ssd", &SsdCard::KEYS, &SsdCard::ROLES)
            .map_err(|e| card_error(&config, &e))?;
        if card.labels.is_empty() {
            let wrong = card.value_error("labels.names", "is empty".to_owned());
            return Err(card_error(&config, &wrong));
        }
        let enabled = config.enabled(&card.labels, ssd.background)?;
        Ok(Self {
            config,
            card,
            ssd,
            enabled,
        })
    }

    fn signal_names(&self) -> SignalNames {
        SignalNames::new(&self.card.labels, &self.enabled)
    }

    fn decoder(&self) -> Result<SsdDecoder, PluginError> {
        let (config, card) = (&self.config, &self.card);
        let settings = SsdSettings {
            threshold: config.threshold(card),
            nms_iou: config.nms(card),
            max_objects: config.max_objects(card),
            classes: self.enabled.clone(),
        };
        let size = (card.input.width, card.input.height);
        SsdDecoder::new(&self.ssd, size, card.labels.len(), settings).map_err(|(key, message)| {
            card_error(config, &card.value_error(&format!("ssd.{key}"), message))
        })
    }
}

impl ExtractorPlugin for ObjectPlugin {
    fn name(&self) -> &str {
        "object"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn input(&self, cx: &PluginContext) -> Result<ViewSpec, PluginError> {
        Ok(Plan::new(cx)?.0.card.view())
    }

    fn signals(&self, cx: &PluginContext) -> Result<Vec<String>, PluginError> {
        Ok(Plan::new(cx)?.0.signal_names().all())
    }

    fn create(&self, cx: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
        let (plan, locator) = Plan::new(cx)?;
        let file = locator
            .open(&plan.config.model)
            .map_err(|e| model_error(&plan.config, &e))?;
        // The card of the bytes just read, in case the directory changed in between.
        let plan = Plan::of(plan.config, file.card.clone())?;
        let decoder = plan.decoder()?;
        let mut outputs = Vec::with_capacity(SsdCard::ROLES.len());
        for role in SsdCard::ROLES {
            let name = file.card.output(role);
            outputs.push(name.map_err(|e| card_error(&plan.config, &e))?);
        }
        let options = LoadOptions {
            threads: plan.config.threads,
            ..LoadOptions::new(&file.card, &outputs)
        };
        let model =
            load(plan.config.runtime, &file, &options).map_err(|e| load_error(&plan.config, &e))?;
        Ok(Box::new(ObjectExtractor::new(
            cx.name.clone(),
            model,
            Normalizer::new(&plan.card),
            decoder,
            plan.signal_names(),
        )))
    }
}

fn model_error(config: &Config, error: &ModelError) -> PluginError {
    PluginError::Model {
        model: config.model.clone(),
        message: error.to_string(),
    }
}

fn card_error(config: &Config, error: &CardError) -> PluginError {
    PluginError::Model {
        model: config.model.clone(),
        message: error.to_string(),
    }
}

fn load_error(config: &Config, error: &LoadError) -> PluginError {
    match error {
        LoadError::Unavailable { .. } => PluginError::Runtime {
            runtime: config.runtime.to_string(),
            message: error.to_string(),
        },
        LoadError::Refused { .. }
        | LoadError::Input { .. }
        | LoadError::Output { .. }
        | LoadError::Options(_) => PluginError::Model {
            model: config.model.clone(),
            message: error.to_string(),
        },
    }
}
