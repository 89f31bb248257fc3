"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747, MIT licence): arrays for training, an ImageFolder zip for tests.

    python -m zoo.fashion_mnist              # writes zoo/datasets/fashion_mnist_test.zip from zoo/data/fashion_mnist.npz
    python -m zoo.fashion_mnist --download   # first makes that file from torchvision's download, with the official split

The checkpoints of this zoo were trained and measured on a re-split: 1,000 test images a class, drawn from all 70,000, and training
images that duplicate a test image removed (59,988 / 10,000). Accuracies on it are close to those on the official split, not equal.
"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

ZOO = Path(__file__).resolve().parent
ARRAYS = ZOO / "data" / "fashion_mnist.npz"
TEST_ZIP = ZOO / "datasets" / "fashion_mnist_test.zip"

LABELS = (
    "T-shirt_top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Class names in the order of the data set's own labels."""

CLASSES = tuple(sorted(LABELS))
"""Class names in the order of an ImageFolder, which is the order of our logits."""


def arrays(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Read "train" or "test": images uint8 (N, 28, 28), labels int64 (N,) that index `CLASSES`.

    Raises:
        FileNotFoundError: the arrays are not there; the message says where they are expected.
    """
    if not ARRAYS.exists():
        raise FileNotFoundError(
            f"{ARRAYS} is missing: put an npz with train_images, train_labels, test_images, test_labels there, "
            "or run `python -m zoo.fashion_mnist --download`"
        )
    with np.load(ARRAYS) as stored:
        images, labels = stored[f"{part}_images"], stored[f"{part}_labels"]
    to_sorted = np.array([CLASSES.index(name) for name in LABELS])
    return images, to_sorted[labels]


def download() -> None:
    """Make the arrays from torchvision's download (official split)."""
    from torchvision.datasets import FashionMNIST  # noqa: PLC0415  only needed here

    ARRAYS.parent.mkdir(parents=True, exist_ok=True)
    parts = {part: FashionMNIST(str(ARRAYS.parent), train=part == "train", download=True) for part in ("train", "test")}
    np.savez_compressed(
        ARRAYS,
        train_images=parts["train"].data.numpy(),
        train_labels=parts["train"].targets.numpy(),
        test_images=parts["test"].data.numpy(),
        test_labels=parts["test"].targets.numpy(),
    )


def write_test_zip() -> None:
    """Pack the test images as PNG files, one folder per class; the same input gives the same bytes."""
    images, labels = arrays("test")
    TEST_ZIP.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(TEST_ZIP, "w", zipfile.ZIP_STORED) as archive:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            encoded = io.BytesIO()
            Image.fromarray(image).save(encoded, "PNG", optimize=True)
            entry = zipfile.ZipInfo(f"{CLASSES[label]}/{index:05d}.png", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, encoded.getvalue())


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Make the Fashion-MNIST test images of the zoo.")
    parser.add_argument("--download", action="store_true", help="first download Fashion-MNIST through torchvision")
    if parser.parse_args().download:
        download()
    write_test_zip()


if __name__ == "__main__":
    main()
