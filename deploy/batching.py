"""Requests that are there at the same time become one batch: nobody waits for company, and a busy model gets larger batches."""
import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deploy.model import Outputs, Refused


class Batcher:
    """One thread that asks the model; what arrives meanwhile is the next batch.

    most: images a batch.  waiting: images that may wait; more are told to come again.  seen(size, images waiting): told of
    each batch.
    """

    def __init__(
        self, model: Callable[[np.ndarray], Outputs], most: int, waiting: int,
        seen: Callable[[int, int], None] = lambda size, waiting: None,
    ):
        self.model, self.most, self.seen = model, most, seen
        self.queue: asyncio.Queue = asyncio.Queue(waiting)
        self.thread = ThreadPoolExecutor(1, "model")

    async def ask(self, image: np.ndarray) -> Outputs:
        """C,S,S → its outputs.  Raises Refused (429) where too many wait."""
        answer = asyncio.get_running_loop().create_future()
        try:
            self.queue.put_nowait((image, answer))
        except asyncio.QueueFull as error:
            raise Refused(429, f"{self.queue.maxsize} images wait already; try again") from error
        return await answer

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            batch = [await self.queue.get()]
            while len(batch) < self.most and not self.queue.empty():
                batch.append(self.queue.get_nowait())
            batch = [(image, answer) for image, answer in batch if not answer.done()]  # whoever asked has gone
            if not batch:
                continue
            self.seen(len(batch), self.queue.qsize())
            images = np.stack([image for image, _ in batch])
            try:
                found = await asyncio.get_running_loop().run_in_executor(self.thread, self.model, images)
            except Exception as error:  # it fails for these; the next batch may do
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for i, (_, answer) in enumerate(batch):
                if not answer.done():
                    answer.set_result(found[i])
