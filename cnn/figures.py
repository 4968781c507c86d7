"""Matplotlib figures without pyplot, which would keep global state and may look for a screen."""

from typing import Any


def figure(width: float, height: float, layout: str = "constrained") -> Any:
    """An empty `matplotlib.figure.Figure` of so many inches that draws itself with Agg.

    Args:
      layout: 'constrained' places the axes; 'none' leaves that to the caller.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(made)
    return made
