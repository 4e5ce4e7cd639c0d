"""Finding a plugin's class by its entry point, and making one of it."""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import sys
from typing import Any, Dict, List, NamedTuple, Tuple

from .context import ConfigError

#: Entry-point groups by kind.
GROUPS = {"extractor": "visualpath.extractors", "fusion": "visualpath.fusions"}

#: Parameters of a constructor that take the whole config.
_WHOLE = ("config", "cfg", "conf", "settings")


class Plugin(NamedTuple):
    """A plugin that is installed, not loaded yet."""

    name: str
    version: str
    #: ``module:Class``.
    entry_point: str

    def load(self) -> Any:
        """The class. Whatever importing it raises comes through."""
        module, _, path = self.entry_point.partition(":")
        found: Any = importlib.import_module(module.strip())
        if not path.strip():
            raise ConfigError(f"entry point {self.entry_point!r}: expected module:Class")
        # Extras, as in `module:Class [extra]`, are the installer's.
        for attribute in path.partition("[")[0].strip().split("."):
            found = getattr(found, attribute)
        return found


def installed(kind: str) -> Dict[str, List[Plugin]]:
    """Plugins of this venv by name; more than one of a name is a mistake that the caller tells."""
    from importlib import metadata

    plugins: Dict[str, List[Plugin]] = {}
    for distribution in metadata.distributions():
        for entry in distribution.entry_points:
            if entry.group == GROUPS[kind]:
                version = distribution.version or ""
                plugin = Plugin(entry.name, version, entry.value)
                known = plugins.setdefault(entry.name, [])
                # A distribution that lies on the path twice is one.
                if plugin not in known:
                    known.append(plugin)
    return plugins


def find(kind: str, name: str) -> Plugin:
    """The plugin of that name. Raises :class:`ConfigError`, which says what there is."""
    plugins = installed(kind)
    found = plugins.get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        origins = " and ".join(f"{p.entry_point} (version {p.version})" for p in found)
        raise ConfigError(f"two {kind}s are called {name!r}: {origins}; uninstall one of them")
    near = difflib.get_close_matches(name, plugins)
    there = ", ".join(near or sorted(plugins)) or "none"
    raise ConfigError(
        f"no {kind} {name!r} is installed for {sys.executable} "
        f"(entry-point group {GROUPS[kind]}); {'near' if near else 'there are'}: {there}"
    )


def make(cls: Any, config: Dict[str, Any]) -> Any:
    """An instance of ``cls``. How it takes its config is read from its signature and never tried
    out: a TypeError of the constructor's own must come through.

    ========================================  ==================================================
    constructor                               called with
    ========================================  ==================================================
    a parameter ``config`` (``cfg``,          the whole config, a dict
    ``conf``, ``settings``), or one that has
    no name for callers
    other parameters                          the config's keys as keywords
    none                                      nothing; a config is warned about
    ========================================  ==================================================
    """
    parameters = _parameters(cls)
    args, kwargs = _arguments(parameters, config)
    if config and not args and not kwargs:
        logging.getLogger(__name__).warning(
            "%s takes no config; what is configured for it is not used: %s",
            getattr(cls, "__qualname__", cls), ", ".join(sorted(config)),
        )  # fmt: skip
    return cls(*args, **kwargs)


def _parameters(cls: Any) -> List[inspect.Parameter]:
    """Of the constructor; of one that only hands on (``*args, **kwargs``), those of the next."""
    try:
        parameters = list(inspect.signature(cls).parameters.values())
    except (TypeError, ValueError):
        # A class written in C tells nothing.
        return []
    hands_on = [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
    if [p.kind for p in parameters] != hands_on or not inspect.isclass(cls):
        return parameters
    for base in cls.__mro__[1:]:
        if "__init__" in base.__dict__ and base is not object:
            try:
                above = list(inspect.signature(base.__init__).parameters.values())[1:]
            except (TypeError, ValueError):
                return []
            if [p.kind for p in above] != hands_on:
                return above
    return []


def _arguments(
    parameters: List[inspect.Parameter], config: Dict[str, Any]
) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {p.name: p for p in parameters if p.kind in keywords}
    for name in _WHOLE:
        if name in named:
            return (), {name: config}
    if parameters and parameters[0].kind is inspect.Parameter.POSITIONAL_ONLY:
        return (config,), {}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not named and not anything:
        return (), {}
    for key in config:
        if key not in named and not anything:
            near = difflib.get_close_matches(key, named)
            known = ", ".join(near or sorted(named))
            raise ConfigError(f"unknown key {key!r}; {'near' if near else 'known'}: {known}")
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in config:
            raise ConfigError(f"missing key {name!r}")
    return (), dict(config)
