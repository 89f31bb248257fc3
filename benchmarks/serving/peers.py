"""Servers to compare with, written as their users write them, and the floor: HTTP without a model.

python -m benchmarks.serving.peers fastapi --checkpoint CHECKPOINT --port PORT
python -m benchmarks.serving.peers floor --port PORT
"""

import argparse
import io
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import uvicorn
from fastapi import FastAPI, File, UploadFile
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import transforms

import models

Top = list[dict[str, Any]]
"""The five best classes, each with `label` and `probability`."""

Message = MutableMapping[str, Any]


class Classification:
    """What a user writes around a network: decode, preprocess as torchvision does, and name the best classes."""

    def __init__(self, checkpoint: Path) -> None:
        card = models.Checkpoint(checkpoint.stem, checkpoint).card()
        network = models.create(card.architecture, num_classes=len(card.classes), **card.options)
        network.load_state_dict(load_file(checkpoint))
        self.network: nn.Module = network.eval()
        self._classes = card.classes
        how = card.preprocessing
        self._transform = transforms.Compose(
            [
                transforms.Resize(how.resize),
                transforms.CenterCrop(how.crop),
                transforms.ToTensor(),
                transforms.Normalize(how.mean, how.std),
            ]
        )

    def decode(self, data: bytes) -> Tensor:
        """Turn the bytes of a picture into a normalised image (3, H, W)."""
        return cast(Tensor, self._transform(Image.open(io.BytesIO(data)).convert("RGB")))

    def logits(self, images: Tensor) -> Tensor:
        """Classify normalised images (N, 3, H, W); returns logits (N, K)."""
        with torch.inference_mode():
            return self.network(images)

    def top(self, logits: Tensor) -> Top:
        """Name the best classes of one image's logits (K,)."""
        best = logits.softmax(0).topk(5)
        return [
            {"label": self._classes[int(index)], "probability": float(value)}
            for value, index in zip(best.values, best.indices, strict=True)
        ]


def fastapi(checkpoint: Path) -> FastAPI:
    """A plain endpoint, which FastAPI runs in its pool of threads."""
    classification = Classification(checkpoint)
    app = FastAPI()

    def predict(file: Annotated[UploadFile, File()]) -> Top:
        image = classification.decode(file.file.read())
        return classification.top(classification.logits(image.unsqueeze(0))[0])

    app.post("/predict")(predict)
    return with_health(app)


def form_floor() -> FastAPI:
    """FastAPI reading a form, and nothing else."""
    app = FastAPI()

    async def predict(file: Annotated[UploadFile, File()]) -> dict[str, int]:
        return {"bytes": len(await file.read())}

    app.post("/predict")(predict)
    return with_health(app)


def with_health(app: FastAPI) -> FastAPI:
    """Add the route that tells when the server is up."""
    app.get("/health")(lambda: "ok")
    return app


async def floor(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Read the body and answer, on bare uvicorn."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = b'{"bytes": %d}' % size
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=("fastapi", "floor", "form-floor"), help="which")
    parser.add_argument("--checkpoint", type=Path, help="file with a card beside it, for fastapi")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    flags = parser.parse_args()
    apps: dict[str, Callable[[], Any]] = {
        "fastapi": lambda: fastapi(flags.checkpoint),
        "floor": lambda: floor,
        "form-floor": form_floor,
    }
    uvicorn.run(apps[flags.name](), host="127.0.0.1", port=flags.port)


if __name__ == "__main__":
    main()
