"""`train_criteo.py` whose array of few bits is read in fp32, as it is trained: what few bits lose at as many elements, in the same layout."""

import runpy
import sys
from pathlib import Path

from torchrec_pss.modules.shared_array import SharedArrayModule

if __name__ == "__main__":
    SharedArrayModule._read_bits = property(lambda self: 32)
    script = Path(__file__).parents[2] / "examples" / "train_criteo.py"
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
