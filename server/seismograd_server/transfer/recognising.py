"""Which column of a log is the gradient norm, the loss, a layer's norm: by the names that frameworks give. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from seismograd_server.display.text import nearest
from seismograd_server.errors import UsageError

# What a column may be, as `--map` writes it; `layer:NAME` is the gradient norm of a layer.
FIELDS = ("grad_norm", "loss", "learning_rate", "loss_scale", "clip_threshold", "clip_coefficient", "step_seconds")
LAYER = "layer:"

# Names as they are once prefixes of a framework are off, all lower case, with underscores. Sources: HF Trainer,
# Lightning's `grad_norm`, torchtitan, OLMo, Megatron, DeepSpeed, fairseq, Composer, and the usual hand-written ones.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "grad_norm": (
        "grad_norm",
        "gradient_norm",
        "global_grad_norm",
        "total_grad_norm",
        "grad_norm_total",
        "grad_norm_global",
        "global_gradient_norm",
        "gnorm",
        "grad_2.0_norm_total",
        "l2_norm_grad_global",
    ),
    "loss": ("loss", "train_loss", "training_loss", "loss_train", "lm_loss", "cross_entropy", "celoss", "ce_loss"),
    "learning_rate": ("learning_rate", "lr", "learning_rate_group0", "lr_group0", "lr_adam", "lr_adamw", "lr_sgd"),
    "loss_scale": ("loss_scale", "grad_scale", "scaler_scale", "loss_scaler"),
    "clip_threshold": ("clip_threshold", "max_grad_norm", "clip_grad_norm", "gradient_clip_val"),
    "clip_coefficient": ("clip_coefficient", "clip_coef"),
    "step_seconds": ("step_seconds", "step_time", "iteration_time", "time_per_step", "seconds_per_step"),
}
_PREFIXES = re.compile(
    r"^(?:train(?:ing|er)?|metrics?|optim(?:izer)?|loss_metrics|run|logs?|throughput|gradients?|grad_norm|l2_norm)[/.]"
)
# Families of columns, one for each layer: the layer's name is what stands behind.
_LAYERS = re.compile(
    r"^(?:.*/)?(?:grad(?:ient)?s?_norms?|grad(?:ient)?s?/norms?|grad_\d+(?:\.\d+)?_norms?|l2_norm/grad|grad/norm)/(?P<layer>.+)$",
    re.IGNORECASE,
)
_TOTALS = frozenset({"total", "global", "all", "overall"})
# Columns that say which step a row is of, or when: no measure of the run.
STEPS = ("step", "_step", "global_step", "train/global_step", "trainer/global_step", "iteration", "iter", "steps")
TIMES = ("_timestamp", "timestamp", "wall_time", "time", "unix_time")
_ASIDE = frozenset({*STEPS, *TIMES, "_runtime", "epoch", "train/epoch", "runtime"})


@dataclass(slots=True)
class Recognised:
    """Which column is what; what is neither known nor mapped is in `unknown`."""

    fields: dict[str, str] = field(default_factory=dict)  # field -> column
    layers: dict[str, str] = field(default_factory=dict)  # layer -> column
    unknown: list[str] = field(default_factory=list)


def recognise(names: Iterable[str], mapping: Mapping[str, str]) -> Recognised:
    """Find out which column is what.

    Args:
        names: the columns, in the order of the log.
        mapping: field, or `layer:NAME`, to column, as somebody has said; it outranks what names suggest.

    Raises:
        UsageError: the mapping names a field or a column that there is not.
    """
    columns = list(names)
    found = Recognised()
    for wanted, column in mapping.items():
        _check(wanted, column, columns)
        if wanted.startswith(LAYER):
            found.layers[wanted.removeprefix(LAYER)] = column
        else:
            found.fields[wanted] = column
    taken = {*found.fields.values(), *found.layers.values()}
    ranked: dict[str, list[tuple[int, int, str]]] = {}
    for place, column in enumerate(columns):
        if column in taken or column.lower() in _ASIDE:
            continue
        if layer := _layer_of(column):
            found.layers.setdefault(layer, column)
        elif known := _field_of(column):
            ranked.setdefault(known[0], []).append((known[1], place, column))
        else:
            found.unknown.append(column)
    for name, candidates in ranked.items():
        best, *others = [column for _, _, column in sorted(candidates)]
        if name not in found.fields:
            found.fields[name] = best
            found.unknown += others
        else:
            found.unknown += [best, *others]
    return found


def _check(wanted: str, column: str, columns: list[str]) -> None:
    if wanted not in FIELDS and not (wanted.startswith(LAYER) and len(wanted) > len(LAYER)):
        meant = nearest(wanted, FIELDS)
        hint = f"did you mean {meant}?" if meant else f"there are {', '.join(FIELDS)} and {LAYER}NAME"
        raise UsageError(f"--map {wanted}={column}: {wanted!r} is no field; {hint}")
    if column not in columns:
        meant = nearest(column, columns)
        hint = f"did you mean {meant!r}?" if meant else f"there are {', '.join(columns[:20])}"
        raise UsageError(f"--map {wanted}={column}: the log has no column {column!r}; {hint}")


def _layer_of(column: str) -> str:
    found = _LAYERS.match(column)
    layer = found["layer"] if found else ""
    return "" if layer.lower() in _TOTALS else layer


def _field_of(column: str) -> tuple[str, int] | None:
    """(field, how much is left to guess): a bare name outranks one with a prefix, and the first spelling later ones."""
    name, prefixes = column.lower(), 0
    if name.startswith(("eval", "val", "test")):
        return None
    while shorter := _PREFIXES.sub("", name, count=1):
        if shorter == name:
            break
        name, prefixes = shorter, prefixes + 1
    if name in _TOTALS and prefixes:
        return "grad_norm", 10 * prefixes
    plain = re.sub(r"[\s\-/]+", "_", name)
    for wanted, spellings in _NAMES.items():
        if plain in spellings:
            return wanted, 10 * prefixes + spellings.index(plain)
    return None
