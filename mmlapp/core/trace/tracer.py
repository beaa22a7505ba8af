# Copyright (c) mmlapp authors. All rights reserved.
# SPDX-License-Identifier: Apache-2.0
"""One real forward that records which channels belong together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..writes import Values, storage_of
from .call import Call, operands, tensors_in
from .graph import NO_CHANNEL
from .heads import Heads
from .labels import Axis, Labels
from .living_modules import LivingModules
from .memory import seen
from .own_calls import OwnCalls
from .record import Maker, Site, Trace
from .reductions import Reductions
from .rule import Rule
from .running import in_forward
from .sizes import Sizes

# A mask is a product with the gate, made where a forward reads a parameter.
OUTSIDE = 'of a parameter that is read outside of every forward'
WRITTEN = 'of a parameter that the forward changes in place'


class Tracer(TorchDispatchMode):
    """Dispatch mode that carries labels beside every tensor.

    Args:
        model (nn.Module): The network whose parameters are labelled.
        rules (dict[str, Rule]): Operator name (``aten::relu``, without the
            underscore of in-place variants) to rule.
        fallback (Rule): Rule of every other operator.
        heads (Heads, optional): What is known of heads. Defaults to None:
            nothing.
        values (Values, optional): Those of parameters and buffers, told what
            is about to be written. Defaults to None: they are not put back.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: dict[str, Rule],
        fallback: Rule,
        heads: Heads | None = None,
        values: Values | None = None,
    ) -> None:
        super().__init__()
        self.values = Values(()) if values is None else values
        self._model = model
        self.trace = Trace()
        self.heads = Heads() if heads is None else heads
        self.graph = self.trace.graph
        self._rules, self._fallback = rules, fallback
        # By identity: a weight that two layers share is one tensor with one
        # name, and its nodes are shared with it.
        named = list(_named_tensors(model))
        self._names = {id(t): name for name, t in named}
        # A forward may replace them: no other tensor is to get their ids.
        self._held = [tensor for _, tensor in named]
        # Not of what was computed from parameters and buffers.
        self._own = {storage_of(tensor) for _, tensor in named}
        # Ids are used again after a tensor has died: the weak reference tells
        # whether an entry is still that of the tensor asked for.
        self._labels: dict[int, tuple[ref[Tensor], Labels]] = {}
        # Storage to all tensors seen on it: views of each other.
        self._by_storage: dict[int, dict[int, ref[Tensor]]] = {}
        self._sites: dict[tuple[str, int], Site] = {}
        self._makers: list[Maker] = []
        # Once, for all that goes over them: there may be many.
        names = {module: name for name, module in model.named_modules()}
        self.modules = {id(module): name for module, name in names.items()}
        self.own_calls = OwnCalls(names)
        self.living = LivingModules(self)
        self.reductions = Reductions(self)
        self.sizes = Sizes(self)
        self.stack: list[nn.Module] = []
        # Storages of parameters and buffers that a loss may update, as a
        # momentum encoder is: no channel goes that way. Empty in the main
        # forward.
        self.updated: set[int] = set()
        # Ids of modules whose cuts move with their attributes.
        self.cutters: set[int] = set()
        # Above zero operators have no rules: inside rules themselves, and in
        # modules that are followed as a whole.
        self.quiet = 0
        # What the function was given that cuts at the moment.
        self.given: Sequence[Any] = ()
        # Whether masks reach parameters that are read now.
        self._masks = True
        # How many rules are running: their operators are not the network's.
        self._ruling = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self._ruling:
            return func(*args, **kwargs)
        if func._schema.is_mutable:
            self.values.about_to_write(operands(args, kwargs))
        self.note_read(operands(args, kwargs))
        name = func._schema.name
        if not self.quiet and self._rule(name) is None:
            # What PyTorch writes with other operators comes here as those, but
            # for tensors that autograd does not know.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        first = args[0] if args else None
        shape = tuple(first.shape) if isinstance(first, Tensor) else ()
        out = func(*args, **kwargs)
        if not self.quiet:
            call = Call(name, func, args, kwargs, out, shape)
            with self.silence():
                if not self._is_update(call):
                    self._apply(call)
        return out

    def _is_update(self, call: Call) -> bool:
        """Whether a call writes parameters or buffers and nothing else."""
        return (
            bool(self.updated)
            and call.func._schema.is_mutable
            and {storage_of(t) for t in call.written()} <= self.updated
        )

    def note_read(self, values: Iterable[Any]) -> None:
        """Notes parameters and buffers among what somebody reads.

        Args:
            values (Iterable): Whatever it is.
        """
        for value in values:
            name = self._names.get(id(value))
            if name is not None:
                self.trace.read.add(name)

    def note_size(self, values: Iterable[Any]) -> None:
        """Notes parameters among what somebody asks for a size.

        Args:
            values (Iterable): Whatever it is.
        """
        if not self._ruling:
            for value in values:
                self.own_calls.note_size(value, self.running())

    def _rule(self, name: str) -> Rule | None:
        """The rule of an operator, if there is one."""
        # In place or not, the labels are the same: relu_ has the rule of relu.
        return self._rules.get(name) or self._rules.get(name.removesuffix('_'))

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Lets operators run that are not the network's."""
        self.quiet += 1
        self._ruling += 1
        try:
            yield
        finally:
            self.quiet -= 1
            self._ruling -= 1

    @contextmanager
    def unmasked(self) -> Iterator[None]:
        """Lets parameters be read where no mask reaches them.

        What is computed of them shrinks with them, and is not zero at removed
        channels. In a forward they are read through masks again.
        """
        self._masks = False
        try:
            yield
        finally:
            self._masks = True
            for known in self._names:
                self._labels.pop(known, None)

    def running(self) -> str:
        """Returns the name of the innermost module that runs."""
        return self.modules[id(self.stack[-1])] if self.stack else ''

    def cuts_follow(self) -> bool:
        """Whether the running module cuts where its attributes say.

        They are set when it is narrowed, so that its cuts tie nothing.
        """
        return bool(self.stack) and id(self.stack[-1]) in self.cutters

    def _apply(self, call: Call) -> None:
        rule = self._rule(call.op) or self._fallback
        self.own_calls.note(call)
        # Before the rule runs: where it works in place, the labels of what was
        # read are replaced by those of what was written.
        entries = [self.labels(t) for t in call.tensors()]
        for labels in entries:
            if labels.stale:
                self.freeze(labels, 'changed in place through a view')
        self._check_masks(call, entries)
        rule.follow(self, call)
        self._see_changes(call)
        carries_mask = rule.carries_mask(call)
        for labels in entries:
            self.note_reader(labels, carries_mask)

    def _check_masks(self, call: Call, entries: list[Labels]) -> None:
        """Freezes parameters that are used where masks do not reach."""
        masks = [labels for labels in entries if labels.maskable]
        # A view is no use yet: it is looked at where somebody reads it.
        if masks and not in_forward() and not call.func.is_view:
            for labels in masks:
                self.freeze(labels, OUTSIDE)
        for target in call.written():
            labels = self.labels(target)
            if labels.maskable and storage_of(target) in self._own:
                self.freeze(labels, WRITTEN)

    def note_reader(self, labels: Labels, carries_mask: bool = False) -> None:
        """Notes who reads the raw output of a layer.

        Args:
            labels (Labels): Labels of what is read.
            carries_mask (bool): Whether an affine norm reads it, which can
                carry the mask. Defaults to False.
        """
        if labels.maker is not None:
            self._makers[labels.maker].normed |= carries_mask
            self._makers[labels.maker].raw |= not carries_mask

    def _see_changes(self, call: Call) -> None:
        """Lets what shares its storage with a tensor just changed see it."""
        # What is only seen in another shape has kept its values.
        if (
            not call.func._schema.is_mutable
            or torch.Tag.inplace_view in call.func.tags
        ):
            return
        for target in call.written():
            # y = x.flatten(2); x.exp_() changes y as well, whose labels were
            # made from the old x: what they say of zeros may be wrong.
            labels = self.labels(target)
            own = storage_of(target) in self._own
            for tensor in self._on_storage_of(target):
                if tensor is target:
                    continue
                before = self.labels(tensor)
                found = (
                    None
                    if own and before.parameter
                    else seen(self.graph, (target, labels), (tensor, before))
                )
                if found is None:
                    before.stale = True
                elif found is not before:
                    self.set(tensor, found)

    def _on_storage_of(self, tensor: Tensor) -> list[Tensor]:
        """All tensors known on a storage that are still alive, and there.

        What was given other memory (``x.data = y``) has left a storage behind
        that is freed, and in whose place another one may lie since.
        """
        storage = storage_of(tensor)
        known = self._by_storage.get(storage, {}).values()
        alive = [t for entry in known if (t := entry()) is not None]
        return [t for t in alive if storage_of(t) == storage]

    def knows_whole(self, tensor: Tensor) -> bool:
        """Whether somebody known has all of what a tensor is a part of.

        Args:
            tensor (Tensor): About to be written into.
        """
        size = tensor.untyped_storage().nbytes()
        return tensor.nbytes >= size or any(
            t.nbytes >= size for t in self._on_storage_of(tensor)
        )

    def know(self, tensor: Tensor) -> None:
        """Remembers a tensor that has no labels, for writes into its views.

        Args:
            tensor (Tensor): Is about to be viewed.
        """
        entry = self._labels.get(id(tensor))
        known = entry is not None and entry[0]() is tensor
        if not known and self.name(tensor) is None:
            self.set(tensor, Labels())

    def labels(self, tensor: Tensor) -> Labels:
        """Returns the labels of a tensor; parameters get theirs here."""
        entry = self._labels.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            if entry[1].once_read is not None:
                self.graph.freeze(*entry[1].once_read)
            return entry[1]
        name = self._names.get(id(tensor))
        # A sparse one is a constant: a matrix of a graph, between positions.
        if name is None or tensor.layout is not torch.strided:
            return Labels()
        labels = Labels(
            {
                # Every dimension has nodes, [out, in/g, kh, kw] four times:
                # which of them are channels is known when layers have run. One
                # index cannot be removed, hence has none.
                dim: Axis(self._nodes(self.site(name, dim, size)), zero=False)
                for dim, size in enumerate(tensor.shape)
                if size > 1
            },
            parameter=True,
            maskable=self._masks and isinstance(tensor, nn.Parameter),
        )
        self.set(tensor, labels)
        return labels

    def known(self, tensor: Tensor) -> Labels | None:
        """Returns the labels of a tensor if it has some, reading nothing.

        Args:
            tensor (Tensor): Any one, that of a forward which is over.
        """
        entry = self._labels.get(id(tensor))
        known = entry is not None and entry[0]() is tensor
        return entry[1] if entry is not None and known else None

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """Yields parameters and buffers as they were before the forward."""
        return ((self._names[id(tensor)], tensor) for tensor in self._held)

    def set(self, tensor: Tensor, labels: Labels) -> None:
        """Remembers the labels of a tensor for as long as it lives."""
        known = ref(tensor)
        self._labels[id(tensor)] = (known, labels)
        storage = storage_of(tensor)
        self._by_storage.setdefault(storage, {})[id(tensor)] = known

    def freeze(self, labels: Labels, reason: str) -> None:
        """Marks everything that a tensor carries as never to be removed."""
        for axis in labels.axes.values():
            self.graph.freeze(axis.ids, reason)

    def name(self, tensor: Tensor | None) -> str | None:
        """Name of a parameter or buffer; None for anything else."""
        return None if tensor is None else self._names.get(id(tensor))

    def site(
        self, name: str, dim: int, size: int, attribute: bool = False
    ) -> Site:
        """Returns the site of a dimension, made at the first request."""
        key = (name, dim)
        if key not in self._sites:
            start = int(self.graph.new(size)[0])
            self._sites[key] = Site(name, dim, start, size, attribute)
            self.trace.sites.append(self._sites[key])
        return self._sites[key]

    def attribute(self, name: str) -> Any:
        """Returns what a module keeps; None if it has no such attribute.

        Args:
            name (str): Qualified name of the attribute.
        """
        owner, _, leaf = name.rpartition('.')
        return getattr(self._model.get_submodule(owner), leaf, None)

    def sites_of(self, ids: Tensor) -> list[Site]:
        """Returns the sites that labels come from directly."""
        found = []
        ids = ids[ids != NO_CHANNEL]
        # From site to site in the order of nodes: all ids below its end are
        # those of this one.
        while ids.numel():
            site = self._site_at(int(ids.min()))
            found.append(site)
            ids = ids[ids >= site.start + site.size]
        return found

    def _site_at(self, node: int) -> Site:
        # Nodes of sites follow each other without gaps: the last start <=
        # node.
        index = bisect_right(self.trace.sites, node, key=lambda s: s.start)
        return self.trace.sites[index - 1]

    @staticmethod
    def _nodes(site: Site) -> Tensor:
        return torch.arange(site.start, site.start + site.size)

    def make(self, sites: list[Site]) -> int:
        """Registers a layer call; returns its number for ``Labels``."""
        # The weight; behind it is the bias, which emits nothing of its own.
        self.trace.producers.update(sites[:1])
        self._makers.append(Maker(sites))
        return len(self._makers) - 1

    def freeze_read(
        self,
        tensor: Tensor,
        operator: str,
        reason: str = 'read by {}, unknown here',
    ) -> None:
        """Freezes what an operator without a rule reads, and counts it.

        Args:
            tensor (Tensor): What is read.
            operator (str): Its name.
            reason (str): Why, with a place for the name.
        """
        labels = self.labels(tensor)
        if not labels.axes:
            return
        if labels.maker is not None:
            self._makers[labels.maker].raw = True
        unknown = self.trace.unknown
        unknown[operator] = unknown.get(operator, 0) + 1
        for axis in labels.axes.values():
            self.graph.freeze(axis.ids, reason.format(operator))

    def link_norm(
        self, maker: int | None, scale: str, shift: str | None
    ) -> None:
        """Remembers the norm that reads a layer's output.

        Args:
            maker (int, optional): Number of the layer; None for none.
            scale (str): Name of the norm's scale.
            shift (str, optional): Name of its shift; None for none.
        """
        if maker is None:
            return
        layer = self._makers[maker].sites[0].module
        self.trace.norms[layer] = scale
        if shift is not None:
            self.trace.shifts[layer] = shift

    def allow_updates(self, model: nn.Module) -> None:
        """Lets parameters and buffers change, from now on.

        Args:
            model (nn.Module): The network.
        """
        # Some may be others than at first.
        self.updated = {storage_of(t) for _, t in _named_tensors(model)}

    def finish(self, outputs: Any) -> None:
        """Freezes what leaves the network and decides where masks go."""
        self.living.finish()
        for tensor in tensors_in(outputs):
            labels = self.labels(tensor)
            if labels.maker is not None:
                self._makers[labels.maker].raw = True
            self.freeze(labels, 'output of the network')
            self.trace.returned += [a.ids for a in labels.axes.values()]
        self.sizes.settle()
        self.trace.thresholds += self.sizes.thresholds()
        self.trace.remainders += self.sizes.remainders()
        self.trace.measured_nodes = self.sizes.labels_read()
        for maker in self._makers:
            # Its norm alone carries the mask if nobody else reads the output:
            # then scale and shift are zero there, and the layer need not be.
            if maker.raw or not maker.normed:
                self.trace.masked.update(maker.sites)
        self.trace.compared = self._compared()
        self.trace.heads = list(self.heads.all())
        self.trace.fitted = self.heads.fitted
        self.trace.divisors = self.heads.dividing(self.graph)
        self.trace.irregular = self.own_calls.irregular()
        self.trace.measured = self.own_calls.measured

    def _compared(self) -> Tensor:
        """Rows of queries and keys, and the biases that go with them."""
        nodes = self.heads.compared(self.graph)
        found = [nodes]
        for maker in self._makers if len(nodes) else ():
            weight, *others = maker.sites
            rows = nodes - weight.start
            rows = rows[(rows >= 0) & (rows < weight.size)]
            found += [o.start + rows for o in others if o.size == weight.size]
        return torch.cat(found)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
