"""The C++ library: `HAS_CPU_KERNEL` says whether it is loaded, and with it the operators are defined."""

import warnings
from pathlib import Path

import torch

LIBRARY = Path(__file__).parents[1] / "libtorchrec_pss_ops.so"


def why_not(library: Path) -> str | None:
    """Why the library at that place is not loaded into this torch; None where it can be tried."""
    if not library.exists():
        return "it was not built"
    generation = _generation(library.with_suffix(".torch"))
    if generation and generation != ".".join(torch.__version__.split(".")[:2]):
        # Symbols may be found all the same, of classes that have changed.
        return f"it was compiled for torch {generation}, and this is {torch.__version__}"
    return None


def _generation(stamp: Path) -> str:
    """Of torch, as setup.py has written it beside the library; "" where it has not."""
    try:
        return stamp.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _load() -> bool:
    why = why_not(LIBRARY)
    try:
        if why is None:
            torch.ops.load_library(LIBRARY)  # which defines the operators
            if hasattr(torch.ops.torchrec_pss, "lookup"):
                return True
            why = "it is another library: the operators are not defined"
    except OSError as error:
        why = str(error)
    warnings.warn(
        f"torchrec_pss runs without its C++ kernel ({why}): lookups use the plain PyTorch reference, "
        "which is many times slower. Reinstall with a C++ compiler and --no-build-isolation.",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


HAS_CPU_KERNEL = _load()
"""Whether the C++ kernels are loaded; without them lookups on the CPU are those of plain PyTorch."""
