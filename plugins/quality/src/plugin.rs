//! The plugin's face to the platform.

use std::sync::Arc;

use visualpath_core::{
    Extractor, ExtractorPlugin, Filter, Fit, PluginContext, PluginError, ViewFormat, ViewSpec,
};

use crate::config::Config;
use crate::extractor::{QualityExtractor, SIGNALS};

/// The plugin `quality`, to be registered.
pub fn plugin() -> Arc<dyn ExtractorPlugin> {
    Arc::new(QualityPlugin)
}

struct QualityPlugin;

impl ExtractorPlugin for QualityPlugin {
    fn name(&self) -> &str {
        "quality"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    fn input(&self, cx: &PluginContext) -> Result<ViewSpec, PluginError> {
        let config = Config::parse(&cx.config)?;
        Ok(ViewSpec {
            format: ViewFormat::Grey,
            size: Some((config.width, config.height)),
            fit: Fit::Stretch,
            filter: Filter::Area,
        })
    }

    fn signals(&self, cx: &PluginContext) -> Result<Vec<String>, PluginError> {
        Config::parse(&cx.config)?;
        Ok(SIGNALS.map(str::to_owned).to_vec())
    }

    fn create(&self, cx: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
        let config = Config::parse(&cx.config)?;
        Ok(Box::new(QualityExtractor::new(cx.name.clone(), config)))
    }
}
