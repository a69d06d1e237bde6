"""attention_tkg: the model that gives the kernel's bits, and the truth it is judged by.

The model follows the contract point by point, one batch tile after another, all cores in step: scores and
mask, maxima, exponentials, sums, P V with accumulation over key tiles, and for long contexts the correction
from flash tile to flash tile. Keys stay in token order; only views sort them into key tiles, where the
order of a sum depends on it.

Not modelled: the order in which instructions of different engines run, DMA, transposes and broadcasts (all
exact), and the contents of tiles that no point of the contract names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention_tkg_layout import (
    DebugTensors,
    arranged,
    arranged_keys,
    by_column,
    kept_keys,
    prior_rows,
    share,
    sink_columns,
)
from reference.attention_tkg_truth import truth
from reference.cascaded_softmax import (
    correction,
    drop,
    exponentials,
    maximum,
    partial_sums,
    sink_term,
    tile_maximum,
    tile_sum,
)
from reference.contracts.attention_tkg import Config, validate_call
from reference.contracts.attention_tkg_plan import PARTITIONS, Plan
from reference.kv_cache import key_tiles
from reference.numerics.alu import BINARY, UNARY
from reference.numerics.cast import to_float32
from reference.numerics.dot import matmul_pass
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.recorder import NO_RECORD, Recorder
from reference.rope import angles, reduced_wave, rotate_fused
from reference.rounding import is_study, round_to, tile_dtype

__all__ = ["model", "truth"]

Array = NDArray[Any]
Arrays = dict[str, Array]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]


def model(
    config: Config, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
) -> Arrays:
    """The results with the kernel's bits, in storage dtypes: out, k_out and dbg_* as the config asks.

    A column that keeps nothing and has no sink is NaN, with a sink 0. NaN in a kept score or value, and
    +inf in a kept score, make their columns NaN. Dropped keys, values that every column of a batch drops,
    the last s slots of the caches and everything past curr_sprior may hold anything.

    Args:
        config: a legal Config.
        inputs: arrays in storage dtypes by argument name, shapes as `contracts.attention_tkg.tensors` says.
        profile: answers to the open questions of the arithmetic.
        record: takes the values of the contract's rounding points.

    Raises:
        KernelArgumentError: the config or a tensor is not legal.
    """
    if not is_study(profile):
        validate_call(config, inputs)
    job = _Job(config, config.plan, profile, record)
    q, k_active = _queries(job, inputs)
    operands = _operands(job, inputs, q, k_active)
    out = np.empty((config.bs, config.d_head, config.columns_per_batch), tile_dtype(config.out_dtype, profile))
    debug = DebugTensors(config, np.float64 if is_study(profile) else np.float32) if config.debug else None
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        for index, local in enumerate(job.plan.batch_tiles):
            _batch_tile(job, operands, index, local, out, debug)
    found = {"out": arranged(config, out)}
    if config.k_out:
        found["k_out"] = arranged_keys(config, k_active)
    return found if debug is None else found | debug.results(inputs)


@dataclass(frozen=True)
class _Job:
    """What every step of one call needs."""

    config: Config
    plan: Plan
    profile: NumericsProfile
    record: Recorder

    @property
    def flash_tiles(self) -> int:
        return len(self.plan.flash_tiles)

    def op(self, name: str, first: Array, second: Array) -> Float32:
        """One instruction of the vector engine."""
        return np.asarray(BINARY[name](first, second, self.profile))


@dataclass(frozen=True)
class _Operands:
    """What the cores compute with: [B, ...] over all batches of the call, tokens in order."""

    q: Array  # [B, d, G]
    keys: Array  # [B, S, d], the last s slots stale
    values: Array  # [B, S, d], likewise
    new_keys: Array  # [B, s, d], what is in those slots
    new_values: Array  # [B, s, d]
    kept: Bool  # [B, S, G]
    sink: Array | None  # [G]


def _queries(job: _Job, inputs: Arrays) -> tuple[Array, Array]:
    """q and k_active [d, B, heads, s], rotated and scaled where the kernel does so."""
    config = job.config
    q = by_column(config, inputs["q"], config.q_head)
    k_active = by_column(config, inputs["k_active"], 1)
    if not config.fuse_rope:
        return q, k_active
    # Every core rotates everything; doing it again only serves the records.
    for core in range(1, job.plan.lnc if job.record.enabled else 1):
        _rotate(job, inputs, q, k_active, core)
    return _rotate(job, inputs, q, k_active, 0)


def _rotate(job: _Job, inputs: Arrays, q: Array, k_active: Array, core: int) -> tuple[Array, Array]:
    config, profile, record = job.config, job.profile, job.record
    angle = angles(inputs["rope_pos_ids"], inputs["inv_freqs"], profile)
    _tell(record, "rope_angle", (), angle, core)
    shape = (-1, config.bs, 1, config.s_active)
    sin, cos = (reduced_wave(angle, e, profile, record, core).reshape(shape) for e in (0, 1))
    rotated = []
    for index, x in enumerate((q, k_active)):
        sine_dtype = config.dtype if config.qk_in_sb else "float32"
        parts = rotate_fused(x, cos, sin, sine_dtype, config.dtype, profile, (index,))
        for point, value in zip(
            ("rope_cosine_part", "rope_sine_part", "rope_sum"),
            (parts.cosine_part, parts.sine_part, parts.total),
            strict=True,
        ):
            _tell(record, point, (index,), value.reshape(config.d_head, -1), core)
        rotated.append(parts.total)
    scale = np.float32(1 / np.sqrt(config.d_head))
    product = job.op("multiply", to_float32(rotated[0]), np.full(q.shape, scale))
    query = round_to("rope_query", product, config.dtype, profile)
    _tell(record, "rope_query", (), query.reshape(config.d_head, -1), core)
    return query, rotated[1]


def _operands(job: _Job, inputs: Arrays, q: Array, k_active: Array) -> _Operands:
    config, profile = job.config, job.profile
    return _Operands(
        q.reshape(config.d_head, config.bs, -1).transpose(1, 0, 2),
        *prior_rows(config, inputs),
        _as_cached("k_active", config, k_active[:, :, 0].transpose(1, 2, 0), profile),
        _as_cached("v_active", config, inputs["v_active"][:, 0], profile),
        kept_keys(config, inputs, profile),
        sink_columns(config, inputs),
    )


def _as_cached(name: str, config: Config, rows: Array, profile: NumericsProfile) -> Array:
    """New keys or values in the dtype of the caches; a rounding only where they come in another one."""
    if config.active_dtype == config.kv_dtype:
        return rows
    return round_to(f"{name}_cast", rows, config.kv_dtype, profile)


# --- one batch tile on all cores --------------------------------------------------------------------------


@dataclass
class _Core:
    """One core's part of a batch tile, and what it carries from flash tile to flash tile."""

    job: _Job
    number: int
    #: Number of the batch tile, and its batches, counted over the whole call.
    tile: int
    batches: range
    #: First token of the core's share.
    first: int
    top: Float32 = field(init=False)  # [batches, G]
    total: Float32 = field(init=False)  # [batches, G]
    out: Float32 = field(init=False)  # [batches, d, G]
    #: What the previous flash tiles are multiplied by; None in the first one.
    factor: Float32 | None = None
    sink: Float32 | None = None  # [batches, G], the sink's exponential

    def rows(self, x: Array) -> Array:
        """This core's batches of x [B, ...]."""
        return x[self.batches.start : self.batches.stop]

    def tokens(self, x: Array, f: int) -> Array:
        """This core's batches and flash tile f of x [B, S, ...], in token order."""
        tile = self.job.plan.flash_tiles[f]
        start = self.first + tile.offset
        return self.rows(x)[:, start : start + tile.keys]

    def tiles(self, x: Array) -> Array:
        """x [batches, keys, ...] of one flash tile as key tiles [batches, n, 128, ...]."""
        return key_tiles(x, self.job.plan.layout, self.job.plan.block_len)

    def new_slots(self, f: int) -> int:
        """How many slots at the end of flash tile f hold new tokens."""
        plan, config = self.job.plan, self.job.config
        ends = self.first + plan.keys_per_core == config.curr_sprior
        return config.s_active if ends and f == len(plan.flash_tiles) - 1 else 0

    def column(self, point: str, value: Array, *index: int) -> Array:
        """Report a value [batches, G] in tiles of 128 columns, and hand it on."""
        if self.job.record.enabled:
            flat = np.asarray(value).reshape(-1, 1)
            for ct in range(-(-len(flat) // PARTITIONS)):
                part = flat[ct * PARTITIONS : (ct + 1) * PARTITIONS]
                self.tell(point, (*index, self.tile, ct), part)
        return value

    def wide(self, point: str, value: Array, *index: int) -> Array:
        """Report a value [batches, d, G] as [d, columns], and hand it on."""
        if self.job.record.enabled:
            self.tell(point, (*index, self.tile), value.transpose(1, 0, 2).reshape(value.shape[1], -1))
        return value

    def tell(self, point: str, tile: tuple[int, ...], value: Array) -> None:
        for core in range(self.job.plan.lnc) if self.job.plan.shards == 1 else (self.number,):
            _tell(self.job.record, point, tile, value, core)


def _batch_tile(
    job: _Job, operands: _Operands, index: int, local: range, out: Array, debug: DebugTensors | None
) -> None:
    cores = [_Core(job, c, index, *share(job.plan, c, local)) for c in range(job.plan.shards)]
    for f in range(job.flash_tiles):
        scores = [_scores(core, operands, f) for core in cores]
        older = _maxima(cores, scores, operands.sink, f)
        for core, score, before in zip(cores, scores, older, strict=True):
            prob = _probabilities(core, score, f)
            _sums(core, prob, before, operands.sink, f)
            _values(core, prob, operands, f)
            if debug is not None:
                debug.scores(core.number, f, local, score, prob)
    totals = _merged_sums(cores)
    for core, result in zip(cores, _finished(cores, totals), strict=True):
        if core.number == 0 or job.plan.n_seq == 1:
            out[core.batches.start : core.batches.stop] = result
            if debug is not None:
                debug.column(core.number, local, core.top, totals[core.number])


def _scores(core: _Core, operands: _Operands, f: int) -> Float32:
    """Scores [batches, n, 128, G] of a flash tile, -inf where dropped."""
    profile, new = core.job.profile, core.new_slots(f)
    prior = core.tokens(operands.keys, f)
    keys = [prior[:, : prior.shape[1] - new], core.rows(operands.new_keys)[:, :new]]
    # Each score is a contraction of its own, so keys may keep their token order here.
    scores = [matmul_pass(x.transpose(0, 2, 1), core.rows(operands.q), profile) for x in keys if x.size]
    tiles = core.tiles(np.concatenate(scores, axis=1) if len(scores) > 1 else scores[0])
    if core.job.record.enabled:
        _tell_scores(core, tiles, f)
    return drop(tiles, core.tiles(core.tokens(operands.kept, f)))


def _tell_scores(core: _Core, tiles: Float32, f: int) -> None:
    size = core.job.plan.score_group
    for b, of_batch in zip(core.batches, tiles, strict=True):
        for g in range(-(-len(of_batch) // size)):
            group = of_batch[g * size : (g + 1) * size]
            core.tell("score", (f, b, g), group.transpose(1, 0, 2).reshape(PARTITIONS, -1))


def _maxima(cores: list[_Core], scores: list[Float32], sink: Array | None, f: int) -> list[Float32 | None]:
    """Sets `top` of every core to the maximum of this flash tile; returns the older ones."""
    job = cores[0].job
    older: list[Float32 | None] = [core.top if f else None for core in cores]
    last, sequence = f == job.flash_tiles - 1, job.plan.n_seq == 2
    for core, score, before in zip(cores, scores, older, strict=True):
        local = core.column("max_local", tile_maximum(score, job.profile), f)
        core.top = local if before is None else maximum(before, local, job.profile)
    if sequence and last:
        remote = [core.top for core in reversed(cores)]
        for core, received in zip(cores, remote, strict=True):
            core.column("max_remote", received, f)
            core.top = maximum(core.top, received, job.profile)
    for core in cores:
        if sink is not None and (last if sequence else f == 0):
            core.top = maximum(core.top, sink, job.profile)
        core.column("run_max", core.top, f)
    return older


def _probabilities(core: _Core, score: Float32, f: int) -> Array:
    """Exponentials [batches, n, 128, G] of a flash tile, in the dtype of q."""
    job = core.job
    shift, prob = exponentials(score, core.top, job.config.dtype, job.profile)
    if job.record.enabled:
        columns = score.shape[0] * score.shape[3]
        size = job.plan.shift_chunk(columns)
        on_chip = _on_chip(shift)
        for k in range(-(-score.shape[1] // size)):
            part = on_chip[:, k * size * columns : (k + 1) * size * columns]
            core.tell("shift", (f, core.tile, k), part)
        core.tell("prob", (f, core.tile), _on_chip(prob))
    return prob


def _on_chip(tiles: Array) -> Array:
    """[batches, n, 128, G] as a tile of the chip, [128, n * columns]."""
    return tiles.transpose(2, 1, 0, 3).reshape(PARTITIONS, -1)


def _sums(core: _Core, prob: Array, older: Float32 | None, sink: Array | None, f: int) -> None:
    """Brings the running sum up to this flash tile."""
    job = core.job
    parts = partial_sums(prob, job.profile)
    if job.record.enabled:
        flat = parts.transpose(0, 2, 1).reshape(-1, parts.shape[1])
        for ct in range(-(-len(flat) // PARTITIONS)):
            core.tell("sum_part", (f, core.tile, ct), flat[ct * PARTITIONS : (ct + 1) * PARTITIONS])
    local = core.column("sum_local", tile_sum(parts, job.profile), f)
    sequence = job.plan.n_seq == 2
    if sink is not None and f == (job.flash_tiles - 1 if sequence else 0):
        shift, core.sink = sink_term(sink, core.top, job.profile)
        core.column("sink_shift", shift)
        core.column("sink_term", core.sink)
    if older is not None:
        core.factor = core.column("corr", correction(core.top, older, job.profile), f)
        scaled = core.column("sum_scaled", job.op("multiply", core.total, core.factor), f)
        core.total = job.op("add", scaled, local)
    elif core.sink is not None and not sequence:
        core.total = job.op("add", local, core.sink)
    else:
        core.total = local
    core.column("run_sum", core.total, f)


def _values(core: _Core, prob: Array, operands: _Operands, f: int) -> None:
    """Adds P V of this flash tile to the running output."""
    job = core.job
    values = core.tiles(_tile_values(core, operands, f))
    psum = matmul_pass(values[:, 0], prob[:, 0], job.profile)
    for t in range(1, values.shape[1]):
        psum = matmul_pass(values[:, t], prob[:, t], job.profile, acc=psum)
    if job.record.enabled:
        for b, tile in zip(core.batches, psum, strict=True):
            core.tell("pv", (f, b), tile)
    if core.factor is None:
        core.out = psum
    else:
        factor = np.broadcast_to(core.factor[:, None], core.out.shape)
        scaled = job.op("multiply", core.out, factor)
        core.out = job.op("add", core.wide("out_scaled", scaled, f), psum)
    if job.flash_tiles > 1:
        core.wide("run_out", core.out, f)


def _tile_values(core: _Core, operands: _Operands, f: int) -> Array:
    """Values [batches, keys, d] of a flash tile: new tokens in place, rows that no column keeps 0."""
    values, new = core.tokens(operands.values, f), core.new_slots(f)
    # One of the two may be wider in a study; else they have one dtype.
    values = np.array(values, np.result_type(values, operands.new_values))
    values[:, values.shape[1] - new :] = core.rows(operands.new_values)[:, :new]
    kept = core.tokens(operands.kept, f).any(axis=2)
    if not kept.all():
        values[~kept] = 0
    return values


def _merged_sums(cores: list[_Core]) -> list[Float32]:
    """The sum each core divides by, [batches, G]."""
    if len(cores) == 1 or cores[0].job.plan.n_seq == 1:
        return [core.total for core in cores]
    merged = []
    for core, other in zip(cores, reversed(cores), strict=True):
        remote = core.column("sum_remote", other.total)
        total = core.column("sum_pair", core.job.op("add", core.total, remote))
        if core.sink is not None:
            total = core.column("sum_total", core.job.op("add", total, core.sink))
        merged.append(total)
    return merged


def _finished(cores: list[_Core], totals: list[Float32]) -> list[Array]:
    """The results [batches, d, G] of every core, in the dtype of out."""
    job = cores[0].job
    norms = []
    for core, total in zip(cores, totals, strict=True):
        factor = core.column("recip", UNARY["reciprocal"](total, job.profile))[:, None]
        norms.append(core.wide("norm", job.op("multiply", core.out, factor)))
    if job.plan.n_seq == 2:
        norms = [_total(*pair) for pair in zip(cores, norms, reversed(norms), strict=True)]
    return [_cast_out(core, norm) for core, norm in zip(cores, norms, strict=True)]


def _total(core: _Core, own: Float32, other: Float32) -> Float32:
    added = core.job.op("add", own, other)
    if _writes(core):
        core.wide("norm_remote", other)
        core.wide("norm_pair", added)
    return added


def _cast_out(core: _Core, value: Float32) -> Array:
    result = round_to("out_tile", value, core.job.config.out_dtype, core.job.profile)
    return core.wide("out_tile", result) if _writes(core) else result


def _writes(core: _Core) -> bool:
    """Core 1 of a sequence-sharded call ends with its normalised half, unless out is wanted in its SBUF."""
    return core.number == 0 or core.job.plan.n_seq == 1 or core.job.config.out_in_sb


def _tell(record: Recorder, point: str, tile: tuple[int, ...], value: Array, core: int) -> None:
    if record.enabled:
        record(point, tile, value, core)
