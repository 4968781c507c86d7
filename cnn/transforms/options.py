"""What options of transforms may be: sizes, ranges, probabilities."""

from cnn.draws import Number


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be positive, got {size}")
    return height, width


def check_range(name: str, value: tuple[Number, Number], low: Number, high: Number) -> None:
    """Raises ValueError where `value` is no rising pair within low..high."""
    if len(value) != 2 or not low < value[0] <= value[1] <= high:
        raise ValueError(f"{name} must be (low, high) with {low} < low <= high <= {high}, got {value}")


def check_probability(p: Number, name: str = "p") -> None:
    """Raises ValueError where `p` is no probability."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name} must be in 0..1, got {p}")
