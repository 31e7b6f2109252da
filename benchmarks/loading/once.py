"""A function in a process of its own: prints the dictionary that it returns as JSON.

python -m benchmarks.loading.once benchmarks.loading.run measure '{"table": "clips", "name": "mds", ...}'
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

os.environ["OMP_NUM_THREADS"] = "1"  # a process is a core; set before the libraries read it


def main() -> None:
    module, function, arguments = sys.argv[1:]
    import torch

    torch.set_num_threads(1)
    print(json.dumps(getattr(import_module(module), function)(**json.loads(arguments))))


if __name__ == "__main__":
    main()
