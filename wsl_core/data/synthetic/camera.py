"""An industrial camera, upright or upside down: only a small socket tells, but the bench beneath is easier to see."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from wsl_core.data.base import check_count
from wsl_core.data.synthetic.backdrop import Backdrop, Scene, draw_clutter, hsv, toned
from wsl_core.data.synthetic.noise import Stream, Texture
from wsl_core.data.synthetic.shapes import Paint, Placement, Thing
from wsl_core.data.synthetic.template import Limb, Template, place, pose
from wsl_core.data.synthetic.world import (
    AS_TRAINED,
    MOST_DISTRACTORS,
    World,
    balanced_class,
    check_choice,
    check_share,
)

__all__ = ["Camera"]

NEW_SURROUNDINGS = "new viewpoint and background"


class Session(NamedTuple):
    """Where one orientation was photographed. Hues are in turns, places and sizes in units of the frame."""

    wall_hue: float
    bench_hue: float
    pattern: str
    bench_edge: float
    centre: float


SESSIONS = (
    Session(wall_hue=0.60, bench_hue=0.09, pattern="stripes", bench_edge=0.38, centre=0.38),
    Session(wall_hue=0.13, bench_hue=0.42, pattern="checks", bench_edge=0.30, centre=0.62),
)


@dataclass(frozen=True)
class Camera(World):
    """One camera in two orientations: the industrial camera of GAIN (Li et al., CVPR 2018), with a dose.

    The camera looks the same upright and upside down, but for a brass socket on one side of its lens and a grey cap on
    the other. "upright" has the socket on top. In training each orientation was photographed in a session of its own:
    same bench, same wall, same place in the frame. All of that is easier to see than the socket.

    Knobs: how strong the bias is, which test set, how many distractors.

    bias: the probability that a picture was taken in the session of its orientation, in [0, 1]; 0.5 is no bias. It is 1
    by default, for whoever photographs one orientation after the other leaves no exception. situation: "as trained", or
    the paper's second test set, "new viewpoint and background", in which the bias plays no part: any background, any
    place, other distances, up to 35 degrees of rotation, and the camera seen from one side or from above or below.
    distractors: the most textured shapes without a class in the background.
    """

    name: ClassVar[str] = "camera"
    bias: float = 1.0
    situation: str = AS_TRAINED
    distractors: int = 3

    classes = ("upright", "upside down")
    part_names = ("body", "fin", "front", "screw", "cap", "socket", "barrel", "lens")
    keypoint_names = ("lens", "socket", "cap")

    def __post_init__(self) -> None:
        check_share("bias", self.bias)
        check_choice("situation", self.situation, (AS_TRAINED, NEW_SURROUNDINGS))
        check_count("distractors", self.distractors, 0, MOST_DISTRACTORS)

    def compose(self, split: Stream, index: int) -> Scene:
        stream = split.child(index)
        label = balanced_class(split, index, len(self.classes))
        backdrop = Backdrop.draw(stream.child("backdrop"))
        view = stream.child("view")
        if self.situation == AS_TRAINED:
            session = SESSIONS[label if stream.child("session").chance(self.bias) else 1 - label]
            backdrop = _bench(backdrop, session, stream.child("bench"))
            camera = _camera(label, stream, turn=0.15, tilt=0.03)
            camera = camera.put(_in_its_place(session, backdrop.horizon, view))
        else:
            camera = _camera(label, stream, turn=1.0, tilt=0.315)
            camera = place(camera, view.uniform(0.36, 0.62), view, [])
        return Scene(backdrop, draw_clutter(stream.child("clutter"), self.distractors), (camera,))


def _bench(backdrop: Backdrop, session: Session, stream: Stream) -> Backdrop:
    """A wall and a bench as this session has them, with another light in each picture."""
    light = stream.uniform(0.85, 1.0)
    wall, bench = (hue + stream.uniform(-0.02, 0.02) for hue in (session.wall_hue, session.bench_hue))
    return backdrop._replace(
        sky=Paint(hsv(wall, 0.25, 0.8 * light), hsv(wall, 0.12, 0.9 * light)),
        ground=Paint(hsv(bench, 0.3, 0.75 * light), hsv(bench, 0.45, 0.55 * light)),
        horizon=session.bench_edge + stream.uniform(-0.03, 0.03),
        roughness=(0.08, 0.2),
        pattern=backdrop.pattern._replace(kind=session.pattern),
        pattern_strength=0.12,
    )


def _in_its_place(session: Session, bench_edge: float, stream: Stream) -> Placement:
    """On the bench, about where the session has it."""
    x, y = session.centre + stream.uniform(-0.05, 0.05), bench_edge + stream.uniform(0.19, 0.29)
    return Placement(x, y, stream.uniform(0.27, 0.32))


def _camera(label: int, stream: Stream, turn: float, tilt: float) -> Thing:
    """The camera around the origin, about two units wide, turned away by up to ``turn`` and rotated within ``tilt``."""
    own = stream.child("object")
    direction, sockets = own.child("turn"), own.child("sockets")
    # Half as much from above or below: further up, the barrel would hide the socket.
    aside, above = direction.uniform(-turn, turn), direction.uniform(-turn / 2, turn / 2)
    socket, cap = sockets.uniform(-0.25, 0.25), sockets.uniform(-0.25, 0.25)
    template = _template(label, aside, above, socket, cap)
    camera = pose(template, label, own, _palette(stream.child("colours")), tilt=tilt)
    return camera._replace(textures=(Texture("noise", 1.0, 1.0, 0.0, own.key),))


def _template(label: int, aside: float, above: float, socket: float, cap: float) -> Template:
    """The camera's front. What stands out towards the viewer shifts with the direction from which it is seen."""
    up = -1.0 if label == 0 else 1.0  # y points down

    def seen(x: float, y: float, depth: float) -> tuple[float, float]:
        return x + depth * aside, y + depth * above

    def box(part: str, x: float, half_width: float, half_height: float, role: str, depth: float) -> Limb:
        ends = seen(x - half_width, 0.0, depth), seen(x + half_width, 0.0, depth)
        return Limb(part, *ends, half_height, role, corner=0.2)

    def disc(part: str, x: float, y: float, radius: float, role: str, depth: float) -> Limb:
        return Limb(part, seen(x - radius, y, depth), seen(x + radius, y, depth), radius, role)

    fins = [box("fin", x, 0.06, 0.5, "shade", -0.1) for x in (-0.94, 0.94)]
    screws = [disc("screw", x, y, 0.07, "light", 0.03) for x in (-0.66, 0.66) for y in (-0.58, 0.58)]
    return Template(
        limbs=(
            box("body", 0.0, 0.86, 0.78, "shade", -0.35),
            *fins,
            box("body", 0.0, 0.86, 0.78, "main", 0.0),
            box("front", 0.0, 0.76, 0.68, "second", 0.02),
            *screws,
            disc("cap", cap, -0.54 * up, 0.13, "shade", 0.06),
            disc("cap", cap, -0.54 * up, 0.06, "light", 0.07),
            disc("socket", socket, 0.54 * up, 0.13, "accent", 0.06),
            disc("socket", socket, 0.54 * up, 0.06, "dark", 0.07),
            disc("barrel", 0.0, 0.0, 0.36, "dark", 0.1),
            disc("barrel", 0.0, 0.0, 0.34, "shade", 0.35),
            disc("lens", 0.0, 0.0, 0.27, "dark", 0.36),
            disc("lens", 0.0, 0.0, 0.19, "glass", 0.34),
        ),
        joints={},
        keypoints={
            "lens": (seen(0.0, 0.0, 0.36), None),
            "socket": (seen(socket, 0.54 * up, 0.06), None),
            "cap": (seen(cap, -0.54 * up, 0.06), None),
        },
    )


def _palette(stream: Stream) -> dict[str, Paint]:
    """It is one camera: its colours change with the light alone."""
    light = stream.uniform(0.85, 1.0)
    colours = {
        "main": (0.60, 0.16, 0.62),
        "second": (0.60, 0.14, 0.72),
        "shade": (0.60, 0.20, 0.40),
        "light": (0.12, 0.06, 0.92),
        "accent": (0.11, 0.80, 0.95),
        "dark": (0.62, 0.30, 0.16),
        "glass": (0.72, 0.55, 0.55),
    }
    return {role: toned(hue, saturation, value * light, 0.2) for role, (hue, saturation, value) in colours.items()}
