from visualpath_edge.base import Module

__all__ = ["Module"]
