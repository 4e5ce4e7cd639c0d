"""Extractors, fusions and what they give."""

from visualpath_edge.base import BaseExtractor, BaseFusion, Module
from visualpath_edge.isolation import IsolationConfig, IsolationLevel
from visualpath_edge.observation import FusionResult, Observation

__all__ = [
    "BaseExtractor",
    "BaseFusion",
    "FusionResult",
    "IsolationConfig",
    "IsolationLevel",
    "Module",
    "Observation",
]
