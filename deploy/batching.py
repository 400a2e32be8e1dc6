"""Dynamic batching: requests that wait at the same time become one batch, so that a busy model gets larger batches."""
import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from deploy.model import Outputs, RequestError


@dataclass(frozen=True)
class Waiting:
    """An image C,S,S that waits for the model, and the future of its outputs."""

    image: np.ndarray
    outputs: asyncio.Future


class Batcher:
    """One thread that runs the model. What arrives meanwhile is the next batch; no request waits for others to come.

    max_batch: images a batch; max_waiting: images that may wait, more are refused; on_batch: called for each batch with its
    size and the number of images that wait.
    """

    def __init__(
        self, model: Callable[[np.ndarray], Outputs], max_batch: int, max_waiting: int,
        on_batch: Callable[[int, int], None] = lambda size, waiting: None,
    ):
        self.model, self.max_batch, self.on_batch = model, max_batch, on_batch
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue(max_waiting)
        self.thread = ThreadPoolExecutor(1, "model")

    async def predict(self, image: np.ndarray) -> Outputs:
        """C,S,S → its outputs.  Raises RequestError (429) where too many wait."""
        waiting = Waiting(image, asyncio.get_running_loop().create_future())
        try:
            self.queue.put_nowait(waiting)
        except asyncio.QueueFull as error:
            raise RequestError(429, f"{self.queue.maxsize} images wait already; try again") from error
        return await waiting.outputs

    async def run(self) -> None:
        """Run batches until it is cancelled."""
        while True:
            batch = [await self.queue.get()]
            while len(batch) < self.max_batch and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            batch = [waiting for waiting in batch if not waiting.outputs.done()]  # those whose client has gone are done
            if batch:
                await self._run_batch(batch)

    async def _run_batch(self, batch: list[Waiting]) -> None:
        self.on_batch(len(batch), self.queue.qsize())
        images = np.stack([waiting.image for waiting in batch])
        outputs, failure = None, None
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(self.thread, self.model, images)
        except Exception as error:  # of this batch alone
            failure = error
        for i, waiting in enumerate(batch):
            if waiting.outputs.done():
                continue
            if failure is None:
                waiting.outputs.set_result(outputs[i])
            else:
                waiting.outputs.set_exception(failure)
