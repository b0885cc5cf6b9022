"""A run's scalars for TensorBoard."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ScalarLog:
    """Events in a folder.

    Raises:
        OSError: here and in every method, where the disk does not take them; names the folder.
        ValueError: the package is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("--tensorboard needs the package: pip install 'torchrec_pss[tensorboard]'") from error
        self._folder = folder
        _silence_its_thread()
        with self._naming_the_folder():
            self._writer = SummaryWriter(folder)

    def add(self, name: str, value: float, step: int) -> None:
        with self._naming_the_folder():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Until it is on the disk, or has failed."""
        with self._naming_the_folder():
            self._writer.flush()

    def close(self) -> None:
        with self._naming_the_folder():
            self._writer.flush()
            self._writer.close()

    @contextmanager
    def _naming_the_folder(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(self._folder)) from error


def _silence_its_thread() -> None:
    """TensorBoard writes in a thread, whose error is raised at the next call here; Python would print it too, with its traceback."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__name__ != "_AsyncWriterThread":
            before(args)

    threading.excepthook = hook
