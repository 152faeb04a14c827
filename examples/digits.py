"""The data: scikit-learn's handwritten digits, 1797 images of 8×8 pixels from the UCI repository."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilewright.errors import Error


@dataclass(frozen=True, slots=True)
class Data:
    """Images (count, 64) or (count, 1, 8, 8) of pixels from 0 to 1, and the digits that they show (count,)."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def batch(self, size: int) -> Tensor:
        """The first `size` test images, from the start again where there are fewer."""
        return self.test_x[torch.arange(size) % len(self.test_x)].clone()

    def images(self) -> Data:
        """The same with images (count, 1, 8, 8), for convolutions."""
        train, test = (x.reshape(-1, 1, 8, 8) for x in (self.train_x, self.test_x))
        return Data(train, self.train_y, test, self.test_y)


def load_data(seed: int = 0) -> Data:
    """A fixed stratified split, a fifth for testing; images as vectors (count, 64).

    Raises:
        Error: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise Error(
            "the digits come with scikit-learn, which is not installed; pip install 'tilewright[cli]'"
        ) from None
    digits = load_digits()
    parts = train_test_split(
        digits.data / 16.0, digits.target, test_size=0.2, stratify=digits.target, random_state=seed
    )
    train_x, test_x, train_y, test_y = (torch.as_tensor(part) for part in parts)
    return Data(train_x.float(), train_y.long(), test_x.float(), test_y.long())
