"""The growable model: the only place where modules are attached to a host or detached from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from esper.errors import GrowthError
from esper.kasmina.blueprints import SiteShape, get_blueprint
from esper.kasmina.extra_state import pack_state, unpack_state
from esper.kasmina.host_checks import check_observed, parameter_names
from esper.kasmina.kernels import KernelCache
from esper.kasmina.load_kernel import load_kernel
from esper.kasmina.model_buffers import (
    buffer_layout,
    fit_buffers,
    fit_shapes,
    layout_changes,
    preserve_buffers,
    without_prefix,
)
from esper.kasmina.model_summary import summarize
from esper.kasmina.record import SeedRecord
from esper.kasmina.seed import Seed, SeedHook
from esper.kasmina.target_layers import SiteRecord, layer_module, probe_mode, record_sites
from esper.kasmina.topology_checks import check_sizes, parse_topology
from esper.leyline import JOINED, SeedStage

TOPOLOGY_FORMAT = 1


@dataclass(slots=True)
class Counters:
    """Calls since the model was wrapped; kernel executions are forwards of joined seeds."""

    forwards: int = 0
    kernels: int = 0


class MorphableModel(nn.Module):
    """A host network with slots for seeds at chosen layers.

    While all slots are dormant a forward is the host's own forward, without wrapper or hook. A seed that is
    alive is a module in `seeds`, called by a forward hook on its layer; the host's module tree and the names
    of its parameters never change. Make one with `esper.wrap`.

    A hook inside an `nn.TransformerEncoderLayer` disables torch's fused path for inference without gradients,
    which rounds differently: only there may germination change the last bits of an output.

    Args:
        host: the host network.
        layers: names of the target layers.
        seeds_per_layer: number of slots at each layer.
        rng_seed: seed of the generator that initialises the weights of new seeds.

    Raises:
        GrowthError: `seeds_per_layer` is below 1.

    Example:
        >>> model = wrap(torch.nn.Sequential(torch.nn.Linear(4, 2)), ["nn.Linear"])
        >>> model.get_model_stats()["active_seeds"]
        0
    """

    def __init__(self, host: nn.Module, layers: Sequence[str], seeds_per_layer: int, *, rng_seed: int = 0):
        super().__init__()
        if seeds_per_layer < 1:
            raise GrowthError(f"seeds_per_layer is {seeds_per_layer}; it must be at least 1")
        self.host = host
        self.seeds = nn.ModuleDict()
        self.sites = {name: SiteRecord(name) for name in layers}
        self.records: dict[str, list[SeedRecord]] = {
            name: [SeedRecord(name, i, chunk_id=n * seeds_per_layer + i) for i in range(seeds_per_layer)]
            for n, name in enumerate(layers)
        }
        self.counters = Counters()
        self.rng_seed = rng_seed
        self.telemetry_enabled = True
        self.kernels: KernelCache | None = None
        self._joined_count = 0
        self._hooks: dict[str, RemovableHandle] = {}
        self._buffers_at_start = buffer_layout(host)
        self._nested = {
            name: module.use_nested_tensor
            for name, module in host.named_modules()
            if isinstance(module, nn.TransformerEncoder)
        }

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # counted outside of forward, which may be compiled
        self.count_forward()
        return super().__call__(*args, **kwargs)

    def count_forward(self) -> None:
        """Count one forward; calling the model does it, a caller of `forward` must do it."""
        self.counters.forwards += 1
        self.counters.kernels += self._joined_count

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.host(*args, **kwargs)

    # -- what there is ---------------------------------------------------------------------------

    def get_layer_names(self) -> list[str]:
        """Return the names of the target layers, in the host's order."""
        return list(self.sites)

    def get_model_stats(self) -> dict[str, int | bool]:
        """Return the numbers of slots, of seeds alive and of calls."""
        slots = [record for row in self.records.values() for record in row]
        active = sum(record.alive for record in slots)
        return {
            "total_seeds": len(slots),
            "active_seeds": active,
            "morphogenetic_active": active > 0,
            "total_forward_calls": self.counters.forwards,
            "total_kernel_executions": self.counters.kernels,
        }

    def record(self, layer: str, index: int) -> SeedRecord:
        """Return the record of one slot; raises `GrowthError` where there is none."""
        row = self.records.get(layer)
        if row is None:
            raise GrowthError(f"no seeds can be attached to {layer!r}; layers: {', '.join(self.records)}")
        if not 0 <= index < len(row):
            raise GrowthError(f"layer {layer!r} has seed slots 0 to {len(row) - 1}, not {index}")
        return row[index]

    def alive_records(self) -> list[SeedRecord]:
        """Return the records of the seeds that are alive, in order of layer and index."""
        return [record for row in self.records.values() for record in row if record.alive]

    def seed_module(self, record: SeedRecord) -> Seed:
        """Return the module of a seed that is alive."""
        module = self.seeds[record.key]
        assert isinstance(module, Seed)
        return module

    def host_params(self) -> int:
        return sum(p.numel() for p in self.host.parameters())

    def total_params(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def summary(self) -> str:
        """Return the host's size, its sites and its seeds, as lines of text."""
        return summarize(self)

    def observe(self, *args: Any, **kwargs: Any) -> None:
        """Run one batch (no gradients, eval mode) to record the shapes at every site; needed once.

        It also initialises lazy modules. Raises `GrowthError` where a module stays uninitialised, or the
        forward made parameters that no fresh model could load.
        """
        before = parameter_names(self.host)
        with preserve_buffers(self), probe_mode(self):
            record_sites(self.host, self.sites, args, kwargs)
        check_observed(self.host, before)

    def site_shape(self, layer: str, placement: str) -> SiteShape:
        """Return the shapes that a seed at `layer` must fit; raises `GrowthError` where none can."""
        self.record(layer, 0)
        site = self.sites[layer]
        if not site.usable:
            raise GrowthError(f"layer {layer!r} cannot host a seed: {site.problem}")
        if placement not in ("series", "parallel"):
            raise GrowthError(f"placement is {placement!r}; it must be 'series' or 'parallel'")
        source = site.out_shape if placement == "series" else site.in_shape
        return SiteShape(site.layout, source, site.out_shape)

    # -- growing ---------------------------------------------------------------------------------

    def attach(self, record: SeedRecord) -> Seed:
        """Build the module that `record` describes and attach it to its layer, with alpha 0 and not joined.

        New weights come from a separate generator: the global one is not advanced.
        """
        seed = self._build(record)
        self.reattach(record, seed)
        return seed

    def _build(self, record: SeedRecord) -> Seed:
        shape = SiteShape(record.layout, record.in_shape, record.out_shape)
        rng_seed = (self.rng_seed * 1_000_003 + record.chunk_id) * 1_000_003 + record.germinated_step
        generator = torch.Generator().manual_seed(rng_seed % 2**63)
        body = get_blueprint(record.blueprint).build(shape, generator=generator, **record.options)
        reference = self._reference_tensor(record.layer)
        channels = record.out_shape[-1] if record.layout == "features" else record.out_shape[0]
        seed = Seed(
            body,
            placement=record.placement,
            mode=record.blend_mode,
            layout=record.layout,
            channels=channels,
            rng_seed=rng_seed % 2**31,
        ).to(reference.device, reference.dtype)
        record.params = seed.params
        seed.train(self.training)
        return seed

    def detach(self, record: SeedRecord) -> None:
        """Remove a seed's module and, if it was the last at its layer, the hook."""
        del self.seeds[record.key]
        self._update_hook(record.layer)

    def reattach(self, record: SeedRecord, seed: Seed) -> None:
        """Attach an existing module to its layer, such as one that was detached."""
        self.seeds[record.key] = seed
        self._update_hook(record.layer)

    def sync_stages(self) -> None:
        """Set each module's `joined` and `isolated` flags from its record."""
        self._joined_count = 0
        for record in self.alive_records():
            seed = self.seed_module(record)
            seed.joined = record.stage in JOINED
            # without trainable parameters nothing needs to be recorded
            seed.isolated = record.stage is SeedStage.TRAINING and seed.trainable
            self._joined_count += seed.joined

    def _update_hook(self, layer: str) -> None:
        handle = self._hooks.pop(layer, None)
        if handle is not None:
            handle.remove()
        here = [self.seeds[r.key] for r in self.records[layer] if r.key in self.seeds]
        if here:
            hook = SeedHook([seed for seed in here if isinstance(seed, Seed)])
            module = layer_module(self.host, layer)
            self._hooks[layer] = module.register_forward_hook(hook, with_kwargs=True)
        self._update_nested_tensors()
        self.sync_stages()

    def _update_nested_tensors(self) -> None:
        # nested tensors are for the fused path only, which hooks on an encoder's layers disable
        for name, nested in self._nested.items():
            bearing = any(not name or layer.startswith(f"{name}.") for layer in self._hooks)
            encoder = self.host.get_submodule(name)
            assert isinstance(encoder, nn.TransformerEncoder)
            encoder.use_nested_tensor = nested and not bearing

    def leaked_hooks(self, layer: str) -> int:
        """Return the number of seed hooks at `layer` beyond the one that belongs there."""
        hooks = layer_module(self.host, layer)._forward_hooks.values()
        return sum(isinstance(hook, SeedHook) for hook in hooks) - (layer in self._hooks)

    def _reference_tensor(self, layer: str) -> Tensor:
        for module in (layer_module(self.host, layer), self.host):
            for tensor in module.parameters():
                if tensor.is_floating_point():
                    return tensor
        return torch.zeros(())

    def load_kernel(self, layer: str, seed_index: int, artifact_id: str) -> None:
        """Load a trained kernel from the model's kernel source into a dormant slot, fossilised.

        Raises `GrowthError` where there is no source, no such kernel, or it does not fit.
        """
        if self.kernels is None:
            raise GrowthError("this model has no kernel source: pass wrap(..., kernels=KernelStore(folder))")
        load_kernel(self, layer, seed_index, self.kernels.fetch(artifact_id))

    # -- topology in the state dict --------------------------------------------------------------

    def topology(self) -> dict[str, Any]:
        """Return all state that is not a tensor, as JSON: sites, and the record of every slot in use."""
        rows = [record for row in self.records.values() for record in row]
        changed = layout_changes(self._buffers_at_start, buffer_layout(self.host))
        return {
            "format": TOPOLOGY_FORMAT,
            "layers": {name: len(row) for name, row in self.records.items()},
            "sites": {
                name: [s.order, s.layout, list(s.in_shape), list(s.out_shape), s.problem]
                for name, s in self.sites.items()
            },
            "seeds": [record.to_json() for record in rows if record.stage is not SeedStage.DORMANT],
            **({"buffers": changed} if changed else {}),
        }

    def restore_topology(self, topology: Mapping[str, Any]) -> None:
        """Attach exactly the seeds of a saved topology, in their stages; weights come with the state dict.

        Raises `GrowthError`, with nothing changed, where the topology belongs to other layers or an unknown
        format, or holds a seed that cannot be built.
        """
        try:
            records, sites = self._read_topology(topology)
            modules = {record.key: self._build(record) for record in records if record.alive}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, GrowthError):
                raise
            raise GrowthError(f"the saved topology is damaged: {type(error).__name__}: {error}") from error
        self._clear()
        self.sites = sites
        for record in records:
            self.records[record.layer][record.index] = record
            if record.alive:
                self.reattach(record, modules[record.key])

    def _clear(self) -> None:
        for old in self.alive_records():
            self.records[old.layer][old.index] = old.cleared()
            self.detach(old)
        self.records = {name: [record.cleared() for record in row] for name, row in self.records.items()}

    def _read_topology(self, topology: Mapping[str, Any]) -> tuple[list[SeedRecord], dict[str, SiteRecord]]:
        if topology.get("format") != TOPOLOGY_FORMAT:
            raise GrowthError(f"topology format {topology.get('format')!r} is not {TOPOLOGY_FORMAT}")
        mine = {name: len(row) for name, row in self.records.items()}
        if topology["layers"] != mine:
            raise GrowthError(f"the saved model has seed slots {topology['layers']}, this one has {mine}")
        sites = {}
        for name in mine:
            order, layout, in_shape, out_shape, problem = topology["sites"][name]
            sites[name] = SiteRecord(name, order, layout, tuple(in_shape), tuple(out_shape), problem)
        records = [SeedRecord.from_json(data) for data in topology["seeds"]]
        for record in records:
            self.record(record.layer, record.index)
        return records, sites

    def get_extra_state(self) -> Tensor:
        # a tensor, so that the whole state dict fits into a safetensors file
        return torch.frombuffer(bytearray(json.dumps(self.topology()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Nothing left to do: the topology was restored before the tensors were read."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state dict; extra state of the host's modules is packed into tensors of bytes."""
        found = super().state_dict(*args, **kwargs)
        pack_state(found, kwargs.get("prefix", args[1] if len(args) > 1 else ""))
        return found

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Any], prefix: str, *args: Any) -> None:
        saved = state_dict.get(f"{prefix}_extra_state")
        topology: Mapping[str, Any] = {}
        if saved is not None:
            topology = parse_topology(saved)
            check_sizes(topology, state_dict, prefix)
            self.restore_topology(topology)
        unpack_state(state_dict, prefix)
        fit_buffers(self.host, self._buffers_at_start, topology, without_prefix(state_dict, f"{prefix}host."))
        fit_shapes(self.seeds, without_prefix(state_dict, f"{prefix}seeds."))
        super()._load_from_state_dict(state_dict, prefix, *args)
