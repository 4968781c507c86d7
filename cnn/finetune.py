"""Starting from another network's weights: what fits by name and shape is taken, the rest stays fresh."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from cnn import tree
from cnn.convert import pretrained
from cnn.errors import UserError
from cnn.run import checkpoint


def load_into(
    variables: dict[str, Any], path: str, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """`variables` ({'params', 'batch_stats'}) with every tensor that `path` has in the same shape.

    Args:
      path: a run's workdir (its best checkpoint), one checkpoint folder, 'pretrained:NAME', or a .npz of arrays
        named 'params/stem/kernel', 'batch_stats/...' or without the first part.
      say: gets the report: what was loaded, skipped (there, but not in this network or of another
        shape) and left fresh.

    Raises:
      UserError: nothing is there, it cannot be read, holds NaN, or not one tensor fits.
    """
    source = _read_npz(path) if path.endswith(".npz") else _read_run(path)
    leaves, loaded, fresh = {}, [], []
    for name, leaf in tree.flatten(variables).items():
        found = source.get(name)
        if found is not None and found.shape == leaf.shape:
            if not np.isfinite(found).all():
                raise UserError(f"init_from '{path}': '{name}' holds values that are not finite")
            leaves[name] = jax.device_put(found.astype(leaf.dtype), leaf.sharding)
            loaded.append(name)
        else:
            leaves[name] = leaf
            fresh.append(f"{name} {leaf.shape}" + (f" (there {found.shape})" if found is not None else ""))
    skipped = sorted(set(source) - set(loaded))
    if not loaded:
        raise UserError(
            f"init_from '{path}': not one of its {len(source)} tensors fits this network; "
            f"it has {', '.join(list(source)[:3])}, the network {', '.join(list(leaves)[:3])}"
        )
    say(f"fine-tune from {path}: loaded {len(loaded)} tensors, skipped {len(skipped)}, fresh {len(fresh)}")
    for title, names in (("skipped", skipped), ("fresh", fresh)):
        if names:
            say(f"  {title}: {', '.join(names[:8])}" + (", ..." if len(names) > 8 else ""))
    return jax.tree.unflatten(jax.tree.structure(variables), list(leaves.values()))


def _read_run(path: str) -> dict[str, np.ndarray]:
    if path.startswith(pretrained.SCHEME):
        path = str(pretrained.folder(path.removeprefix(pretrained.SCHEME)))
    variables, _ = checkpoint.load_variables(checkpoint.find(path))
    return {name: np.asarray(x) for name, x in tree.flatten(variables).items()}


def _read_npz(path: str) -> dict[str, np.ndarray]:
    if not epath.Path(path).exists():
        raise UserError(f"init_from '{path}' does not exist")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zip, header and pickle errors have no common type
        raise UserError(f"init_from '{path}' is not a readable .npz of arrays: {error}") from error
    roots = ("params/", "batch_stats/")
    return {n if n.startswith(roots) else f"params/{n}": x for n, x in arrays.items()}
