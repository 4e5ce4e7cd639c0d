//! Every plugin a config can name: those linked in, and those discovery finds where it says.

use visualpath_platform::discovery::{self, Places};
use visualpath_platform::{Registry, RegistryError};

use crate::config::Config;

/// Where to look: the machine's places, and the venvs and the interpreter of the config.
pub fn places(config: &Config) -> Places {
    let mut places = Places::new(&config.device.state_dir);
    let extractors = config.extractor.values();
    places
        .venvs
        .extend(extractors.filter_map(|e| e.venv.clone()));
    let fusions = config.fusion.values();
    places
        .venvs
        .extend(fusions.filter_map(|f| f.worker.venv.clone()));
    places.interpreter.clone_from(&config.python.interpreter);
    places
}

/// Discovers anew into `registry`, in place of what it found before. Gives the names that two
/// plugins claim; what could not be read is in [`Registry::problems`]. Both hurt only who asks for
/// such a plugin: [`Registry::find_extractor`] gives the same errors.
pub fn discover(registry: &Registry, config: &Config) -> Vec<RegistryError> {
    registry.set_discovered(discovery::discover(&places(config)))
}
