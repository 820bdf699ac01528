"""Which converters there are. One line per task; a module is imported only when its task is prepared."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from ...base.errors import DataError, Problem
from ...base.schema import nearest
from .contract import Converter


#: Stream -> task -> ``module:class``, in the order of the stream.
CONVERTERS: dict[str, dict[str, str]] = {
    "medical_cl": {
        "path": "cl_plugins.data.prepare.medical_cl.path:Pathology",
        "sur": "cl_plugins.data.prepare.medical_cl.sur:Surgery",
        "cell": "cl_plugins.data.prepare.medical_cl.cell:Cells",
        "rad": "cl_plugins.data.prepare.medical_cl.rad:Radiology",
    },
    "mllm_cl": {
        "rs": "cl_plugins.data.prepare.llava.mllm_cl:RemoteSensing",
        "med": "cl_plugins.data.prepare.llava.mllm_cl:Medicine",
        "ad": "cl_plugins.data.prepare.llava.mllm_cl:Driving",
        "sci": "cl_plugins.data.prepare.llava.mllm_cl:Science",
        "fin": "cl_plugins.data.prepare.llava.mllm_cl:Finance",
    },
    "mllm_cl_ability": {
        "ocr": "cl_plugins.data.prepare.llava.mllm_cl:Reading",
        "math": "cl_plugins.data.prepare.llava.mllm_cl:Mathematics",
        "vp": "cl_plugins.data.prepare.llava.mllm_cl:Perception",
        "app": "cl_plugins.data.prepare.llava.mllm_cl:Screens",
    },
    # Both streams take the same data sets, which are named after the longer one's tasks: mslora_cr_<task>_<split>.
    "mslora_cr_8": {
        "pathvqa": "cl_plugins.data.prepare.llava.mslora_cr:Pathology",
        "slake_vqarad": "cl_plugins.data.prepare.llava.mslora_cr:Radiology",
        "derm": "cl_plugins.data.prepare.llava.mslora_cr:Skin",
        "pcam": "cl_plugins.data.prepare.llava.mslora_cr:LymphNodes",
        "cxp": "cl_plugins.data.prepare.llava.mslora_cr:Pneumonia",
        "ham": "cl_plugins.data.prepare.llava.mslora_cr:Lesions",
        "nmi": "cl_plugins.data.prepare.llava.mslora_cr:Slides",
        "iu_x_ray": "cl_plugins.data.prepare.llava.mslora_cr:Chests",
    },
    "mslora_cr_6": {
        "pathvqa": "cl_plugins.data.prepare.llava.mslora_cr:Pathology",
        "slake_vqarad": "cl_plugins.data.prepare.llava.mslora_cr:Radiology",
        "pcam": "cl_plugins.data.prepare.llava.mslora_cr:LymphNodes",
        "cxp": "cl_plugins.data.prepare.llava.mslora_cr:Pneumonia",
        "nmi": "cl_plugins.data.prepare.llava.mslora_cr:Slides",
        "iu_x_ray": "cl_plugins.data.prepare.llava.mslora_cr:Chests",
    },
    "coin": {
        "scienceqa": "cl_plugins.data.prepare.llava.coin:ScienceQA",
        "textvqa": "cl_plugins.data.prepare.llava.coin:TextVQA",
        "imagenet": "cl_plugins.data.prepare.llava.coin:ImageNet",
        "gqa": "cl_plugins.data.prepare.llava.coin:GQA",
        "vizwiz": "cl_plugins.data.prepare.llava.coin:VizWiz",
        "grounding": "cl_plugins.data.prepare.llava.coin:Grounding",
        "vqav2": "cl_plugins.data.prepare.llava.coin:VQAv2",
        "ocrvqa": "cl_plugins.data.prepare.llava.coin:OCRVQA",
    },
    "ucit": {
        "imagenet_r": "cl_plugins.data.prepare.llava.ucit:Renditions",
        "arxivqa": "cl_plugins.data.prepare.llava.ucit:Figures",
        "vizwiz_caption": "cl_plugins.data.prepare.llava.ucit:PhoneCaptions",
        "iconqa": "cl_plugins.data.prepare.llava.ucit:Icons",
        "clevr_math": "cl_plugins.data.prepare.llava.ucit:Counting",
        "flickr30k": "cl_plugins.data.prepare.llava.ucit:PhotoCaptions",
    },
    "standard_cl": {
        "dbpedia": "cl_plugins.data.prepare.text.standard_cl:DBpedia",
        "amazon": "cl_plugins.data.prepare.text.standard_cl:Amazon",
        "yahoo": "cl_plugins.data.prepare.text.standard_cl:Yahoo",
        "agnews": "cl_plugins.data.prepare.text.standard_cl:AGNews",
    },
    "trace": {
        "c_stance": "cl_plugins.data.prepare.text.trace:CStance",
        "fomc": "cl_plugins.data.prepare.text.trace:FOMC",
        "meetingbank": "cl_plugins.data.prepare.text.trace:MeetingBank",
        "py150": "cl_plugins.data.prepare.text.trace:Py150",
        "scienceqa": "cl_plugins.data.prepare.text.trace:ScienceQA",
        "numglue_cm": "cl_plugins.data.prepare.text.trace:Commonsense",
        "numglue_ds": "cl_plugins.data.prepare.text.trace:DomainSpecific",
        "20minuten": "cl_plugins.data.prepare.text.trace:Simplification",
    },
}


def converters(stream: str, tasks: Sequence[str] = ()) -> list[type[Converter]]:
    """The converters of a stream.

    Args:
        stream: Name of the stream.
        tasks: Only these; all if empty.

    Raises:
        DataError: Unknown stream or task.
    """
    if stream not in CONVERTERS:
        fix = f"{nearest(stream, CONVERTERS)} Streams with converters: {', '.join(CONVERTERS)}."
        raise DataError(Problem("stream", f"there is no converter for {stream!r}.", fix.strip()))
    known = CONVERTERS[stream]
    unknown = [
        Problem("--task", f"{stream} has no task {task!r}.", f"Tasks: {', '.join(known)}.")
        for task in tasks
        if task not in known
    ]
    if unknown:
        raise DataError(unknown)
    return [load(known[task]) for task in known if not tasks or task in tasks]


def load(name: str) -> type[Converter]:
    """Import ``module:class``."""
    module, _, attribute = name.partition(":")
    found: type[Converter] = getattr(importlib.import_module(module), attribute)
    return found
