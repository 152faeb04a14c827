"""Interpreting and compiling exclude each other in one process: Triton decides when it reads a kernel.

``TRITON_INTERPRET=1 pytest tests/triton/interpreter`` runs the kernels; everything else here compiles them
or needs neither, and leaves that folder out.
"""

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore_glob = ["test_*.py"]
else:
    collect_ignore = ["interpreter"]
