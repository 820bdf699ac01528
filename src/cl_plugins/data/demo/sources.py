"""Pictures inside installed wheels; nothing is downloaded.

A package is located without being imported: importing stardist would load a deep-learning stack for the sake of
three pictures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...base.errors import DataError, Problem


INSTALL = 'Run `pip install "cl-plugins[demo]"`.'


@dataclass(frozen=True)
class Source:
    """One picture or volume inside a wheel.

    Attributes:
        name: Short name used in records and in the manifest.
        module: Import name of the package.
        distribution: Name of the package on PyPI.
        file: Path of the file inside the package.
        licence: What the package says about the picture.
        origin: Where the picture comes from.
    """

    name: str
    module: str
    distribution: str
    file: str
    licence: str
    origin: str

    def path(self) -> Path | None:
        """Return where the file is, or None if the package or the file is missing."""
        spec = find_spec(self.module)
        for root in (spec.submodule_search_locations or []) if spec else []:
            candidate = Path(root) / self.file
            if candidate.is_file():
                return candidate
        return None

    def describe(self) -> dict[str, str]:
        """Return the manifest entry: file, package version, licence, origin and sha256."""
        path = self.path()
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
        try:
            found = version(self.distribution)
        except PackageNotFoundError:
            found = ""
        return {
            "name": self.name,
            "package": f"{self.distribution} {found}".strip(),
            "file": self.file,
            "licence": self.licence,
            "origin": self.origin,
            "sha256": digest,
        }


_MNI_FILE = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_MNI_LICENCE = (
    "BSD-3-Clause package; nilearn gives the template's licence as unknown, its makers (McConnell Brain Imaging Centre, "
    "McGill) permit use, copying and distribution with their copyright notice"
)
_MNI_ORIGIN = "ICBM 2009a nonlinear symmetric average of 152 brains (Fonov et al. 2011)"

IHC = Source(
    "ihc",
    "skimage",
    "scikit-image",
    "data/ihc.png",
    "no known copyright restrictions",
    "colonic glands, FHL2 shown with DAB, haematoxylin counterstain (CMMI)",
)
HISTO = Source(
    "histo",
    "stardist",
    "stardist",
    "data/images/histo.jpg",
    "BSD-3-Clause package; picture from The Cancer Imaging Archive",
    "haematoxylin and eosin section (The Cancer Imaging Archive)",
)
NUCLEI = Source(
    "nuclei",
    "stardist",
    "stardist",
    "data/images/img2d.tif",
    "BSD-3-Clause package; picture from BBBC038 (CC0)",
    "fluorescence nuclei, 2018 Data Science Bowl (Caicedo et al. 2019)",
)
NUCLEI_MASK = Source(
    "nuclei_mask",
    "stardist",
    "stardist",
    "data/images/mask2d.tif",
    "BSD-3-Clause package; masks from BBBC038 (CC0)",
    "instance masks drawn by experts for the same picture",
)
MNI_T1 = Source("mni152_t1", "nilearn", "nilearn", _MNI_FILE.format("t1"), _MNI_LICENCE, _MNI_ORIGIN)
MNI_GREY = Source("mni152_grey", "nilearn", "nilearn", _MNI_FILE.format("gm"), _MNI_LICENCE, _MNI_ORIGIN)
MNI_WHITE = Source("mni152_white", "nilearn", "nilearn", _MNI_FILE.format("wm"), _MNI_LICENCE, _MNI_ORIGIN)

STREAM_SOURCES = (IHC, HISTO, NUCLEI, NUCLEI_MASK, MNI_T1, MNI_GREY, MNI_WHITE)


def require(sources: tuple[Source, ...], modules: tuple[str, ...] = ()) -> None:
    """Check that all pictures (and helper modules) are there before any work starts.

    Args:
        sources: Pictures that will be read.
        modules: Import names that must be importable as well.

    Raises:
        DataError: Lists everything that is missing.
    """
    problems = [
        Problem(f"{source.distribution}: {source.file}", "the file was not found in the installed package.", INSTALL)
        for source in sources
        if source.path() is None
    ]
    problems += [Problem(name, "the module is not installed.", INSTALL) for name in modules if find_spec(name) is None]
    if problems:
        raise DataError(problems, headline="The demo's pictures are not all here:")


def _existing(source: Source) -> Path:
    path = source.path()
    if path is None:
        require((source,))
        raise DataError(f"{source.file} vanished")
    return path


def read_rgb(source: Source) -> NDArray[np.uint8]:
    """Return a picture as (height, width, 3) uint8; transparency is laid on white."""
    from PIL import Image

    with Image.open(_existing(source)) as image:
        if image.mode in ("RGBA", "LA", "P"):
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            return np.asarray(Image.alpha_composite(white, image).convert("RGB"))
        return np.asarray(image.convert("RGB"))


def read_plane(source: Source) -> NDArray[np.int64]:
    """Return a one-channel picture (intensities or instance numbers) as (height, width) int64."""
    from PIL import Image

    with Image.open(_existing(source)) as image:
        return np.asarray(image).astype(np.int64)


def read_volume(source: Source) -> NDArray[np.uint8]:
    """Return a volume as (x, y, z) uint8, axes in the file's order (here: left-right, back-front, bottom-top)."""
    import nibabel

    image: Any = nibabel.load(_existing(source))  # type: ignore[attr-defined]
    return np.asarray(image.dataobj).astype(np.uint8)
