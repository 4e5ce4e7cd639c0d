"""Detectors that an extractor may be written around."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Protocol, Tuple


@dataclass
class DetectionResult:
    """One thing found in an image."""

    #: x, y, width, height, pixels.
    bbox: Tuple[int, int, int, int]
    #: 0–1.
    confidence: float
    class_id: Optional[int] = None
    class_name: Optional[str] = None
    metadata: Dict[str, Any] = field(default_factory=dict)


class DetectionBackend(Protocol):
    """Finds things in BGR images."""

    def initialize(self, device: str = "cpu") -> None: ...

    def detect(self, image: Any) -> List[DetectionResult]: ...

    def cleanup(self) -> None: ...
