"""Instance masks as COCO run lengths: one form for every source, measured and shrunk without decoding where possible.

The stored form is {"size": [h, w], "counts": str}: COCO's compressed run lengths in column-major order, counts as
ASCII text. `as_rle` accepts every other spelling of it; the codec is pycocotools, the reference implementation.
"""

from openstory_hf.masks.codec import RLE, area, as_rle, bbox, decode, encode, from_box, iou, merge, run_lengths
from openstory_hf.masks.grid import grid
from openstory_hf.masks.labels import from_labels, read_labels
from openstory_hf.masks.polygons import from_polygons, to_polygons

__all__ = [
    "RLE",
    "area",
    "as_rle",
    "bbox",
    "decode",
    "encode",
    "from_box",
    "from_labels",
    "from_polygons",
    "grid",
    "iou",
    "merge",
    "read_labels",
    "run_lengths",
    "to_polygons",
]
