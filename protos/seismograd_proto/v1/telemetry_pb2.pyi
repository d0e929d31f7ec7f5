from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Composition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPOSITION_UNSPECIFIED: _ClassVar[Composition]
    COMPOSITION_SUM_OF_SQUARES: _ClassVar[Composition]
    COMPOSITION_PARTIAL: _ClassVar[Composition]

class RecordKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECORD_KIND_UNSPECIFIED: _ClassVar[RecordKind]
    RECORD_KIND_STEP: _ClassVar[RecordKind]
    RECORD_KIND_DETAIL: _ClassVar[RecordKind]

class NormSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NORM_SOURCE_UNSPECIFIED: _ClassVar[NormSource]
    NORM_SOURCE_CLIP: _ClassVar[NormSource]
    NORM_SOURCE_OPTIMIZER_STEP: _ClassVar[NormSource]
    NORM_SOURCE_POST_MODIFICATION: _ClassVar[NormSource]
    NORM_SOURCE_SCALER_SKIP: _ClassVar[NormSource]
    NORM_SOURCE_FRAMEWORK: _ClassVar[NormSource]
    NORM_SOURCE_IMPORT: _ClassVar[NormSource]

class Quantity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUANTITY_UNSPECIFIED: _ClassVar[Quantity]
    QUANTITY_LOSS: _ClassVar[Quantity]
    QUANTITY_LEARNING_RATE: _ClassVar[Quantity]
    QUANTITY_LOSS_SCALE: _ClassVar[Quantity]
    QUANTITY_CLIP_THRESHOLD: _ClassVar[Quantity]
    QUANTITY_CLIP_COEFFICIENT: _ClassVar[Quantity]
    QUANTITY_REPORTED_NORM: _ClassVar[Quantity]
    QUANTITY_STEP_SECONDS: _ClassVar[Quantity]
    QUANTITY_CAPTURE_SECONDS: _ClassVar[Quantity]
    QUANTITY_LOCAL_NORM: _ClassVar[Quantity]
    QUANTITY_WEIGHT_NORM: _ClassVar[Quantity]
    QUANTITY_UPDATE_NORM: _ClassVar[Quantity]
    QUANTITY_MAX_ABS: _ClassVar[Quantity]
    QUANTITY_SPECTRAL_GAIN: _ClassVar[Quantity]
    QUANTITY_LOCAL_GRADIENT_NORM: _ClassVar[Quantity]

class RecordFlag(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECORD_FLAG_UNSPECIFIED: _ClassVar[RecordFlag]
    RECORD_FLAG_SKIPPED_BY_SCALER: _ClassVar[RecordFlag]
    RECORD_FLAG_SKIPPED_BY_USER: _ClassVar[RecordFlag]
    RECORD_FLAG_CLIPPED: _ClassVar[RecordFlag]
    RECORD_FLAG_INEXACT: _ClassVar[RecordFlag]
    RECORD_FLAG_FLATTENED: _ClassVar[RecordFlag]

class DirectiveKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIRECTIVE_KIND_UNSPECIFIED: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_CAPTURE_MORE: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_CHECKPOINT: _ClassVar[DirectiveKind]
    DIRECTIVE_KIND_STOP: _ClassVar[DirectiveKind]

class RankOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RANK_OUTCOME_UNSPECIFIED: _ClassVar[RankOutcome]
    RANK_OUTCOME_FINISHED: _ClassVar[RankOutcome]
    RANK_OUTCOME_FAILED: _ClassVar[RankOutcome]
COMPOSITION_UNSPECIFIED: Composition
COMPOSITION_SUM_OF_SQUARES: Composition
COMPOSITION_PARTIAL: Composition
RECORD_KIND_UNSPECIFIED: RecordKind
RECORD_KIND_STEP: RecordKind
RECORD_KIND_DETAIL: RecordKind
NORM_SOURCE_UNSPECIFIED: NormSource
NORM_SOURCE_CLIP: NormSource
NORM_SOURCE_OPTIMIZER_STEP: NormSource
NORM_SOURCE_POST_MODIFICATION: NormSource
NORM_SOURCE_SCALER_SKIP: NormSource
NORM_SOURCE_FRAMEWORK: NormSource
NORM_SOURCE_IMPORT: NormSource
QUANTITY_UNSPECIFIED: Quantity
QUANTITY_LOSS: Quantity
QUANTITY_LEARNING_RATE: Quantity
QUANTITY_LOSS_SCALE: Quantity
QUANTITY_CLIP_THRESHOLD: Quantity
QUANTITY_CLIP_COEFFICIENT: Quantity
QUANTITY_REPORTED_NORM: Quantity
QUANTITY_STEP_SECONDS: Quantity
QUANTITY_CAPTURE_SECONDS: Quantity
QUANTITY_LOCAL_NORM: Quantity
QUANTITY_WEIGHT_NORM: Quantity
QUANTITY_UPDATE_NORM: Quantity
QUANTITY_MAX_ABS: Quantity
QUANTITY_SPECTRAL_GAIN: Quantity
QUANTITY_LOCAL_GRADIENT_NORM: Quantity
RECORD_FLAG_UNSPECIFIED: RecordFlag
RECORD_FLAG_SKIPPED_BY_SCALER: RecordFlag
RECORD_FLAG_SKIPPED_BY_USER: RecordFlag
RECORD_FLAG_CLIPPED: RecordFlag
RECORD_FLAG_INEXACT: RecordFlag
RECORD_FLAG_FLATTENED: RecordFlag
DIRECTIVE_KIND_UNSPECIFIED: DirectiveKind
DIRECTIVE_KIND_CAPTURE_MORE: DirectiveKind
DIRECTIVE_KIND_CHECKPOINT: DirectiveKind
DIRECTIVE_KIND_STOP: DirectiveKind
RANK_OUTCOME_UNSPECIFIED: RankOutcome
RANK_OUTCOME_FINISHED: RankOutcome
RANK_OUTCOME_FAILED: RankOutcome

class OpenRunRequest(_message.Message):
    __slots__ = ("project", "run", "launch_id", "rank", "world_size", "session_id", "client", "host", "config_json", "tags", "optimizers", "catalogs", "client_time_unix_seconds")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    LAUNCH_ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZERS_FIELD_NUMBER: _ClassVar[int]
    CATALOGS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_TIME_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    project: str
    run: str
    launch_id: str
    rank: int
    world_size: int
    session_id: str
    client: ClientInfo
    host: HostInfo
    config_json: str
    tags: _containers.ScalarMap[str, str]
    optimizers: _containers.RepeatedCompositeFieldContainer[OptimizerInfo]
    catalogs: _containers.RepeatedCompositeFieldContainer[Catalog]
    client_time_unix_seconds: float
    def __init__(self, project: _Optional[str] = ..., run: _Optional[str] = ..., launch_id: _Optional[str] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., session_id: _Optional[str] = ..., client: _Optional[_Union[ClientInfo, _Mapping]] = ..., host: _Optional[_Union[HostInfo, _Mapping]] = ..., config_json: _Optional[str] = ..., tags: _Optional[_Mapping[str, str]] = ..., optimizers: _Optional[_Iterable[_Union[OptimizerInfo, _Mapping]]] = ..., catalogs: _Optional[_Iterable[_Union[Catalog, _Mapping]]] = ..., client_time_unix_seconds: _Optional[float] = ...) -> None: ...

class ClientInfo(_message.Message):
    __slots__ = ("version", "python_version", "framework", "strategy", "capabilities")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    FRAMEWORK_FIELD_NUMBER: _ClassVar[int]
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    version: str
    python_version: str
    framework: str
    strategy: str
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., python_version: _Optional[str] = ..., framework: _Optional[str] = ..., strategy: _Optional[str] = ..., capabilities: _Optional[_Iterable[str]] = ...) -> None: ...

class HostInfo(_message.Message):
    __slots__ = ("hostname", "process_id", "local_rank", "device_type", "device_name", "device_uuid", "driver_version", "facts")
    class FactsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ID_FIELD_NUMBER: _ClassVar[int]
    LOCAL_RANK_FIELD_NUMBER: _ClassVar[int]
    DEVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_UUID_FIELD_NUMBER: _ClassVar[int]
    DRIVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    hostname: str
    process_id: int
    local_rank: int
    device_type: str
    device_name: str
    device_uuid: str
    driver_version: str
    facts: _containers.ScalarMap[str, str]
    def __init__(self, hostname: _Optional[str] = ..., process_id: _Optional[int] = ..., local_rank: _Optional[int] = ..., device_type: _Optional[str] = ..., device_name: _Optional[str] = ..., device_uuid: _Optional[str] = ..., driver_version: _Optional[str] = ..., facts: _Optional[_Mapping[str, str]] = ...) -> None: ...

class OptimizerInfo(_message.Message):
    __slots__ = ("optimizer", "class_name", "hyperparameters_json")
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    HYPERPARAMETERS_JSON_FIELD_NUMBER: _ClassVar[int]
    optimizer: int
    class_name: str
    hyperparameters_json: str
    def __init__(self, optimizer: _Optional[int] = ..., class_name: _Optional[str] = ..., hyperparameters_json: _Optional[str] = ...) -> None: ...

class Catalog(_message.Message):
    __slots__ = ("optimizer", "version", "parameters")
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    optimizer: int
    version: int
    parameters: _containers.RepeatedCompositeFieldContainer[Parameter]
    def __init__(self, optimizer: _Optional[int] = ..., version: _Optional[int] = ..., parameters: _Optional[_Iterable[_Union[Parameter, _Mapping]]] = ...) -> None: ...

class Parameter(_message.Message):
    __slots__ = ("name", "shape", "numel", "local_numel", "dtype", "module_type", "depth", "shard_id", "shard_count", "replica_index", "replication", "composition", "tied_group")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    NUMEL_FIELD_NUMBER: _ClassVar[int]
    LOCAL_NUMEL_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    MODULE_TYPE_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    SHARD_ID_FIELD_NUMBER: _ClassVar[int]
    SHARD_COUNT_FIELD_NUMBER: _ClassVar[int]
    REPLICA_INDEX_FIELD_NUMBER: _ClassVar[int]
    REPLICATION_FIELD_NUMBER: _ClassVar[int]
    COMPOSITION_FIELD_NUMBER: _ClassVar[int]
    TIED_GROUP_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    numel: int
    local_numel: int
    dtype: str
    module_type: str
    depth: int
    shard_id: int
    shard_count: int
    replica_index: int
    replication: int
    composition: Composition
    tied_group: str
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., numel: _Optional[int] = ..., local_numel: _Optional[int] = ..., dtype: _Optional[str] = ..., module_type: _Optional[str] = ..., depth: _Optional[int] = ..., shard_id: _Optional[int] = ..., shard_count: _Optional[int] = ..., replica_index: _Optional[int] = ..., replication: _Optional[int] = ..., composition: _Optional[_Union[Composition, str]] = ..., tied_group: _Optional[str] = ...) -> None: ...

class OpenRunResponse(_message.Message):
    __slots__ = ("rank_handle", "attempt", "watermarks", "server_time_unix_seconds", "limits", "run_url")
    RANK_HANDLE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    RUN_URL_FIELD_NUMBER: _ClassVar[int]
    rank_handle: int
    attempt: int
    watermarks: _containers.RepeatedCompositeFieldContainer[Watermark]
    server_time_unix_seconds: float
    limits: Limits
    run_url: str
    def __init__(self, rank_handle: _Optional[int] = ..., attempt: _Optional[int] = ..., watermarks: _Optional[_Iterable[_Union[Watermark, _Mapping]]] = ..., server_time_unix_seconds: _Optional[float] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., run_url: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_frame_bytes", "max_batch_records")
    MAX_FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_RECORDS_FIELD_NUMBER: _ClassVar[int]
    max_frame_bytes: int
    max_batch_records: int
    def __init__(self, max_frame_bytes: _Optional[int] = ..., max_batch_records: _Optional[int] = ...) -> None: ...

class StreamStepsRequest(_message.Message):
    __slots__ = ("batches", "drops", "catalogs", "checkpoints", "directive_outcomes", "health")
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    DROPS_FIELD_NUMBER: _ClassVar[int]
    CATALOGS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVE_OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[StepBatch]
    drops: _containers.RepeatedCompositeFieldContainer[DroppedRange]
    catalogs: _containers.RepeatedCompositeFieldContainer[Catalog]
    checkpoints: _containers.RepeatedCompositeFieldContainer[CheckpointEvent]
    directive_outcomes: _containers.RepeatedCompositeFieldContainer[DirectiveOutcome]
    health: _containers.RepeatedCompositeFieldContainer[ClientHealth]
    def __init__(self, batches: _Optional[_Iterable[_Union[StepBatch, _Mapping]]] = ..., drops: _Optional[_Iterable[_Union[DroppedRange, _Mapping]]] = ..., catalogs: _Optional[_Iterable[_Union[Catalog, _Mapping]]] = ..., checkpoints: _Optional[_Iterable[_Union[CheckpointEvent, _Mapping]]] = ..., directive_outcomes: _Optional[_Iterable[_Union[DirectiveOutcome, _Mapping]]] = ..., health: _Optional[_Iterable[_Union[ClientHealth, _Mapping]]] = ...) -> None: ...

class StepBatch(_message.Message):
    __slots__ = ("rank_handle", "optimizer", "kind", "branch", "first_sequence", "count", "catalog_version", "steps", "first_step", "times_unix_seconds", "sources", "flags", "gradient_norms", "total_norms", "digests", "nonfinite", "scalars", "tensors", "data_ids")
    RANK_HANDLE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    CATALOG_VERSION_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    TIMES_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORMS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_NORMS_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    NONFINITE_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    DATA_IDS_FIELD_NUMBER: _ClassVar[int]
    rank_handle: int
    optimizer: int
    kind: RecordKind
    branch: int
    first_sequence: int
    count: int
    catalog_version: int
    steps: bytes
    first_step: int
    times_unix_seconds: bytes
    sources: bytes
    flags: bytes
    gradient_norms: bytes
    total_norms: bytes
    digests: bytes
    nonfinite: NonfiniteColumns
    scalars: _containers.RepeatedCompositeFieldContainer[ScalarColumn]
    tensors: _containers.RepeatedCompositeFieldContainer[TensorColumn]
    data_ids: _containers.RepeatedCompositeFieldContainer[DataIds]
    def __init__(self, rank_handle: _Optional[int] = ..., optimizer: _Optional[int] = ..., kind: _Optional[_Union[RecordKind, str]] = ..., branch: _Optional[int] = ..., first_sequence: _Optional[int] = ..., count: _Optional[int] = ..., catalog_version: _Optional[int] = ..., steps: _Optional[bytes] = ..., first_step: _Optional[int] = ..., times_unix_seconds: _Optional[bytes] = ..., sources: _Optional[bytes] = ..., flags: _Optional[bytes] = ..., gradient_norms: _Optional[bytes] = ..., total_norms: _Optional[bytes] = ..., digests: _Optional[bytes] = ..., nonfinite: _Optional[_Union[NonfiniteColumns, _Mapping]] = ..., scalars: _Optional[_Iterable[_Union[ScalarColumn, _Mapping]]] = ..., tensors: _Optional[_Iterable[_Union[TensorColumn, _Mapping]]] = ..., data_ids: _Optional[_Iterable[_Union[DataIds, _Mapping]]] = ...) -> None: ...

class NonfiniteColumns(_message.Message):
    __slots__ = ("rows", "parameters", "nan_counts", "positive_inf_counts", "negative_inf_counts")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    NAN_COUNTS_FIELD_NUMBER: _ClassVar[int]
    POSITIVE_INF_COUNTS_FIELD_NUMBER: _ClassVar[int]
    NEGATIVE_INF_COUNTS_FIELD_NUMBER: _ClassVar[int]
    rows: bytes
    parameters: bytes
    nan_counts: bytes
    positive_inf_counts: bytes
    negative_inf_counts: bytes
    def __init__(self, rows: _Optional[bytes] = ..., parameters: _Optional[bytes] = ..., nan_counts: _Optional[bytes] = ..., positive_inf_counts: _Optional[bytes] = ..., negative_inf_counts: _Optional[bytes] = ...) -> None: ...

class ScalarColumn(_message.Message):
    __slots__ = ("quantity", "rows", "values")
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    quantity: Quantity
    rows: bytes
    values: bytes
    def __init__(self, quantity: _Optional[_Union[Quantity, str]] = ..., rows: _Optional[bytes] = ..., values: _Optional[bytes] = ...) -> None: ...

class TensorColumn(_message.Message):
    __slots__ = ("quantity", "rows", "parameters", "values")
    QUANTITY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    quantity: Quantity
    rows: bytes
    parameters: bytes
    values: bytes
    def __init__(self, quantity: _Optional[_Union[Quantity, str]] = ..., rows: _Optional[bytes] = ..., parameters: _Optional[bytes] = ..., values: _Optional[bytes] = ...) -> None: ...

class DataIds(_message.Message):
    __slots__ = ("row", "ids")
    ROW_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    row: int
    ids: str
    def __init__(self, row: _Optional[int] = ..., ids: _Optional[str] = ...) -> None: ...

class DroppedRange(_message.Message):
    __slots__ = ("rank_handle", "optimizer", "kind", "first_sequence", "count", "reason")
    RANK_HANDLE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    rank_handle: int
    optimizer: int
    kind: RecordKind
    first_sequence: int
    count: int
    reason: str
    def __init__(self, rank_handle: _Optional[int] = ..., optimizer: _Optional[int] = ..., kind: _Optional[_Union[RecordKind, str]] = ..., first_sequence: _Optional[int] = ..., count: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class CheckpointEvent(_message.Message):
    __slots__ = ("rank_handle", "step", "path", "time_unix_seconds")
    RANK_HANDLE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    TIME_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    rank_handle: int
    step: int
    path: str
    time_unix_seconds: float
    def __init__(self, rank_handle: _Optional[int] = ..., step: _Optional[int] = ..., path: _Optional[str] = ..., time_unix_seconds: _Optional[float] = ...) -> None: ...

class DirectiveOutcome(_message.Message):
    __slots__ = ("rank_handle", "directive_id", "outcome", "reason", "kind", "step", "has_step", "by_another_rank")
    RANK_HANDLE_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVE_ID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    HAS_STEP_FIELD_NUMBER: _ClassVar[int]
    BY_ANOTHER_RANK_FIELD_NUMBER: _ClassVar[int]
    rank_handle: int
    directive_id: str
    outcome: str
    reason: str
    kind: DirectiveKind
    step: int
    has_step: bool
    by_another_rank: bool
    def __init__(self, rank_handle: _Optional[int] = ..., directive_id: _Optional[str] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ..., kind: _Optional[_Union[DirectiveKind, str]] = ..., step: _Optional[int] = ..., has_step: bool = ..., by_another_rank: bool = ...) -> None: ...

class ClientHealth(_message.Message):
    __slots__ = ("rank_handle", "dropped_records", "queued_bytes", "spool_bytes", "hook_seconds", "hook_calls", "capture_share", "clock_skew_seconds")
    class DroppedRecordsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    RANK_HANDLE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_RECORDS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SPOOL_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOOK_SECONDS_FIELD_NUMBER: _ClassVar[int]
    HOOK_CALLS_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_SHARE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_SKEW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    rank_handle: int
    dropped_records: _containers.ScalarMap[str, int]
    queued_bytes: int
    spool_bytes: int
    hook_seconds: float
    hook_calls: int
    capture_share: float
    clock_skew_seconds: float
    def __init__(self, rank_handle: _Optional[int] = ..., dropped_records: _Optional[_Mapping[str, int]] = ..., queued_bytes: _Optional[int] = ..., spool_bytes: _Optional[int] = ..., hook_seconds: _Optional[float] = ..., hook_calls: _Optional[int] = ..., capture_share: _Optional[float] = ..., clock_skew_seconds: _Optional[float] = ...) -> None: ...

class StreamStepsResponse(_message.Message):
    __slots__ = ("watermarks", "rejections", "retry_after_milliseconds", "server_time_unix_seconds", "directives", "alerts")
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVES_FIELD_NUMBER: _ClassVar[int]
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    watermarks: _containers.RepeatedCompositeFieldContainer[Watermark]
    rejections: _containers.RepeatedCompositeFieldContainer[Rejection]
    retry_after_milliseconds: int
    server_time_unix_seconds: float
    directives: _containers.RepeatedCompositeFieldContainer[Directive]
    alerts: _containers.RepeatedCompositeFieldContainer[AlertNotice]
    def __init__(self, watermarks: _Optional[_Iterable[_Union[Watermark, _Mapping]]] = ..., rejections: _Optional[_Iterable[_Union[Rejection, _Mapping]]] = ..., retry_after_milliseconds: _Optional[int] = ..., server_time_unix_seconds: _Optional[float] = ..., directives: _Optional[_Iterable[_Union[Directive, _Mapping]]] = ..., alerts: _Optional[_Iterable[_Union[AlertNotice, _Mapping]]] = ...) -> None: ...

class Watermark(_message.Message):
    __slots__ = ("rank_handle", "optimizer", "kind", "accepted_sequence", "durable_sequence")
    RANK_HANDLE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    rank_handle: int
    optimizer: int
    kind: RecordKind
    accepted_sequence: int
    durable_sequence: int
    def __init__(self, rank_handle: _Optional[int] = ..., optimizer: _Optional[int] = ..., kind: _Optional[_Union[RecordKind, str]] = ..., accepted_sequence: _Optional[int] = ..., durable_sequence: _Optional[int] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("rank_handle", "optimizer", "kind", "first_sequence", "count", "field", "message")
    RANK_HANDLE_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    rank_handle: int
    optimizer: int
    kind: RecordKind
    first_sequence: int
    count: int
    field: str
    message: str
    def __init__(self, rank_handle: _Optional[int] = ..., optimizer: _Optional[int] = ..., kind: _Optional[_Union[RecordKind, str]] = ..., first_sequence: _Optional[int] = ..., count: _Optional[int] = ..., field: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Directive(_message.Message):
    __slots__ = ("directive_id", "kind", "reason", "alert_id", "first_step", "last_step")
    DIRECTIVE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ALERT_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    directive_id: str
    kind: DirectiveKind
    reason: str
    alert_id: str
    first_step: int
    last_step: int
    def __init__(self, directive_id: _Optional[str] = ..., kind: _Optional[_Union[DirectiveKind, str]] = ..., reason: _Optional[str] = ..., alert_id: _Optional[str] = ..., first_step: _Optional[int] = ..., last_step: _Optional[int] = ...) -> None: ...

class AlertNotice(_message.Message):
    __slots__ = ("alert_id", "signature", "severity", "state", "step", "reason")
    ALERT_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    alert_id: str
    signature: str
    severity: str
    state: str
    step: int
    reason: str
    def __init__(self, alert_id: _Optional[str] = ..., signature: _Optional[str] = ..., severity: _Optional[str] = ..., state: _Optional[str] = ..., step: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class CloseRunRequest(_message.Message):
    __slots__ = ("rank_handle", "outcome", "reason")
    RANK_HANDLE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    rank_handle: int
    outcome: RankOutcome
    reason: str
    def __init__(self, rank_handle: _Optional[int] = ..., outcome: _Optional[_Union[RankOutcome, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class CloseRunResponse(_message.Message):
    __slots__ = ("watermarks",)
    WATERMARKS_FIELD_NUMBER: _ClassVar[int]
    watermarks: _containers.RepeatedCompositeFieldContainer[Watermark]
    def __init__(self, watermarks: _Optional[_Iterable[_Union[Watermark, _Mapping]]] = ...) -> None: ...
