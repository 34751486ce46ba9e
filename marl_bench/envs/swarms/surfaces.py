"""Flat surfaces glued from a square chart [0, L)^2: how points cross their seams, and how far apart two points are.

With a = "cross the right edge once" and b = "cross the top edge once", acting on (x, y, heading):

| surface | a | b | edges |
|---|---|---|---|
| `torus` | (x + L, y, phi) | (x, y + L, phi) | none |
| `klein` | (x + L, L - y, -phi) | (x, y + L, phi) | none |
| `rp2` | (x + L, L - y, -phi) | (L - x, y + L, pi - phi) | none, but two cone points at the corners |
| `mobius` | (x + L, L - y, -phi) | none | walls at y = 0 and y = L, which reflect |
| `box_reflect`, `box_clip` | none | none | walls; the position is mirrored with the heading, or cut off |

Source: the classic gluings of a square; spec swarm_envs.md section 2 (which of the axes is flipped is our convention). Everything is
elementwise on arrays of any one shape, and headings are given as cosine and sine, because every gluing only changes signs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

SURFACES = ("torus", "klein", "rp2", "mobius", "box_reflect", "box_clip")

GLUED = ("torus", "klein", "rp2", "mobius")
"""Surfaces whose left and right edges are one."""

FLIPPED = ("klein", "rp2", "mobius")
"""Surfaces on which a crossing of that seam mirrors y: those without an orientation."""

GLUED_TOP = ("torus", "klein", "rp2")
"""Surfaces whose bottom and top edges are one."""


class Place(NamedTuple):
    """Points with a heading.

    Attributes:
      x, y: chart coordinates, units of length.
      cos, sin: of the heading, measured in the chart.
    """

    x: Array
    y: Array
    cos: Array
    sin: Array


def tiles(surface: str) -> tuple[tuple[int, int], ...]:
    """(A, B), numbers of seams crossed to the right and upwards, of the copies of the chart that can hold a nearest image."""
    across = (-1, 0, 1) if surface in GLUED else (0,)
    upward = (-1, 0, 1) if surface in GLUED_TOP else (0,)
    return tuple((a, b) for a in across for b in upward)


def image(surface: str, place: Place, a: Any, b: Any, side: Any) -> Place:
    """`place` as it appears in tile (a, b), which are integers or arrays of them."""
    x, y, cos, sin = place
    if surface in FLIPPED:
        odd = (a % 2) == 1
        y, sin = jnp.where(odd, side - y, y), jnp.where(odd, -sin, sin)
    if surface == "rp2":
        odd = (b % 2) == 1
        x, cos = jnp.where(odd, side - x, x), jnp.where(odd, -cos, cos)
    return Place(x + a * side, y + b * side, cos, sin)


def wrapped(surface: str, place: Place, side: Any) -> tuple[Place, Array]:
    """Bring points that have left the chart by at most one side back into it.

    Args:
      surface: one of `SURFACES`. place: any shape. side: L.
    Returns:
      The points in [0, L) (walls: [0, L]), and whether each was mirrored an odd number of times, bool.
    """
    mirrored = jnp.zeros(jnp.shape(place.x), bool)
    # Twice, because L - x is L for x = 0: the first crossing may end on the next seam.
    for _ in range(2 if surface in FLIPPED else 1):
        place, odd = _crossed(surface, place, side)
        mirrored ^= odd
    if surface in ("mobius", "box_reflect"):
        y = jnp.where(place.y > side, 2 * side - place.y, jnp.abs(place.y))
        place = place._replace(y=y, sin=jnp.where((place.y < 0) | (place.y > side), -place.sin, place.sin))
    if surface == "box_reflect":
        x = jnp.where(place.x > side, 2 * side - place.x, jnp.abs(place.x))
        place = place._replace(x=x, cos=jnp.where((place.x < 0) | (place.x > side), -place.cos, place.cos))
    if surface == "box_clip":
        return place._replace(x=jnp.clip(place.x, 0, side), y=jnp.clip(place.y, 0, side)), mirrored
    # Rounding, and one cone point of rp2 that has no place in a half-open chart, end just inside the edge.
    below = jnp.asarray(side, jnp.float32) * np.float32(1 - 2.0**-24)
    x = jnp.minimum(place.x, below) if surface in GLUED else place.x
    y = jnp.minimum(place.y, below) if surface in GLUED_TOP else place.y
    return place._replace(x=x, y=y), mirrored


def _crossed(surface: str, place: Place, side: Any) -> tuple[Place, Array]:
    """Undo the crossings of both seams; and whether they mirrored the point an odd number of times."""
    mirrored = jnp.zeros(jnp.shape(place.x), bool)
    if surface in GLUED:
        times = jnp.floor(place.x / side)
        place = image(surface, place, -times, 0, side)
        mirrored ^= (surface in FLIPPED) & (times % 2 == 1)
    if surface in GLUED_TOP:
        times = jnp.floor(place.y / side)
        place = image(surface, place, 0, -times, side)
        mirrored ^= (surface == "rp2") & (times % 2 == 1)
    return place, mirrored


class Sight(NamedTuple):
    """What a point sees of another: its nearest image.

    Attributes:
      squared: squared distance.
      dx, dy: displacement to the image.
      cos, sin: of the image's heading relative to the own one.
    """

    squared: Array
    dx: Array
    dy: Array
    cos: Array
    sin: Array


def sight(surface: str, eye: Place, other: Place, side: Any) -> Sight:
    """How `other` appears from `eye` (arrays that broadcast): through the nearest image, the first one where two are as near."""
    if surface not in FLIPPED:
        # Nothing is mirrored, so the nearest image is the nearest one along each side.
        dx, dy = other.x - eye.x, other.y - eye.y
        dx = _nearest(dx, side) if surface in GLUED else dx
        dy = _nearest(dy, side) if surface in GLUED_TOP else dy
        return seen(eye, other)._replace(squared=dx * dx + dy * dy, dx=dx, dy=dy)
    nearest: Sight | None = None
    for a, b in tiles(surface):
        found = seen(eye, image(surface, other, a, b, side))
        if nearest is None:
            nearest = found
        else:
            nearer = found.squared < nearest.squared
            nearest = Sight(*(jnp.where(nearer, new, old) for new, old in zip(found, nearest, strict=True)))
    assert nearest is not None
    return nearest


def _nearest(gap: Array, side: Any) -> Array:
    """The gap between two coordinates, or the one to an image a side before or behind it, whichever is smallest."""
    before, behind = gap - side, gap + side
    gap = jnp.where(jnp.abs(before) <= jnp.abs(gap), before, gap)
    return jnp.where(jnp.abs(behind) < jnp.abs(gap), behind, gap)


def seen(eye: Place, there: Place) -> Sight:
    """How the point `there` itself, not its images, appears from `eye`."""
    dx, dy = there.x - eye.x, there.y - eye.y
    cos, sin = there.cos * eye.cos + there.sin * eye.sin, there.sin * eye.cos - there.cos * eye.sin
    return Sight(dx * dx + dy * dy, dx, dy, cos, sin)
