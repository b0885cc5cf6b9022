"""The C++ library: `HAS_CPU_KERNEL` says whether it is loaded, and with it the operators are defined."""

import warnings
from pathlib import Path

import torch

LIBRARY = Path(__file__).parents[1] / "libtorchrec_pss_ops.so"


def why_not(library: Path) -> str | None:
    """Why the library at that place is not loaded into this torch; None where it can be tried."""
    if not library.exists():
        return "it was not built"
    built = library.with_suffix(".torch")  # written beside it by setup.py
    generation = built.read_text() if built.exists() else None
    if generation is not None and generation != ".".join(torch.__version__.split(".")[:2]):
        # Symbols may be found all the same, of classes that have changed.
        return f"it was compiled for torch {generation}, and this is {torch.__version__}"
    return None


def _load() -> bool:
    why = why_not(LIBRARY)
    try:
        if why is None:
            torch.ops.load_library(LIBRARY)  # which defines the operators
            return True
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
