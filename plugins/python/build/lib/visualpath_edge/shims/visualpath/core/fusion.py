from visualpath_edge.base import BaseFusion
from visualpath_edge.observation import FusionResult

__all__ = ["BaseFusion", "FusionResult"]
