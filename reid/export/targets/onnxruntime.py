"""onnxruntime alone, from any language: plain pixels go in, features as the suite compares them come out."""

from reid.export.target import Target

TARGET = Target(
    name="onnxruntime",
    program="onnxruntime",
    divisor=1.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    resize="pil",
    normalises=False,
    note="Resize with PIL's bilinear filter, as the suite does; float32 pixels from 0 to 255 go in.",
)
