from visualpath_edge.observing import MemorySink, NullSink, Sink

__all__ = ["MemorySink", "NullSink", "Sink"]
