#!/usr/bin/env python3
"""The peer of `visualpath bench pipeline`: the same detector in a plain Python loop, one thread.

    bench_loop.py VIDEO

OpenCV decodes and resizes, ONNX Runtime runs the model, NumPy decodes the boxes' scores. Prints
one JSON row: {"frames", "wall_s", "cpu_s", "rss_mb"}.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort


def main(video):
    cv2.setNumThreads(1)
    cache = Path(os.environ.get("VISUALPATH_ASSETS") or Path.home() / ".cache" / "visualpath")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(cache / "models" / "ssd-oidv4.onnx"), options,
                                   providers=["CPUExecutionProvider"])
    person = 4
    logit = np.log(0.4 / 0.6)
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    capture = cv2.VideoCapture(video)
    frames = persons = 0
    while True:
        ok, bgr = capture.read()
        if not ok:
            break
        frames += 1
        rgb = cv2.cvtColor(cv2.resize(bgr, (300, 300)), cv2.COLOR_BGR2RGB)
        tensor = (rgb.astype(np.float32) / 127.5 - 1.0).transpose(2, 0, 1)[None]
        _, scores = session.run(["raw_outputs_box_encodings", "raw_outputs_class_predictions"],
                                {"input": np.ascontiguousarray(tensor)})
        persons += int((scores[0, :, person] > logit).sum())
    wall = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_SELF)
    if frames == 0 or persons == 0:
        sys.exit(f"{video}: {frames} frames, nobody seen: this measured nothing")
    print(json.dumps({
        "frames": frames,
        "wall_s": wall,
        "cpu_s": used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime,
        "rss_mb": used.ru_maxrss / 1024,
    }))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
