"""How a folder, shards, or torchvision's copy of a set are read beyond what their files and sub-folders say."""
from dataclasses import dataclass, field

from vision.pixel_format import PixelRequest
from vision.preprocess import Preprocessing
from vision.store import StoreSettings


@dataclass(frozen=True)
class Reading:
    """group: what no two splits may share (vision/groups.py); pixels: how images that are not 8-bit gray or RGB are read.

    multilabel: may an image have several labels? auto, true or false (vision/multilabel.py). set: of torchvision's, one of
    vision/transfer_sets.py. window: shards whose images are shuffled among each other (vision/order.py). store: of what
    lies in an object store.
    """

    group: str | None = None
    pixels: PixelRequest | Preprocessing = field(default_factory=PixelRequest)
    multilabel: str = "auto"
    set: str | None = None
    window: int | None = None
    store: StoreSettings = field(default_factory=StoreSettings)
