from visualpath_edge.base import BaseExtractor
from visualpath_edge.observation import Observation

__all__ = ["BaseExtractor", "Observation"]
