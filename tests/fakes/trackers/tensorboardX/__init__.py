"""Stands for tensorboardX (and for the writer of torch.utils.tensorboard, which has the same calls)."""

from __future__ import annotations

from tracked import note


class SummaryWriter:
    def __init__(self, log_dir=None, comment="", purge_step=None, max_queue=10, flush_secs=120, filename_suffix=""):
        note("init", id=log_dir, purge_step=purge_step)

    def add_text(self, tag, text_string, global_step=None, walltime=None):
        note("config", values=[tag])

    def add_scalar(self, tag, scalar_value, global_step=None, walltime=None):
        note("log", values={tag: scalar_value}, step=global_step)

    def add_image(self, tag, img_tensor, global_step=None, walltime=None, dataformats="CHW"):
        if dataformats != "HWC" or img_tensor.ndim != 3 or img_tensor.dtype != "uint8":
            raise ValueError("not a picture")
        note("log", values={tag: "image"}, step=global_step)

    def flush(self):
        pass

    def close(self):
        note("finish")
