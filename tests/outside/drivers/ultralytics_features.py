"""Features of boxes by the encoder of Ultralytics' BoT-SORT: model frame boxes.npy features.npy facts.json.

The features are those that a new track keeps of its first box.
"""

import sys
from types import SimpleNamespace

import cv2
import guard
import numpy as np
from ultralytics.engine.results import Boxes
from ultralytics.trackers.bot_sort import BOTSORT
from ultralytics.utils import SETTINGS, YAML
from ultralytics.utils.checks import check_yaml

model, frame, boxes, features, facts = sys.argv[1:]
SETTINGS.update(sync=False)
chosen = {**YAML.load(check_yaml("botsort.yaml")), "with_reid": True, "model": model, "device": "cpu"}
tracker = BOTSORT(SimpleNamespace(**chosen))
found = np.load(boxes)
rows = np.hstack([found, np.full((len(found), 1), 0.9), np.zeros((len(found), 1))]).astype(np.float32)
image = cv2.imread(frame)
tracks = tracker.init_track(Boxes(rows, image.shape[:2]), image)
np.save(features, np.stack([track.curr_feat for track in tracks]).astype(np.float32))
guard.write_facts(facts, ["ultralytics", "onnxruntime", "torch", "opencv-python"])
