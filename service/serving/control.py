"""What is in memory, changed and seen in all processes of a service at once."""

import asyncio
from pathlib import Path
from typing import Any

from service.serving.deployments import Deployment, Deployments
from service.serving.errors import NotLoadedError
from service.serving.scheduler import Scheduler
from service.serving.siblings import PROMPT_S, Siblings


class Control:
    """Loads and unloads models here and in the other processes.

    Args:
        scheduler: of this process.
        deployments: which checkpoint answers for a name.
        folder: of this service's processes; None if there is one process.
    """

    def __init__(self, scheduler: Scheduler, deployments: Deployments, folder: Path | None) -> None:
        self._scheduler, self._deployments = scheduler, deployments
        self._siblings = Siblings(folder, self._obey)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to listen to the other processes; on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._siblings.start()

    def stop(self) -> None:
        """Listen no longer."""
        self._siblings.stop()

    async def load(self, deployment: Deployment) -> None:
        """Load a model on every device that it may use.

        Raises:
            CheckpointError: it cannot be loaded.
        """
        await self._scheduler.load(deployment)
        await asyncio.to_thread(self._tell, "load", deployment)

    def unload(self, deployment: Deployment) -> None:
        """Forget a model on every device, once what waits for it is answered."""
        self._scheduler.unload(deployment)
        self._tell("unload", deployment)

    def loaded_on(self, deployment: Deployment) -> list[str]:
        """Name the devices that have it in memory, for each process."""
        everywhere = [self._scheduler.loaded_on(deployment), *self._tell("loaded_on", deployment, timeout_s=PROMPT_S)]
        return [device for device in everywhere[0] if all(device in each for each in everywhere)]

    def require_loaded(self, deployment: Deployment) -> None:
        """Check that the next picture would find a model in memory, whichever process it reaches.

        Raises:
            NotLoadedError: it would not.
        """
        if not self.loaded_on(deployment):
            version = f"{deployment.name} version {deployment.version}"
            raise NotLoadedError(f"{version} is not in memory; a load, or the next picture, loads it")

    def require_alive(self) -> None:
        """Check that some thread of every device of every process could take on work.

        Raises:
            StuckError: all threads of a device have worked on one thing for longer than anybody waits, or a process does not
                answer.
        """
        self._scheduler.require_alive()
        self._siblings.tell("require_alive", timeout_s=PROMPT_S)

    def _tell(self, order: str, deployment: Deployment, *, timeout_s: float | None = None) -> list[Any]:
        return self._siblings.tell(order, deployment.name, deployment.version, timeout_s=timeout_s)

    def _obey(self, order: str, *of: str) -> Any:
        if order == "require_alive":
            return self._scheduler.require_alive()
        deployment = self._deployments.find(*of)
        if order == "load" and self._loop is not None:
            return asyncio.run_coroutine_threadsafe(self._scheduler.load(deployment), self._loop).result()
        return {"unload": self._scheduler.unload, "loaded_on": self._scheduler.loaded_on}[order](deployment)
