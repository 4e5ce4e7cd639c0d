from visualpath.backends.protocols import DetectionBackend, DetectionResult

__all__ = ["DetectionBackend", "DetectionResult"]
