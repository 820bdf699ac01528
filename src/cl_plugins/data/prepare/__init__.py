"""Raw data sets in, LLaMA-Factory data sets out: ``cl-plugins data prepare <stream> --raw DIR --out DIR``.

A benchmark is a few *converters*, one per task. A converter says which raw files it needs and where they are obtained
(`sources`, `missing`), cuts the work into *units* (`units`, in the main process, lazily), and turns one unit into
records (`convert`, in a worker process). Everything else belongs to the framework: worker processes, checking and
writing pictures, the JSON lines, resuming, ``dataset_info.json``, the manifest, drops. A complete converter::

    class Spots(Converter):
        stream, task, version = "my_stream", "spots", 1
        splits = ("train", "test")
        sources = (Source("Spots", "https://example.org/spots", "CC BY 4.0", ("train.json", "test.json", "images/")),)
        columns = {"answer_type": str}  # extra columns of every record: str, or list (of str)

        def missing(self):
            return self.need(*(self.raw / f"{split}.json" for split in self.splits))

        def inputs(self, split):
            return [self.raw / f"{split}.json"]

        def units(self, split):
            # Lazily; ~ a second of work each. `chunked` makes units "000000", "000001", ... of plain records.
            yield from chunked(json_records(self.raw / f"{split}.json"), size=200)

        def convert(self, split, unit):
            for row, raw in unit.items():  # (row number in the file, the record)
                name = f"spots-{split}-{row:06d}"  # unique by construction
                picture = Picture.inside(self.raw / "images", str(raw.get("image", "")))
                yield Record.ask(name, raw.get("question"), raw.get("answer"), [picture], answer_type="OPEN")

It is registered by one line in `registry.CONVERTERS`: ``"my_stream": {"spots":
"cl_plugins.data.prepare.mine:Spots"}``. ``--raw DIR`` is ``self.raw`` if ``DIR/<task>`` does not exist, else
``DIR/<task>``. The output::

    OUT/dataset_info.json                 merged: other entries stay
    OUT/<stream>_<task>_<split>.jsonl     one sharegpt record per line: id, conversations, images, then `columns`
    OUT/images/<stream>_<task>/ab/ab12... pictures, named by their content, so that equal pictures are stored once
    OUT/dropped/<stream>_<task>_<split>.jsonl   {"id", "reason", "detail"} of every record that was left out
    OUT/manifest.json                     counts, hashes, licences, versions, options, drops by reason

What converters may rely on:

- A question or answer that is missing, NaN, blank or not text becomes a drop, not an error; so does a picture that is
  broken, missing, too large, or named outside of the raw folder. `Picture` reads nothing until the framework asks.
- `Record.ask` takes a question *without* placeholders: a literal ``<image>`` in it is escaped, and one ``<image>`` per
  picture is put in front. `Record.chat` takes turns as LLaVA writes them, *with* placeholders, and so does `Record.ask`
  with ``placeholders=True``, for their test questions: as many as there are pictures stay; else one per picture is put
  in front, or the record is dropped (`placeholders.placed`). What is asked has the form of what is trained on.
- Yield `Drop` for what the converter itself rejects. Raise `DataError` for what makes the whole file useless
  (truncated parquet); units that are finished stay, and the same command resumes the run.
- Randomness comes only from `rng_for(seed, what, version)`, keyed by record, so that workers and order do not matter.
- If two records of a split have the same id, the first is kept and the others are dropped with that reason.
"""

from __future__ import annotations

from .contract import Context, Converter, Drop, Picture, Record, Setting, Source, Turn, Unit, chunked
from .options import build_options, rng_for
from .readers import csv_rows, json_records, parquet_rows, plain_pickle


__all__ = [
    "Context",
    "Converter",
    "Drop",
    "Picture",
    "Record",
    "Setting",
    "Source",
    "Turn",
    "Unit",
    "build_options",
    "chunked",
    "csv_rows",
    "json_records",
    "parquet_rows",
    "plain_pickle",
    "rng_for",
]
