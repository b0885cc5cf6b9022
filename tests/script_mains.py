"""Scripts' `main` several times in one process, each as if it were alone: a tenth of what starting them takes."""

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))


@dataclass
class Ended:
    """``output``: of stdout and stderr."""

    status: int
    output: str

    @property
    def error(self) -> str:
        """What it ended with; fails where that is not one line, or the status not 2."""
        lines = self.output.splitlines()
        found = [line for line in lines if "error: " in line]
        assert self.status == 2 and found == lines[-1:] and "Traceback" not in self.output, self.output[-3000:]
        return found[0].split("error: ", 1)[1]


def end_of(script: str, *flags: object) -> Ended:
    """Of ``train_criteo`` or ``train_interactions`` with these flags."""
    import process_group
    from script_end import one_line_errors

    main = __import__(script).main
    stream, status = io.StringIO(), 0
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        try:
            with one_line_errors():
                main([str(flag) for flag in flags])
        except SystemExit as error:
            status = error.code
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            for group in (process_group.patient_group, process_group.cpu_group):
                group.cache_clear()
    return Ended(status, stream.getvalue())
