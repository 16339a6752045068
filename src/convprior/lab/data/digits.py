"""The embedded data set: scikit-learn's handwritten digits."""

import hashlib

import numpy as np
import torch

from convprior._optional import require
from convprior.lab.data.arrays import ArrayPart
from convprior.lab.data.source import Source


def open_digits() -> Source:
    """Opens the 1,797 handwritten digits of scikit-learn: 8x8, grey, 10 classes.

    They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
    1998), which scikit-learn carries in its package. The 17 grey levels 0..16 become 0..255. The
    set has no test images of its own: a fixed fifth of each class is held out.
    """
    bunch = require("sklearn.datasets", "lab").load_digits()
    grey = np.round(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    images = torch.from_numpy(grey)[..., None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    fingerprint = hashlib.sha256(grey.tobytes()).hexdigest()
    part = ArrayPart(images, labels, "digits", fingerprint)
    return Source("digits", tuple(str(name) for name in bunch.target_names), part, None)
