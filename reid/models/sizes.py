"""The smallest images that parts of a network can work on; read by checks that should not load torch."""

#: Pixels in height and width: of smaller images the second pooling of the spatial transformer leaves nothing.
SMALLEST_STN_IMAGE = 18

#: Pixels in height or width, whichever is more: of smaller images the third stage of a network with IBN-a
#: makes a map of one pixel, which has no spread to divide by.
SMALLEST_IBN_SIDE = 17
