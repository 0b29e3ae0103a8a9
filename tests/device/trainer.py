"""The second device for Lightning: `--trainer.accelerator second --trainer.strategy second`."""

from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry

from tests.device import second


class SecondAccelerator(Accelerator):
    """One device."""

    def setup_device(self, device: torch.device) -> None:
        if device.type != second.NAME:
            raise ValueError(f"a trainer on {second.NAME} got {device}")

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device(second.NAME, 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return second.NAME

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}


def register() -> None:
    """Give the trainer both names."""
    AcceleratorRegistry.register(second.NAME, SecondAccelerator, "the second device of the tests")
    StrategyRegistry.register(second.NAME, SingleDeviceStrategy, "one second device", device=second.NAME)
