"""What the double charges: the vendor's published list prices as of November 2026 (docs of Jobs and of Inference Endpoints).

Both bill every started minute: a job while it runs, an endpoint while it is initializing or running.
"""

from __future__ import annotations

import math
from typing import Any

_JOB_FLAVORS: tuple[tuple[str, str, str, str, tuple[str, int, int] | None, float], ...] = (
    # name, CPU, memory, disk, (GPU, how many, GB of all), USD per hour
    ("cpu-basic", "2 vCPU", "16 GB", "50 GB", None, 0.01),
    ("cpu-upgrade", "8 vCPU", "32 GB", "50 GB", None, 0.03),
    ("cpu-xl", "16 vCPU", "124 GB", "1000 GB", None, 1.00),
    ("cpu-performance", "32 vCPU", "256 GB", "1024 GB", None, 1.90),
    ("t4-small", "4 vCPU", "15 GB", "50 GB", ("T4", 1, 16), 0.40),
    ("t4-medium", "8 vCPU", "30 GB", "100 GB", ("T4", 1, 16), 0.60),
    ("l4x1", "8 vCPU", "30 GB", "400 GB", ("L4", 1, 24), 0.80),
    ("l4x4", "48 vCPU", "186 GB", "3200 GB", ("L4", 4, 96), 3.80),
    ("a10g-small", "4 vCPU", "15 GB", "110 GB", ("A10G", 1, 24), 1.00),
    ("a10g-large", "12 vCPU", "46 GB", "200 GB", ("A10G", 1, 24), 1.50),
    ("a10g-largex2", "24 vCPU", "92 GB", "1000 GB", ("A10G", 2, 48), 3.00),
    ("a10g-largex4", "48 vCPU", "184 GB", "2000 GB", ("A10G", 4, 96), 5.00),
    ("l40sx1", "8 vCPU", "62 GB", "380 GB", ("L40S", 1, 48), 1.80),
    ("l40sx4", "48 vCPU", "382 GB", "3200 GB", ("L40S", 4, 192), 8.30),
    ("a100-large", "12 vCPU", "142 GB", "1000 GB", ("A100", 1, 80), 2.50),
    ("rtx-pro-6000", "22 vCPU", "220 GB", "1000 GB", ("RTX PRO 6000", 1, 96), 2.75),
    ("h200", "23 vCPU", "256 GB", "3000 GB", ("H200", 1, 141), 5.00),
)

_ENDPOINT_HARDWARE: tuple[tuple[str, str, str, str, str, str, int, int, int, int | None, float], ...] = (
    # vendor, region, accelerator, type, size, architecture, accelerators, vCPUs, GB, GPU GB, USD per hour
    ("aws", "us-east-1", "cpu", "intel-spr", "x1", "Intel Sapphire Rapids", 1, 1, 2, None, 0.033),
    ("aws", "us-east-1", "cpu", "intel-spr", "x4", "Intel Sapphire Rapids", 1, 4, 8, None, 0.134),
    ("aws", "us-east-1", "gpu", "nvidia-t4", "x1", "Nvidia T4", 1, 3, 14, 16, 0.50),
    ("aws", "us-east-1", "gpu", "nvidia-l4", "x1", "Nvidia L4", 1, 7, 30, 24, 0.80),
    ("aws", "us-east-1", "gpu", "nvidia-a10g", "x1", "Nvidia A10G", 1, 6, 30, 24, 1.00),
    ("aws", "us-east-1", "gpu", "nvidia-a100", "x1", "Nvidia A100", 1, 11, 145, 80, 2.50),
)


def job_hardware() -> list[dict[str, Any]]:
    """As `GET /api/jobs/hardware` answers: whole millionths of a dollar per minute."""
    return [
        {
            "name": name,
            "prettyName": name,
            "cpu": cpu,
            "ram": memory,
            "ephemeralStorage": disk,
            "accelerator": {
                "type": "gpu",
                "model": gpu[0],
                "quantity": str(gpu[1]),
                "vram": f"{gpu[2]} GB",
                "manufacturer": "Nvidia",
            }
            if gpu
            else None,
            "unitCostMicroUSD": round(hourly / 60 * 1e6),
            "unitCostUSD": round(hourly / 60, 6),
            "unitLabel": "minute",
        }
        for name, cpu, memory, disk, gpu, hourly in _JOB_FLAVORS
    ]


JOB_MICRO_USD_PER_MINUTE: dict[str, int] = {each["name"]: each["unitCostMicroUSD"] for each in job_hardware()}


def endpoint_hardware() -> list[dict[str, Any]]:
    """As `GET /v2/provider/{namespace}` answers: by vendor, by region."""
    vendors: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for vendor, region, kind, type_, size, architecture, count, cpus, memory, video, hourly in _ENDPOINT_HARDWARE:
        vendors.setdefault(vendor, {}).setdefault(region, []).append(
            {
                "id": f"{vendor}-{region}-{type_}-{size}",
                "accelerator": kind,
                "instanceType": type_,
                "instanceSize": size,
                "architecture": architecture,
                "numAccelerators": count,
                "numCpus": cpus,
                "memoryGb": memory,
                "gpuMemoryGb": video,
                "pricePerHour": hourly,
                "status": "available",
                "quota": {"maxAccelerators": 8, "usedAccelerators": 0},
            }
        )
    return [
        {"name": vendor, "status": "available", "regions": [{"name": region, "computes": rows} for region, rows in regions.items()]}
        for vendor, regions in vendors.items()
    ]


def endpoint_hourly(vendor: str, region: str, accelerator: str, type_: str, size: str) -> float | None:
    """USD per hour and replica; None when there is no such hardware."""
    for row in _ENDPOINT_HARDWARE:
        if row[:5] == (vendor, region, accelerator, type_, size):
            return row[-1]
    return None


def minutes(seconds: float) -> int:
    """Billed minutes: every started one counts."""
    return math.ceil(round(seconds, 3) / 60)
