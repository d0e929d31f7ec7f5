from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListRunsRequest(_message.Message):
    __slots__ = ("project", "state", "page_size", "page_token")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    project: str
    state: str
    page_size: int
    page_token: str
    def __init__(self, project: _Optional[str] = ..., state: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs", "next_page_token")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    next_page_token: str
    def __init__(self, runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("project", "run")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    project: str
    run: str
    def __init__(self, project: _Optional[str] = ..., run: _Optional[str] = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: Run
    def __init__(self, run: _Optional[_Union[Run, _Mapping]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("project", "run", "state", "started_unix_seconds", "last_record_unix_seconds", "last_step", "closed_steps", "world_size", "attempts", "tags", "config_json", "severity", "firing_alerts", "framework", "failure_reason")
    class TagsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LAST_RECORD_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    CLOSED_STEPS_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_JSON_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    FIRING_ALERTS_FIELD_NUMBER: _ClassVar[int]
    FRAMEWORK_FIELD_NUMBER: _ClassVar[int]
    FAILURE_REASON_FIELD_NUMBER: _ClassVar[int]
    project: str
    run: str
    state: str
    started_unix_seconds: float
    last_record_unix_seconds: float
    last_step: int
    closed_steps: int
    world_size: int
    attempts: int
    tags: _containers.ScalarMap[str, str]
    config_json: str
    severity: str
    firing_alerts: int
    framework: str
    failure_reason: str
    def __init__(self, project: _Optional[str] = ..., run: _Optional[str] = ..., state: _Optional[str] = ..., started_unix_seconds: _Optional[float] = ..., last_record_unix_seconds: _Optional[float] = ..., last_step: _Optional[int] = ..., closed_steps: _Optional[int] = ..., world_size: _Optional[int] = ..., attempts: _Optional[int] = ..., tags: _Optional[_Mapping[str, str]] = ..., config_json: _Optional[str] = ..., severity: _Optional[str] = ..., firing_alerts: _Optional[int] = ..., framework: _Optional[str] = ..., failure_reason: _Optional[str] = ...) -> None: ...

class GetSeriesRequest(_message.Message):
    __slots__ = ("project", "run", "optimizer", "first_step", "last_step", "max_points")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
    project: str
    run: str
    optimizer: int
    first_step: int
    last_step: int
    max_points: int
    def __init__(self, project: _Optional[str] = ..., run: _Optional[str] = ..., optimizer: _Optional[int] = ..., first_step: _Optional[int] = ..., last_step: _Optional[int] = ..., max_points: _Optional[int] = ...) -> None: ...

class GetSeriesResponse(_message.Message):
    __slots__ = ("count", "steps", "times_unix_seconds", "gradient_norms", "nonfinite_counts", "flags", "scalars", "ranks_present", "attempts", "resolution", "last_steps", "step_counts", "summaries", "counts", "damaged")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TIMES_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORMS_FIELD_NUMBER: _ClassVar[int]
    NONFINITE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    SCALARS_FIELD_NUMBER: _ClassVar[int]
    RANKS_PRESENT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    LAST_STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    SUMMARIES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    count: int
    steps: bytes
    times_unix_seconds: bytes
    gradient_norms: bytes
    nonfinite_counts: bytes
    flags: bytes
    scalars: _containers.RepeatedCompositeFieldContainer[NamedSeries]
    ranks_present: bytes
    attempts: bytes
    resolution: int
    last_steps: bytes
    step_counts: bytes
    summaries: _containers.RepeatedCompositeFieldContainer[SummarySeries]
    counts: _containers.RepeatedCompositeFieldContainer[NamedCounts]
    damaged: _containers.RepeatedCompositeFieldContainer[StepRange]
    def __init__(self, count: _Optional[int] = ..., steps: _Optional[bytes] = ..., times_unix_seconds: _Optional[bytes] = ..., gradient_norms: _Optional[bytes] = ..., nonfinite_counts: _Optional[bytes] = ..., flags: _Optional[bytes] = ..., scalars: _Optional[_Iterable[_Union[NamedSeries, _Mapping]]] = ..., ranks_present: _Optional[bytes] = ..., attempts: _Optional[bytes] = ..., resolution: _Optional[int] = ..., last_steps: _Optional[bytes] = ..., step_counts: _Optional[bytes] = ..., summaries: _Optional[_Iterable[_Union[SummarySeries, _Mapping]]] = ..., counts: _Optional[_Iterable[_Union[NamedCounts, _Mapping]]] = ..., damaged: _Optional[_Iterable[_Union[StepRange, _Mapping]]] = ...) -> None: ...

class StepRange(_message.Message):
    __slots__ = ("first_step", "last_step")
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    first_step: int
    last_step: int
    def __init__(self, first_step: _Optional[int] = ..., last_step: _Optional[int] = ...) -> None: ...

class SummarySeries(_message.Message):
    __slots__ = ("name", "minima", "maxima", "means", "known_counts", "nonfinite_counts")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MINIMA_FIELD_NUMBER: _ClassVar[int]
    MAXIMA_FIELD_NUMBER: _ClassVar[int]
    MEANS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_COUNTS_FIELD_NUMBER: _ClassVar[int]
    NONFINITE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    minima: bytes
    maxima: bytes
    means: bytes
    known_counts: bytes
    nonfinite_counts: bytes
    def __init__(self, name: _Optional[str] = ..., minima: _Optional[bytes] = ..., maxima: _Optional[bytes] = ..., means: _Optional[bytes] = ..., known_counts: _Optional[bytes] = ..., nonfinite_counts: _Optional[bytes] = ...) -> None: ...

class NamedCounts(_message.Message):
    __slots__ = ("name", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    values: bytes
    def __init__(self, name: _Optional[str] = ..., values: _Optional[bytes] = ...) -> None: ...

class NamedSeries(_message.Message):
    __slots__ = ("name", "known", "values")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    name: str
    known: bytes
    values: bytes
    def __init__(self, name: _Optional[str] = ..., known: _Optional[bytes] = ..., values: _Optional[bytes] = ...) -> None: ...

class GetLayersRequest(_message.Message):
    __slots__ = ("project", "run", "optimizer", "first_step", "last_step", "max_points")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    MAX_POINTS_FIELD_NUMBER: _ClassVar[int]
    project: str
    run: str
    optimizer: int
    first_step: int
    last_step: int
    max_points: int
    def __init__(self, project: _Optional[str] = ..., run: _Optional[str] = ..., optimizer: _Optional[int] = ..., first_step: _Optional[int] = ..., last_step: _Optional[int] = ..., max_points: _Optional[int] = ...) -> None: ...

class GetLayersResponse(_message.Message):
    __slots__ = ("layers", "count", "steps", "gradient_norms", "resolution", "last_steps", "step_counts", "minima", "means", "nonfinite_counts")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORMS_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    LAST_STEPS_FIELD_NUMBER: _ClassVar[int]
    STEP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    MINIMA_FIELD_NUMBER: _ClassVar[int]
    MEANS_FIELD_NUMBER: _ClassVar[int]
    NONFINITE_COUNTS_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedScalarFieldContainer[str]
    count: int
    steps: bytes
    gradient_norms: bytes
    resolution: int
    last_steps: bytes
    step_counts: bytes
    minima: bytes
    means: bytes
    nonfinite_counts: bytes
    def __init__(self, layers: _Optional[_Iterable[str]] = ..., count: _Optional[int] = ..., steps: _Optional[bytes] = ..., gradient_norms: _Optional[bytes] = ..., resolution: _Optional[int] = ..., last_steps: _Optional[bytes] = ..., step_counts: _Optional[bytes] = ..., minima: _Optional[bytes] = ..., means: _Optional[bytes] = ..., nonfinite_counts: _Optional[bytes] = ...) -> None: ...

class ListAlertsRequest(_message.Message):
    __slots__ = ("project", "run", "state", "page_size", "page_token")
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    project: str
    run: str
    state: str
    page_size: int
    page_token: str
    def __init__(self, project: _Optional[str] = ..., run: _Optional[str] = ..., state: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListAlertsResponse(_message.Message):
    __slots__ = ("alerts", "next_page_token")
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    alerts: _containers.RepeatedCompositeFieldContainer[Alert]
    next_page_token: str
    def __init__(self, alerts: _Optional[_Iterable[_Union[Alert, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Alert(_message.Message):
    __slots__ = ("alert_id", "project", "run", "signature", "severity", "state", "since_step", "opened_step", "last_step", "opened_unix_seconds", "resolved_unix_seconds", "resolution", "reason", "evidence_json", "acknowledged_by")
    ALERT_ID_FIELD_NUMBER: _ClassVar[int]
    PROJECT_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_STEP_FIELD_NUMBER: _ClassVar[int]
    OPENED_STEP_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    OPENED_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RESOLVED_UNIX_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RESOLUTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_JSON_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_BY_FIELD_NUMBER: _ClassVar[int]
    alert_id: str
    project: str
    run: str
    signature: str
    severity: str
    state: str
    since_step: int
    opened_step: int
    last_step: int
    opened_unix_seconds: float
    resolved_unix_seconds: float
    resolution: str
    reason: str
    evidence_json: str
    acknowledged_by: str
    def __init__(self, alert_id: _Optional[str] = ..., project: _Optional[str] = ..., run: _Optional[str] = ..., signature: _Optional[str] = ..., severity: _Optional[str] = ..., state: _Optional[str] = ..., since_step: _Optional[int] = ..., opened_step: _Optional[int] = ..., last_step: _Optional[int] = ..., opened_unix_seconds: _Optional[float] = ..., resolved_unix_seconds: _Optional[float] = ..., resolution: _Optional[str] = ..., reason: _Optional[str] = ..., evidence_json: _Optional[str] = ..., acknowledged_by: _Optional[str] = ...) -> None: ...
