"""What Python plugins import of visualpath, provided by visualpath-edge."""

from visualpath_edge import __version__

__all__ = ["__version__"]
