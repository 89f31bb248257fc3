"""What can be asked for: presets, attacks, transforms."""

from fastapi import APIRouter

import attacks
import evaluation
from attacks import Description
from evaluation import Preset

router = APIRouter(prefix="/v1", tags=["protocols"])


@router.get("/presets")
def list_presets() -> list[Preset]:
    """List the protocols that have a name, what they do, the paper they follow, and the conditions they consist of."""
    return evaluation.list_presets()


@router.get("/attacks")
def list_attacks() -> list[Description]:
    """List all attacks and transforms with the norms they support and their parameters."""
    return attacks.describe()
