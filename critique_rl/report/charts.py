"""Draws curves as inline SVG whose colours are CSS variables of the page, so that one picture serves light and dark.

Owns: axes, marks and line styles. matplotlib draws with stand-in colours, which are replaced in its output.
Must not know: run directories, the rest of the page.
"""

from __future__ import annotations

import io
import re
from html import escape

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import ScaledTranslation
from matplotlib.typing import RcKeyType

from critique_rl.report.curves import Curve, Panel, StatePanel
from critique_rl.report.load import ARM_COLOURS

_DASHES = ("solid", (0, (5, 1.5)), "solid", (0, (1, 1.2)), (0, (4, 1, 1, 1)), "solid")
_STAND_INS = {
    "#0a0b00": "var(--ink)",
    "#0a0b01": "var(--muted)",
    "#0a0b02": "var(--line)",
    "#0a0b03": "var(--paper)",
    "#0a0b04": "var(--stall)",
    "#0a0b05": "var(--pos)",
    "#0a0b06": "var(--faint)",
} | {f"#0a0c{arm:02x}": f"var(--arm-{arm})" for arm in range(ARM_COLOURS)}
_INK, _MUTED, _LINE, _PAPER, _STALL, _RESCUED, _DORMANT = list(_STAND_INS)[:7]
_SETTINGS: dict[RcKeyType, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "critique-rl",
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "path.simplify": True,
}


def curve_svg(panel: Panel, *, name: str, moments: bool = True) -> Markup:
    """Reward (lines, block means) and held-out success (dots) of one kind of task; with `moments` a triangle marks
    the reported stall, a diamond the first critic call. `name` must be unique on the page."""
    with rc_context(_SETTINGS):
        figure, axes = _axes(4.5, 2.6)
        for curve in panel.curves:
            _draw_curve(axes, curve)
            if moments:
                _draw_moments(figure, axes, curve)
        _finish(axes, panel.x_label)
        lowest = min((y for curve in panel.curves for _, y in curve.training), default=0.0)
        axes.set_ylim(min(0.0, lowest) - 0.04, 1.04)  # below 0 where a reward takes off for a bad form
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        return _svg(figure, name, f"Success on {panel.kind or 'all'} tasks by {panel.x_label}")


def state_svg(panel: StatePanel, *, name: str) -> Markup:
    """How many prompts are plateaued, rescued and dormant, over one run."""
    with rc_context(_SETTINGS):
        figure, axes = _axes(3.5, 2.2)
        styles = {"plateaued": (_STALL, 1.8), "rescued": (_RESCUED, 1.8), "dormant": (_DORMANT, 1.3)}
        for state, points in panel.states:
            colour, width = styles[state]
            xs, ys = [x for x, _ in points], [y for _, y in points]
            axes.plot(xs, ys, color=colour, linewidth=width, drawstyle="steps-post")
        _finish(axes, panel.x_label)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        return _svg(figure, name, f"Prompts by state, {panel.label}")


def _axes(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    return figure, axes


def _draw_curve(axes: Axes, curve: Curve) -> None:
    arm, colour = curve.arm, f"#0a0c{curve.arm:02x}"
    for points, width in ((curve.training, 1.8), (curve.evaluation, 0.0 if curve.training else 1.8)):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, color=colour, linewidth=width, linestyle=_DASHES[arm], zorder=3 + arm, alpha=0.95)
    xs, ys = [x for x, _ in curve.evaluation], [y for _, y in curve.evaluation]
    axes.plot(xs, ys, linestyle="none", marker="o", markersize=4.6, color=colour, mec=_PAPER, mew=0.9, zorder=20)


def _draw_moments(figure: Figure, axes: Axes, curve: Curve) -> None:
    # The stall stands above the curve, the first call on it: they often fall into the same step.
    for moment, marker, size, lift_pt in ((curve.stall, "v", 6.5, 9.0), (curve.first_call, "D", 5.0, 0.0)):
        if moment is not None:
            axes.plot(
                [moment[0]],
                [moment[1]],
                transform=axes.transData + ScaledTranslation(0, lift_pt / 72, figure.dpi_scale_trans),
                linestyle="none",
                marker=marker,
                markersize=size,
                color=_PAPER,
                mec=f"#0a0c{curve.arm:02x}",
                mew=1.3,
                zorder=30,
                clip_on=False,
            )


def _finish(axes: Axes, x_label: str) -> None:
    axes.set_xlabel(x_label)
    axes.grid(axis="y", color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))


def _percent(value: float, _: int) -> str:
    return f"{100 * value:.0f} %"


def _short(value: float, _: int) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _svg(figure: Figure, name: str, description: str) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"#0a0[bc][0-9a-f]{2}", lambda match: _STAND_INS[match.group()], text)
    # Ids of several pictures on one page must not meet: unused ones go, the others get the picture's name.
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    label = escape(description, quote=True)
    return Markup(text.replace("<svg", f'<svg class="chart" role="img" aria-label="{label}"', 1))
