"""Features of boxes by BoxMOT's own ReID backend: model frame boxes.npy features.npy facts.json."""

import sys

import cv2
import guard
import numpy as np
from boxmot.reid.core.runtime import ReID

model, frame, boxes, features, facts = sys.argv[1:]
reid = ReID(weights=model, device="cpu")
np.save(features, np.asarray(reid(cv2.imread(frame), boxes=np.load(boxes)), dtype=np.float32))
guard.write_facts(facts, ["boxmot", "onnxruntime", "torch", "opencv-python"])
