"""Mean corruption error (Hendrycks and Dietterich 2019, arXiv:1903.12261, Sec. 4.1)."""

from collections.abc import Mapping

from attacks.transforms.corruptions import CORRUPTIONS

ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""Errors of the authors' AlexNet on ImageNet-C, means over the five severities: the denominators of the normalised mCE."""


def mean_corruption_error(errors: Mapping[str, float], denominators: Mapping[str, float] | None = None) -> float:
    """Average the error over the fifteen corruptions.

    Args:
        errors: of each corruption, a fraction, mean over its five severities; corruptions beyond the fifteen do not count.
        denominators: divide each error, such as `ALEXNET`; meaningful on ImageNet-C only. Without them the mCE is raw.

    Raises:
        ValueError: a corruption is missing.
    """
    if missing := [name for name in CORRUPTIONS if name not in errors]:
        raise ValueError(f"the mCE needs all {len(CORRUPTIONS)} corruptions, missing: {', '.join(missing)}")
    return sum(errors[name] / (denominators[name] if denominators else 1.0) for name in CORRUPTIONS) / len(CORRUPTIONS)
