"""Every public signature's shapes and types are checked while the tests run."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: xdist workers share the cores

from hypothesis import settings
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  the hook names it

install_import_hook("tessera", "tests.typecheck.checked")

settings.register_profile("no deadline", deadline=None)  # a shared machine is sometimes slow
settings.load_profile("no deadline")
