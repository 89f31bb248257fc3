"""Mean corruption errors that were published."""

import pytest

from attacks.transforms.corruptions import CORRUPTIONS
from evaluation.reports.mce import ALEXNET, mean_corruption_error

# Accuracies of severities 1 to 5 as RobustBench ships them, model_info/imagenet/corruptions/unaggregated_results_2d.csv.
ORDER = [
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "contrast",
    "brightness",
    "jpeg_compression",
    "pixelate",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "gaussian_noise",
    "fog",
    "frost",
    "snow",
    "elastic_transform",
]
RESNET50 = """
.5744 .4294 .2528 .0792 .0290 .4844 .3580 .2546 .0830 .0182 .5956 .5152 .3820 .2748 .1830 .6494 .5852 .4690 .2122 .0546
.7392 .7244 .6956 .6498 .5866 .6664 .6244 .5982 .4728 .3144 .6402 .6426 .4598 .2898 .2068 .5400 .4012 .1688 .1310 .1024
.6382 .5370 .3758 .2154 .1482 .5290 .4324 .3580 .2878 .2206 .5978 .4686 .2748 .1128 .0218 .6138 .5612 .4704 .4088 .2410
.6150 .4346 .3090 .2896 .2294 .5498 .3154 .3518 .2382 .1654 .6704 .4556 .5526 .4196 .1746"""
AUGMIX = """
.6770 .5828 .4524 .2280 .1152 .6442 .5388 .4414 .2134 .0536 .6428 .6042 .5028 .3836 .2566 .7066 .6772 .6096 .4158 .1572
.7476 .7334 .7048 .6672 .6064 .6814 .6492 .6314 .5632 .4782 .7006 .6842 .5934 .4744 .4078 .6048 .4828 .2678 .2230 .1706
.7176 .6740 .5762 .4134 .2904 .6168 .5532 .5160 .4308 .3534 .6776 .6068 .4534 .2412 .0570 .6328 .5792 .4816 .4138 .2386
.6466 .4888 .3672 .3492 .2784 .6096 .4140 .4278 .3062 .2318 .6914 .4802 .6274 .5262 .2862"""


def errors(accuracies: str) -> dict[str, float]:
    values = [float(each) for each in accuracies.split()]
    return {name: 1 - sum(values[5 * position : 5 * position + 5]) / 5 for position, name in enumerate(ORDER)}


def test_alexnet_is_the_unit() -> None:
    assert 100 * mean_corruption_error(ALEXNET, ALEXNET) == pytest.approx(100, abs=1e-9)


@pytest.mark.parametrize(
    ("accuracies", "accuracy", "published"),
    [
        (RESNET50, 39.23, 76.7),  # arXiv:1903.12261, Table 1: ResNet-50
        (AUGMIX, 48.31, 65.3),  # arXiv:1912.02781, Table 3: AugMix
    ],
)
def test_errors_that_others_measured_give_the_published_mce(accuracies: str, accuracy: float, published: float) -> None:
    """RobustBench evaluated 5,000 of the 50,000 images, hence the tolerance."""
    found = errors(accuracies)
    assert 100 * mean_corruption_error(found, ALEXNET) == pytest.approx(published, abs=0.1)
    assert 100 * (1 - mean_corruption_error(found)) == pytest.approx(accuracy, abs=0.01)


def test_more_corruptions_do_not_count_and_missing_ones_are_named() -> None:
    found = dict.fromkeys(CORRUPTIONS, 0.5)
    assert mean_corruption_error(found | {"spatter": 1.0}) == 0.5
    del found["snow"]
    with pytest.raises(ValueError, match="missing: snow"):
        mean_corruption_error(found)
