//! The plugin's face to the platform.

use std::sync::Arc;

use visualpath_core::{
    Extractor, ExtractorPlugin, Filter, Fit, PluginContext, PluginError, ViewFormat, ViewSpec,
};

use crate::config::Config;
use crate::extractor::MotionExtractor;

/// The plugin `motion`, to be registered.
pub fn plugin() -> Arc<dyn ExtractorPlugin> {
    Arc::new(MotionPlugin)
}

struct MotionPlugin;

impl ExtractorPlugin for MotionPlugin {
    fn name(&self) -> &str {
        "motion"
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
        let own = ["count", "light_switch", "score"].map(str::to_owned);
        let zones = cx.zones.iter().map(|z| format!("score@{}", z.name));
        Ok(own.into_iter().chain(zones).collect())
    }

    fn create(&self, cx: &PluginContext) -> Result<Box<dyn Extractor>, PluginError> {
        let config = Config::parse(&cx.config)?;
        let extractor = MotionExtractor::new(cx.name.clone(), config, &cx.zones, &cx.masks);
        Ok(Box::new(extractor))
    }
}
