"""LitServe with dynamic batches, as in its documentation.

    python -m benchmarks.serving.litserve_peer --checkpoint CHECKPOINT --port PORT --workers 2 --threads 1

A module of its own, because LitServe starts its workers anew and imports the class there.
"""

# pyright: reportMissingImports=false, reportUntypedBaseClass=false, reportIncompatibleMethodOverride=false, reportMissingParameterType=false
# LitServe may be missing; it passes keywords only to methods that ask for them, and forms only to a parameter without a type.

import argparse
from pathlib import Path

import litserve
import torch
from torch import Tensor

from benchmarks.serving.peers import Classification, Top

BATCH_TIMEOUT_S = 0.01
"""How long a batch waits for more; with none, LitServe's idle workers ask their queue without a pause."""


class ImageClassifier(litserve.LitAPI):
    """Decodes in the worker, which is where LitServe decodes."""

    def __init__(self, checkpoint: Path, threads: int | None) -> None:
        super().__init__(max_batch_size=8, batch_timeout=BATCH_TIMEOUT_S)
        self._checkpoint, self._threads = checkpoint, threads

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        self._classification = Classification(self._checkpoint)

    def decode_request(self, request) -> Tensor:
        """Read the picture from the form."""
        return self._classification.decode(request["file"].file.read())

    def predict(self, x: Tensor) -> Tensor:
        """Classify a batch, which LitServe has stacked."""
        return self._classification.logits(x)

    def encode_response(self, output: Tensor) -> Top:
        """Name the best classes of one image."""
        return self._classification.top(output)


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, required=True, help="file with a card beside it")
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--workers", type=int, default=1, help="processes with a model (default 1)")
    parser.add_argument("--threads", type=int, help="of torch in each (default torch's)")
    flags = parser.parse_args()
    api = ImageClassifier(flags.checkpoint, flags.threads)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=flags.workers)
    server.run(host="127.0.0.1", port=flags.port, generate_client_file=False)


if __name__ == "__main__":
    main()
