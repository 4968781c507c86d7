"""Names of classes: ImageNet's, which come with the package, and those of a file."""

from pathlib import Path

from cnn.errors import UserError

IMAGENET_CLASSES = 1000


def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1000 classes of ILSVRC 2012, by label."""
    return read_classes(Path(__file__).with_name("imagenet_classes.txt"))


def read_classes(path: str | Path) -> tuple[str, ...]:
    """One name per line, by label; lines that begin with '#' are comments.

    Raises:
      UserError: the file cannot be read as text, names nothing, or names something twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise UserError(f"file of classes '{path}' cannot be read: {reason}") from error
    names = tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))
    if not names:
        raise UserError(f"file of classes '{path}' names no class; write one name per line")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"file of classes '{path}' names '{twice}' twice")
    return names
