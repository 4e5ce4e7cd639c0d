"""The extractor that is measured: it looks at one pixel and says what a detector would."""

from visualpath.core import BaseExtractor, Observation


class Measured(BaseExtractor):
    def extract(self, frame, frame_id):
        box = {"label": "person", "score": 0.91, "bbox": [0.1, 0.2, 0.3, 0.4]}
        signals = {"count": 1.0, "max_confidence": 0.91, "pixel": float(frame[0, 0, 0])}
        return [Observation(source="measured", frame_id=frame_id, signals=signals, data={"objects": [box]})]
