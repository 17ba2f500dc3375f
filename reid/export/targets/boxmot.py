"""BoxMOT: gives RGB / 255, then normalised by ImageNet's mean and std, and normalises features itself.

Read from boxmot 25.0.0. The graph's fixed height and width win over every setting of its own, and `resize` is
the preprocessing that squeezes the whole box into them.
"""

import json

from reid.export.target import Target

TARGET = Target(
    name="boxmot",
    program="BoxMOT",
    divisor=255.0,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize="opencv",
    normalises=True,
    note="Give the file as --reid (reid_weights in Python); BoxMOT takes height and width from the graph.",
    files=lambda facts: {".metadata.json": json.dumps({"preprocess": "resize"}, indent=2) + "\n"},
)
