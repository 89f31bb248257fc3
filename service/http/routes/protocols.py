"""What there is to choose from: presets, attacks, transforms, architectures."""

from fastapi import APIRouter

import attacks
import evaluation
import models
from attacks import Description
from evaluation import Preset
from service.http.schemas import Architecture

router = APIRouter(prefix="/v1", tags=["protocols"])


@router.get("/presets")
def list_presets() -> list[Preset]:
    """List the protocols that have a name, what they do, the paper they follow, and the conditions they consist of."""
    return evaluation.list_presets()


@router.get("/attacks")
def list_attacks() -> list[Description]:
    """List all attacks and transforms with the norms they support and their parameters."""
    return attacks.describe()


@router.get("/architectures")
def list_architectures() -> list[Architecture]:
    """List the architectures that a checkpoint may have, beside those of timm and graphs from files."""
    return [Architecture.of(models.spec(name)) for name in models.names()]
