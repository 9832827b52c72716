"""What a training needs on its device, beside what is free there. Pure; memory.py measures it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fit:
    """Bytes of the largest step, the weights included, and of what the device has left."""

    needed: int
    free: int
    device: str

    @property
    def fits(self) -> bool:
        """Whether it will run."""
        return self.needed <= self.free

    @property
    def said(self) -> str:
        """For people."""
        beginning = "The" if self.fits else "It does not fit: the"
        return (
            f"{beginning} largest step needs about {self.needed / 1e9:.1f} GB, and "
            f"{self.free / 1e9:.1f} GB is free on {self.device}."
        )
