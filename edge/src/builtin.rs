//! Plugins linked into this binary.

use visualpath_platform::{Origin, Registry, RegistryError};

/// A registry with every built-in plugin.
///
/// # Errors
/// If two have one name, which the test below rules out for the ones linked here.
pub fn registry() -> Result<Registry, RegistryError> {
    let registry = Registry::new();
    for plugin in [
        visualpath_plugin_motion::plugin(),
        visualpath_plugin_object::plugin(),
        visualpath_plugin_quality::plugin(),
    ] {
        registry.register_extractor(Origin::BuiltIn, plugin)?;
    }
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_plugins_have_names_of_their_own() {
        let registry = registry().unwrap();
        let plugins = registry.extractors();
        let names: Vec<&str> = plugins.iter().map(|(_, p)| p.name()).collect();
        assert_eq!(names, ["motion", "object", "quality"]);
        let error = registry.extractor("objekt").err().unwrap().to_string();
        assert_eq!(
            error,
            "no extractor plugin is called `objekt`; did you mean `object`?; known: motion, object, quality"
        );
    }
}
