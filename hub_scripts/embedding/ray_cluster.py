"""A cluster of Ray: one on this machine that nobody else can reach, or one that is there; and what fits into it."""

import contextlib
import io
import logging
import math
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit


if TYPE_CHECKING:
    from hub_scripts.embedding.model_settings import ModelSettings


__all__ = ["RayOptions", "Room", "place_models", "ray_cluster", "room_for"]

# Of a cluster that is started here. Ray reads the second when it is imported: without it, its servers listen on all
# interfaces of the machine, and run what anybody sends them.
ALONE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
CONNECT_SECONDS = 10
FEWER = "ask for fewer by --num-actors, or for less by --gpus-per-actor"


class RayOptions(NamedTuple):
    """
    Where the actors are.

    Args:
        address (`str`, *optional*): of a cluster (`auto`, `HOST:6379`); by default one is started on this machine.
        num_actors (`int`, *optional*): how many; by default as many as there are GPUs for, or one per machine.
        gpus_per_actor (`float`, *optional*): GPUs of an actor; by default 1 where there are any, and else 0.
    """

    address: str | None = None
    num_actors: int | None = None
    gpus_per_actor: float | None = None


class Room(NamedTuple):
    """How many actors there are, and what each of them has for itself."""

    num_actors: int
    num_cpus: int
    num_gpus: float


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """
    Connects to a cluster, or starts one on this machine, for the time of the context. One that this process uses
    already is used, and left as it is. What Ray would print meanwhile is not printed.

    Args:
        address (`str`, *optional*): `auto`, `HOST:PORT`; by default, a new one.

    Raises:
        ImportError: if Ray is not installed.
        ConnectionError: if there is no cluster at the address, or it is of another version.
    """
    if address is None:
        is_too_late = "ray" in sys.modules and not ALONE.items() <= os.environ.items()
        os.environ.update(ALONE)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ImportError("Ray is not installed: pip install 'coma-embedding[scale]'") from error
    with contextlib.redirect_stdout(_Nowhere()):  # whatever it is told, Ray prints on it which process has died
        if ray.is_initialized():
            if address is not None:
                raise ValueError(f"This process uses a cluster of Ray already: leave out the address {address!r}.")
            yield
            return
        if address is None and is_too_late:
            raise ValueError(
                "Ray was imported before, and would listen to the network: call `ray.init` yourself, first."
            )
        quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        try:
            if address is None:
                ray.init("local", include_dashboard=False, **quiet)
            else:
                _knock(address)
                ray.init(address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            where = "on this machine" if address in (None, "local", "auto") else f"at {address}"
            raise ConnectionError(f"There is no cluster of Ray {where}: {why}") from error
        try:
            yield
        finally:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raises `OSError` if nobody answers at an address with a port, where Ray would try for minutes, and then exit."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.port is not None:
        socket.create_connection((place.hostname, place.port), CONNECT_SECONDS).close()


def place_models(settings: "ModelSettings", options: RayOptions, way_out: str = FEWER) -> "tuple[Room, ModelSettings]":
    """
    Finds room for actors with a model each.

    Args:
        settings ([`~hub_scripts.embedding.model_settings.ModelSettings`]): the model, as it was asked for.
        options ([`RayOptions`]): how many, and with what.
        way_out (`str`, *optional*): what can be done if there is no room.

    Returns:
        `tuple[Room, ModelSettings]`: the room, and the model as an actor loads it.

    Raises:
        ValueError: if there is none, or the device is one of this machine.
    """
    if settings.device not in ("auto", "cpu"):
        raise ValueError(f"device={settings.device!r} cannot act on many machines: leave it out, or give cpu.")
    room = room_for(options, settings.device == "cpu", way_out)
    folder = Path(settings.name).absolute()  # actors have working directories of their own
    name = str(folder) if folder.exists() else settings.name
    return room, settings._replace(name=name, device="auto" if room.num_gpus else "cpu")


def room_for(options: RayOptions, on_cpu: bool, way_out: str = FEWER) -> Room:
    """
    How many actors are made, and what each of them gets, so that all of them find room at the same time.

    Args:
        options ([`RayOptions`]): what is asked for.
        on_cpu (`bool`): whether GPUs are left alone.
        way_out (`str`, *optional*): what can be done if there is no room.

    Raises:
        ValueError: if there is no room for what is asked for.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    has_gpus = not on_cpu and any(machine.get("GPU", 0) for machine in machines)
    gpus = float(has_gpus) if options.gpus_per_actor is None else options.gpus_per_actor
    if gpus:
        most = sum(math.floor(machine.get("GPU", 0) / gpus) for machine in machines)
        wanted = options.num_actors or max(1, most)
        cpus = 1
    else:
        machines = [machine for machine in machines if machine.get("CPU", 0)]
        most = int(sum(machine["CPU"] for machine in machines))
        wanted = options.num_actors or len(machines)
        on_each = math.ceil(wanted / max(1, len(machines)))
        cpus = max(1, int(min((machine["CPU"] for machine in machines), default=0)) // on_each)
    if wanted > most:
        each = f"{gpus:g} GPUs" if gpus else "1 CPU"
        raise ValueError(f"The cluster has room for {most} actors of {each} each, and not for {wanted}: {way_out}.")
    return Room(wanted, cpus, gpus)
