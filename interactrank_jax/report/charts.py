"""Charts as SVG: lines over an axis, dots with intervals by row, and columns.

Colours are classes, `s0` to `s7`, so that the page's style chooses them for light and dark. A chart
is as wide as the box that it is put in, and made for 380 pixels: text has its size on a phone.
"""

import dataclasses
from collections.abc import Sequence

from interactrank_jax.report.html import Child, Html, tag
from interactrank_jax.report.scales import Scale, mark, spanning

MOST_LABEL = 48  # characters under an axis
WIDTH, HEIGHT = 380.0, 236.0
LEFT, TOP, BOTTOM, RIGHT = 46.0, 10.0, 36.0, 14.0
COLOURS = 8
CHARACTER = 6.0  # mean width of one, in pixels
LINE = 13.0  # least distance of two labels
MOST_MARKERS = 40  # points of a line that are dots with a tooltip
MOST_POINTS = 400  # that a line is drawn through


@dataclasses.dataclass(frozen=True)
class Series:
    """One run's values in a chart; None: not measured.

    Attributes:
      name: of the run.
      colour: its number.
      x: of lines, ascending; of rows and columns their numbers.
      y: values.
      low, high: bounds of their intervals, or ().
    """

    name: str
    colour: int
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()

    @property
    def style(self) -> str:
        """Returns the class of its colour; those past the last colour are dashed."""
        return f"s{self.colour % COLOURS}" + (" again" if self.colour >= COLOURS else "")

    def points(self) -> list[int]:
        """Returns the numbers of the measured points."""
        return [number for number, value in enumerate(self.y) if value is not None]

    def interval(self, number: int) -> tuple[float, float] | None:
        """Returns the interval of a point, if it has one."""
        if not self.low or self.low[number] is None or self.high[number] is None:
            return None
        low, high = self.low[number], self.high[number]
        return None if low is None or high is None else (low, high)


def short(name: str, most: int = 15) -> str:
    """Returns a name that fits beside a chart."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def figure(title: str, drawing: Html, note: str = "") -> Html:
    """Returns a chart with its title above, and a remark below."""
    caption = tag("figcaption", tag("b", title), tag("span", f" {note}") if note else None)
    return tag("figure", caption, drawing)


def line_chart(
    series: Sequence[Series],
    x_label: str,
    description: str,
    *,
    form: str = ".4f",
    zero: bool = False,
    diagonal: bool = False,
) -> Html:
    """Draws lines, each with its name at its end where there are several.

    Args:
      series: with ascending x.
      x_label: under the axis.
      description: of the whole, for who cannot see it.
      form: of a value in a tooltip.
      zero: whether 0 is part of the axis of values.
      diagonal: of a reliability diagram: both axes are alike, their equality is a line, points are
        dots with intervals, and those are part of the axes. No line ends there, so none is named.
    """
    names = [short(one.name) for one in series]
    has_names = len(series) > 1 and not diagonal
    right = RIGHT if not has_names else 16 + CHARACTER * max(map(len, names))
    xs = [one.x[k] for one in series for k in one.points()]
    ys = [value for one in series for value in one.y if value is not None]
    ends = (LEFT, WIDTH - right), (HEIGHT - BOTTOM, TOP)
    if diagonal:
        ys += [bound for one in series for k in one.points() for bound in one.interval(k) or ()]
        x_scale, y_scale = (spanning([*xs, *ys], *end, margin=0.03) for end in ends)
    else:
        x_scale, y_scale = (
            spanning(xs, *ends[0], margin=0.0),
            spanning(ys, *ends[1], include=(0.0,) if zero else ()),
        )
    parts: list[Child] = [
        _y_axis(y_scale, WIDTH - right),
        _x_axis(x_scale, HEIGHT - BOTTOM, x_label),
    ]
    if diagonal:
        low, high = x_scale.low, x_scale.high
        ends_of_line = {"x1": x_scale(low), "y1": y_scale(low), "x2": x_scale(high)}
        parts.append(tag("line", **ends_of_line, y2=y_scale(high), class_="reference"))
    for one in series:
        parts.append(_line(one, x_scale, y_scale, form, dots_always=diagonal))
    if has_names:
        parts.append(_end_labels(series, names, x_scale, y_scale, WIDTH - right))
    return _svg(parts, HEIGHT, description)


def row_chart(
    rows: Sequence[str],
    series: Sequence[Series],
    x_label: str,
    description: str,
    *,
    form: str = ".4f",
    zero: bool = False,
) -> Html:
    """Draws a dot for each row and series, rows from the top down, with its interval or a stem.

    Args:
      rows: their labels.
      series: with `x` the numbers of rows.
      x_label: under the axis.
      description: of the whole, for who cannot see it.
      form: of a value in a tooltip.
      zero: whether 0 is part of the axis; a dot without an interval then has a stem from there.
    """
    left = min(24 + CHARACTER * max(map(len, rows), default=0), 150.0)
    pitch = 8.0 + 10.0 * max(len(series), 1)
    height = TOP + pitch * len(rows) + BOTTOM
    values = [value for one in series for value in one.y]
    bounds = [bound for one in series for k in one.points() for bound in one.interval(k) or ()]
    scale = spanning([*values, *bounds], left, WIDTH - RIGHT, include=(0.0,) if zero else ())
    parts: list[Child] = [_x_axis(scale, height - BOTTOM, x_label, grid_from=TOP)]
    if zero:
        parts.append(_vertical(scale(0.0), TOP, height - BOTTOM, "reference"))
    for number, label in enumerate(rows):
        y = TOP + pitch * (number + 0.5)
        if number % 2 and len(series) > 1:
            box = {"x": left, "y": y - pitch / 2, "width": WIDTH - RIGHT - left, "height": pitch}
            parts.insert(0, tag("rect", **box, class_="band"))
        most = int((left - 12) / CHARACTER)
        text = tag("title", label), short(label, most)
        parts.append(tag("text", *text, x=left - 8, y=y + 4, class_="row"))
    for number, one in enumerate(series):
        shift = 10.0 * (number - (len(series) - 1) / 2)
        for k in one.points():
            y = TOP + pitch * (one.x[k] + 0.5) + shift
            parts.append(_row_dot(one, k, y, scale, rows, form, zero))
    return _svg(parts, height, description)


def column_chart(
    values: Sequence[float], even: float, x_label: str, description: str, colour: int = 0
) -> Html:
    """Draws columns from 0, and a line at a value that all would have if they were alike."""
    x_scale = Scale(-0.5, len(values) - 0.5, LEFT, WIDTH - RIGHT)
    y_scale = spanning((), HEIGHT - BOTTOM, TOP, include=(0.0, max([even, *values]) * 1.08))
    y_scale = dataclasses.replace(y_scale, low=0.0)
    width = (WIDTH - LEFT - RIGHT) / len(values)
    gap = min(2.0, width / 4)
    parts: list[Child] = [_y_axis(y_scale, WIDTH - RIGHT)]
    style = Series("", colour, (), ()).style
    for number, value in enumerate(values):
        top = y_scale(value)
        parts.append(
            tag(
                "rect",
                x=x_scale(number) - width / 2 + gap / 2,
                y=top,
                width=width - gap,
                height=y_scale.start - top,
                class_=f"column {style}",
            )
        )
    every = max(1, -(-len(values) // 12))
    for number in range(0, len(values), every):
        parts.append(_text(str(number), x_scale(number), HEIGHT - BOTTOM + 14, "tick middle"))
    y = y_scale(even)
    parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="reference"))
    parts.append(_text("even", WIDTH - RIGHT, y - 4, "tick end"))
    parts.append(_text(x_label, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "label middle"))
    return _svg(parts, HEIGHT, description)


def _svg(parts: Sequence[Child], height: float, description: str) -> Html:
    box = f"0 0 {WIDTH:.0f} {height:.0f}"
    return tag("svg", *parts, viewBox=box, role="img", aria_label=description)


def _text(text: str, x: float, y: float, style: str) -> Html:
    return tag("text", text, x=x, y=y, class_=style)


def _vertical(x: float, top: float, bottom: float, style: str) -> Html:
    return tag("line", x1=x, x2=x, y1=top, y2=bottom, class_=style)


def _y_axis(scale: Scale, right: float) -> list[Html]:
    ticks = scale.ticks()
    step = ticks[1] - ticks[0]
    parts = []
    for value in ticks:
        y = scale(value)
        parts.append(tag("line", x1=LEFT, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(_text(mark(value, step), LEFT - 6, y + 4, "tick end"))
    return parts


def _x_axis(scale: Scale, y: float, label: str, grid_from: float | None = None) -> list[Html]:
    ticks = scale.ticks()
    step = ticks[1] - ticks[0]
    parts = [tag("line", x1=scale.start, x2=scale.end, y1=y, y2=y, class_="axis")]
    for value in ticks:
        x = scale(value)
        top = y if grid_from is None else grid_from
        parts.append(_vertical(x, top, y + 4, "axis" if grid_from is None else "grid"))
        parts.append(_text(mark(value, step), x, y + 16, "tick middle"))
    middle = (scale.start + scale.end) / 2
    return [*parts, _text(short(label, MOST_LABEL), middle, y + 31, "label middle")]


def _line(one: Series, x: Scale, y: Scale, form: str, dots_always: bool) -> list[Html]:
    points = one.points()
    every = max(1, -(-len(points) // MOST_POINTS))
    kept = points[::-1][::every][::-1]  # the last one always
    coordinates = [(x(one.x[k]), y(one.y[k] or 0.0)) for k in kept]
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in coordinates)
    parts = []
    if len(coordinates) > 1 and not dots_always:
        parts.append(tag("path", d=path, class_=f"line {one.style}"))
    if dots_always or len(coordinates) <= MOST_MARKERS:
        for k, (px, py) in zip(kept, coordinates, strict=True):
            bounds = one.interval(k)
            if bounds:
                top, bottom = y(bounds[1]), y(bounds[0])
                parts.append(_vertical(px, top, bottom, f"whisker {one.style}"))
            title = _tooltip(one, k, _number(one.x[k]), form)
            dot = {"cx": px, "cy": py, "r": 3.0 if dots_always else 2.5}
            parts.append(tag("g", title, tag("circle", **dot, class_=f"dot {one.style}")))
    return parts


def _row_dot(
    one: Series, k: int, y: float, scale: Scale, rows: Sequence[str], form: str, zero: bool
) -> Html:
    value = one.y[k]
    assert value is not None
    title = _tooltip(one, k, rows[int(one.x[k])], form)
    parts = [title]
    style, bounds = one.style, one.interval(k)
    if zero and not bounds:
        ends = {"x1": scale(0.0), "x2": scale(value), "y1": y, "y2": y}
        parts.append(tag("line", **ends, class_=f"stem {style}"))
    if bounds:
        ends = {"x1": scale(bounds[0]), "x2": scale(bounds[1]), "y1": y, "y2": y}
        parts.append(tag("line", **ends, class_=f"whisker {style}"))
    parts.append(tag("circle", cx=scale(value), cy=y, r=3.5, class_=f"dot {style}"))
    return tag("g", *parts)


def _tooltip(one: Series, k: int, where: str, form: str) -> Html:
    value, bounds = one.y[k], one.interval(k)
    interval = f" [{bounds[0]:{form}}, {bounds[1]:{form}}]" if bounds else ""
    name = f"{one.name}, " if one.name else ""
    return tag("title", f"{name}{where}: {value:{form}}{interval}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4f}"


def _end_labels(
    series: Sequence[Series], names: Sequence[str], x: Scale, y: Scale, right: float
) -> list[Html]:
    """Returns each line's name at the right, moved apart where they would overlap.

    A dotted line leads to it from a line that ends earlier.
    """
    ends = []
    for one, name in zip(series, names, strict=True):
        points = one.points()
        if points:
            last = points[-1]
            ends.append((y(one.y[last] or 0.0), x(one.x[last]), name, one.style))
    ends.sort()
    positions = apart([position for position, *_ in ends], LINE, y.start)
    parts = []
    for position, (end_y, end_x, name, style) in zip(positions, ends, strict=True):
        if right - end_x > LINE:
            line = {"x1": end_x + 4, "y1": end_y, "x2": right + 5, "y2": position}
            parts.append(tag("line", **line, class_=f"leader {style}"))
        parts.append(_text(name, right + 8, position + 4, f"name {style}"))
    return parts


def apart(positions: Sequence[float], distance: float, bottom: float) -> list[float]:
    """Returns ascending positions moved until any two are `distance` apart, none below `bottom`."""
    moved: list[float] = []
    for position in positions:
        moved.append(max(position, moved[-1] + distance) if moved else position)
    limit = bottom
    for number in range(len(moved) - 1, -1, -1):
        moved[number] = min(moved[number], limit)
        limit = moved[number] - distance
    return moved
