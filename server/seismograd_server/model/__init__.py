"""The domain in frozen types, from what a rank sends to what a person reads. No I/O, no clock, no protobuf.

    StepBatch  --(compose, close)-->  ClosedBlock  --(detect)-->  Finding  --(lifecycle)-->  Alert

Arrays follow one rule: NaN and Inf in a value are data. Where a number may be missing, either a mask named `*_known`
says so, or the docstring says that NaN means "not known" (only for quantities that are never NaN themselves).
Shapes: n = records or steps, t = parameters of one rank's catalog, l = layers of the run, r = ranks.
"""

from seismograd_server.model.alerts import (
    Alert,
    AlertState,
    DetectorStatus,
    Evidence,
    Finding,
    Resolution,
    Severity,
    Signature,
    Transition,
    Visibility,
)
from seismograd_server.model.arrays import Bool, Float32, Float64, Int64, UInt8, UInt16, UInt32, UInt64
from seismograd_server.model.closed import ClosedBlock, Layout, NonfiniteLayer
from seismograd_server.model.directives import (
    BY_ALERT,
    Addressee,
    Answer,
    AskedDirective,
    Directive,
    DirectiveKind,
    DirectiveOutcome,
)
from seismograd_server.model.live import RunView, Snapshot, Tally
from seismograd_server.model.records import (
    TOTAL_ONLY,
    Checkpoint,
    DroppedRange,
    Health,
    Nonfinite,
    NormSource,
    Quantity,
    RecordFlag,
    RecordKind,
    ScalarColumn,
    StepBatch,
    StreamKey,
    TensorColumn,
    Watermark,
)
from seismograd_server.model.runs import (
    Catalog,
    Composition,
    Launch,
    OptimizerInfo,
    Parameter,
    Rank,
    RankIdentity,
    Run,
    RunKey,
    RunState,
)

__all__ = [
    "BY_ALERT",
    "TOTAL_ONLY",
    "Addressee",
    "Alert",
    "AlertState",
    "Answer",
    "AskedDirective",
    "Bool",
    "Catalog",
    "Checkpoint",
    "ClosedBlock",
    "Composition",
    "DetectorStatus",
    "Directive",
    "DirectiveKind",
    "DirectiveOutcome",
    "DroppedRange",
    "Evidence",
    "Finding",
    "Float32",
    "Float64",
    "Health",
    "Int64",
    "Launch",
    "Layout",
    "Nonfinite",
    "NonfiniteLayer",
    "NormSource",
    "OptimizerInfo",
    "Parameter",
    "Quantity",
    "Rank",
    "RankIdentity",
    "RecordFlag",
    "RecordKind",
    "Resolution",
    "Run",
    "RunKey",
    "RunState",
    "RunView",
    "ScalarColumn",
    "Severity",
    "Signature",
    "Snapshot",
    "StepBatch",
    "StreamKey",
    "Tally",
    "TensorColumn",
    "Transition",
    "UInt8",
    "UInt16",
    "UInt32",
    "UInt64",
    "Visibility",
    "Watermark",
]
