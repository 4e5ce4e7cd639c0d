"""Python side of visualpath edge: the host that runs an extractor or a fusion, and what it may ask.

Nothing here needs a third-party package; frames (numpy) and the link to the parent (pyzmq) are
imported by the host alone.
"""

from .context import (
    ConfigError,
    Context,
    ModelError,
    PluginError,
    RuntimeMissing,
    context,
    progress,
)

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "Context",
    "ModelError",
    "PluginError",
    "RuntimeMissing",
    "context",
    "progress",
]
