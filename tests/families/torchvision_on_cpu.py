"""Lets `import torchvision` succeed where its compiled half does not load. Import this before transformers.

The wheels of torchvision on PyPI are built for CUDA. Beside a CPU build of torch their operators (`nms`, `roi_align`
…) stay unknown, and `import torchvision` dies where it describes what they return. Image and video processors use
its transforms alone, which are plain torch. So the names of the operators are declared here, without a body: what
calls one of them still fails, everything else works. Without torchvision, or where it works, nothing is done.

This file needs torch alone: a process that does not know the tests can run it by its path.
"""

import importlib.util
import re
from pathlib import Path

import torch


def declare_operators(torchvision: Path) -> None:
    """Declares every operator that the files of torchvision describe, unless its compiled operators load."""
    try:
        for library in torchvision.glob("_C.*"):
            torch.ops.load_library(library)
    except OSError:
        described = (torchvision / "_meta_registrations.py").read_text(encoding="utf-8")
        names = re.findall(r'register_(?:meta\("|fake\("torchvision::)(\w+)"', described)
        for name in sorted(set(names)):
            torch.library.define(f"torchvision::{name}", "(Tensor x) -> Tensor")


if found := importlib.util.find_spec("torchvision"):
    declare_operators(Path(found.origin).parent)
