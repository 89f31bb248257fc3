"""Loads models for predictions: folded, in their precision, and warm."""

import torch

import models
from evaluation import Catalog
from models import CheckpointError
from service.serving.deployments import Deployment

PROBES = 8
"""Random images on which a loaded model in another precision is compared with float32."""

PROBE_TOLERANCE = 0.05
"""Largest difference of logits there, over the largest logit."""


def load_served(catalog: Catalog, deployment: Deployment, device: str) -> models.Classifier:
    """Load a model as it is served: folded, in its precision, compared with float32 on random images, and warm.

    Raises:
        CheckpointError: it cannot be loaded, its precision changes its logits too much, or its decoder is not on this device.
    """
    require_decoder(deployment, device)
    precision = deployment.settings.precision
    plain = catalog.load_model(deployment.checkpoint, device)
    served = models.fold(plain, precision)
    side = deployment.card.preprocessing.crop
    probes = torch.rand(PROBES, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        served(probes[:1])
        if precision == "float32":
            return served
        exact = plain(probes)
        difference = float((served(probes) - exact).abs().max() / exact.abs().max())
    if not difference <= PROBE_TOLERANCE:
        raise CheckpointError(
            f"in {precision} the logits of {deployment.checkpoint} differ from float32's by {difference:.2g} of the largest, "
            f"at most {PROBE_TOLERANCE:g} is allowed: serve it in float32"
        )
    return served


def require_decoder(deployment: Deployment, device: str) -> None:
    """Check that what decodes for a deployment is on its device.

    Raises:
        CheckpointError: it is not.
    """
    if deployment.settings.decoder == "nvjpeg" and not device.startswith("cuda"):
        raise CheckpointError(
            f"settings.decoder: nvjpeg decodes on an NVIDIA GPU, but {deployment.name} is served on {device}: choose the decoder "
            "cpu, or a device such as cuda:0"
        )
