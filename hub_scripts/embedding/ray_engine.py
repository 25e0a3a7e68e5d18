"""The engine of `coma embed` for many machines: actors of Ray, each with a model of its own, that embed parts.

Rows are read by the readers of this package, in the actors: those of Ray Data know no numbers of rows, and end at the
first bad one. Which actor makes a part changes nothing of it, and what it makes is written here, whole and by the
number of its first row. So the parts are those of the local engine, and either goes on with what the other has begun.

An actor that dies is replaced, and its part given to another. Ray could do that itself, but would count the deaths of
an actor and not those of a part, and give a part that kills whoever takes it to one after the other, without end.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import ray
from ray.exceptions import RayError, RayTaskError
from transformers.utils import logging

from hub_scripts.embedding.model_record import model_differences
from hub_scripts.embedding.model_settings import ModelSettings
from hub_scripts.embedding.part_embedder import PartEmbedder
from hub_scripts.embedding.ray_cluster import RayOptions, place_models
from hub_scripts.embedding.remote_inputs import Inputs
from trainers.data.corpus import Corpus
from trainers.data.webdataset_records import find_shards
from trainers.encoding.shards import kept_digest, open_shard, shard_file
from trainers.files import whole_file


__all__ = ["RayEngine"]

logger = logging.get_logger(__name__)

MOST_DEATHS = 3  # of actors by one part, or by loading the model
WAIT_SECONDS = 60  # until it is said that nothing happens
LOADING = None  # in place of the part of an actor that has none yet


class _Event(NamedTuple):
    """What an actor has done: its part, by the number of the first row; or that it has died, and there is none."""

    actor: Any
    start: int | None
    value: Any = None


class RayEngine:
    """
    Models in actors, for the time of a context, on the cluster that this process is connected to.

    Args:
        settings ([`ModelSettings`]): the model that each of them loads.
        corpus ([`Corpus`]): what is embedded.
        source ([`Inputs`]): where it lies.
        options ([`RayOptions`]): how many actors there are, and with what.

    Raises:
        ValueError: if the cluster has no room for them; if the model cannot be loaded, or the corpus not be read, on
            one of the machines.
        OSError: if actors die while they load the model.
    """

    def __init__(self, settings: ModelSettings, corpus: Corpus, source: Inputs, options: RayOptions) -> None:
        room, loaded = place_models(settings, options)
        needs = {"num_cpus": room.num_cpus, "num_gpus": room.num_gpus, "max_restarts": 0, "max_task_retries": 0}
        files = [Path(file) for file in find_shards(source.path) or [source.path]]
        sizes = {file: file.stat().st_size if file.is_file() else None for file in files}
        make = ray.remote(PartEmbedder).options(**needs).remote
        self._make: Callable[[], Any] = partial(make, loaded, ray.put(corpus), source, sizes)
        self._num_rows, self._deaths = corpus.num_rows, Counter()
        self._actors: list[Any] = []
        self._working: dict[Any, tuple[Any, int | None]] = {}
        self._idle: list[Any] = []
        self.record: dict[str, Any] = {}
        for _ in range(room.num_actors):
            self._add_actor()
        while not self._idle:
            self._next()
        self.record["model"] = settings.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def embed(self, folder: Path, *, shard_rows: int, skip_errors: bool, **options: Any) -> tuple[list[Path], int]:
        """
        Makes the parts in a folder, with a progress bar.

        Args:
            folder, shard_rows, skip_errors, options:
                as in [`~trainers.encoding.shards.embed_in_shards`].

        Returns:
            `tuple[list[Path], int]`: the parts in order, and how many rows have been embedded now, and not before.

        Raises:
            ValueError: for a row that cannot be embedded, with its name.
            OSError: if a part cannot be written, or actors die of it.
        """
        starts, num_embedded = range(0, self._num_rows, shard_rows), 0

        def begin(actor: Any, start: int) -> Any:
            kept = kept_digest(shard_file(folder, start), skip_errors)
            stop = min(start + shard_rows, self._num_rows)
            return actor.embed.remote(start, stop, kept, skip_errors=skip_errors, **options)

        with logging.tqdm(total=self._num_rows, desc="Embedding", unit="row", smoothing=0.05) as progress:
            for start, content in self._parts(starts, begin):
                if content is None:
                    progress.total -= min(shard_rows, self._num_rows - start)
                    progress.refresh()
                    continue
                with whole_file(shard_file(folder, start)) as temporary:
                    temporary.write_bytes(content)
                errors = open_shard(shard_file(folder, start))["error"]
                num_embedded += errors.null_count
                progress.update(len(errors))
        return [shard_file(folder, start) for start in starts], num_embedded

    def _parts(self, starts: range, begin: Callable[[Any, int], Any]) -> Iterator[tuple[int, bytes | None]]:
        """What comes of every part, in the order in which they are done."""
        waiting, missing, again = iter(starts), len(starts), []
        while missing:
            while self._idle and (start := again.pop() if again else next(waiting, None)) is not None:
                actor = self._idle.pop()
                self._working[begin(actor, start)] = actor, start
            done = self._next()
            if done.start is LOADING:
                continue
            if done.actor is None:
                again.append(done.start)
            else:
                missing -= 1
                yield done.start, done.value

    def _add_actor(self) -> None:
        """An actor that gets a part when it has loaded its model: where there is no room for it, none waits for it."""
        actor = self._make()
        self._actors.append(actor)
        self._working[actor.load.remote()] = actor, LOADING

    def _next(self) -> _Event:
        """Waits until an actor has done something."""
        while not (done := ray.wait(list(self._working), timeout=WAIT_SECONDS)[0]):
            num_loading = sum(start is LOADING for _, start in self._working.values())
            if num_loading == len(self._working):
                logger.warning(f"{num_loading} actors are waiting for room in the cluster, or loading the model.")
        actor, start = self._working.pop(done[0])
        try:
            value = ray.get(done[0])
        except RayTaskError as error:  # it lives: what it was told is wrong
            raise error.cause from error
        except RayError as error:
            self._replace(actor, start, error)
            return _Event(None, start)
        self._idle.append(actor)
        if start is LOADING:
            self._check(value)
        return _Event(actor, start, value)

    def _check(self, record: dict[str, Any]) -> None:
        self._deaths[LOADING] = 0
        self.record = self.record or record
        if other := model_differences(self.record, record):
            raise ValueError(f"Two machines of the cluster have another model by one name: {'; '.join(other)}.")

    def _replace(self, actor: Any, start: int | None, error: RayError) -> None:
        """Another actor in place of one that has died, unless too many have."""
        what = "loading the model" if start is LOADING else f"the part that begins with row {start}"
        why = next(iter(str(error).splitlines()), type(error).__name__)
        self._deaths[start] += 1
        if self._deaths[start] == MOST_DEATHS:
            raise OSError(f"{MOST_DEATHS} actors have died, one after the other, of {what}; of the last: {why}")
        logger.warning(f"An actor has died with {what}, and is replaced: {why}")
        self._actors.remove(actor)
        ray.kill(actor)
        self._add_actor()
