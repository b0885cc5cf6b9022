"""`tell_launcher`: what ended this process, for the summary that torchrun prints after it."""

import contextlib
import os
import time
from pathlib import Path

from torchrec_pss.whole_file import write_json

_FILE = "TORCHELASTIC_ERROR_FILE"  # of torch.distributed.elastic, which names it to every process it starts


def tell_launcher(text: str) -> None:
    """Without it torchrun's summary, which comes last on the screen, has no reason. Does nothing where nobody launched this process."""
    path = os.environ.get(_FILE)
    if not path:
        return
    told = {"message": text, "extraInfo": {"py_callstack": text, "timestamp": str(int(time.time()))}}
    with contextlib.suppress(OSError):  # the line itself is printed
        write_json(Path(path), {"message": told})
