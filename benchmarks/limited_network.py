"""Two network namespaces joined by a cable of limited bandwidth, where the machine allows it (root, `ip`, `tc`)."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

ADDRESSES = ("10.77.0.1", "10.77.0.2")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def two_namespaces(gbit: float) -> Iterator[list[tuple[list[str], str]]]:
    """For each of two ranks: what to put before its command, and its network interface. Removed afterwards.

    Raises:
        RuntimeError: the machine does not allow it; says why.
    """
    names = [f"pss{os.getpid()}_{rank}" for rank in range(2)]
    interfaces = [f"pss{rank}" for rank in range(2)]
    try:
        for name in names:
            _run("ip", "netns", "add", name)
        _run(
            "ip",
            "link",
            "add",
            interfaces[0],
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            interfaces[1],
            "netns",
            names[1],
        )
        for name, interface, address in zip(names, interfaces, ADDRESSES, strict=True):
            inside = ("ip", "netns", "exec", name)
            _run(*inside, "ip", "addr", "add", f"{address}/24", "dev", interface)
            _run(*inside, "ip", "link", "set", interface, "up")
            _run(*inside, "ip", "link", "set", "lo", "up")
            _run(
                *inside, "tc", "qdisc", "add", "dev", interface, "root", "tbf", "rate", f"{gbit}gbit", "burst", "512kb",
                "latency", "100ms",
            )  # fmt: skip
        yield [(["ip", "netns", "exec", name], interface) for name, interface in zip(names, interfaces, strict=True)]
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        raise RuntimeError(f"no network of limited bandwidth: {reason}") from error
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
