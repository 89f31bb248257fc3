"""Pictures to predict, and what a predictor answers."""

from collections.abc import Callable, Sequence

from torch import Tensor

import models
from common.pictures import PictureError, open_picture
from service.serving.deployments import Deployment
from service.serving.predictor import Predictor
from service.serving.queue import Answer, Picture
from tests.service.pictures import DISC, SQUARE, STRIPES

Start = Callable[..., Predictor]
IMAGES = [models.Preprocessing(resize=32, crop=32)(open_picture(data)) for data in (DISC, SQUARE, STRIPES)]
Find = Callable[[str], Deployment]


def pictures(*images: Tensor) -> list[Picture]:
    return [Picture(lambda image=image: image) for image in images]


def classes(answers: Sequence[Answer | PictureError]) -> list[int]:
    return [int(each.logits.argmax()) for each in answers if isinstance(each, Answer)]
