"""Joining the other processes, also after torchrun has started them anew."""

import gc
import ipaddress
import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import cache

import _launcher  # noqa: F401
import torch
import torch.distributed as dist

_PATIENCE = timedelta(hours=12)
_POLL_SECONDS = 0.05
_NAME_SECONDS = 10  # until a host's name must be known


class LostPeerError(RuntimeError):
    """Another process has died, or does not answer."""


def own_device() -> torch.device:
    """The GPU that the launcher means for this process; the CPU where there is none.

    Raises:
        ValueError: there are not so many GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local_rank >= gpus:
        raise ValueError(f"LOCAL_RANK={local_rank}, but this host has {gpus} GPUs")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def join(backend: str, timeout: timedelta) -> bool:
    """`init_process_group` by the launcher's environment (`_launcher`); alone without one. A collective fails where a process has not answered for
    ``timeout``. Whether torchrun has started these workers anew (because
    one had died: --max-restarts), the same answer on every rank.

    torchrun (torch 2.13) hands its workers one store for all their starts, with addresses of processes that are dead, and counts
    restarts by host: a host whose workers are started anew because another's have died does not count it. So the workers agree on a
    name for their start, and keep what they store apart under it.

    Raises:
        ValueError: the address of rank 0 is unknown, or cannot be listened at.
        LostPeerError: rank 0 does not answer.
    """
    if "RANK" not in os.environ:
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _store(rank, world_size, timeout)
    may_restart = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0
    start, number = agree_on_start(store, rank, world_size) if may_restart else ("", 1)
    store = dist.PrefixStore(f"start-{start}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    if not may_restart:
        return False
    # The store may be newer than the first start, where the host that had it has died.
    known: list = [None] * world_size
    dist.all_gather_object(known, number > 1 or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0)
    return any(known)


def leave() -> None:
    """`destroy_process_group`, and the end of gloo's threads: one that is still at work as the interpreter ends aborts the process (SIGABRT)."""
    patient_group.cache_clear()
    cpu_group.cache_clear()
    dist.destroy_process_group()
    gc.collect()  # a group's threads end when nothing refers to it


def _store(rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    """Where the ranks find each other. It, and gloo's and NCCL's sockets, listen no further than the ranks are."""
    if world_size == 1:
        _stay_on_this_host()
        return dist.HashStore()
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    found = _resolved(address, port)
    if found.is_loopback:
        _stay_on_this_host()
    at = f"MASTER_ADDR={address} MASTER_PORT={port}"
    has_agents_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        if rank == 0 and not has_agents_store and found.is_loopback:
            listener = socket.create_server(
                (str(found), port), family=socket.AF_INET6 if found.version == 6 else socket.AF_INET
            )
            return dist.TCPStore(
                str(found), port, world_size, is_master=True, timeout=timeout, multi_tenant=True,
                master_listen_fd=listener.detach(),
            )  # fmt: skip
        return next(dist.rendezvous("env://", timeout=timeout))[0]
    except OSError as error:
        raise ValueError(f"{at}: rank 0 cannot listen there: {error.strerror}") from error
    except dist.DistError as error:
        raise LostPeerError(f"{at}: the ranks do not find each other: {str(error).splitlines()[0]}") from error


def _stay_on_this_host() -> None:
    if "lo" in (name for _, name in socket.if_nameindex()):
        for backend in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")


def _resolved(address: str, port: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A host's address; its name may take a moment to be known."""
    deadline = time.monotonic() + _NAME_SECONDS
    while True:
        try:
            return ipaddress.ip_address(socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][4][0])
        except (OSError, UnicodeError) as error:
            if time.monotonic() > deadline:
                raise ValueError(f"MASTER_ADDR={address} is unknown: {error}") from error
            time.sleep(_POLL_SECONDS)


@cache
def patient_group() -> dist.ProcessGroup:
    """All ranks, for waiting long for one of them: counting the ids of a large file may take hours. Collective at the first call."""
    return dist.new_group(backend="gloo", timeout=_PATIENCE)


@cache
def cpu_group() -> dist.ProcessGroup | None:
    """All ranks, for tensors on the CPU, which NCCL does not take. Collective at the first call."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def has_lost_a_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has died or does not answer."""
    return any(
        sign in str(error)
        for sign in ("Timed out", "timed out", "Connection closed", "Connection reset", "Broken pipe")
    )


def agree_on_start(store: dist.Store, rank: int, world_size: int) -> tuple[str, int]:
    """A name that the ranks which call this now have in common, and no earlier ones, whatever those have left in the store; and which
    of the starts in this store it is, from 1.

    Every rank writes a name of its own. Rank 0 proposes a start with the names that it finds, anew when one of them changes, for then it
    was a dead rank's; the others answer the proposal that has their own name in it.
    """
    own = uuid.uuid4().hex
    store.set(f"rank/{rank}", own)
    if rank == 0:
        return _propose(store, world_size)
    while True:
        proposal = json.loads(store.get("proposal"))
        start = proposal["start"]
        if proposal["ranks"][rank] == own:
            store.set(f"{start}/{rank}", "")
            if store.check([f"{start}/number"]):
                return start, int(store.get(f"{start}/number"))
        time.sleep(_POLL_SECONDS)


def _propose(store: dist.Store, world_size: int) -> tuple[str, int]:
    keys = [f"rank/{r}" for r in range(world_size)]
    while True:
        names = [store.get(key).decode() for key in keys]  # waits for those that have never been here
        start = uuid.uuid4().hex
        store.set("proposal", json.dumps({"start": start, "ranks": names}))
        answers = [f"{start}/{r}" for r in range(1, world_size)]
        while [store.get(key).decode() for key in keys] == names:
            if not answers or store.check(answers):
                number = store.add("starts", 1)
                store.set(f"{start}/number", str(number))
                return start, number
            time.sleep(_POLL_SECONDS)


def first_rank_first(work: Callable):
    """What ``work`` returns on rank 0, on every rank; its exception too, so that no rank waits for ever."""
    result: list = [None, None]
    if dist.get_rank() == 0:
        try:
            result[0] = work()
        except Exception as error:
            result[1] = error
    dist.broadcast_object_list(result, src=0, group=patient_group())
    if result[1] is not None:
        raise result[1]
    return result[0]
