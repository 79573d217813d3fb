"""Shapes and types of every signature are checked while the tests run: see `tests/typecheck.py`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: xdist workers share the cores

import torch
from hypothesis import settings

from tests import typecheck

typecheck.install()


def pytest_runtest_setup() -> None:
    typecheck.begin_test()
    torch.manual_seed(0)  # what a test draws does not depend on which others ran before it in its process


# No deadline: a shared machine is sometimes slow. The same examples in every run: whether a change passes must depend on the change alone.
# `pytest --hypothesis-profile=search` looks for new ones.
settings.register_profile("same examples", deadline=None, derandomize=True, max_examples=50)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile("same examples")
