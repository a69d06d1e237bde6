"""attention_segmented_cte: the model that gives the kernel's bits, and the truth it is judged by.

The model follows the contract: row after row, segment after segment, a few groups of queries at a time. What
it holds beside inputs and results grows with the chunk and the segment, not with the prior.

Not modelled: where tiles lie, DMA and transposes (exact), and the order of instructions of different engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reference.attention_segmented_cte_truth import truth
from reference.contracts.attention_segmented_cte import Config, results, validate_call
from reference.contracts.attention_segmented_cte_plan import PARTITIONS, Slice
from reference.numerics.alu import BINARY
from reference.numerics.cast import to_float32
from reference.numerics.dot import matmul_pass, matmul_passes
from reference.numerics.profile import DEFAULT, NumericsProfile
from reference.numerics.reduce import reduce_add
from reference.paged_kv_cache import head_pages, load_blocks
from reference.recorder import NO_RECORD, Recorder
from reference.rounding import carry, is_study, round_to, tile_dtype
from reference.segment_schedule import ACTIVE, FULL, LARGE_TILE, WINDOW, Schedule, Segment, schedule, segments
from reference.segmented_softmax import (
    MASKED,
    State,
    accumulated,
    exponentials,
    flash,
    merge,
    negated,
    reciprocal_of_sum,
    row_maximum,
)

__all__ = ["model", "truth"]

Array = NDArray[Any]
Arrays = dict[str, Array]
Float32 = NDArray[np.float32]

#: Groups of queries worked on at once: 512 queries keep the dot products in cache-sized blocks.
_GROUPS = 4


def model(
    config: Config, inputs: Arrays, profile: NumericsProfile = DEFAULT, record: Recorder = NO_RECORD
) -> Arrays:
    """The results with the kernel's bits, in storage dtypes: out, with kvp_offset also neg_max and sum_recip.

    NaN in a key that a query sees, or in a value of its segment's loaded pages, makes the query NaN; pages
    that the contract does not follow may hold anything. A query that sees nothing (kvp_offset) is 0.

    Args:
        config: a legal Config.
        inputs: arrays in storage dtypes by argument name, shapes as the contract's `tensors` says.
        profile: answers to the open questions of the arithmetic.
        record: takes the values of the contract's rounding points.

    Raises:
        KernelArgumentError: the config, a tensor or a value is not legal.
    """
    if not is_study(profile):
        validate_call(config, inputs)
    job = _Job(config, inputs, profile, record)
    found = {name: np.zeros(t.shape, tile_dtype(t.dtype, profile)) for name, t in results(config).items()}
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        _tell_schedule(job)
        for part in config.slices:
            _row(job, part, found)
    return found


@dataclass(frozen=True)
class _Job:
    """What every step of one call needs."""

    config: Config
    inputs: Arrays
    profile: NumericsProfile
    record: Recorder

    @property
    def prior(self) -> int:
        return int(self.inputs["prior_tokens"][0, 0])

    @property
    def offset(self) -> int | None:
        return int(self.inputs["kvp_offset"][0, 0]) if self.config.kvp else None

    def op(self, name: str, first: Array, second: Array | np.float32) -> Float32:
        """One instruction of the vector engine."""
        return np.asarray(BINARY[name](first, second, self.profile))


def _tell_schedule(job: _Job) -> None:
    if job.config.sliding_window or not job.record.enabled:
        return
    trips: Schedule = schedule(job.prior, job.config.prior_seg_size)
    for core in range(job.config.lnc):
        job.record("turns", (), np.full((1, 1), trips.turns), core)
        job.record("num_full", (), np.full((1, 1), trips.num_full, np.int32), core)
        job.record("partial", (), np.full((1, 1), trips.partial, np.int32), core)


# --- one slice of a row -----------------------------------------------------------------------------------


@dataclass
class _Row:
    """One core's queries of one row, and what they have gathered so far."""

    job: _Job
    part: Slice
    #: bfloat16 [d, queries].
    query: Array
    #: float32 [1], None without one.
    sink: Float32 | None
    state: State

    def tell(self, point: str, value: Array, group: int, kind: int | None = None, *tile: int) -> None:
        """Report a value of one group; per-query values become columns."""
        if self.job.record.enabled:
            index = (self.part.row, *(() if kind is None else (kind,)), group, *tile)
            column = value if value.ndim == 2 else value[:, None]
            self.job.record(point, index, column, self.part.core)


def _row(job: _Job, part: Slice, found: Arrays) -> None:
    depth = job.config.d_head
    zeros = np.zeros(part.length, np.float32)
    state = State(zeros, zeros.copy(), np.zeros((part.length, depth), np.float32))
    sink = None if job.config.sink is None else to_float32(job.inputs["sink"][part.row])
    row = _Row(job, part, _query(job, part), sink, state)
    for segment in segments(job.config, part, job.prior, job.offset):
        _segment(row, segment)
    _finish(row, found)


def _query(job: _Job, part: Slice) -> Array:
    """The queries of a slice [d, queries], rounded to bfloat16, and again after k_scale."""
    rows = job.inputs["q"][part.row]
    turned = rows.T if job.config.tp_q else rows
    query = round_to("query", turned[:, part.first : part.first + part.length], "bfloat16", job.profile)
    _tell_query(job, "query", part, query)
    if job.config.k_scale:
        scale = job.inputs["k_scale"][: job.config.d_head]
        query = round_to("query_scaled", job.op("multiply", to_float32(query), scale), "bfloat16", job.profile)
        _tell_query(job, "query_scaled", part, query)
    return np.ascontiguousarray(query)


def _tell_query(job: _Job, point: str, part: Slice, query: Array) -> None:
    if job.record.enabled:
        job.record(point, (part.row,), query, part.core)


def _segment(row: _Row, segment: Segment) -> None:
    """Brings the state of all groups up to one segment."""
    keys, values = _load(row, segment)
    for first in range(0, row.part.groups, _GROUPS):
        groups = range(first, min(first + _GROUPS, row.part.groups))
        _Block(row, segment, groups).run(keys, values)


def _load(row: _Row, segment: Segment) -> tuple[Array, Array]:
    """Keys [d, length] and values [length, d] of a segment in bfloat16, zeros where nothing is loaded."""
    config, inputs = row.job.config, row.job.inputs
    head, table = config.kv_head(row.part.row), inputs["block_tables"][config.sequence(row.part.row)]
    rows = []
    for name, transposed in (("k_cache", config.k_pre_transposed), ("v_cache", False)):
        pages = head_pages(inputs[name], head, config.num_kv_heads, transposed)
        size = config.block_size
        count = (segment.loaded_to - segment.loaded_from) // size
        start = (segment.start + segment.loaded_from) // size
        loaded = load_blocks(pages, table, start, count, segment.length - segment.loaded_from)
        found = np.zeros((segment.length, config.d_head), tile_dtype("bfloat16", row.job.profile))
        found[segment.loaded_from :] = carry(loaded, "bfloat16", row.job.profile)
        rows.append(found)
    return np.ascontiguousarray(rows[0].T), rows[1]


# --- a few groups of queries against one segment ----------------------------------------------------------


@dataclass
class _Block:
    """Some groups of a slice and one segment; queries are counted within the block."""

    row: _Row
    segment: Segment
    groups: range

    def __post_init__(self) -> None:
        self.queries = range(self.groups.start * PARTITIONS, self.groups.stop * PARTITIONS)

    @property
    def profile(self) -> NumericsProfile:
        return self.row.job.profile

    @property
    def with_sink(self) -> Float32 | None:
        return self.row.sink if self.segment.kind in (ACTIVE, WINDOW) else None

    @property
    def is_flash(self) -> bool:
        return self.segment.kind == FULL and not self.row.job.config.kvp

    def run(self, keys: Array, values: Array) -> None:
        state = self.row.state.rows(slice(self.queries.start, self.queries.stop))
        tiles = [(t, tile, rows) for t, tile in enumerate(self.segment.key_tiles) if (rows := self.met(tile))]
        logits = [self.logits(t, tile, rows, keys) for t, tile, rows in tiles]
        neg_max = self.neg_max([rows for _, _, rows in tiles], logits, state)
        prob = np.zeros((self.segment.length, len(self.queries)), tile_dtype("bfloat16", self.profile))
        sums: list[tuple[range, Float32]] = []
        for (t, tile, rows), logit in zip(tiles, logits, strict=True):
            sums.append((rows, self.probabilities(t, tile, rows, logit, neg_max, prob)))
        new = State(neg_max, self.total(sums, neg_max), self.out(prob, values))
        self.update(state, new)

    def met(self, keys: range) -> range:
        """The queries of the groups that process a tile; groups that do follow one another."""
        met = [group for group in self.groups if self.segment.meets(group, keys)]
        if not met:
            return range(0)
        first = self.groups.start
        return range((met[0] - first) * PARTITIONS, (met[-1] + 1 - first) * PARTITIONS)

    def of_groups(self, rows: range) -> Iterator[tuple[int, slice]]:
        """Group number and place within `rows` of each group in a range of queries of the block."""
        for start in range(0, len(rows), PARTITIONS):
            yield self.groups.start + (rows.start + start) // PARTITIONS, slice(start, start + PARTITIONS)

    def tell(self, point: str, value: Array, rows: range | None = None, *tile: int) -> None:
        if self.row.job.record.enabled:
            for group, place in self.of_groups(range(len(self.queries)) if rows is None else rows):
                self.row.tell(point, value[place], group, self.segment.kind, *tile)

    def logits(self, t: int, tile: range, rows: range, keys: Array) -> Float32:
        """Scaled and masked scores [queries, keys of the tile]."""
        first = self.queries.start
        query = self.row.query[:, first + rows.start : first + rows.stop]
        score = matmul_pass(query, keys[:, tile.start : tile.stop], self.profile)
        self.tell("score", score, rows, t)
        logit = self.row.job.op("multiply", score, np.float32(self.row.job.config.scale))
        visible = self.segment.visible(range(first + rows.start, first + rows.stop), tile)
        if visible is not None:
            logit = np.where(visible, logit, MASKED)
        self.tell("logit", logit, rows, t)
        return logit

    def neg_max(self, places: list[range], logits: list[Float32], state: State) -> Float32:
        """The negated maximum that the exponentials use, [queries]."""
        top = np.full(len(self.queries), MASKED)
        for rows, logit in zip(places, logits, strict=True):
            at = slice(rows.start, rows.stop)
            top[at] = self.row.job.op("maximum", top[at], row_maximum(logit, self.profile))
        if self.with_sink is not None:
            top = self.row.job.op("maximum", top, self.with_sink)
        found = negated(top, self.profile)
        if self.is_flash:
            found = self.row.job.op("minimum", state.neg_max, found)
        self.tell("neg_max", found)
        return found

    def probabilities(
        self, t: int, tile: range, rows: range, logit: Float32, neg_max: Float32, prob: Array
    ) -> Float32:
        """Fills the tile's part of prob [keys, queries]; returns the sum over its keys, [queries]."""
        at = slice(rows.start, rows.stop)
        values = exponentials(logit, neg_max[at], self.profile)
        rounded = round_to("prob", values, "bfloat16", self.profile)
        self.tell("prob", rounded, rows, t)
        prob[tile.start : tile.stop, at] = rounded.T
        seen = values if self.profile.act_reduce_precast else to_float32(rounded)
        return accumulated(seen, self.profile)

    def total(self, sums: list[tuple[range, Float32]], neg_max: Float32) -> Float32:
        """Sum [queries] over the processed tiles and the sink."""
        total = np.empty(len(self.queries), np.float32)
        for group, place in self.of_groups(range(len(self.queries))):
            columns = [x[place.start - rows.start :][:PARTITIONS] for rows, x in sums if place.start in rows]
            if self.with_sink is not None:
                broadcast = np.broadcast_to(self.with_sink, (PARTITIONS,))[:, None]
                columns.append(exponentials(broadcast, neg_max[place], self.profile)[:, 0])
            row_sums = np.stack(columns, axis=1)
            self.row.tell("row_sums", row_sums, group, self.segment.kind)
            total[place] = reduce_add(row_sums, self.profile)
        self.tell("sum", total)
        return total

    # -- P V ------------------------------------------------------------------------------------------------

    def out(self, prob: Array, values: Array) -> Float32:
        """The segment's output [queries, d]: large tile after large tile."""
        out = np.zeros((len(self.queries), values.shape[1]), np.float32)
        started = np.zeros(len(self.queries) // PARTITIONS, np.bool_)
        per_large = LARGE_TILE // PARTITIONS
        tiles = self.segment.value_tiles
        for u in range(-(-len(tiles) // per_large)):
            part = tiles[u * per_large : (u + 1) * per_large]
            for rows, met in self._alike(part):
                pv = self._accumulate(prob[:, rows.start : rows.stop], values, met)
                self.tell("pv", pv, rows, u)
                self._extend(out, started, rows, pv, u)
        return out

    def _alike(self, tiles: tuple[range, ...]) -> Iterator[tuple[range, list[range]]]:
        """Runs of groups that process the same of `tiles`, as ranges of queries, and these tiles."""

        def met(group: int) -> list[range]:
            return [tile for tile in tiles if self.segment.meets(group, tile)]

        for same, groups in groupby(self.groups, met):
            members = [group - self.groups.start for group in groups]
            if same:
                yield range(members[0] * PARTITIONS, (members[-1] + 1) * PARTITIONS), same

    def _accumulate(self, prob: Array, values: Array, tiles: list[range]) -> Float32:
        """Value tiles that follow one another, in one PSUM tile [queries, d]."""
        whole = [tile for tile in tiles if len(tile) == PARTITIONS]
        psum: Array | None = None
        if whole:
            span = slice(whole[0].start, whole[-1].stop)
            weights = prob[span].reshape(len(whole), PARTITIONS, -1)
            psum = matmul_passes(weights, values[span].reshape(len(whole), PARTITIONS, -1), self.profile)
        for tile in tiles[len(whole) :]:
            span = slice(tile.start, tile.stop)
            psum = matmul_pass(prob[span], values[span], self.profile, acc=psum)
        assert psum is not None  # a run of groups meets at least one tile
        return psum

    def _extend(self, out: Float32, started: Array, rows: range, pv: Float32, u: int) -> None:
        """Adds a large tile to the output of each group; a group's first one is the start."""
        for group, place in self.of_groups(rows):
            index = group - self.groups.start
            at = slice(rows.start + place.start, rows.start + place.stop)
            if started[index]:
                out[at] = self.row.job.op("add", out[at], pv[place])
                self.row.tell("o_part", out[at], group, self.segment.kind, u)
            else:
                out[at] = pv[place]
            started[index] = True

    # -- state ----------------------------------------------------------------------------------------------

    def update(self, state: State, new: State) -> None:
        if self.segment.kind in (ACTIVE, WINDOW):
            state.assign(new)
        elif self.is_flash:
            updated, factor = flash(state, new, self.profile)
            self.tell_running(corr=factor, run_sum=updated.total, run_out=updated.out)
            state.assign(updated)
        else:
            merged, points = merge(state, new, self.profile)
            self.tell_merge(points)
            state.assign(merged)

    def tell_running(self, **points: Array) -> None:
        if self.row.job.record.enabled:
            for group, place in self.of_groups(range(len(self.queries))):
                for point, value in points.items():
                    self.row.tell(point, value[place], group)

    def tell_merge(self, points: Mapping[str, Array]) -> None:
        for point, value in points.items():
            self.tell(point, value)


# --- results ----------------------------------------------------------------------------------------------


def _finish(row: _Row, found: Arrays) -> None:
    job, part, state = row.job, row.part, row.state
    recip = reciprocal_of_sum(state.total, job.profile)
    rounded = round_to("rounded", state.out, "bfloat16", job.profile)
    value = job.op("multiply", to_float32(rounded), recip[:, None])
    points = {"recip": recip, "rounded": rounded}
    if job.config.v_scale:
        points["norm"] = value
        value = job.op("multiply", value, job.inputs["v_scale"][: job.config.d_head, 0][None])
    points["out"] = out = round_to("out", value, "bfloat16", job.profile)
    _tell_finish(row, points)
    queries = slice(part.first, part.first + part.length)
    _place(job.config, found["out"][part.row], carry(out, job.config.dtype, job.profile), queries)
    if job.config.kvp:
        found["neg_max"][part.row, queries] = state.neg_max
        found["sum_recip"][part.row, queries] = recip


def _tell_finish(row: _Row, points: Arrays) -> None:
    for group in range(row.part.groups if row.job.record.enabled else 0):
        place = slice(group * PARTITIONS, (group + 1) * PARTITIONS)
        for point, value in points.items():
            row.tell(point, value[place], group)


def _place(config: Config, row: Array, out: Array, queries: slice) -> None:
    if config.tp_out:
        row[:, queries] = out.T
    else:
        row[queries] = out
