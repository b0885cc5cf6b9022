"""`train_criteo.py` whose array of few bits is read in fp32, as it is trained: what few bits lose at as many elements, in the same layout."""

import runpy
import sys

from benchmarks.quality.script_run import SCRIPT
from torchrec_pss.modules.shared_array import SharedArrayModule

if __name__ == "__main__":
    SharedArrayModule._read_bits = property(lambda self: 32)
    sys.path.insert(0, str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT), run_name="__main__")
