"""`told`: long work that says how far it is, on a terminal and where stderr is kept in a file."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

SECONDS = 10  # between two lines
_BAR_DELAY = 5  # seconds; shorter work shows no bar


@contextmanager
def told(work: str, unit: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Within it stderr says how far ``work`` is: by tqdm's bar on a terminal, elsewhere by a line every `SECONDS`, also while a step takes
    minutes inside somebody else's code.

    Args:
        unit: of a step, in the singular.
        total: how many there are, where that is known.

    Yields:
        What is to be called after each step.
    """
    started, done, ended = time.monotonic(), 0, threading.Event()
    of = f" of {total:,}" if total is not None else ""
    # None: no bar where there is no terminal. It does not count there either.
    with tqdm(desc=work, total=total, unit=unit, delay=_BAR_DELAY, disable=None) as bar:

        def step() -> None:
            nonlocal done
            done += 1
            bar.update()

        def tell() -> None:
            while not ended.wait(SECONDS):
                if bar.disable:
                    line = f"{work}: {done:,}{of} {unit}s done, {time.monotonic() - started:.0f} s"
                    print(line, file=sys.stderr, flush=True)
                else:
                    bar.refresh()

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            yield step
        finally:
            ended.set()
            teller.join()
