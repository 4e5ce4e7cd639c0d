from visualpath_edge.isolation import IsolationConfig, IsolationLevel

__all__ = ["IsolationConfig", "IsolationLevel"]
