"""`ReadAhead`: batches are made in a thread of their own while others are trained on."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
_LOOK_SECONDS = 0.1  # between looks at whether anybody still wants the next item
_END = object()


class ReadAhead(Generic[T]):
    """An iterator over the same items, in their order, of which ``ahead`` are there before they are asked for.

    An error of ``items`` is raised where its item would have come. `close`, the end of the items or of the program's main thread end
    the thread.

    Args:
        items: nothing else may use them meanwhile.
        ahead: items that wait at most; one more is being made.

    Attributes:
        waited: seconds that `next` has waited for an item.
    """

    def __init__(self, items: Iterator[T], ahead: int = 2) -> None:
        self.waited = 0.0
        self._items = items
        self._made: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._make, name="read_ahead")
        self._thread.start()

    def __iter__(self) -> "ReadAhead[T]":
        return self

    def __next__(self) -> T:
        if self._closed.is_set():
            raise StopIteration
        started = time.perf_counter()
        item, error = self._next()
        self.waited += time.perf_counter() - started
        if error is None and item is not _END:
            return item
        self.close()
        if error is None:
            raise StopIteration
        raise error

    def _next(self) -> tuple[Any, BaseException | None]:
        while True:
            try:
                return self._made.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                if self._closed.is_set():  # by another thread
                    return _END, None

    def close(self) -> None:
        """Ends the thread; what waits is dropped."""
        self._closed.set()
        self._thread.join()

    def _make(self) -> None:
        try:
            for item in self._items:
                if not self._put(item, None):
                    return
            self._put(_END, None)
        except BaseException as error:  # it is the reader's, and is raised there
            self._put(_END, error)
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()  # a generator: its files

    def _put(self, item: object, error: BaseException | None) -> bool:
        """Whether anybody still wants it."""
        while not self._closed.is_set() and threading.main_thread().is_alive():
            try:
                self._made.put((item, error), timeout=_LOOK_SECONDS)
                return True
            except queue.Full:
                continue
        return False
