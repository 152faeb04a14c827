"""What runs a graph after fusion: Inductor, or torch's operators as they are.

Both get their graphs from AOTAutograd: ``rest="inductor"`` by way of ``compile_fx``, whose inner compilation is
wrapped, so that Inductor's cache sees the fused graph; ``rest="eager"`` by way of ``aot_autograd``.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from tilewright.compiler import history, leftovers
from tilewright.compiler.frozen import Frozen
from tilewright.compiler.fusion import Fused, fuse
from tilewright.compiler.graphs import Builder, fake_mode_of, outputs, placeholders
from tilewright.compiler.history import GraphReport
from tilewright.compiler.options import CompilerOptions
from tilewright.ops.library import AUTOGRAD, is_excluded, set_excluded

_numbers = itertools.count()


def compile_graph(
    gm: GraphModule, example_inputs: Sequence[Any], options: dict[str, Any] | None, mode: str | None
) -> Callable[..., Any]:
    """Compiles a graph of Dynamo's. See `tilewright.compiler.backend`."""
    chosen = CompilerOptions.parse(options, mode)
    compilation = Compilation(chosen, f"graph {next(_numbers)}")
    inference = not (torch.is_grad_enabled() and _wants_gradients(gm, example_inputs))
    if chosen.freeze and not inference:
        warnings.warn(
            f"torch.compile(backend='tilewright'): option freeze is True, and {compilation.name} computes gradients; "
            "it is compiled without; call the model under torch.no_grad() or torch.inference_mode()",
            stacklevel=2,
        )
    run = _through_inductor if chosen.rest == "inductor" else _eagerly
    return run(gm, example_inputs, compilation, inference)


def _wants_gradients(gm: GraphModule, example_inputs: Sequence[Any]) -> bool:
    tensors = itertools.chain(example_inputs, gm.parameters())
    return any(isinstance(each, Tensor) and each.requires_grad for each in tensors)


class Compilation:
    """One graph of Dynamo's, which AOTAutograd makes one or two of."""

    def __init__(self, options: CompilerOptions, name: str) -> None:
        self.options, self.name = options, name

    def fuse(self, gm: GraphModule, kind: str) -> Fused:
        """Fuses and keeps what was done for the report."""
        report = GraphReport(self.name, kind, self.options.rest)
        fused = fuse(
            gm.graph, report, self.options, static=_static_inputs(), promised=self._promised(gm, kind)
        )
        history.keep(report)
        return fused

    def _promised(self, gm: GraphModule, kind: str) -> Collection[int]:
        """The outputs whose strides others rely on: all but what a forward graph saves for the backward one."""
        count = len(outputs(gm.graph))
        metadata = _metadata()
        # Inductor tells the backward graph how what was saved is laid out; without it, it was traced already.
        if kind == "forward" and self.options.rest == "inductor" and metadata is not None:
            return range(min(count, metadata.num_forward))
        return range(count)


def _metadata() -> Any:
    context = torch._guards.TracingContext.try_get()
    return None if context is None else context.fw_metadata


def _static_inputs() -> Collection[int]:
    """The positions of parameters and buffers among the inputs of a graph of AOTAutograd's."""
    metadata = _metadata()
    return () if metadata is None else frozenset(metadata.static_input_indices)


def _below_autograd(run: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """`run` without autograd's part of each operation's way: AOTAutograd has seen to gradients."""

    def boxed(inputs: list[Any]) -> Any:
        if is_excluded(AUTOGRAD):
            return run(inputs)
        set_excluded(AUTOGRAD, True)
        try:
            return run(inputs)
        finally:
            set_excluded(AUTOGRAD, False)

    boxed._boxed_call = True  # type: ignore[attr-defined]
    return boxed


# --- torch's operators as they are ------------------------------------------------------------------------------


def _eagerly(
    gm: GraphModule, example_inputs: Sequence[Any], compilation: Compilation, inference: bool
) -> Callable[..., Any]:
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import default_partition

    def compiler(kind: str) -> Callable[[GraphModule, Sequence[Any]], Any]:
        def compile_one(graph: GraphModule, inputs: Sequence[Any]) -> Any:
            fused = compilation.fuse(graph, kind)
            if fused.split is not None:
                main = GraphModule(graph, fused.split.main)
                return _below_autograd(Frozen(fused.split, _boxed(main)))
            return _below_autograd(_boxed(GraphModule(graph, fused.graph)))

        return compile_one

    backend = aot_autograd(
        fw_compiler=compiler("forward"),
        bw_compiler=compiler("backward"),
        inference_compiler=compiler("inference"),
        partition_fn=default_partition,
        keep_inference_input_mutations=True,
    )
    with _without_cache():
        compiled: Callable[..., Any] = backend(gm, example_inputs)
    return compiled


def _boxed(module: GraphModule) -> Callable[[list[Any]], Any]:
    forward = module.forward

    def run(inputs: list[Any]) -> Any:
        args = tuple(inputs)
        inputs.clear()
        return forward(*args)

    return run


# --- Inductor ---------------------------------------------------------------------------------------------------


def _through_inductor(
    gm: GraphModule, example_inputs: Sequence[Any], compilation: Compilation, inference: bool
) -> Callable[..., Any]:
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table

    whole = leftovers.kept_whole(inference)

    def inner(graph: GraphModule, inputs: Sequence[Any], *args: Any, **keywords: Any) -> Any:
        # Newer versions of torch say which decompositions were used; their own are right by now.
        keywords.pop("get_decomp_fn", None)
        kind = "backward" if keywords.get("is_backward") else "forward"
        if keywords.get("is_inference"):
            kind = "inference"
        fused = compilation.fuse(graph, kind)
        final = fused.graph if fused.split is None else fused.split.main
        mode = fake_mode_of(final)
        if mode is not None:
            leftovers.decompose(Builder(final, mode), select_decomp_table())
        if fused.split is None:
            graph.graph = final
            compiled = compile_fx_inner(graph, inputs, *args, **keywords)
            return _below_autograd(compiled) if _on_cpu(inputs) and _callable(compiled) else compiled
        static = frozenset(keywords.get("static_input_idxs", ()))
        constants = len(fused.split.packed)
        keywords["static_input_idxs"] = [
            *range(constants),
            *(constants + position for position, index in enumerate(fused.split.kept) if index in static),
        ]
        main = GraphModule(graph, final)
        main.meta.update(graph.meta)
        fakes = [node.meta["val"] for node in placeholders(final)[:constants]]
        kept = [inputs[index] for index in fused.split.kept]
        compiled = compile_fx_inner(main, [*fakes, *kept], *args, **keywords)
        return _below_autograd(Frozen(fused.split, compiled))

    table = {target: rule for target, rule in select_decomp_table().items() if target not in whole}
    with _without_cache():
        found: Any = compile_fx(
            gm,
            list(example_inputs),
            inner_compile=inner,
            config_patches=dict(compilation.options.inductor) or None,
            decompositions=table,
        )
    return found  # type: ignore[no-any-return]


def _on_cpu(inputs: Sequence[Any]) -> bool:
    # On other devices Inductor's result is more than something to call: CUDA graphs look into it.
    return all(each.device.type == "cpu" for each in inputs if isinstance(each, Tensor))


def _callable(compiled: Any) -> bool:
    return bool(getattr(compiled, "_boxed_call", False))


def _without_cache() -> Any:
    """AOTAutograd's cache goes by the graph as Dynamo made it, and knows nothing of ours. Inductor's own stays."""
    from torch._functorch import config

    names = ("enable_autograd_cache", "bundled_autograd_cache")
    return config.patch({name: False for name in names if hasattr(config, name)})
