"""Row state: what belongs to the rows of a forward, chosen inside the forward, once, at the prompt.

Training, evaluation, ``model.generate``, a chat and anyone's pipeline call the base's ``forward``; that is what is wrapped,
since PEFT calls the method and not the module. What a row has been given (`Rows.kept`) lives as long as its conversation: on
the cache of keys and values, inside one ``generate`` where there is no cache, and in training until the backward is done.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..base.errors import CompatibilityError, Problem
from .generating import check_generation
from .kept import Kept, keep_on, kept_of
from .modes import looking
from .places import find_decoder, find_tower, logits_at
from .row_features import Rows, Seen


if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


#: Words in the names of a forward's inputs that belong to sounds, and to pictures, videos and sounds.
_SOUNDS = ("audio", "feature_attention_mask", "input_features")
_MEDIA = ("pixel", "image", "video", "grid", *_SOUNDS)
_STATE = "cl_row_state"


def state_of(model: Any) -> RowState | None:
    """The row state of a model, with or without adapters; None if it chooses nothing per row."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    function = vars(base).get("forward")
    while function is not None:
        state: RowState | None = getattr(function, _STATE, None)
        if state is not None:
            return state
        function = getattr(function, "__wrapped__", None) or getattr(function, "__func__", None)
    return None


@contextmanager
def answers_of(model: Any, batch: Mapping[str, Any]) -> Iterator[None]:
    """Forwards of a batch inside the block know where its answers begin, also if they are not given its ``labels``.

    Whoever starts a forward of training samples says so: a loss that the model does not compute takes the labels out of the
    batch, and a row would choose by its answer.

    Args:
        model: With or without adapters, not wrapped; one that chooses nothing per row is left alone.
        batch: ``input_ids`` and ``labels``; without them nothing is known.
    """
    state, ids, labels = state_of(model), batch.get("input_ids"), batch.get("labels")
    if state is None or ids is None or labels is None or ids.shape != labels.shape:
        yield
        return
    with state.answering(ids, labels):
        yield


class RowState:
    """Row state of one base, from `install` to `remove`.

    Args:
        model: The base.
        begin: Called once for every prompt, between the tower and the language model; puts what it chooses into
            `Rows.kept`.

    Attributes:
        decided_by: The entry of `Rows.kept`, a tensor (rows,) of whole numbers, on which alone the language model depends:
            what several prompts of one number begin with is then computed once. None where it depends on more.
    """

    def __init__(self, model: Any, begin: Callable[[Rows], None]) -> None:
        self._model, self._begin = model, begin
        self.decided_by: str | None = None
        self._threads = threading.local()
        self._training: Rows | None = None  # backward threads are not the thread of the forward
        self._graph: weakref.ref[Any] | None = None
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._handles: list[Any] = []
        self._signature: inspect.Signature = inspect.Signature()

    @property
    def current(self) -> Rows:
        """The rows of the forward that is running, or whose layers are computed again for the backward.

        Raises:
            CompatibilityError: Outside of a forward of the base.
        """
        rows: Rows | None = getattr(self._threads, "rows", None) or self._training
        if rows is None:
            what = "was called outside of a forward pass of the whole model, so that its rows are unknown."
            raise CompatibilityError(Problem("a routed layer", what, "Call the model itself."))
        return rows

    @property
    def off(self) -> bool:
        """Whether the base alone is computing, for features."""
        return bool(getattr(self._threads, "off", False))

    def install(self) -> None:
        """Wrap the base's ``forward`` and ``generate``, and the tower's ``forward``."""
        model = self._model
        self._signature = inspect.signature(model.forward)
        self._wrap(model, "forward", self._forward)
        if hasattr(model, "generate"):
            self._wrap(model, "generate", self._generate)
        tower = find_tower(model)
        if tower is not None:
            self._wrap(tower[1], "forward", self._tower)
        self._handles.append(find_decoder(model).register_forward_pre_hook(self._before_decoder, with_kwargs=True))

    def remove(self) -> None:
        """Put everything back; what a trainer has wrapped around goes as well."""
        for owner, name, before, own in reversed(self._replaced):
            if vars(owner).get("_original_forward") is own:  # Accelerate's note of what it has wrapped
                del owner._original_forward
            if before is None:
                vars(owner).pop(name, None)
            else:
                setattr(owner, name, before)
        for handle in self._handles:
            handle.remove()
        self._replaced, self._handles, self._training, self._graph = [], [], None, None

    @contextmanager
    def recording(self) -> Iterator[list[Kept]]:
        """What is chosen inside the block, one entry for every batch of prompts, in order."""
        before = getattr(self._threads, "seen", None)
        found: list[Kept] = []
        self._threads.seen = found
        try:
            yield found
        finally:
            self._threads.seen = before

    @contextmanager
    def telling(self, task: str) -> Iterator[None]:
        """Prompts inside the block are known to belong to a task (`Rows.told`).

        Args:
            task: Its name.
        """
        before, self._threads.told = getattr(self._threads, "told", None), task
        try:
            yield
        finally:
            self._threads.told = before

    @contextmanager
    def answering(self, ids: Tensor, labels: Tensor) -> Iterator[None]:
        """See `answers_of`.

        Args:
            ids: (rows, length), by which a forward of these rows is known.
            labels: (rows, length).
        """
        before = getattr(self._threads, "answers", ())
        self._threads.answers = (*before, (ids, labels))
        try:
            yield
        finally:
            self._threads.answers = before

    @contextmanager
    def base_alone(self) -> Iterator[None]:
        """Nothing is chosen inside the block, and every expert is off."""
        before, self._threads.off = self.off, True
        try:
            yield
        finally:
            self._threads.off = before

    @contextmanager
    def giving(self, kept: Kept, seen: Seen | None) -> Iterator[None]:
        """The rows of forwards inside the block are given this; nothing is chosen.

        Args:
            kept: What they are given, as `Rows.kept`.
            seen: What the tower gave for their pictures, so that it does not run again; None if they have none.
        """
        self._threads.tower, self._threads.given = seen, kept
        try:
            yield
        finally:
            self._threads.tower = self._threads.given = None

    def choose(self, inputs: Mapping[str, Any]) -> tuple[Kept, Seen | None]:
        """What prompts are given, from a forward that ends once it is known: behind the tower, or before the language model.

        Args:
            inputs: Whole prompts.

        Returns:
            What they are given, and what the tower gave, for `giving`.
        """
        self._threads.choosing = True
        try:
            self._model(**inputs, use_cache=False)
        except _Chosen as end:
            return end.rows.kept, end.rows.seen
        finally:
            self._threads.choosing = False
        raise RuntimeError("the model did not call its language model")

    def _wrap(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        own = vars(owner).get(name)
        original = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(original, *args, **kwargs)

        # not functools.wraps: it would also say that the wrapper is the library's own
        wrapper.__wrapped__ = original  # type: ignore[attr-defined]
        wrapper.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
        setattr(wrapper, _STATE, self)
        setattr(owner, name, wrapper)
        self._replaced.append((owner, name, own, wrapper))

    def _forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        import torch

        if self.off:
            return original(*args, **kwargs)
        given: Kept | None = getattr(self._threads, "given", None)
        inputs = _named(self._signature, args, kwargs)
        rows = self._rows(inputs) if given is None else Rows(self._model, inputs, False, given)
        training = torch.is_grad_enabled() and self._model.training
        rows.learning, rows.answers = training, getattr(self._threads, "answers", ())
        if training:
            self._check_single_forward()
        outer, self._threads.rows = getattr(self._threads, "rows", None), rows
        try:
            output = original(*args, **kwargs)
        finally:
            self._threads.rows = outer
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            keep_on(cache, rows.kept)
        if training:
            self._training = rows
            self._watch(output)
        return output

    def _rows(self, inputs: Mapping[str, Any]) -> Rows:
        """The rows of a forward: prompts, or the next tokens of rows that have been given something."""
        given = inputs.get("input_ids")
        given = given if given is not None else inputs.get("inputs_embeds")
        if given is None:
            what = "got neither `input_ids` nor `inputs_embeds`."
            raise CompatibilityError(Problem("a model that chooses per row", what, "Call it as Transformers does."))
        count, cache = int(given.shape[0]), inputs.get("past_key_values")
        filled = cache is not None and int(cache.get_seq_length()) > 0
        scope: dict[str, Any] | None = getattr(self._threads, "generation", None)
        kept = kept_of(cache) if filled else None
        if filled and kept is None:
            what = "got a key-value cache that it has not filled itself."
            fix = "Give whole prompts; a prefix shared by several prompts cannot be computed in advance."
            raise CompatibilityError(Problem("a model that chooses per row", what, fix))
        if not filled and cache is None and scope is not None and inputs.get("use_cache") is False:
            kept = scope.get("kept")
        if kept is not None and kept.rows not in (None, count):
            what = f"continues with {count} rows where {kept.rows} had prompts."
            raise CompatibilityError(
                Problem("a model that chooses per row", what, "Keep the rows of a batch together.")
            )
        rows = Rows(self._model, inputs, kept is None, Kept() if kept is None else kept)
        rows.told = getattr(self._threads, "told", None)
        if scope is not None and rows.fresh:
            scope["kept"] = rows.kept
        return rows

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Without a cache every token is a forward over prompt and answer: the choice is held."""
        check_generation(self._model, _named(inspect.signature(original), args, kwargs))
        outer = getattr(self._threads, "generation", None)
        self._threads.generation = {}
        try:
            return original(*args, **kwargs)
        finally:
            self._threads.generation = outer

    def _tower(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The tower runs once; the choice is taken as soon as it has, so before a projector that depends on it."""
        rows = getattr(self._threads, "rows", None)
        known: Seen | None = getattr(self._threads, "tower", None)
        pictures = next((value for value in (*args, *kwargs.values()) if hasattr(value, "shape")), None)
        if (
            known is not None
            and (self.off or getattr(self._threads, "given", None) is not None)
            and known.of(pictures)
        ):
            if rows is not None and not self.off:
                rows.see(known)
            return known.given()
        output = original(*args, **kwargs)
        if rows is not None and not self.off:
            rows.see(Seen.of_call(pictures, output))
            if not rows.waits:
                self._choose(rows)
                self._end_where_chosen(rows)
        return output

    def _before_decoder(self, module: Module, args: Any, kwargs: Any) -> None:
        rows = getattr(self._threads, "rows", None)
        if rows is not None and not self.off:
            self._choose(rows)
            self._end_where_chosen(rows)

    def _end_where_chosen(self, rows: Rows) -> None:
        if rows.fresh and getattr(self._threads, "choosing", False):
            raise _Chosen(rows)

    def _choose(self, rows: Rows) -> None:
        if not rows.fresh or rows.chosen:
            return
        rows.chosen = True
        self._begin(rows)
        bad = {name: len(value) for name, value in rows.kept.items() if len(value) != rows.count}
        if bad:
            what = f"was given {next(iter(bad.values()))} entries of '{next(iter(bad))}' for {rows.count} rows."
            raise CompatibilityError(Problem("a model that chooses per row", what, "Put the rows first."))
        seen = getattr(self._threads, "seen", None)
        if seen is not None:
            seen.append(rows.kept)

    def hidden(self, rows: Rows) -> Tensor:
        """Mean last hidden state of the prompt in the frozen base, from a second pass of the language model.

        The tower's output is used again. Experts are off, and so is what replaces the base's modules per expert.

        Args:
            rows: Prompts whose choice is being taken.

        Returns:
            (rows, hidden) in fp32.
        """
        found: list[Any] = []
        handle = find_decoder(self._model).register_forward_hook(lambda m, a, output: found.append(output[0]))
        words = (*_MEDIA, "token_type")
        inputs = {k: v for k, v in rows.inputs.items() if k in rows.PROMPT or any(word in k for word in words)}
        self._threads.tower = rows.seen
        try:
            with looking(self._model), self.base_alone():
                self._model(**inputs, use_cache=False, logits_to_keep=1)
        finally:
            self._threads.tower = None
            handle.remove()
        return rows.mean(found[0], rows.prompt)

    def ask(self, rows: Rows, ids: Tensor, attended: Tensor, kept: dict[str, Any], positions: Tensor) -> Tensor:
        """Logits of another prompt about the same pictures, computed with a given choice.

        The tower's output is used again.

        Args:
            rows: Prompts whose choice is being taken.
            ids: (rows, length), the other prompts, padded on the right.
            attended: (rows, length), bool.
            kept: What the rows are given for this pass, as `Rows.kept`.
            positions: (rows,), the position of each row whose logits are wanted.

        Returns:
            (rows, vocabulary).
        """
        seen = bool((rows.prompt & ~rows.words).any())  # a collator gives a batch of text a picture in the padding
        words = _MEDIA if seen else _SOUNDS
        media = {k: v for k, v in rows.inputs.items() if any(word in k for word in words) and v is not None}
        inputs = {"input_ids": ids, "attention_mask": attended.long(), **media}
        with looking(self._model), self.giving(Kept(kept), rows.seen if seen else None):
            return logits_at(self._model, inputs, positions)

    def _check_single_forward(self) -> None:
        """Layers that are computed again for a backward must find the rows of their own forward."""
        if self._graph is None or self._graph() is None:
            return
        if any(getattr(m, "gradient_checkpointing", False) for m in self._model.modules()):
            what = (
                "makes a second forward pass before the backward pass of the first. With gradient checkpointing the first one's layers "
                "would be computed again with the rows of the second."
            )
            fix = "Set `disable_gradient_checkpointing: true`, or use a setting with one forward pass per backward pass (`mixing: concatenate`)."
            raise CompatibilityError(Problem("a model that chooses per row", what, fix))

    def _watch(self, output: Any) -> None:
        """Notice when the graph of a training forward is used up or gone."""
        value = getattr(output, "logits", None)
        value = output.loss if value is None or not value.requires_grad else value
        if value is None or not value.requires_grad:
            return
        token = _Token()
        node = value.grad_fn
        node.metadata[_STATE] = token  # lives as long as the graph
        self._graph = weakref.ref(token)
        state = weakref.ref(self)

        def begun(*_: Any) -> None:
            owner = state()
            if owner is not None and owner._graph is not None and owner._graph() is token:
                owner._graph = None

        value.register_hook(lambda gradient: begun())


def _named(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call by name."""
    found = dict(signature.bind_partial(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found.update(found.pop(name, {}))
    return found


class _Token:
    """Is there while the graph is there."""


class _Chosen(Exception):
    """No error: the choice of rows has been taken, and the rest of the forward was not asked for."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.rows = rows
