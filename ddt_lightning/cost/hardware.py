"""GPUs: memory, dense matrix products a second, memory and link bandwidth, from the makers' data sheets.

Rates are without sparsity. (Lightning's table gives the H200 and the H100 NVL twice that, with it.)
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Args:
        memory: GiB that a process can allocate.
        half: TFLOP/s of matrix products in bf16 or fp16.
        single: TFLOP/s in fp32.
        bandwidth: of its memory, GB/s.
        link: to the other GPUs of a node, GB/s in one direction.
        named: what its device name holds.
    """

    memory: float
    half: float
    single: float
    bandwidth: float
    link: float
    named: tuple[str, ...]

    def peak(self, precision: str) -> float:
        """Operations a second in Lightning's `precision`."""
        return 1e12 * (self.half if "16" in precision else self.single)


GPUS = {
    "b200": Gpu(178.0, 2250.0, 80.0, 8000.0, 900.0, ("B200",)),
    "h200": Gpu(139.8, 989.4, 66.9, 4800.0, 450.0, ("H200",)),
    "h100": Gpu(79.1, 989.4, 66.9, 3350.0, 450.0, ("H100",)),
    "h100-pcie": Gpu(79.1, 756.0, 51.2, 2000.0, 64.0, ("H100 PCIe",)),
    "a100": Gpu(79.1, 312.0, 19.5, 2039.0, 300.0, ("A100", "80GB")),
    "a100-40": Gpu(39.4, 312.0, 19.5, 1555.0, 300.0, ("A100", "40GB")),
    "l40s": Gpu(44.4, 362.0, 91.6, 864.0, 32.0, ("L40S",)),
    "l4": Gpu(22.0, 121.0, 30.3, 300.0, 32.0, ("L4",)),
    "rtx4090": Gpu(23.5, 165.2, 82.6, 1008.0, 32.0, ("RTX 4090",)),
}
"""By the names that `ddt plan --gpu` takes."""


def of_device(name: str) -> Gpu | None:
    """The GPU of a device name such as `NVIDIA H200`; None for one that is not known."""
    words = name.replace("-", " ").split()
    found = [gpu for gpu in GPUS.values() if all(all(w in words for w in part.split()) for part in gpu.named)]
    return max(found, key=lambda gpu: sum(map(len, gpu.named)), default=None)
