"""The everyday photographs that the demo base was pretrained on; none is medical, none is part of the stream."""

from __future__ import annotations

from dataclasses import dataclass

from cl_plugins.data.demo.sources import Source


@dataclass(frozen=True)
class Photograph:
    """A photograph with the words that name it.

    Attributes:
        source: Where it lies.
        words: What a caption calls it.
        group: Index of the answer to "what is in this photo".
    """

    source: Source
    words: str
    group: int


GROUPS = (
    "an animal",
    "a person",
    "a machine",
    "a building or a wall",
    "something on a table",
    "the ground or the sky",
)
"""Options of the question what a photo shows, in their fixed order."""


def _skimage(name: str, licence: str, origin: str) -> Source:
    return Source(name.split(".")[0], "skimage", "scikit-image", f"data/{name}", licence, origin)


def _sklearn(name: str, origin: str) -> Source:
    return Source(name.split(".")[0], "sklearn", "scikit-learn", f"datasets/images/{name}", "CC BY 2.0", origin)


_CC0 = "CC0"

PHOTOGRAPHS = (
    Photograph(_skimage("chelsea.png", _CC0, "Chelsea the cat, by Stefan van der Walt"), "a cat", 0),
    Photograph(_skimage("horse.png", _CC0, "outline of a horse, by Andreas Preuss"), "a horse", 0),
    Photograph(_skimage("astronaut.png", "public domain", "Eileen Collins, by NASA"), "an astronaut", 1),
    Photograph(_skimage("camera.png", _CC0, "cameraman, by Lav Varshney"), "a man with a camera", 1),
    Photograph(_skimage("rocket.jpg", "public domain", "Falcon 9 launch photo, by SpaceX"), "a rocket", 2),
    Photograph(
        _skimage("clock_motion.png", "public domain", "moving clock, by Stefan van der Walt"), "a moving clock", 2
    ),
    Photograph(
        _sklearn("china.jpg", "Summer Palace, by danielbuechele, flickr.com/photos/danielbuechele/6061409035"),
        "a temple",
        3,
    ),
    Photograph(_skimage("brick.png", _CC0, "brick wall, CC0Textures"), "a brick wall", 3),
    Photograph(_skimage("coffee.png", _CC0, "cup of coffee, by Rachel Michetti"), "a cup of coffee", 4),
    Photograph(
        _skimage("coins.png", "no known copyright restrictions", "Greek coins, Brooklyn Museum"), "old coins", 4
    ),
    Photograph(_sklearn("flower.jpg", "dahlia, by vultilion, flickr.com/photos/vultilion/6056698931"), "a flower", 4),
    Photograph(_skimage("grass.png", _CC0, "grass, CC0Textures"), "grass", 5),
    Photograph(_skimage("gravel.png", _CC0, "gravel, CC0Textures"), "gravel", 5),
    Photograph(
        _skimage("hubble_deep_field.jpg", "public domain", "Hubble eXtreme Deep Field, by NASA"), "the night sky", 5
    ),
)
