"""Ultralytics, BoT-SORT with `with_reid`: gives RGB / 255 and nothing more, and normalises features itself.

Read from ultralytics 8.4.190. It enlarges each box (x 1.02 and 10 pixels) before it cuts the crop out.
"""

from reid.export.target import Target

TARGET = Target(
    name="ultralytics",
    program="Ultralytics",
    divisor=255.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    resize="opencv",
    normalises=True,
    note="In a copy of botsort.yaml set with_reid: True and model: to this file.",
)
