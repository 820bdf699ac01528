"""From records to the tensors of the classifier: one reader per modality.

A record is a mapping with ``label`` and, under the name of each modality, a file or a value; a modality that is left out or
null is missing in that sample: its rows are zeros and `present` says so.
"""

from __future__ import annotations

import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..base.errors import CompatibilityError, DataError, Problem
from ..base.schema import option
from . import headers, media


if TYPE_CHECKING:
    from torch import Tensor


FILE = "inputs.json"
#: What a reader raises for a value that it cannot read.
UNREADABLE = (OSError, ValueError, TypeError, KeyError)
CHANNELS = "channels.json"  # names of a signal's channels
_CACHED, _SMALL = 8192, 65536  # tensors that are kept in memory, and their largest number of elements


#: Key of an encoder -> the kind that reads it.
_OF_KIND = {"frames": "vision", "sampling_rate": "audio", "seconds": "audio", "max_length": "text"}


@dataclass(frozen=True)
class EncoderSpec:
    """One entry of ``encoders:`` in a recipe."""

    kind: Literal["vision", "audio", "text", "signal"] = option(help="What the encoder reads.")
    model: str | None = option(None, help="Folder or hub name of a pretrained encoder.")
    config: dict[str, Any] | None = option(
        None, help="Config of an encoder with random weights, in place of `model`: `model_type` and its fields."
    )
    seed: int = option(0, help="Seed of the random weights, for `config`.")
    frames: int = option(
        1,
        minimum=1,
        help="vision: pictures per sample, taken at equal distances out of a video or the pages of a TIFF or GIF.",
    )
    sampling_rate: int = option(16000, minimum=1, help="audio: samples per second.")
    seconds: float = option(
        10.0, minimum=0, help="audio: length of a sample for encoders that take waves; padded or cut."
    )
    max_length: int = option(64, minimum=1, help="text: longest text in tokens.")

    @property
    def public_name(self) -> str | None:
        """``model`` without places of this machine: a hub's name as it is, of a folder the last part."""
        if self.model is None or not Path(self.model).expanduser().is_dir():
            return self.model
        return Path(self.model).expanduser().resolve().name

    def random_config(self) -> dict[str, Any]:
        """``config`` with its ``model_type``: an encoder of signals is the one of this package."""
        given = dict(self.config or {})
        return {"model_type": "cl_signal", **given} if self.kind == "signal" else given

    def value_problems(self, where: str) -> list[Problem]:
        """An encoder needs weights or a config.

        Args:
            where: YAML path for the messages.
        """
        if (self.model is None) == (self.config is None):
            what = "has both `model` and `config`." if self.model else "has neither `model` nor `config`."
            return [Problem(where, what, "Name a pretrained encoder, or give the config of one with random weights.")]
        found = []
        for key, kind in _OF_KIND.items():
            value, default = getattr(self, key), type(self).__dataclass_fields__[key].default
            if kind != self.kind and value != default:
                what = f"is {value!r}, and an encoder of the kind {self.kind} does not read it."
                found.append(Problem(f"{where}.{key}", what, f"Remove it; it is a key of the kind {kind}."))
        return found


class Reader(ABC):
    """Makes tensors of one modality; the base of the four kinds.

    Attributes:
        processor: What Transformers has for it (image processor, feature extractor, tokenizer); None where there is none.
        names: Of a signal, the names that the channels of a file must have, if it has any: another order is another signal.
    """

    processor: Any = None
    names: tuple[str, ...] | None = None

    @abstractmethod
    def read(self, value: Any) -> dict[str, Tensor]:
        """Tensors of one sample, without the dimension of the batch."""

    @abstractmethod
    def empty(self) -> dict[str, Tensor]:
        """The same of nothing."""

    @abstractmethod
    def look(self, value: Any) -> bool:
        """Check a value as far as that is cheap, see `headers`.

        Returns:
            Whether `read` will leave out the end of it.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If it is not what is read here.
            TypeError: The same.
        """

    def save(self, folder: Path) -> None:
        """Save the processor, if there is one."""
        if self.processor is not None:
            self.processor.save_pretrained(folder)


class VisionReader(Reader):
    """Pictures, or frames of a video.

    Args:
        spec: The encoder's entry.
        config: The encoder's config.
        folder: Folder or hub name of its processor; None for a plain scaling to [-1, 1].
    """

    def __init__(self, spec: EncoderSpec, config: Any, folder: str | None) -> None:
        self._frames = spec.frames
        size = config.image_size
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        if folder is not None:
            from transformers import AutoImageProcessor

            self.processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)

    def read(self, value: Any) -> dict[str, Tensor]:
        """``pixel_values`` (channels, height, width), of several frames with these in front."""
        import numpy as np
        import torch

        pictures = media.frames(value, self._frames)
        if self.processor is not None:
            values = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        else:
            scaled = [np.asarray(p.resize(self._size[::-1]), dtype=np.float32) / 127.5 - 1 for p in pictures]
            values = torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2).contiguous()
        return {"pixel_values": values if self._frames > 1 else values[0]}

    def look(self, value: Any) -> bool:
        """Open each file; nothing is cut."""
        files = value if isinstance(value, list) else [value]
        if not files:
            raise ValueError("there is no picture in it")
        for file in files:
            if not isinstance(file, str):
                raise TypeError(f"it is a {type(file).__name__} in place of a file")
            headers.look(file)
        return False

    def empty(self) -> dict[str, Tensor]:
        """Grey."""
        from PIL import Image

        return self.read([Image.new("RGB", self._size[::-1], (128, 128, 128))])


class AudioReader(Reader):
    """Sounds, as the features or waves that the encoder takes.

    Args:
        spec: The encoder's entry.
        config: The encoder's config.
        folder: Folder or hub name of its feature extractor; None makes one from the config.
    """

    def __init__(self, spec: EncoderSpec, config: Any, folder: str | None) -> None:
        self._rate, self._kind, self._config = spec.sampling_rate, str(config.model_type), config
        self._length = max(1, round(spec.seconds * spec.sampling_rate))
        self.processor = self._make(folder)

    def _make(self, folder: str | None) -> Any:
        import transformers as hf

        if folder is not None:
            return hf.AutoFeatureExtractor.from_pretrained(folder)
        if self._kind == "audio-spectrogram-transformer":
            return hf.ASTFeatureExtractor(
                num_mel_bins=self._config.num_mel_bins, max_length=self._config.max_length, sampling_rate=self._rate
            )
        if self._kind == "whisper":
            seconds = max(1, round(self._config.max_source_positions * 2 * 160 / self._rate))
            return hf.WhisperFeatureExtractor(
                feature_size=self._config.num_mel_bins, chunk_length=seconds, sampling_rate=self._rate
            )
        return hf.Wav2Vec2FeatureExtractor(sampling_rate=self._rate, do_normalize=True)

    def read(self, value: Any) -> dict[str, Tensor]:
        """``input_values`` or ``input_features`` of one sound."""
        import torch

        wave = media.sound(value, self._rate)
        if self._kind == "wav2vec2":
            import numpy as np

            wave = np.pad(wave[: self._length], (0, max(0, self._length - len(wave))))
        found = self.processor(wave, sampling_rate=self._rate, return_tensors="pt")
        if self._kind == "whisper":
            values, wanted = found["input_features"][0], 2 * self._config.max_source_positions
            return {
                "input_features": torch.nn.functional.pad(values[:, :wanted], (0, max(0, wanted - values.shape[1])))
            }
        return {"input_values": found["input_values"][0]}

    def look(self, value: Any) -> bool:
        """Whether the sound is longer than the encoder's input."""
        samples = headers.sound_samples(value, self._rate)
        return samples is not None and samples > self._most

    @property
    def _most(self) -> float:
        """The longest sound in samples."""
        if self._kind == "wav2vec2":
            return self._length
        if self._kind == "whisper":
            hop = int(self.processor.hop_length)
            return float(min(2 * int(self._config.max_source_positions) * hop, self.processor.n_samples))
        # AST: frames of 25 ms, one every 10 ms, of which a last one of less than 25 ms is no frame
        return float(self._rate * (self.processor.max_length * 0.010 + 0.025)) - 1

    def empty(self) -> dict[str, Tensor]:
        """Zeros."""
        import numpy as np

        wave = np.full(self._rate // 4, 1e-3, dtype=np.float32)
        return {name: value * 0 for name, value in self.read(wave).items()}


class TextReader(Reader):
    """Texts, by the encoder's tokenizer, or by a hash of each word where an encoder has none.

    Args:
        spec: The encoder's entry.
        config: The encoder's config.
        folder: Folder or hub name of its tokenizer; None for hashed words.
    """

    def __init__(self, spec: EncoderSpec, config: Any, folder: str | None) -> None:
        self._most, self._vocabulary = spec.max_length, int(config.vocab_size)
        if folder is not None:
            from transformers import AutoTokenizer

            self.processor = AutoTokenizer.from_pretrained(folder)

    def read(self, value: Any) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, (tokens,) each."""
        import torch

        if self.processor is not None:
            ids = self.processor(str(value), truncation=True, max_length=self._most)["input_ids"]
        else:  # 0 pads and 1 begins
            words = self._words(value)[: self._most - 1]
            ids = [1, *(2 + zlib.crc32(word.encode()) % (self._vocabulary - 2) for word in words)]
        found = torch.tensor(ids, dtype=torch.long)
        return {"input_ids": found, "attention_mask": torch.ones_like(found)}

    @staticmethod
    def _words(value: Any) -> list[str]:
        return str(value).lower().split()

    def look(self, value: Any) -> bool:
        """Whether the text has more tokens than are read."""
        if self.processor is not None:
            return len(self.processor(str(value), verbose=False)["input_ids"]) > self._most
        return 1 + len(self._words(value)) > self._most

    def empty(self) -> dict[str, Tensor]:
        """An empty text."""
        return self.read("")


class SignalReader(Reader):
    """Signals of sensors, brought to the encoder's length by linear interpolation.

    Args:
        spec: The encoder's entry.
        config: The encoder's config.
        folder: Where the names of the channels may be.
    """

    def __init__(self, spec: EncoderSpec, config: Any, folder: str | None) -> None:
        self._length, self._channels = int(config.length), int(config.channels)
        file = Path(folder or "", CHANNELS)
        if folder is not None and file.is_file():
            self.names = tuple(json.loads(file.read_text(encoding="utf-8")))

    def read(self, value: Any) -> dict[str, Tensor]:
        """``values`` (length, channels)."""
        import torch

        return {"values": torch.from_numpy(media.signal(value, self._length, self._channels, self.names))}

    def save(self, folder: Path) -> None:
        """Save the names of the channels, if they are known."""
        if self.names is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CHANNELS).write_text(json.dumps(self.names) + "\n", encoding="utf-8")

    def look(self, value: Any) -> bool:
        """Whether it has the encoder's channels; it is brought to the encoder's length as a whole."""
        headers.check_signal(value, self._channels)
        return False

    def empty(self) -> dict[str, Tensor]:
        """Zeros."""
        import torch

        return {"values": torch.zeros(self._length, self._channels)}


READERS: dict[str, Any] = {"vision": VisionReader, "audio": AudioReader, "text": TextReader, "signal": SignalReader}


def unreadable(where: str, error: Exception) -> Problem:
    """The problem of a value that cannot be read.

    Args:
        where: Its record and modality.
        error: One of `UNREADABLE`.
    """
    told = " ".join(str(error).split())[:300].rstrip(".")
    return Problem(where, f"cannot be read: {told}.", "Correct it.")


def _reader(name: str, spec: EncoderSpec, config: Any, folder: str | None) -> Reader:
    try:
        reader: Reader = READERS[spec.kind](spec, config, folder)
    except (OSError, ValueError, ImportError) as error:
        what = f"has no processor that can be loaded: {' '.join(str(error).split())[:300]}"
        fix = "Save the image processor, feature extractor or tokenizer beside the weights."
        raise CompatibilityError(Problem(f"encoders.{name}.model", what, fix)) from error
    return reader


class CrossModalProcessor:
    """Makes batches for `cl_plugins.crossmodal.model.CrossModalClassifier` out of records.

    Args:
        specs: Modality -> its entry.
        configs: Modality -> config of its encoder.
        folders: Modality -> where its processor is; those of ``model`` by default.

    Raises:
        CompatibilityError: If a processor cannot be loaded.
    """

    def __init__(
        self,
        specs: Mapping[str, EncoderSpec],
        configs: Mapping[str, Any],
        folders: Mapping[str, str | None] | None = None,
    ) -> None:
        places = folders or {name: spec.model for name, spec in specs.items()}
        self.names = tuple(sorted(specs))
        self._specs, self._configs = dict(specs), dict(configs)
        self._readers = {name: _reader(name, specs[name], configs[name], places[name]) for name in self.names}
        self._empty: dict[str, dict[str, Tensor]] = {}
        self._cache: dict[tuple[str, str], dict[str, Tensor]] = {}

    def name_channels(self, names: Mapping[str, tuple[str, ...]]) -> None:
        """Say which channels signals have; a file with others is refused from now on.

        Args:
            names: Modality -> names of its channels, in order.
        """
        for name, channels in names.items():
            self._readers[name].names = channels

    def _read(self, name: str, record: Mapping[str, Any]) -> dict[str, Tensor]:
        value = record.get(name)
        if value is None:
            if name not in self._empty:
                self._empty[name] = self._readers[name].empty()
            return self._empty[name]
        key = (name, value) if isinstance(value, str) else None
        if key is not None and key in self._cache:
            return self._cache[key]
        try:
            found: dict[str, Tensor] = self._readers[name].read(value)
            if not all(bool(tensor.isfinite().all()) for tensor in found.values()):
                raise ValueError("it holds numbers that are not finite")
        except UNREADABLE as error:
            shown = value if isinstance(value, str) else type(value).__name__
            where = f"record {record.get('id', '?')!r}, {name}: {shown}"
            raise DataError(unreadable(where, error)) from error
        if key is not None and len(self._cache) < _CACHED and all(t.numel() <= _SMALL for t in found.values()):
            self._cache[key] = found
        return found

    def look(self, name: str, value: Any) -> bool:
        """Check a value of a modality as far as that is cheap, see `Reader.look`.

        Args:
            name: The modality.
            value: What a record has for it.
        """
        cut: bool = self._readers[name].look(value)
        return cut

    def __call__(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch.

        Args:
            records: The records.

        Returns:
            ``<modality>.<input>`` -> (rows, ...), texts padded to the longest, and ``present`` (rows, modalities) bool.

        Raises:
            DataError: If a file or a value cannot be read.
        """
        import torch

        found: dict[str, Tensor] = {}
        for name in self.names:
            rows = [self._read(name, record) for record in records]
            for part in rows[0]:
                values = [row[part] for row in rows]
                if self._specs[name].kind == "text":
                    found[f"{name}.{part}"] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
                else:
                    found[f"{name}.{part}"] = torch.stack(values)
        found["present"] = torch.tensor([[r.get(n) is not None for n in self.names] for r in records])
        return found

    def save_pretrained(self, folder: str | Path) -> None:
        """Save what is needed to make the same batches again: ``inputs.json`` and a folder per modality.

        Args:
            folder: The folder of the model.
        """
        folder = Path(folder)
        for name in self.names:
            self._readers[name].save(folder / f"processor_{name}")
        specs = {name: {**asdict(spec), "model": spec.public_name} for name, spec in self._specs.items()}
        (folder / FILE).write_text(json.dumps(specs, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, config: Any) -> CrossModalProcessor:
        """The processor that `save_pretrained` has written.

        Args:
            folder: The folder of the model.
            config: The model's `CrossModalConfig`.
        """
        from .encoders import config_of

        folder = Path(folder)
        specs = {n: EncoderSpec(**v) for n, v in json.loads((folder / FILE).read_text(encoding="utf-8")).items()}
        configs = {name: config_of(config.encoders[name]["config"]) for name in specs}
        places = {n: str(p) if (p := folder / f"processor_{n}").is_dir() else None for n in specs}
        return cls(specs, configs, places)
