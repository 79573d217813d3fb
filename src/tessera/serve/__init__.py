"""The web page and its HTTP interface. The service (limits, shelf, jobs, requests, service) knows nothing of the page.

What gradio must be told before it is imported is told here, which every import of the page passes.
"""

import os
import sys

from tessera.serve.stubless import Stubless

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
sys.meta_path.insert(0, Stubless())
