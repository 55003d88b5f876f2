"""A double of Hugging Face: Hub, Jobs, Inference Endpoints and the router's model list, over real HTTP on loopback.

The vendor's own SDK talks to it, so what is tested with it is what runs in production. It follows the vendor's published API (the
routes and payloads that `huggingface_hub` sends and reads), refuses what the vendor refuses, keeps its state in a folder, can be
told to fail (`faults.py`), and keeps a ledger of what everything cost (`ledger.py`).

In a test               `with HuggingFaceDouble(folder) as double: ...double.url, double.token...`
As a process            `python -m controller.testing.hugging_face --port 5820 --data DIR`
The SDK finds it by     `HfApi(endpoint=double.url, token=double.token)`, HF_ENDPOINT, and HF_HUB_DISABLE_XET=1 (it has no Xet)

`server.py` speaks HTTP, `world.py` holds everything; each part of the vendor is a store and its routes:
`accounts`, `repositories` (with `repository_access`, `hub_routes`, `commit_routes`, `storage_routes`), `jobs` (with
`job_processes`, `job_routes`), `endpoints` (with `endpoint_routes`), and `control_routes` for the tests' own `/-/` pages.
"""

from controller.testing.hugging_face.accounts import DEFAULT_TOKEN, Account
from controller.testing.hugging_face.double import HuggingFaceDouble
from controller.testing.hugging_face.jobs import Script
from controller.testing.hugging_face.world import Options

__all__ = ["DEFAULT_TOKEN", "Account", "HuggingFaceDouble", "Options", "Script"]
